"""The Deep Fusion Module: equal to the original for two modalities, sensible for one or three."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.errors import UnknownNameError, WeightsMismatchError
from terrafuse.fusion import (
    DeepFusion,
    FeaturePyramid,
    LevelSqueezeFusion,
    SqueezeExcitationFusion,
    convert_deep_fusion_state_dict,
)
from terrafuse.weights import load_strict

C = 8


def _reference() -> tuple[DeepFusion, dict[str, Tensor]]:
    """A module with its weights in the stored whole network, and what goes in and comes out."""
    stored, _ = load_golden("mfnet/mfnet_full_adapter")
    fusion = DeepFusion(32, 2).eval()
    converted = convert_deep_fusion_state_dict(_reference_state(stored))
    load_strict(fusion, converted, where="reference weights")
    return fusion, part(stored, "mid.")


def _reference_state(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in part(stored, "sd.").items() if k.startswith(("fpn", "fusion"))}


def _maps(num_modalities: int, height: int, width: int, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, C, height, width) for _ in range(num_modalities)]


def _trained(module: nn.Module) -> nn.Module:
    """Norms as training would leave them, since at its start they may hide a mistake."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5 if name.endswith("running_var") else -0.5, 1.0)
    return module


@pytest.mark.parity
@torch.no_grad()
def test_it_is_the_original() -> None:
    """Level 1 is not stored; the whole network's logits are (tests/methods)."""
    fusion, stored = _reference()
    _, *levels = fusion([stored["deepx"], stored["deepy"]])
    for i, level in enumerate(levels, start=2):
        torch.testing.assert_close(level, stored[f"res{i}"], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_fully_valid_is_the_original() -> None:
    fusion, stored = _reference()
    valid = [torch.ones(1, 1, 24, 32, dtype=torch.bool)] * 2
    _, *levels = fusion([stored["deepx"], stored["deepy"]], valid)
    for i, level in enumerate(levels, start=2):
        torch.testing.assert_close(level, stored[f"res{i}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion5.se_rgb.fc.0.bias": torch.zeros(2)}, "unexpected: fusion5.se_rgb.fc.0.bias"),
        ({"fpn1x.1.ln.bias": None}, "missing: pyramids.0.up4.1.bias"),
        ({"fpn2y.0.bias": torch.zeros(3)}, "pyramids.1.up2.bias is 3, expected 32"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    stored, _ = load_golden("mfnet/mfnet_full_adapter")
    state = _reference_state(stored) | change
    converted = convert_deep_fusion_state_dict({k: v for k, v in state.items() if v is not None})
    with pytest.raises(WeightsMismatchError, match=message):
        load_strict(DeepFusion(32, 2), converted, where="weights")


def test_it_has_as_many_parameters_as_the_original() -> None:
    fusion = DeepFusion(256, 2)
    assert sum(p.numel() for p in fusion.pyramids.parameters()) == 1_575_424
    assert sum(p.numel() for p in fusion.fusion.parameters()) == 67_712


def test_hidden_channels_of_a_gate_are_never_none() -> None:
    assert SqueezeExcitationFusion(C, 1, reduction=16).gates[0][0].out_channels == 1


@pytest.mark.parametrize(
    ("norms", "layer", "batch"),
    [("published", 1, 2), ("layer", 3, 0), ("batch", 0, 3)],
)
def test_norms(norms: str, layer: int, batch: int) -> None:
    kinds = [type(p.up4[1]) for p in DeepFusion(C, 3, norms=norms).pyramids]
    assert [issubclass(k, nn.LayerNorm) for k in kinds] == [True] * layer + [False] * batch
    assert [issubclass(k, nn.BatchNorm2d) for k in kinds] == [False] * layer + [True] * batch


def test_misspelt_norms_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'bach'. Did you mean 'batch'"):
        DeepFusion(C, 2, norms="bach")


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    num_modalities=st.integers(1, 3),
    batch=st.integers(1, 2),
    training=st.booleans(),
)
def test_maps_of_any_size(
    height: int, width: int, num_modalities: int, batch: int, training: bool
) -> None:
    fusion = DeepFusion(C, num_modalities).train(training)
    levels = fusion(_maps(num_modalities, height, width, batch))
    assert [tuple(x.shape) for x in levels] == [
        (batch, c, max(int(height / s), 1), max(int(width / s), 1))
        for c, s in zip(fusion.channels, fusion.relative_strides, strict=True)
    ]
    assert all(x.isfinite().all() for x in levels)


@torch.no_grad()
def test_the_coarsest_level_holds_the_maxima() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5).expand(1, C, 3, 5)
    assert FeaturePyramid(C)(x)[3][0, 0].tolist() == [[6, 8]]
    assert FeaturePyramid(C)(x[..., :1, :])[3][0, 0].tolist() == [[1, 3]]


