"""What is absent contributes exactly nothing; what is present is combined by the formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.errors import UnknownNameError
from terrafuse.fusion import FUSIONS, GatedFusion, LevelFusion, SumFusion, create_level_fusion
from terrafuse.fusion.levels import pool_validity, resize_map

CHANNELS, SIZES = (4, 6), ((8, 6), (4, 3))


def _fusion(name: str, num_modalities: int) -> LevelFusion:
    fusion = create_level_fusion(name, num_modalities, CHANNELS)
    for parameter in fusion.parameters():  # gates start at 0, which would hide mistakes
        torch.nn.init.normal_(parameter)
    return fusion


def _levels(num_modalities: int, batch: int = 2) -> list[list[torch.Tensor]]:
    return [
        [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
        for _ in range(num_modalities)
    ]


def _valid(present: list[list[bool]]) -> list[torch.Tensor]:
    """Per modality (N, 1, 16, 12), whole samples present or not."""
    return [torch.tensor(p).view(-1, 1, 1, 1).expand(-1, 1, 16, 12) for p in present]


presence = st.integers(1, 4).flatmap(
    lambda m: st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=m, max_size=m)
)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("content", [1e6, torch.inf, torch.nan])
@settings(max_examples=20, deadline=None)
@given(present=presence)
def test_an_absent_modality_contributes_exactly_nothing(
    name: str, content: float, present: list[list[bool]]
) -> None:
    fusion = _fusion(name, len(present))
    levels, valid = _levels(len(present), batch=3), _valid(present)
    other = [
        [torch.where(v[..., :1, :1], x, content) for x in own]
        for own, v in zip(levels, valid, strict=True)
    ]
    for a, b in zip(fusion(levels, valid), fusion(other, valid), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize("name", FUSIONS)
def test_absent_pixels_contribute_nothing_and_get_no_gradient(name: str) -> None:
    fusion = _fusion(name, 2)
    levels = _levels(2)
    valid = [torch.ones(2, 1, 16, 12), torch.ones(2, 1, 16, 12)]
    valid[1][:, :, :8] = 0  # the upper half, on both levels
    maps = [x.requires_grad_() for x in levels[1]]
    sum(x.square().sum() for x in fusion([levels[0], maps], valid)).backward()
    for x, size in zip(maps, SIZES, strict=True):
        assert x.grad is not None
        assert (x.grad[:, :, : size[0] // 2] == 0).all()
        assert (x.grad[:, :, size[0] // 2 :] != 0).any()


@pytest.mark.parametrize("name", ["sum", "gated"])
@given(present=presence)
@settings(max_examples=20, deadline=None)
def test_the_only_modality_passes_unchanged(name: str, present: list[list[bool]]) -> None:
    fusion = _fusion(name, len(present))
    levels, valid = _levels(len(present), batch=3), _valid(present)
    for index, fused in enumerate(fusion(levels, valid)):
        for sample in range(3):
            there = [m for m, p in enumerate(present) if p[sample]]
            if len(there) == 1:
                torch.testing.assert_close(fused[sample], levels[there[0]][index][sample])
            if not there:
                assert (fused[sample] == 0).all()


@given(order=st.permutations(range(3)), present=st.lists(st.booleans(), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_order_of_modalities_does_not_matter(order: list[int], present: list[bool]) -> None:
    levels, valid = _levels(3, batch=1), _valid([[p] for p in present])
    permuted = [levels[i] for i in order], [valid[i] for i in order]
    summed = create_level_fusion("sum", 3, CHANNELS)
    for a, b in zip(summed(levels, valid), summed(*permuted), strict=True):
        torch.testing.assert_close(a, b)
    gated = _fusion("gated", 3)
    other = create_level_fusion("gated", 3, CHANNELS)
    for fusion, permuted_fusion, c in zip(gated.fusions, other.fusions, CHANNELS, strict=True):
        columns = [i * c + k for i in order for k in range(c)] + [3 * c + i for i in order]
        weight = fusion.score.weight[order][:, columns]
        permuted_fusion.load_state_dict(
            {"score.weight": weight, "score.bias": fusion.score.bias[order]}
        )
    for a, b in zip(gated(levels, valid), other(*permuted), strict=True):
        torch.testing.assert_close(a, b)


def test_sum_is_the_mean_weighted_by_validity() -> None:
    maps = torch.tensor([1.0, 4.0, 100.0]).view(1, 3, 1, 1, 1)
    validity = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1, 1)
    assert SumFusion(3, 1)(maps, validity).item() == pytest.approx((1 + 0.5 * 4) / 1.5)


@given(
    validity=st.lists(st.sampled_from([0.0, 1e-3, 0.25, 1.0]), min_size=3, max_size=3),
    scale=st.sampled_from([1.0, 30.0, 3000.0]),
)
@settings(max_examples=40, deadline=None)
def test_gates_sum_to_one_where_something_is_there(validity: list[float], scale: float) -> None:
    fusion = GatedFusion(3, 4)
    torch.nn.init.normal_(fusion.score.weight, std=scale)
    weights = torch.tensor(validity).view(1, 3, 1, 1, 1).expand(2, -1, -1, 5, 5)
    gates = fusion.gates(torch.randn(2, 3, 4, 5, 5), weights)
    assert gates.shape == (2, 3, 1, 5, 5)
    torch.testing.assert_close(gates.sum(dim=1), torch.full((2, 1, 5, 5), float(any(validity))))
    assert (gates[weights == 0] == 0).all()


def test_gates_start_as_the_mean() -> None:
    gated, summed = (
        create_level_fusion("gated", 2, CHANNELS),
        create_level_fusion("sum", 2, CHANNELS),
    )
    levels, valid = _levels(2), _valid([[True, True], [True, False]])
    for a, b in zip(gated(levels, valid), summed(levels, valid), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", FUSIONS)
def test_levels_of_other_sizes_are_brought_into_register(name: str) -> None:
    """The same ramp at two resolutions is the same ramp after fusing."""
    fusion = create_level_fusion(name, 2, (1,))
    if name == "concat":  # mean of both: (x1 + x2) / 2
        state = {"weight": torch.tensor([0.5, 0.5, 0, 0]).view(1, 4, 1, 1), "bias": torch.zeros(1)}
        fusion.fusions[0].linear.load_state_dict(state)
    fine = ((torch.arange(16) + 0.5) / 16).expand(1, 1, 16, 16)
    coarse = ((torch.arange(4) + 0.5) / 4).expand(1, 1, 4, 4)
    valid = [torch.ones(1, 1, 32, 32), torch.ones(1, 1, 8, 8)]
    for first, second, size in ((fine, coarse, (16, 16)), (coarse, fine, (4, 4))):
        (fused,) = fusion([[first], [second]], valid, [size])
        width = size[1]
        expected = ((torch.arange(width) + 0.5) / width).expand(1, 1, *size)
        inside = slice(width // 4, -width // 4)
        torch.testing.assert_close(fused[..., inside], expected[..., inside])


@pytest.mark.parametrize("size", [(4, 4), (12, 4), (4, 12), (12, 12)])
def test_maps_of_half_precision_are_resized(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 8, 8)
    resized = resize_map(x.bfloat16(), size)
    assert resized.dtype == torch.bfloat16
    torch.testing.assert_close(resized.float(), resize_map(x, size), rtol=0.02, atol=0.02)


def test_validity_is_the_share_of_valid_pixels() -> None:
    valid = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    valid[..., :3] = True
    assert pool_validity(valid, (2, 2)).tolist() == [[[[1.0, 0.5], [1.0, 0.5]]]]


def test_a_misspelt_fusion_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown fusion 'gate'\. Did you mean 'gated'"):
        create_level_fusion("gate", 2, CHANNELS)
