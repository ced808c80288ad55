"""CROMA equals the published model: bias, encodings, streams; stems, sizes, missing sensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_files import load_golden, part
from terrafuse.backbones import CROMA, create_backbone
from terrafuse.backbones.croma.encoder import PooledHead, distance_bias, head_slopes
from terrafuse.backbones.croma.weights import convert_croma_state_dict
from terrafuse.describe import without_values
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.methods import create_segmenter
from terrafuse.methods.croma import CROMASegmenter, convert_reference_state_dict
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

SAR = Modality("sar", ("VV", "VH"), "sar")
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
OPTICAL = Modality("s2", BANDS, "optical")
WHU = Modality("opt", ("r", "g", "b", "nir"), "optical", (0.66, 0.555, 0.485, 0.83))
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 16}
#: As the stored tensors are to be compared.
CLOSE: dict[str, float] = {"rtol": 5e-5, "atol": 5e-6}


def _golden() -> tuple[CROMA, dict[str, Tensor], dict[str, Tensor]]:
    """Our encoders with the stored weights, all stored tensors, our names of the weights."""
    stored, _ = load_golden("croma/encoder")
    croma = CROMA("croma_base", [SAR], [OPTICAL], neck="none", scaling="none", **SMALL)
    state = convert_croma_state_dict(part(stored, "sd."))
    own = {k: v for k, v in state.items() if not k.startswith("pool_")}
    load_strict(croma, own, where="stored weights")
    return croma.eval(), stored, state


@pytest.mark.parity
def test_the_bias_is_the_originals() -> None:
    stored, _ = load_golden("croma/alibi")
    for name, expected in stored.items():
        heads, side = (int(number) for number in name.removeprefix("bias.heads").split("_grid"))
        assert torch.equal(distance_bias((side, side), heads), expected), name
    assert len(stored) == 4


def test_slopes_and_distances_by_hand() -> None:
    assert head_slopes(4).tolist() == [2**-2, 2**-4, 2**-6, 2**-8]
    assert head_slopes(3).tolist() == [2**-4, 2**-8, 2**-2]
    bias = distance_bias((2, 3), 4)
    assert bias.shape == (1, 4, 6, 6)
    assert bias[0, 0, 0].tolist() == pytest.approx(
        [0, -0.25, -0.5, -0.25, -0.25 * 2**0.5, -0.25 * 5**0.5]
    )


@pytest.mark.parity
@torch.no_grad()
def test_every_stage_is_the_original() -> None:
    croma, stored, _ = _golden()
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    for sensor, encoder in (("s1", croma.sar), ("s2", croma.optical)):
        encoder.patch_embed.register_forward_hook(keep(f"{sensor}_tokens"))
        for i, block in enumerate(encoder.blocks):
            block.register_forward_hook(keep(f"{sensor}_stream_after_layer{i}"))
            block.get_submodule("mlp").register_forward_hook(
                keep(f"{sensor}_encoder.ffn{i}_branch")
            )
    for i, block in enumerate(croma.joint.blocks):
        block.register_forward_hook(keep(f"joint_stream_after_layer{i}"))
        block.get_submodule("cross").register_forward_hook(keep(f"joint.cross{i}_branch"))
    encodings = croma.encode(stored["in.SAR_images"], stored["in.optical_images"])
    found["s2_prenorm"] = found["s2_stream_after_layer3"]
    found["joint_prenorm"] = found["joint_stream_after_layer1"]
    found["attn_bias"] = croma.bias((6, 6), encodings.sar)
    expected = part(stored, "mid.")
    assert len(expected) == 17
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("file", ["encoder", "encoder_64px"])
@torch.no_grad()
def test_encodings_are_the_originals(file: str) -> None:
    croma, _, state = _golden()
    stored, _ = load_golden(f"croma/{file}")
    encodings = croma.encode(stored["in.SAR_images"], stored["in.optical_images"])
    found = {
        "SAR_encodings": encodings.sar,
        "optical_encodings": encodings.optical,
        "joint_encodings": encodings.joint,
        "joint_GAP": encodings.joint.mean(dim=1),
    }
    for name, group in (("SAR", "sar"), ("optical", "optical")):
        head = PooledHead(32)
        load_strict(head, part(state, f"pool_{group}."), where=group)
        found[f"{name}_GAP"] = head(found[f"{name}_encodings"])
    for name, value in part(stored, "out.").items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=name)


@torch.no_grad()
def test_the_comparison_would_see_a_mistake() -> None:
    croma, stored, _ = _golden()
    for name in ("joint.blocks.0.cross.k.weight", "sar.blocks.1.attn.qkv.weight"):
        parameter = croma.get_parameter(name)
        parameter.copy_(parameter.flip(0))
        found = croma.encode(stored["in.SAR_images"], stored["in.optical_images"]).joint
        assert (found - stored["out.joint_encodings"]).abs().max() > 1e-2, name
        parameter.copy_(parameter.flip(0))


@torch.no_grad()
def test_levels_come_from_the_joint_layers() -> None:
    """Without neck: the stream after chosen layers, the last of them normalised."""
    croma, stored, _ = _golden()
    assert croma.out_indices == (0, 1)
    image = torch.cat([stored["in.SAR_images"], stored["in.optical_images"]], dim=1)
    first, last = croma(image)
    expected = stored["mid.joint_stream_after_layer0"].transpose(1, 2).unflatten(2, (6, 6))
    torch.testing.assert_close(first, expected, **CLOSE)
    expected = stored["out.joint_encodings"].transpose(1, 2).unflatten(2, (6, 6))
    torch.testing.assert_close(last, expected, **CLOSE)


@torch.no_grad()
def test_the_backbone_of_one_sensor_is_its_encoder() -> None:
    croma, stored, _ = _golden()
    for sensor, key, channels in (("optical", "optical", 12), ("sar", "SAR", 2)):
        alone = create_backbone(
            f"croma_base_{sensor}", channels, neck="map", out_indices=[-1], scaling="none", **SMALL
        ).eval()
        vit: Any = alone.get_submodule("vit")
        vit.load_state_dict(croma.get_submodule(sensor).state_dict())
        tokens, grid = alone.embed(stored[f"in.{key}_images"])  # type: ignore[operator]
        for i in range(len(vit.blocks)):
            tokens = alone.run_block(i, tokens, grid)  # type: ignore[operator]
        torch.testing.assert_close(vit.norm(tokens), stored[f"out.{key}_encodings"], **CLOSE)


@torch.no_grad()
def test_prompts_have_no_distance() -> None:
    """Prompts of no effect on keys change nothing but the softmax: tokens keep their bias."""
    torch.manual_seed(0)
    backbone: Any = create_backbone(
        "croma_base_sar", 2, neck="none", out_indices=[-1], **SMALL
    ).eval()
    image = torch.randn(1, 2, 16, 24)
    before = backbone(image)[0]

    class Prompts(torch.nn.Module):
        def forward(self, index: int, samples: int) -> Tensor:
            return torch.full((samples, 2, 32), 5.0)

    backbone.prompts = Prompts()
    assert not torch.allclose(backbone(image)[0], before)
    assert backbone(image)[0].shape == before.shape


@pytest.mark.parametrize(
    ("name", "sar", "optical", "joint", "total"),
    [("croma_base", 42.6, 85.6, 56.7, 194.4), ("croma_large", None, None, None, 672.6)],
)
def test_sizes_are_the_published(
    name: str, sar: float | None, optical: float | None, joint: float | None, total: float
) -> None:
    """Millions of parameters; the sum has the two heads of pooled vectors, 4.7 of base each."""
    with torch.device("meta"):
        croma = CROMA(name, [SAR], [OPTICAL], neck="none")
        head = PooledHead(croma.joint.norm.normalized_shape[0])
    counts = {part: sum(p.numel() for p in croma.get_submodule(part).parameters()) / 1e6
              for part in ("sar", "optical", "joint")}  # fmt: skip
    pooled = sum(p.numel() for p in head.parameters()) / 1e6
    if sar is not None:
        assert [round(count, 1) for count in counts.values()] == [sar, optical, joint]
        assert round(pooled, 1) == 4.7
    assert round(sum(counts.values()) + 2 * pooled, 1) == total


def _file(folder: Path) -> Path:
    """A checkpoint as published: groups, each with its tensors, and a bias of another size."""
    stored, _ = load_golden("croma/encoder")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in part(stored, "sd.").items():
        group, _, inner = name.partition(".")
        groups.setdefault(group, {})[inner] = value
    torch.save(groups, folder / "croma.pt")
    return folder / "croma.pt"


@torch.no_grad()
def test_published_files_are_read(tmp_path: Path) -> None:
    croma, stored, _ = _golden()
    path = str(_file(tmp_path))
    loaded = CROMA(
        "croma_base", [SAR], [OPTICAL], weights=path, neck="none", scaling="none", **SMALL
    ).eval()
    images = stored["in.SAR_images"], stored["in.optical_images"]
    assert torch.equal(loaded.encode(*images).joint, croma.encode(*images).joint)
    assert loaded.pretrained is not None
    assert loaded.pretrained.source == path
    # Four bands of another order take the columns of theirs, times 12 / 4.
    weight = stored["sd.s2_encoder.linear_input.weight"].unflatten(1, (12, 64))
    few = CROMA("croma_base", [SAR], [WHU], weights=path, **SMALL)
    expected = 3 * weight[:, [3, 2, 1, 7]].flatten(1)
    torch.testing.assert_close(few.optical.patch_embed.weight, expected)
    # A radar band that says no polarisation is the sum of both columns; VH its own, doubled.
    weight = stored["sd.s1_encoder.linear_input.weight"].unflatten(1, (2, 64))
    for band, expected in (("amplitude", weight.sum(dim=1)), ("vh", 2 * weight[:, 1])):
        single = create_backbone(
            "croma_base_sar", 1, weights=path, modalities=[Modality("s", (band,), "sar")], **SMALL
        )
        stem: Any = single.get_submodule("vit.patch_embed")
        torch.testing.assert_close(stem.weight, expected)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = str(_file(tmp_path))
    with pytest.raises(WeightsMismatchError, match=r"part 'sar', do not fit .*blocks\.2\.norm1"):
        create_backbone("croma_base_sar", 2, weights=path, **SMALL | {"depth": 8})
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsMismatchError, match="hold nothing for CROMA's part 'optical'"):
        create_backbone("croma_base_optical", 3, weights=str(tmp_path / "other.pt"), **SMALL)
    with pytest.raises(WeightsNotFoundError, match="weights 'hub'"):
        create_backbone("croma_base_optical", 3, weights="timm")
    with pytest.raises(UnknownNameError, match=r"'croma_base'.*Method 'croma' takes both"):
        create_backbone("croma_base", 3)
    with pytest.raises(ModelError, match="embed_dim must be a multiple of num_heads"):
        create_backbone("croma_base_optical", 3, embed_dim=20)


TINY: dict[str, Any] = {
    "backbone_options": {"embed_dim": 32, "depth": 4, "num_heads": 4, "neck_channels": 8},
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}


def _method(*modalities: Modality, **options: Any) -> CROMASegmenter:
    torch.manual_seed(0)
    model = create_segmenter("croma", modalities, 3, TINY | options)
    assert isinstance(model, CROMASegmenter)
    return model.eval()


def test_modalities_find_their_transformer() -> None:
    dsm = Modality("dsm", ("z",), "elevation")
    nir = Modality("nir", ("nir",), "optical", (0.83,))
    rgb = Modality("rgb", ("r", "g", "b"), "optical")
    cases: list[tuple[tuple[Modality, ...], Any, list[str]]] = [
        ((OPTICAL, SAR), None, ["sar"]),
        ((SAR, OPTICAL, replace(SAR, name="sar2")), None, ["sar", "sar2"]),
        ((rgb, nir), None, ["nir"]),
        ((rgb, dsm, SAR), ("sar", "dsm"), ["dsm", "sar"]),
    ]
    for modalities, radar, expected in cases:
        model = _method(*modalities, radar=radar)
        assert [m.name for m in model.radar] == expected
        assert len(model.radar) + len(model.optical) == len(modalities)
    with pytest.raises(ModelError, match="option 'radar' would give sar, sar2 to one"):
        _method(SAR, replace(SAR, name="sar2"))
    with pytest.raises(
        UnknownNameError, match="unknown option of backbone 'croma_base' 'features'"
    ):
        _method(SAR, OPTICAL, backbone_options={"features": "concat"})
    with pytest.raises(UnknownNameError, match=r"option 'radar' 'sra'\. Did you mean 'sar'"):
        _method(SAR, OPTICAL, radar=("sra",))


@torch.no_grad()
@pytest.mark.parametrize("features", ["joint", "concat"])
def test_what_stands_in_for_a_missing_sensor(features: str) -> None:
    """The maps of the other sensor's own layers; zeros where maps lie side by side."""
    model = _method(SAR, OPTICAL, features=features)
    backbone = model.backbone
    backbone.pyramid = None
    sar, optical = torch.randn(2, 2, 32, 48), torch.randn(2, 12, 32, 48)
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    both, only_optical, only_sar = (
        backbone.see(sar, optical, *has) for has in ((yes, yes), (no, yes), (yes, no))
    )
    tokens, grid = backbone.optical.embed(backbone.rescale(optical))
    seen = backbone.optical(tokens, backbone.bias(grid, tokens))
    expected = seen.transpose(1, 2).unflatten(2, grid)
    if features == "joint":
        assert all(map_.shape == (2, 32, 4, 6) for map_ in both)
        torch.testing.assert_close(only_optical[-1], expected)
        assert not torch.allclose(only_sar[-1], both[-1])
    else:
        assert [map_.shape for map_ in both] == [(2, 96, 4, 6)]
        radar, colour, joint = only_optical[0].chunk(3, dim=1)
        torch.testing.assert_close(colour, expected)
        assert radar.eq(0).all()
        assert joint.eq(0).all()
        torch.testing.assert_close(only_sar[0][:, :32], both[0][:, :32])


