"""SAM's image encoder: equal to the original, and its published files are loaded whole or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_files import load_golden, load_rows, part
from terrafuse.backbones import Backbone, create_backbone
from terrafuse.backbones.timm import models as timm_models
from terrafuse.errors import ChecksumError, ModelError, WeightsMismatchError
from terrafuse.weights import digest, foreign

NAME = "samvit_base_patch16"
SMALL: dict[str, Any] = {
    "img_size": 128, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4,
    "window_size": 7, "global_attn_indexes": (1, 3), "neck_channels": 24,
}  # fmt: skip

Write = Callable[..., str]


def _official_state() -> dict[str, Tensor]:
    """As the authors publish it: the encoder under its prefix, and the parts for prompts."""
    stored, _ = load_golden("mfnet/sam_image_encoder")
    state = {f"image_encoder.{k}": v for k, v in part(stored, "sd.").items()}
    return state | {
        "prompt_encoder.not_a_point_embed.weight": torch.ones(1, 24),
        "mask_decoder.iou_token.weight": torch.ones(1, 24),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Function that writes an official file with changes, and returns its path."""

    def _write(name: str = "sam.pth", without: str = "", **changes: Tensor) -> str:
        state = {k: v for k, v in _official_state().items() if not (without and without in k)}
        torch.save(state | changes, tmp_path / name)
        return str(tmp_path / name)

    return _write


@pytest.mark.parity
@torch.no_grad()
def test_it_is_the_original_block_by_block(write: Write) -> None:
    """Tolerance of the stored tensors: 2e-5, three times their own error in float32."""
    stored, _ = load_golden("mfnet/sam_image_encoder")
    backbone: Any = create_backbone(NAME, 3, weights=write(), neck="map", **SMALL).eval()
    tokens, grid = backbone.embed(stored["in.image"])
    for i in range(4):
        tokens = backbone.run_block(i, tokens, grid)
        expected = stored[f"mid.block{i}"].flatten(1, 2)
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=2e-5)
    (level,) = backbone(stored["in.image"])
    torch.testing.assert_close(level, stored["out.neck"], rtol=1e-4, atol=2e-5)
    assert backbone.channels == (24,)
    assert backbone.strides == (8,)
    assert backbone.stride == 8


@torch.no_grad()
def test_maps_before_the_neck_are_the_blocks(write: Write) -> None:
    stored, _ = load_golden("mfnet/sam_image_encoder")
    backbone = create_backbone(NAME, 3, weights=write(), neck="none", **SMALL).eval()
    for i, level in enumerate(backbone(stored["in.image"])):
        expected = stored[f"mid.block{i}"].permute(0, 3, 1, 2)
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=2e-5)
    assert not any(".neck." in name for name, _ in backbone.named_parameters())


def test_an_official_file_is_loaded_value_by_value(write: Write) -> None:
    path = write()
    backbone = create_backbone(NAME, 3, weights=path, neck="map", **SMALL)
    assert backbone.pretrained is not None
    assert backbone.pretrained.source == path
    assert backbone.pretrained.licence == "unknown"
    own = part(backbone.state_dict(), "vit.")
    official = part(_official_state(), "image_encoder.")
    assert len(own) == len(official)
    for name, value in official.items():
        assert torch.equal(own[name.replace("mlp.lin", "mlp.fc")], value), name


def test_a_file_of_another_size_names_shapes(write: Write) -> None:
    options = SMALL | {"embed_dim": 64}
    with pytest.raises(WeightsMismatchError, match=r"shape: pos_embed is 1×16×16×32, expected"):
        create_backbone(NAME, 3, weights=write(), neck="map", **options)
    with pytest.raises(WeightsMismatchError, match=r"unexpected: blocks\.3\.attn\.proj\.bias"):
        create_backbone(NAME, 3, weights=write(), neck="map", **SMALL | {"depth": 3})
    with pytest.raises(WeightsMismatchError, match=r"missing: .*blocks\.4\.") as error:
        create_backbone(NAME, 3, weights=write(), neck="map", **SMALL | {"depth": 5})
    assert "sam.pth' for backbone 'samvit_base_patch16' do not fit the model" in str(error.value)


def test_values_that_sam_does_not_have_are_refused(write: Write) -> None:
    path = write(**{"image_encoder.blocks.0.attn.q_norm.weight": torch.ones(8)})
    with pytest.raises(WeightsMismatchError, match=r"unexpected: blocks\.0\.attn\.q_norm\.weight"):
        create_backbone(NAME, 3, weights=path, neck="map", **SMALL)


def test_missing_tables_name_the_way_without(write: Write) -> None:
    """The published MFNet looks for them by another name, and goes on without a word."""
    path = write(without=".rel_pos_")
    with pytest.raises(WeightsMismatchError, match=r"missing: .*rel_pos_h.*rel_pos 'zero' does"):
        create_backbone(NAME, 3, weights=path, neck="map", **SMALL)
    backbone = create_backbone(NAME, 3, weights=path, neck="map", rel_pos="zero", **SMALL)
    assert not any("rel_pos" in name for name in backbone.state_dict())
    # Anything else that is missing is not explained by that.
    with pytest.raises(WeightsMismatchError, match=r"missing: blocks\.0\.norm1") as error:
        create_backbone(NAME, 3, weights=write(without=".norm1."), neck="map", **SMALL)
    assert "rel_pos" not in str(error.value)