@torch.no_grad()
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_gated_maps_are_added(num_modalities: int) -> None:
    """Against the formula, written out for one pixel column of numbers."""
    fusion = _trained(SqueezeExcitationFusion(C, num_modalities, reduction=4))
    maps = _maps(num_modalities, 3, 5)
    expected = torch.zeros(2, C, 3, 5)
    for gate, x in zip(fusion.gates, maps, strict=True):
        first, second = gate[0], gate[2]
        hidden = F.relu(x.mean((2, 3)) @ first.weight[:, :, 0, 0].T + first.bias)
        scale = torch.sigmoid(hidden @ second.weight[:, :, 0, 0].T + second.bias)
        expected += scale[:, :, None, None] * x
    torch.testing.assert_close(fusion(maps), expected)


@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_every_parameter_learns(num_modalities: int) -> None:
    fusion = _trained(DeepFusion(C, num_modalities, reduction=2)).train()
    for name, parameter in fusion.named_parameters():
        parameter.data.abs_()  # a gate that ReLU closes for all samples would not learn
        if "gates" in name:
            parameter.data.mul_(0.1)  # nor would one whose sigmoid is at its end
    maps = [x.abs() for x in _maps(num_modalities, 4, 6)]
    sum(x.square().mean() for x in fusion(maps)).backward()
    assert [n for n, p in fusion.named_parameters() if not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_samples_do_not_depend_on_their_neighbours() -> None:
    fusion, maps = _trained(DeepFusion(C, 2)).eval(), _maps(2, 5, 3, batch=3)
    together = fusion(maps)
    for i in range(3):
        for a, b in zip(together, fusion([x[i : i + 1] for x in maps]), strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


@torch.no_grad()
def test_modalities_with_levels_of_their_own() -> None:
    """Other channels and sizes on each level, as from a ResNet."""
    channels, sizes = (4, 6, 10), ((9, 7), (5, 4), (3, 2))
    fusion = _trained(LevelSqueezeFusion(channels, 2, reduction=2))
    levels = [
        [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
        for _ in range(2)
    ]
    fused = fusion(levels)
    assert len(fused) == len(channels)
    for i, level in enumerate(fused):
        expected = fusion.fusions[i]([levels[0][i], levels[1][i]])
        torch.testing.assert_close(level, expected)


def test_too_few_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        DeepFusion(C, 3)(_maps(2, 4, 4))


@pytest.mark.parametrize("content", [1e6, torch.inf, torch.nan])
@torch.no_grad()
def test_an_absent_modality_contributes_exactly_nothing(content: float) -> None:
    """The fused levels are those of the other modality alone."""
    pair, alone = _trained(LevelSqueezeFusion((C,), 2)), LevelSqueezeFusion((C,), 1)
    alone.fusions[0].gates[0].load_state_dict(pair.fusions[0].gates[0].state_dict())
    (x,), y = _maps(1, 4, 4), torch.full((2, C, 4, 4), content)
    valid = [torch.ones(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)]
    (fused,), (expected,) = pair([[x], [y]], valid), alone([[x]])
    torch.testing.assert_close(fused, expected)
    assert torch.equal(fused, pair([[x], [torch.zeros_like(y)]], valid)[0])


@torch.no_grad()
def test_absent_pixels_play_no_part() -> None:
    """A map whose right half is absent has the gate of its left half, and is 0 on the right."""
    fusion = _trained(SqueezeExcitationFusion(C, 1))
    (x,) = _maps(1, 4, 6)
    valid = torch.zeros(2, 1, 4, 6)
    valid[..., :3] = 1
    fused = fusion([x], [valid])
    torch.testing.assert_close(fused[..., :3], fusion([x[..., :3]]))
    assert (fused[..., 3:] == 0).all()


def test_half_precision() -> None:
    fusion = DeepFusion(C, 2).train()
    maps = _maps(2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        levels = fusion(maps, [torch.ones(2, 1, 16, 16)] * 2)
        loss = sum(x.float().square().mean() for x in levels)
    loss.backward()
    for a, b in zip(levels, fusion(maps), strict=True):
        # bfloat16 keeps 8 bits; three layers follow each other.
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)
