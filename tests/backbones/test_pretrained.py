"""Weights from files: timm's names, any number of bands, nothing silently left out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from terrafuse.backbones import create_backbone, has_hub_weights, list_backbones
from terrafuse.errors import ModelError, WeightsMismatchError, WeightsNotFoundError
from terrafuse.modalities import Modality
from terrafuse.weights import without_pretrained

SMALL_VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1)},
    "convnext_atto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 2, 1, 1)},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": SMALL_VIT,
    "vit_small_patch14_reg4_dinov2": SMALL_VIT | {"img_size": 56},
    "vit_small_patch16_dinov3": SMALL_VIT,
    "samvit_base_patch16": SMALL_VIT | {"global_attn_indexes": (1,)},
}


def _pretrained(name: str, folder: Path, num_classes: int = 7, **options: Any) -> Path:
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=num_classes, **MODELS[name], **options)
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return path


def _image(name: str, bands: int) -> torch.Tensor:
    size = MODELS[name].get("img_size", 64)
    return torch.randn(1, bands, size, size)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_with_its_classifier_is_loaded(name: str, tmp_path: Path) -> None:
    path = _pretrained(name, tmp_path)
    is_tokens = "img_size" in MODELS[name]
    options = MODELS[name] | ({"neck": "none", "final_norm": False} if is_tokens else {})
    backbone = create_backbone(name, 3, weights=str(path), **options).eval()
    assert backbone.pretrained is not None
    assert backbone.pretrained.source == str(path)
    extra: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    if name.startswith("samvit"):  # the original's; timm leaves 1e-5
        extra = {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6)}
    theirs = timm.create_model(name, num_classes=7, **MODELS[name], **extra).eval()
    timm.models.load_checkpoint(theirs, str(path))
    image = _image(name, 3)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        levels = backbone(image)
    torch.testing.assert_close(levels[-1], expected[-1])


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_the_stem_is_adapted_as_timm_does(name: str, bands: int, tmp_path: Path) -> None:
    path = _pretrained(name, tmp_path)
    backbone = create_backbone(name, bands, weights=str(path), **MODELS[name])
    theirs = timm.create_model(
        name, pretrained=True, in_chans=bands, num_classes=0,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 7}, **MODELS[name],
    )  # fmt: skip
    first = theirs.pretrained_cfg["first_conv"]
    expected = theirs.get_submodule(first).weight
    (own,) = [
        value
        for key, value in backbone.named_parameters()
        if key.removeprefix("stem.").removeprefix("vit.")
        in (f"{first}.weight", f"{first.replace('.', '_')}.weight")
    ]
    assert own.shape[1] == bands
    torch.testing.assert_close(own, expected)


def test_other_image_sizes_resample_the_positions(tmp_path: Path) -> None:
    path = _pretrained("vit_tiny_patch16_224", tmp_path)
    options = SMALL_VIT | {"img_size": 96}
    backbone = create_backbone("vit_tiny_patch16_224", 3, weights=str(path), **options)
    assert backbone.vit.pos_embed.shape == (1, 1 + 36, 32)


def test_original_checkpoints_are_converted(tmp_path: Path) -> None:
    """DINOv2's own file names its registers otherwise, and holds a mask token."""
    name = "vit_small_patch14_reg4_dinov2"
    state = timm.create_model(name, **MODELS[name]).state_dict()
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 32)
    # It gives the class token a position, which timm adds to the token itself.
    state["pos_embed"] = torch.cat([torch.ones(1, 1, 32), state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "dinov2.pth")
    backbone = create_backbone(name, 3, weights=str(tmp_path / "dinov2.pth"), **MODELS[name])
    torch.testing.assert_close(backbone.vit.reg_token, state["register_tokens"])
    torch.testing.assert_close(backbone.vit.cls_token, state["cls_token"] + 1)


def test_weights_that_do_not_fit_say_why(tmp_path: Path) -> None:
    path = _pretrained("resnet18", tmp_path)
    with pytest.raises(WeightsMismatchError, match=r"other shape: .*is 8×64×3×3, expected 64×64"):
        create_backbone("resnet18", 3, weights=str(path))
    with pytest.raises(WeightsMismatchError, match=r"missing: .*unexpected: layer1"):
        create_backbone("mobilenetv3_small_050", 3, weights=str(path))
    with pytest.raises(WeightsMismatchError, match="timm's checkpoint conversion fails on"):
        create_backbone("convnext_atto", 3, weights=str(path), **MODELS["convnext_atto"])
    state = timm.create_model("resnet18", **MODELS["resnet18"]).state_dict()
    state.pop("layer4.0.conv1.weight")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightsMismatchError, match=r"missing: stages\.3\.layer4\.0\.conv1\.weight"):
        create_backbone("resnet18", 3, weights=str(tmp_path / "cut.pth"), **MODELS["resnet18"])
    # What is not in use may be absent.
    create_backbone(
        "resnet18", 3, weights=str(tmp_path / "cut.pth"), strides=[4, 8, 16], **MODELS["resnet18"]
    )


