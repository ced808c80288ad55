"""timm's vision transformers give timm's own tokens; the neck gives a pyramid in register."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from terrafuse.backbones import TokenBackbone, create_backbone
from terrafuse.backbones.necks import ConvolutionNeck, SimpleFeaturePyramid
from terrafuse.errors import ModelError, UnknownNameError

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 2}
# Prefix tokens, patch sizes, positions and block types as timm has them.
TOKENS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL | {"img_size": 64},
    "vit_base_patch8_224": SMALL | {"img_size": 32},
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 56},
    "deit_tiny_distilled_patch16_224": SMALL | {"img_size": 64},
    "eva02_tiny_patch14_224": SMALL | {"img_size": 56},
    "vit_small_patch16_dinov3": SMALL | {"img_size": 64},
    "vit_small_patch16_rope_mixed_224": SMALL | {"img_size": 64},
    "samvit_base_patch16": SMALL | {"img_size": 64, "window_size": 3, "global_attn_indexes": (1,)},
}


NOT_SAM = [name for name in TOKENS if not name.startswith("samvit")]


def _make(name: str, in_channels: int = 3, **options: Any) -> TokenBackbone:
    backbone = create_backbone(name, in_channels, **TOKENS[name], **options).eval()
    assert isinstance(backbone, TokenBackbone)
    return backbone


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("name", NOT_SAM)
def test_taps_equal_timms_intermediates(name: str, final_norm: bool) -> None:
    backbone = _make(name, neck="none", final_norm=final_norm, in_channels=4)
    extra = {"dynamic_img_size": True}
    theirs = timm.create_model(name, in_chans=4, num_classes=0, **TOKENS[name], **extra).eval()
    missing = theirs.load_state_dict(backbone.vit.state_dict(), strict=False)
    assert not missing.unexpected_keys
    p = backbone.patch_size
    image = torch.randn(2, 4, 4 * p, 6 * p)  # another size than timm's default, and not square
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, norm=final_norm, intermediates_only=True)
        for level, other in zip(backbone(image), expected, strict=True):
            assert level.shape == (2, 32, 4, 6)
            torch.testing.assert_close(level, other, rtol=0, atol=0)


@pytest.mark.parametrize("rel_pos", ["sam", "zero"])
def test_sams_taps_are_close_to_timms_intermediates(rel_pos: str) -> None:
    """1e-5: the attention is our own and sums in another order.

    timm leaves LayerNorm's eps at 1e-5, the original has 1e-6; on its own grid nothing is resized.
    """
    name = "samvit_base_patch16"
    backbone = _make(name, neck="none", in_channels=4, rel_pos=rel_pos)
    theirs = timm.create_model(
        name, in_chans=4, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **TOKENS[name] | {"use_rel_pos": rel_pos == "sam"},
    ).eval()  # fmt: skip
    torch.manual_seed(0)
    for parameter in backbone.parameters():  # tables and positions start as 0
        nn.init.normal_(parameter, std=0.3)
    missing = theirs.load_state_dict(backbone.vit.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith(("neck.", "head.")) for key in missing.missing_keys)
    image = torch.randn(2, 4, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        for level, other in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NOT_SAM)
def test_tokens_equal_timms_features(name: str) -> None:
    backbone = _make(name, neck="none")
    extra = {"dynamic_img_size": True}
    theirs = timm.create_model(name, num_classes=0, **TOKENS[name], **extra).eval()
    theirs.load_state_dict(backbone.vit.state_dict(), strict=False)
    p = backbone.patch_size
    image = torch.randn(1, 3, 3 * p, 5 * p)
    with torch.no_grad():
        tokens, grid = backbone.embed(image)
        assert grid == (3, 5)
        assert tokens.shape == (1, backbone.num_prefix_tokens + 15, 32)
        for index in range(len(backbone.blocks)):
            tokens = backbone.run_block(index, tokens, grid)
        features = theirs.forward_features(image)[:, backbone.num_prefix_tokens :]
        expected = features.transpose(1, 2).reshape(1, 32, 3, 5)
        torch.testing.assert_close(backbone.to_map(tokens, grid), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("vit_tiny_patch16_224", (4, 8, 16, 32)),
        ("vit_small_patch14_reg4_dinov2", (3.5, 7, 14, 28)),
        ("samvit_base_patch16", (4, 8, 16, 32)),
    ],
)
def test_the_neck_makes_a_pyramid(name: str, strides: tuple[float, ...]) -> None:
    backbone = _make(name, neck_channels=12)
    assert backbone.strides == strides
    assert backbone.stride == strides[-1]
    assert backbone.channels == (12,) * 4
    height, width = 2 * backbone.stride, 3 * backbone.stride
    with torch.no_grad():
        levels = backbone(torch.randn(2, 3, height, width))
    assert [tuple(x.shape) for x in levels] == [
        (2, 12, round(height / s), round(width / s)) for s in strides
    ]


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("out_indices", [None, [-1]])
def test_every_parameter_learns_and_groups_are_complete(
    name: str, out_indices: list[int] | None
) -> None:
    backbone = create_backbone(name, 3, neck_channels=8, out_indices=out_indices, **TOKENS[name])
    size = 2 * backbone.stride
    sum(x.square().mean() for x in backbone(torch.randn(1, 3, size, size))).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not without
    groups = backbone.layer_groups()
    assert len(groups) == 1 + 4
    grouped = [id(p) for group in groups for p in group]
    new = {id(p) for n, p in backbone.named_parameters() if n.startswith("pyramid.")}
    assert new
    assert sorted(grouped) == sorted({id(p) for p in backbone.parameters()} - new)


def test_taps() -> None:
    name = "vit_tiny_patch16_224"
    assert create_backbone(name, 3, depth=12).out_indices == (2, 5, 8, 11)
    assert create_backbone(name, 3, depth=2).out_indices == (0, 1)
    early = create_backbone(name, 3, depth=6, out_indices=[1, -3], neck="none")
    assert early.out_indices == (1, 3)
    assert len(early.blocks) == 4, "blocks after the last tap are not kept"
    for out_indices in ([], [12], [-13]):
        with pytest.raises(ModelError, match="allowed are one or more blocks from 0 to 11"):
            create_backbone(name, 3, out_indices=out_indices)
    with pytest.raises(ModelError, match="takes 1 to 4 out_indices, got 5"):
        create_backbone(name, 3, out_indices=[0, 1, 2, 3, 4])
    with pytest.raises(ModelError, match=r"option 'neck' .* 'pyramid', 'map' or 'none'"):
        create_backbone(name, 3, neck="pyramd")
    with pytest.raises(UnknownNameError, match=r"unknown option of .* 'tap'\. .*out_indices"):
        create_backbone(name, 3, tap=[1])


@pytest.mark.parametrize("name", TOKENS)
def test_the_neck_map_gives_one_level_of_the_patches_stride(name: str) -> None:
    backbone = _make(name, neck="map", neck_channels=12)
    p = backbone.patch_size
    assert (backbone.channels, backbone.strides, backbone.stride) == ((12,), (p,), p)
    assert backbone.out_indices == (3,)
    with torch.no_grad():
        (level,) = backbone(torch.randn(2, 3, 3 * p, p))
    assert level.shape == (2, 12, 3, 1)
    # SAM is pretrained with its neck; to others it is new.
    groups = {id(q) for group in backbone.layer_groups() for q in group}
    new = {n for n, q in backbone.named_parameters() if id(q) not in groups}
    assert bool(new) != name.startswith("samvit")
    assert all(n.startswith("pyramid.") for n in new)


def test_the_convolutions_of_that_neck_are_sams() -> None:
    neck = ConvolutionNeck(32, 12)
    sam: Any = _make("samvit_base_patch16", neck="map", neck_channels=12)
    neck.layers.load_state_dict(sam.vit.neck.state_dict())
    x = torch.randn(2, 32, 3, 4)
    (level,) = neck([x])
    assert torch.equal(level, sam.vit.neck(x))


@pytest.mark.parametrize("num_maps", [1, 2, 3, 4])
def test_pyramid_uses_every_map(num_maps: int) -> None:
    pyramid = SimpleFeaturePyramid(8, 4, num_maps)
    assert set(pyramid.sources) == set(range(num_maps))
    assert pyramid.sources == sorted(pyramid.sources)
    assert pyramid.sources[-1] == num_maps - 1


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_levels_show_what_lies_under_them(name: str) -> None:
    """A bright patch changes the tokens of its own place most, in rows and columns."""
    backbone = _make(name, neck="none", out_indices=[0])
    p = backbone.patch_size
    plain = torch.zeros(1, 3, 4 * p, 6 * p)
    marked = plain.clone()
    marked[..., 1 * p : 2 * p, 4 * p : 5 * p] = 5.0
    with torch.no_grad():
        change = (backbone(marked)[0] - backbone(plain)[0]).norm(dim=1)[0]  # (4, 6)
    assert divmod(int(change.argmax()), 6) == (1, 4)


def test_plain_transformers_without_positions_for_any_size_are_refused() -> None:
    with pytest.raises(ModelError, match="one size only"):
        create_backbone("beit_base_patch16_224", 3)
