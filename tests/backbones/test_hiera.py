"""SAM 2's encoder gives timm's own features, stage by stage, for images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from small_backbones import train_a_little
from terrafuse.backbones import PyramidBackbone, create_backbone
from terrafuse.errors import UnknownNameError, WeightsMismatchError

NAME = "sam2_hiera_tiny"
SMALL: dict[str, Any] = {"embed_dim": 8, "stages": (1, 2, 3, 1), "global_att_blocks": (4,)}


def _theirs(**options: Any) -> Any:
    torch.manual_seed(5)
    return train_a_little(timm.create_model(NAME, **SMALL | {"num_classes": 0} | options)).eval()


def _write(state: dict[str, Tensor], path: Path) -> str:
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (224, 160)])
def test_levels_equal_timms(size: tuple[int, int], tmp_path: Path) -> None:
    """Also where windows do not fit and where positions are resized."""
    theirs = _theirs()
    path = _write(theirs.state_dict(), tmp_path / "hiera.safetensors")
    backbone = create_backbone(NAME, 3, weights=path, **SMALL).eval()
    assert isinstance(backbone, PyramidBackbone)
    assert backbone.channels == (8, 16, 32, 64)
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.stride == 32
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True, coarse=True)
        levels = backbone(image)
        x = backbone.stem(image)
        for stage, level, other, stride in zip(
            backbone.stages, levels, expected, backbone.strides, strict=True
        ):
            x = stage(x)
            assert torch.equal(x, level)
            assert level.shape[-2:] == (size[0] // stride, size[1] // stride)
            # Positions are added in another order.
            torch.testing.assert_close(level, other, rtol=1e-5, atol=1e-5)


def test_groups_and_gradients() -> None:
    backbone = create_backbone(NAME, 2, **SMALL)
    groups = backbone.layer_groups()
    assert len(groups) == 5
    grouped = [id(p) for group in groups for p in group]
    assert sorted(grouped) == sorted(id(p) for p in backbone.parameters())
    sum(level.square().mean() for level in backbone(torch.randn(1, 2, 64, 64))).backward()
    assert not [n for n, p in backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize("bands", [1, 4])
def test_files_with_classifier_and_original_names_are_loaded(bands: int, tmp_path: Path) -> None:
    theirs = _theirs(num_classes=7)
    state = {
        k.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1"): v
        for k, v in theirs.state_dict().items()
    }
    assert any(k.startswith("head.") for k in state)
    path = _write(state, tmp_path / "original.safetensors")
    backbone = create_backbone(NAME, bands, weights=path, **SMALL)
    own = backbone.state_dict()
    last = own["stages.3.block_6.mlp.fc2.weight"]
    assert torch.equal(last, state["blocks.6.mlp.layers.1.weight"])
    assert torch.equal(own["stem.pos_embed_window"], state["pos_embed_window"])
    assert own["stem.patch_embed.proj.weight"].shape == (8, bands, 7, 7)


def test_files_that_do_not_fit_say_why(tmp_path: Path) -> None:
    state = _theirs().state_dict()
    path = _write(state, tmp_path / "whole.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"shape: .* is 1×8×7×7, expected 1×16×7×7"):
        create_backbone(NAME, 3, weights=path, **SMALL | {"embed_dim": 16})
    with pytest.raises(WeightsMismatchError, match="unexpected: "):
        create_backbone(NAME, 3, weights=path, **SMALL | {"stages": (1, 2, 2, 1)})
    state.pop("blocks.4.attn.qkv.bias")
    path = _write(state, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"missing: stages\.2\.block_4\.attn\.qkv\.bias"):
        create_backbone(NAME, 3, weights=path, **SMALL)


def test_options_are_timms() -> None:
    backbone = create_backbone(NAME, 3, drop_path_rate=0.5, **SMALL)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.5)
    with pytest.raises(UnknownNameError, match=r"unknown option of backbone '.*' 'neck'"):
        create_backbone(NAME, 3, neck="map", **SMALL)


def test_the_largest_has_windows_of_its_own() -> None:
    with torch.device("meta"):
        backbone = create_backbone("sam2_hiera_large", 3)
    assert backbone.stride == 32, "a window of 8 patches of 4 pixels"
    assert backbone.channels == (144, 288, 576, 1152)