def test_transformers_need_only_what_is_in_use(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    state = timm.create_model(name, num_classes=0, **SMALL_VIT).state_dict()
    left = {k: v for k, v in state.items() if not k.startswith(("norm.", "blocks.1."))}
    save_file(left, tmp_path / "cut.safetensors")
    path = str(tmp_path / "cut.safetensors")
    create_backbone(name, 3, weights=path, out_indices=[0], final_norm=False, **SMALL_VIT)
    with pytest.raises(WeightsMismatchError, match=r"missing: blocks\.1\.norm1\.weight"):
        create_backbone(name, 3, weights=path, **SMALL_VIT)
    save_file(state, tmp_path / "whole.safetensors")
    whole = str(tmp_path / "whole.safetensors")
    backbone = create_backbone(
        name, 3, weights=whole, out_indices=[0], final_norm=False, **SMALL_VIT
    )
    assert torch.equal(backbone.vit.blocks[0].norm1.bias, state["blocks.0.norm1.bias"])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsNotFoundError, match=r"there is no weights file 'none\.pth'"):
        create_backbone("resnet18", 3, weights="none.pth")


def test_without_network_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(WeightsNotFoundError, match=r"'resnet18' \(timm/.*give their path as 'weig"):
        create_backbone("resnet18", 3, weights="timm")


def test_a_model_without_published_weights_is_named() -> None:
    with pytest.raises(WeightsNotFoundError, match="timm has no pretrained weights for"):
        create_backbone("vit_base_patch16_18x2_224", 3, weights="timm")


@pytest.mark.parametrize("weights", ["timm", "gone.pth"])
def test_weights_can_be_switched_off(weights: str) -> None:
    with without_pretrained():
        backbone = create_backbone("resnet18", 3, weights=weights, **MODELS["resnet18"])
    assert backbone.pretrained is None


def test_listed_backbones_exist() -> None:
    rows = list_backbones()
    assert {row.kind for row in rows} == {"pyramid", "tokens"}
    for row in rows:
        assert all(timm.is_model(name) or has_hub_weights(name) for name in row.examples), row
        assert row.licence
    licences = {row.family: row.licence for row in rows}
    assert licences["ResNet"] == "apache-2.0"
    assert licences["DINOv3"] == "dinov3-license"
    assert licences["DOFA"] == licences["DOFA 2"] == "cc-by-4.0"
    assert licences["CROMA"] == "mit"


@pytest.mark.parametrize(("kind", "name"), [(row.kind, row.examples[0])
                                            for row in list_backbones()])  # fmt: skip
def test_listed_families_work(kind: str, name: str) -> None:
    """One example of each family, as large as it is, gives levels in register."""
    if "base" in name and kind == "tokens":
        size = 56 if "patch14" in name else 64
        options: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 2}
        options |= {} if name.startswith("croma") else {"img_size": size}
    else:
        options = {}
    sar = Modality("sar", ("VV", "VH"), "sar")
    backbone = create_backbone(name, 2, modalities=[sar], **options).eval()
    size = backbone.stride * 2
    with torch.no_grad():
        levels = backbone(torch.randn(1, 2, size, size))
    shapes = [(x.shape[1], x.shape[-1]) for x in levels]
    assert shapes == [
        (c, round(size / s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_bad_options_of_timm_are_model_errors() -> None:
    with pytest.raises(ModelError, match="cannot be built"):
        create_backbone("vit_tiny_patch16_224", 3, embed_dim=33, num_heads=2)