def test_the_originals_weights_fit_the_method() -> None:
    stored, _ = load_golden("croma/encoder")
    model = create_segmenter("croma", (SAR, OPTICAL), 3, {"backbone_options": SMALL})
    converted = convert_reference_state_dict(part(stored, "sd."))
    own = {k for k, _ in model.named_parameters() if k.startswith("backbone.")}
    assert {k for k in own if ".pyramid." not in k} == set(converted)


def test_the_bias_is_kept_and_no_part_of_the_state() -> None:
    model = _method(SAR, OPTICAL)
    assert not any("bias." in name and "croma" in name for name in model.state_dict())
    bias = model.backbone.bias
    like = torch.zeros(1)
    assert bias((2, 2), like) is bias((2, 2), like)
    assert bias((2, 3), like).shape[-1] == 6
    with torch.inference_mode():
        made = bias((4, 4), like)
    assert not made.is_inference()


def test_layer_groups_hold_each_pretrained_value_once() -> None:
    for options in ({}, {"features": "concat"}):
        backbone = _method(SAR, OPTICAL, **options).backbone
        grouped = [id(p) for group in backbone.layer_groups() for p in group]
        neck = {id(p) for n, p in backbone.named_parameters() if n.startswith("pyramid.")}
        assert len(grouped) == len(set(grouped))
        assert set(grouped) | neck == {id(p) for p in backbone.parameters()}
        assert len(backbone.layer_groups()) == 1 + 4 + 2


def test_the_default_is_croma_base() -> None:
    model = without_values(lambda: create_segmenter("croma", (SAR, OPTICAL), 8))
    assert isinstance(model, CROMASegmenter)
    assert model.backbone.out_indices == (0, 2, 3, 5)
    assert model.backbone.strides == (2, 4, 8, 16)
