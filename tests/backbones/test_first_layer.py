"""Pretrained kernels for other bands: each takes its own, and none those of another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from terrafuse.backbones import Backbone, bands_in_turn, create_backbone, fit_bands
from terrafuse.backbones.colour import OTHER_BANDS_STD, colour_bands, start_weights
from terrafuse.classes import ClassScheme
from terrafuse.errors import ChecksumError
from terrafuse.methods import create_segmenter, describe_run, load_segmenter, tuned_state
from terrafuse.methods.cmx import convert_reference_state_dict as convert_cmx
from terrafuse.methods.dformer import convert_reference_state_dict as convert_dformer
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.weights import save_model

RGB = Modality("rgb", ("red", "green", "blue"), "optical")
BGR = Modality("bgr", ("blue", "green", "red"), "optical")
BGRN = Modality("bgrn", ("blue", "green", "red", "nir"), "optical")
DSM = Modality("dsm", ("height",), "elevation")
NAMELESS = Modality("m", ("p", "q", "r", "s"))
#: Kernels of red, green and blue.
KERNELS = torch.tensor([1.0, 10, 100]).reshape(1, 3, 1, 1)
RESNET: dict[str, Any] = {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1)}
VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
MODELS = {"resnet18": RESNET, "convnext_atto": {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)},
          "vit_tiny_patch16_224": VIT, "sam2_hiera_tiny": {"stages": (1, 1, 1, 1),
          "embed_dim": 8, "global_att_blocks": ()}}  # fmt: skip


def _values(weight: Tensor) -> list[float]:
    return [round(float(value), 4) for value in weight.flatten()]


def test_colours_take_their_own_kernels_and_other_bands_a_mixture() -> None:
    found = _values(fit_bands(KERNELS, 4, [BGRN]))
    assert found[:3] == [100, 10, 1]
    a, b, c = start_weights(4, (2, 1, 0))[:, 3].tolist()
    assert found[3] == pytest.approx(a + 10 * b + 100 * c, abs=1e-3)
    assert 0 < max(abs(a), abs(b), abs(c)) < 4 * OTHER_BANDS_STD


def test_three_bands_are_put_in_order() -> None:
    assert _values(fit_bands(KERNELS, 3, [BGR])) == [100, 10, 1]
    kernels = torch.randn(4, 3, 5, 5)
    for modalities in ([RGB], [Modality("x", ("h", "a", "d"))], [DSM, Modality("s", ("a", "b"))]):
        assert torch.equal(fit_bands(kernels, 3, modalities), kernels)
    assert fit_bands(kernels.half(), 3, [BGR]).dtype == torch.half


@pytest.mark.parametrize(
    ("modalities", "places"),
    [
        ([RGB, DSM], (0, 1, 2)),
        ([DSM, RGB], (1, 2, 3)),
        ([DSM, BGRN], (3, 2, 1)),
        ([BGR, RGB], (2, 1, 0)),  # the first that knows
        ([NAMELESS], (0, 1, 2)),
        ([DSM, NAMELESS], (0, 1, 2)),
    ],
)
def test_colours_are_found_in_stacked_modalities(
    modalities: list[Modality], places: tuple[int, ...]
) -> None:
    assert colour_bands(modalities) == places
    bands = sum(len(m.bands) for m in modalities)
    found = _values(fit_bands(KERNELS, bands, modalities))
    assert [found[place] for place in places] == [1, 10, 100]


@pytest.mark.parametrize("bands", [4, 5, 6, 7, 13, 60])
def test_no_band_is_blind_or_like_another(bands: int) -> None:
    modality = Modality("m", tuple(f"x{i}" for i in range(bands)))
    torch.manual_seed(0)
    for kernels in (torch.randn(6, 3, 2, 2), torch.randn(6, 1, 2, 2), torch.randn(6, 2, 2, 2)):
        columns = fit_bands(kernels, bands, [modality]).transpose(0, 1).flatten(1)  # (C, D·h·w)
        distances = torch.cdist(columns, columns) + torch.eye(bands)
        assert distances.min() > 1e-3
        assert columns.norm(dim=1).min() > 1e-3


def test_without_modalities_all_is_as_timm_has_it() -> None:
    assert _values(fit_bands(KERNELS, 6)) == [0.5, 5, 50, 0.5, 5, 50]
    two = Modality("m", ("blue", "red"), "optical")
    assert _values(fit_bands(KERNELS, 2, [two])) == _values(fit_bands(KERNELS, 2)) == [1.5, 15]
    assert _values(fit_bands(KERNELS, 1, [DSM])) == [111]
    with bands_in_turn():
        assert _values(fit_bands(KERNELS, 6, [BGRN, DSM, DSM])) == [0.5, 5, 50, 0.5, 5, 50]
        assert _values(fit_bands(KERNELS, 3, [BGR])) == [1, 10, 100]


@pytest.fixture(params=["file", "timm"])
def create(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Backbone, dict[str, Tensor]]]:
    """Make a backbone from pretrained values, of a file or as timm fetches and adapts them."""
    original = timm.create_model

    def created(name: str, bands: int, **more: Any) -> tuple[Backbone, dict[str, Tensor]]:
        torch.manual_seed(1)
        state = original(name, num_classes=7, **MODELS[name]).state_dict()
        path = tmp_path / "values.safetensors"
        save_file(state, path)

        def create_model(*args: Any, pretrained: bool = False, **options: Any) -> Any:
            overlay = {"file": str(path), "num_classes": 7, "custom_load": False, "hf_hub_id": None}
            extra: dict[str, Any] = {"pretrained_cfg_overlay": overlay} if pretrained else {}
            return original(*args, pretrained=pretrained, **options, **extra)

        monkeypatch.setattr(timm, "create_model", create_model)
        weights = "timm" if request.param == "timm" else str(path)
        backbone = create_backbone(name, bands, weights=weights, **MODELS[name], **more)
        monkeypatch.undo()
        assert backbone.pretrained is not None
        return backbone.eval(), state

    return created


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("modality", [BGRN, BGR])
def test_a_backbone_sees_the_colours_it_knows(
    create: Callable[..., tuple[Backbone, dict[str, Tensor]]], name: str, modality: Modality
) -> None:
    bands = len(modality.bands)
    options = {"neck": "none"} if name == "vit_tiny_patch16_224" else {}
    backbone, state = create(name, bands, modalities=[modality], **options)
    first = f"{timm.get_pretrained_cfg(name).first_conv}.weight"
    own = next(value for value in backbone.parameters() if value.shape[1:2] == (bands,))
    expected = fit_bands(state[first], bands, [modality])
    torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(own[:, 2], state[first][:, 0], rtol=1e-6, atol=1e-7)
    # With near infrared at its mean, it is the published network.
    plain, _ = create(name, 3, **options)
    image = torch.randn(1, 3, 64, 64)
    shown = torch.cat([image.flip(1), torch.zeros(1, bands - 3, 64, 64)], dim=1)
    with torch.no_grad():
        for level, expected in zip(backbone(shown), plain(image), strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


def test_published_colours_are_left_bit_for_bit(
    create: Callable[..., tuple[Backbone, dict[str, Tensor]]],
) -> None:
    backbone, state = create("resnet18", 3, modalities=[RGB])
    assert torch.equal(backbone.state_dict()["stem.conv1.weight"], state["conv1.weight"])


def test_stacked_modalities_before_one_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model("resnet18", num_classes=7, **RESNET).state_dict()
    save_file(state, tmp_path / "values.safetensors")
    options = {"backbone": "resnet18", "backbone_options": RESNET, "decoder": "linear",
               "weights": str(tmp_path / "values.safetensors")}  # fmt: skip
    model = create_segmenter("early_fusion", [DSM, BGR], 3, options).eval()
    kernels = model.state_dict()["backbone.stem.conv1.weight"]
    assert torch.equal(kernels[:, 1:].flip(1), state["conv1.weight"])
    images = {"dsm": torch.randn(1, 1, 64, 64), "bgr": torch.randn(1, 3, 64, 64)}
    blue = images["bgr"][:, :1]
    swapped = {"dsm": blue, "bgr": torch.cat([images["dsm"], images["bgr"][:, 1:]], dim=1)}
    with torch.no_grad():
        assert (model(images).logits - model(swapped).logits).abs().max() > 1e-3


@pytest.mark.parametrize("modality", [BGRN, BGR])
def test_a_frozen_run_from_before_keeps_its_kernels(tmp_path: Path, modality: Modality) -> None:
    torch.manual_seed(1)
    base, run = tmp_path / "values.safetensors", tmp_path / "run"
    save_file(timm.create_model("resnet18", num_classes=7, **RESNET).state_dict(), base)
    options = {"backbone": "resnet18", "backbone_options": RESNET, "decoder": "linear",
               "tuning": "frozen", "weights": str(base)}  # fmt: skip
    bands = (1.0,) * len(modality.bands)
    statistics = BandStatistics(bands, bands, bands, bands, (1,) * len(bands))
    models = {}
    for name, context in (("before", bands_in_turn), ("now", nullcontext)):
        with context():
            models[name] = create_segmenter("single", [modality], 3, options).eval()
        info = describe_run(
            models[name],
            scheme=ClassScheme(("a", "b", "c")),
            statistics={modality.name: statistics},
            crop_size=32,
            overlap=0,
        )
        save_model(run / name, tuned_state(models[name]), info)
    image = {modality.name: torch.randn(1, len(bands), 64, 64)}
    with torch.no_grad():
        logits = {name: model(image).logits for name, model in models.items()}
        for name, expected in logits.items():
            assert torch.equal(load_segmenter(run / name)[0](image).logits, expected), name
    values = load_file(base)
    save_file(values | {"bn1.bias": values["bn1.bias"] + 1}, base)
    with pytest.raises(ChecksumError, match="tuned on other values than the base weights"):
        load_segmenter(run / "before")


def test_mit_takes_kernels_by_band(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"channels": (8, 8, 16, 16), "depths": (1, 1, 1, 1),
                             "num_heads": (1, 1, 2, 2)}  # fmt: skip
    published = create_backbone("mit_b0", 3, **sizes).state_dict()
    save_file(published, tmp_path / "mit.safetensors")
    first = "stages.0.patch_embeddings.proj.weight"
    mit = create_backbone(
        "mit_b0", 4, weights=str(tmp_path / "mit.safetensors"), modalities=[BGRN], **sizes
    )
    assert torch.equal(mit.state_dict()[first][:, :3].flip(1), published[first])


def test_files_of_blue_green_red_are_taken_in_the_order_of_bands() -> None:
    """Whatever bands are called: these files expect them so, and are documented to."""
    name = "stages.0.patch_embeddings.proj.weight"
    converted = convert_cmx({"backbone.patch_embed1.proj.weight": KERNELS}, bands=(4, 3))
    assert _values(converted[f"encoders.image.{name}"])[:3] == [1, 10, 100]
    converted = convert_dformer({"downsample_layers_e.0.0.weight": KERNELS[:, 1:2]}, bands=(3, 2))
    first, second = _values(converted["encoder.downs.0.1.0.weight"])
    assert first == 10
    assert second not in (0, 10)
    assert _values(fit_bands(KERNELS, 3, [BGR], in_order=True)) == [1, 10, 100]
