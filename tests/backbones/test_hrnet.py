"""HRNet gives timm's own features; a family is one module and one line in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from small_backbones import BACKBONES, image_for, make, train_a_little
from terrafuse.backbones import PyramidBackbone, create_backbone, has_hub_weights, list_backbones
from terrafuse.errors import ModelError, UnknownNameError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality

NAME, SMALL = BACKBONES["hrnet"]


def test_levels_equal_timms(tmp_path: Path) -> None:
    """From a file with classifier, into three and into five bands."""
    torch.manual_seed(5)
    theirs = train_a_little(timm.create_model(NAME, num_classes=3, **SMALL)).eval()
    path = tmp_path / "hrnet.safetensors"
    save_file(theirs.state_dict(), path)
    backbone = create_backbone(NAME, 3, weights=str(path), **SMALL).eval()
    assert backbone.channels == (4, 8, 12, 16)
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.stride == 32
    features = timm.create_model(NAME, features_only=True, feature_location="", **SMALL).eval()
    features.load_state_dict(theirs.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        _, *expected = features(image)
        for level, other, stride in zip(backbone(image), expected, backbone.strides, strict=True):
            assert level.shape[-2:] == (64 // stride, 96 // stride)
            torch.testing.assert_close(level, other, rtol=0, atol=0)
    five = create_backbone(NAME, 5, weights=str(path), **SMALL)
    first = five.get_parameter("net.conv1.weight")
    torch.testing.assert_close(first[:, 3], theirs.conv1.weight[:, 0] * 3 / 5)
    state = {key: value for key, value in theirs.state_dict().items() if "stage4" not in key}
    save_file(state, path)
    with pytest.raises(WeightsMismatchError, match=r"net\.stage4"):
        create_backbone(NAME, 3, weights=str(path), **SMALL)


def test_groups_hold_every_parameter_once() -> None:
    backbone = make("hrnet")
    groups = backbone.layer_groups()
    assert len(groups) == 4
    found = [id(p) for group in groups for p in group]
    assert sorted(found) == sorted(id(p) for p in backbone.parameters())
    sum(level.sum() for level in backbone(image_for(backbone, 2))).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in backbone.parameters())


def test_checkpointing_needs_frozen_norms() -> None:
    backbone = make("hrnet")
    image = image_for(backbone, 2)
    backbone.gradient_checkpointing = True
    with pytest.raises(ModelError, match="gradient_checkpointing runs a stage twice"):
        backbone.train()(image)
    backbone.requires_grad_(False).train()
    assert len(backbone(image.requires_grad_())) == 4


def test_it_is_listed_and_methods_that_need_stages_refuse_it() -> None:
    (row,) = [row for row in list_backbones() if row.family == "HRNet"]
    assert (row.kind, row.licence) == ("pyramid", "apache-2.0, mit")
    assert not has_hub_weights(NAME)
    assert not isinstance(make("hrnet"), PyramidBackbone)
    pair = [Modality("a", ("R", "G", "B")), Modality("b", ("z",))]
    options = {"backbone": NAME, "backbone_options": SMALL}
    create_segmenter("late_fusion", pair, 3, options)
    with pytest.raises(ModelError, match="'cmx' fuses between stages of a pyramid, and backbone"):
        create_segmenter("cmx", pair, 3, options)
    with pytest.raises(ModelError, match="'decur' needs backbones with levels"):
        create_segmenter("decur", pair, 3, options)
    with pytest.raises(UnknownNameError, match="hrnet_w18"):
        create_backbone("hrnet_w19", 3)
