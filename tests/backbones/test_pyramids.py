"""timm's pyramids give timm's own features, as a whole and stage by stage."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from terrafuse.backbones import PyramidBackbone, create_backbone
from terrafuse.errors import ModelError, UnknownNameError

# Small variants; the options are timm's own.
PYRAMIDS: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1)},
    "convnext_atto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 2, 1, 1)},
    "swinv2_tiny_window8_256": {"embed_dim": 12, "depths": (1, 2, 1, 1)},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "densenet121": {"block_config": (1, 2, 1, 1)},
}


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        *((name, (4, 8, 16, 32)) for name in PYRAMIDS),
        *((name, (2, 4, 8, 16, 32)) for name in ("resnet18", "efficientnet_b0")),
        ("mobilenetv3_small_050", (2, 4, 8, 16, 32)),
    ],
)
def test_levels_equal_timms(name: str, strides: tuple[int, ...]) -> None:
    backbone = create_backbone(name, 5, strides=strides, **PYRAMIDS[name]).eval()
    extra = {"strict_img_size": False} if name.startswith("swin") else {}
    theirs = timm.create_model(name, features_only=True, in_chans=5, **PYRAMIDS[name], **extra)
    # The same values in the same order: names differ, since stages are grouped.
    own, other = backbone.state_dict(), theirs.state_dict()
    theirs.load_state_dict(dict(zip(other, own.values(), strict=False)), strict=False)
    image = torch.randn(2, 5, 64, 96)
    with torch.no_grad():
        expected = theirs.eval()(image)
        levels = backbone(image)
    if str(getattr(theirs, "output_fmt", "")).endswith("NHWC"):
        expected = [x.permute(0, 3, 1, 2) for x in expected]
    expected = expected[-len(levels) :]
    assert backbone.strides == strides
    for level, other_level, channels, stride in zip(
        levels, expected, backbone.channels, backbone.strides, strict=True
    ):
        assert level.shape == (2, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(level, other_level, rtol=0, atol=0)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_stage_by_stage_equals_forward(name: str) -> None:
    backbone = create_backbone(name, 2, **PYRAMIDS[name]).eval()
    assert isinstance(backbone, PyramidBackbone)
    image = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        x = backbone.stem(image)
        assert x.ndim == 4
        for stage, level, channels in zip(
            backbone.stages, backbone(image), backbone.channels, strict=True
        ):
            x = stage(x)
            assert x.shape[1] == channels, "maps between stages are channel-first"
            assert torch.equal(x, level)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_every_parameter_is_in_one_layer_group_and_learns(name: str) -> None:
    backbone = create_backbone(name, 2, **PYRAMIDS[name])
    groups = backbone.layer_groups()
    assert len(groups) == 5
    grouped = [id(p) for group in groups for p in group]
    assert sorted(grouped) == sorted(id(p) for p in backbone.parameters())
    sum(level.square().mean() for level in backbone(torch.randn(2, 2, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("size", [(32, 32), (32, 160), (224, 96)])
def test_swin_takes_any_size(size: tuple[int, int]) -> None:
    name = "swin_tiny_patch4_window7_224"
    backbone = create_backbone(name, 1, **PYRAMIDS[name]).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(1, 1, *size))
    assert [tuple(x.shape[-2:]) for x in levels] == [
        (size[0] // s, size[1] // s) for s in (4, 8, 16, 32)
    ]


def test_strides_choose_levels() -> None:
    tiny = PYRAMIDS["resnet18"]
    image = torch.randn(1, 3, 64, 64)
    with_stem = create_backbone("resnet18", 3, strides=[2, 4, 8, 16, 32], **tiny).eval()
    assert with_stem.strides == (2, 4, 8, 16, 32)
    assert [x.shape[-1] for x in with_stem(image)] == [32, 16, 8, 4, 2]
    few = create_backbone("resnet18", 3, strides=[4, 8], **tiny).eval()
    assert few.stride == 8
    assert not any("layer3" in name for name, _ in few.named_parameters()), "unused parts are gone"
    with pytest.raises(ModelError, match=r"no level of stride 64; it has 2, 4, 8, 16, 32"):
        create_backbone("resnet18", 3, strides=[4, 64])


def test_drop_path_rate_reaches_timm() -> None:
    backbone = create_backbone("convnext_atto", 3, drop_path_rate=0.5)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.5)


def test_a_misspelt_name_or_option_is_named() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown backbone 'resnet19'. Did you mean .*'resn"
    ):
        create_backbone("resnet19", 3)
    with pytest.raises(
        UnknownNameError, match=r"unknown option of backbone 'resnet18' 'drop_paths'"
    ):
        create_backbone("resnet18", 3, drop_paths=0.1)
    with pytest.raises(ModelError, match=r"option 'strides' of backbone 'resnet18' is 'fine'"):
        create_backbone("resnet18", 3, strides="fine")


@pytest.mark.parametrize("name", ["maxvit_tiny_tf_224", "hiera_tiny_224"])
def test_backbones_of_one_size_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="one size only"):
        create_backbone(name, 3)


def test_backbones_without_stages_are_refused() -> None:
    with pytest.raises(ModelError, match="not a sequence of stages"):
        create_backbone("legacy_xception", 3)