@pytest.mark.parametrize("out_indices", [None, [0], [1, 2]])
def test_without_positions_the_tables_of_a_file_play_no_part(
    out_indices: list[int] | None, write: Write
) -> None:
    options: dict[str, Any] = SMALL | {"neck": "none", "out_indices": out_indices}
    zero = create_backbone(NAME, 3, weights=write(), rel_pos="zero", **options).eval()
    other = {k: torch.zeros_like(v) for k, v in _official_state().items() if ".rel_pos_" in k}
    zeroed = create_backbone(NAME, 3, weights=write(**other), **options).eval()
    full = create_backbone(NAME, 3, weights=write(), **options).eval()
    image = torch.randn(1, 3, 72, 88)
    with torch.no_grad():
        for a, b, c in zip(zero(image), zeroed(image), full(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert (a - c).abs().max() > 1e-3


@pytest.mark.parametrize("neck", ["none", "pyramid"])
def test_the_neck_of_a_file_need_not_be_there_where_it_is_not_used(neck: str, write: Write) -> None:
    create_backbone(NAME, 3, weights=write(without=".neck."), neck=neck, **SMALL)
    with pytest.raises(WeightsMismatchError, match=r"missing: neck\.0\.weight"):
        create_backbone(NAME, 3, weights=write(without=".neck."), neck="map", **SMALL)


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_the_stem_takes_any_number_of_bands(bands: int, write: Write) -> None:
    backbone: Any = create_backbone(NAME, bands, weights=write(), neck="map", **SMALL)
    official = _official_state()["image_encoder.patch_embed.proj.weight"]
    weight = backbone.vit.patch_embed.proj.weight
    assert weight.shape[1] == bands
    repeated = official[:, [i % 3 for i in range(bands)]] * 3 / bands
    expected = official.sum(dim=1, keepdim=True) if bands == 1 else repeated
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("name", [n for n in timm_models.PUBLISHED_FILES if n.startswith("sam_")])
def test_a_file_by_a_published_name_must_be_that_file(name: str, write: Write) -> None:
    with pytest.raises(ChecksumError, match=rf"{name}' is not the published file: SHA-256"):
        create_backbone(NAME, 3, weights=write(name), neck="map", **SMALL)


def test_the_published_file_brings_its_licence(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("sam_vit_b_01ec64.pth")
    published = {"sam_vit_b_01ec64.pth": (digest(Path(path)), "apache-2.0")}
    monkeypatch.setattr(timm_models, "PUBLISHED_FILES", published)
    backbone = create_backbone(NAME, 3, weights=path, neck="map", **SMALL)
    assert backbone.pretrained is not None
    assert backbone.pretrained.licence == "apache-2.0"


def _listed(size: str) -> dict[str, Tensor]:
    """Official names and shapes of a published encoder, on no device, from MFNet's listing."""
    rows = load_rows(f"mfnet/state_dict_keys_vit_{size}_lora")
    state = {}
    for key, shape, _, role in rows:
        if role == "unused":
            state[key.removeprefix("sam.")] = torch.empty(shape, device="meta")
        elif role == "frozen":
            state[key.replace("attn.rel_", "attn.rel_pos_")] = torch.empty(shape, device="meta")
    return state


def _build(size: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Backbone:
    name = {"b": "base", "l": "large", "h": "huge"}[size]
    monkeypatch.setattr(foreign, "read_content", lambda source, sha256=None: (state, None))
    with torch.device("meta"):
        return create_backbone(f"samvit_{name}_patch16", 3, weights="sam.pth", neck="map")


@pytest.mark.parametrize(("size", "values"), [("b", 177), ("l", 345), ("h", 457)])
def test_the_published_encoders_fit_whole(
    size: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """14 values per block; positions, patches and neck: nothing is missing or left over."""
    state = _listed(size)
    assert sum(key.startswith("image_encoder.") for key in state) == values
    backbone = _build(size, state, monkeypatch)
    assert len(backbone.state_dict()) == values
    for left_out in ("image_encoder.blocks.3.mlp.lin1.bias", "image_encoder.neck.2.weight"):
        short = {k: v for k, v in state.items() if k != left_out}
        with pytest.raises(WeightsMismatchError, match="missing: "):
            _build(size, short, monkeypatch)
    with pytest.raises(WeightsMismatchError, match=r"unexpected: blocks\.3\.norm3\.bias"):
        _build(size, state | {"image_encoder.blocks.3.norm3.bias": torch.ones(1)}, monkeypatch)


@pytest.mark.parametrize("size", [(16, 16), (24, 136), (200, 104)])
@torch.no_grad()
def test_positions_are_resized_without_antialias(size: tuple[int, int], write: Write) -> None:
    backbone: Any = create_backbone(NAME, 3, weights=write(), neck="none", **SMALL).eval()
    image = torch.randn(1, 3, *size)
    tokens, grid = backbone.embed(image)
    assert grid == (size[0] // 8, size[1] // 8)
    positions = torch.nn.functional.interpolate(
        _official_state()["image_encoder.pos_embed"].permute(0, 3, 1, 2), grid, mode="bicubic",
        align_corners=False,
    ).flatten(2).mT  # fmt: skip
    patches = backbone.vit.patch_embed(image).flatten(1, 2)
    torch.testing.assert_close(tokens, patches + positions, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, {"qk_norm": True}, "'samvit_base_patch16' cannot be built with option 'qk_norm'"),
        (NAME, {"use_rope": True}, "option 'use_rope'"),
        (NAME, {"rel_pos": "none"}, r"option 'rel_pos' .* 'sam' or 'zero'"),
        (
            NAME,
            {"neck": "map", "out_indices": [0, 3]},
            r"the neck 'map' takes one block, got \[0, 3\]",
        ),
        ("vit_tiny_patch16_224", {"rel_pos": "zero"}, "has no relative positions like SAM's"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, options: dict[str, Any], message: str) -> None:
    """Options that our attention would pass over without a word are among them."""
    with pytest.raises(ModelError, match=message):
        create_backbone(name, 3, depth=4, embed_dim=16, num_heads=2, **options)
