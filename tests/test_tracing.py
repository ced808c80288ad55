"""The forms that graphs hold come to the same as those that they stand for."""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from terrafuse import tracing
from terrafuse.tracing import divided, mirror, parts_of_batch, resize_traced, times, window_places

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def as_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the forms for symbols, with sizes that are numbers."""
    monkeypatch.setattr(tracing, "has_symbols", lambda *_: True)


@pytest.mark.parametrize("seed", range(8))
def test_pooling_by_matrices_is_adaptive_pooling(seed: int, as_symbols: None) -> None:
    draw = Random(seed)
    size = (draw.randint(1, 20), draw.randint(1, 20))
    wanted = (draw.randint(1, 24), draw.randint(1, 24))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    found = tracing.pool_to(x, wanted)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, wanted), **CLOSE)


@pytest.mark.parametrize("seed", range(8))
def test_shrinking_by_matrices_is_antialiased_interpolation(seed: int) -> None:
    draw = Random(seed)
    size = (draw.randint(3, 20), draw.randint(2, 20))
    # One axis shrinks at least. Not to one column: there torch 2.15 differs between one step and
    # two, first row by row, then column by column.
    wanted = (draw.randint(1, size[0] - 1), draw.randint(2, 24))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    expected = F.interpolate(x, wanted, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(resize_traced(x, wanted), expected, **CLOSE)


def test_enlarging_is_interpolation_without_matrices() -> None:
    x = torch.randn(1, 2, 3, 4)
    expected = F.interpolate(x, (6, 7), mode="bilinear", align_corners=False)
    assert torch.equal(resize_traced(x, (6, 7)), expected)


def test_places_beyond_the_map_take_the_last_index() -> None:
    # 2 × 3 pixels in windows of 2 × 2: the second window has one column.
    places = window_places((2, 3), (2, 2), torch.device("cpu"))
    assert places.taken.tolist() == [0, 1, 3, 4, 2, 6, 5, 6, 6, 6, 6, 6]  # and one of nothing
    assert places.back.tolist() == [0, 1, 4, 2, 3, 6]
    assert (places.count, places.area, places.covered) == (3, 4, (2, 4))


def test_a_roll_moves_rows_up_and_columns_to_the_left() -> None:
    places = window_places((2, 3), (2, 3), torch.device("cpu"), shift=(1, 2))
    rolled = torch.arange(6).view(2, 3).roll((-1, -2), (0, 1))
    assert places.taken[:6].tolist() == rolled.flatten().tolist() == [5, 3, 4, 2, 0, 1]


def test_mirrored_places_are_those_of_numpy() -> None:
    assert mirror(torch.arange(8), 3).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert mirror(torch.arange(3), 1).tolist() == [0, 0, 0]
    places = window_places((3, 2), (2, 2), torch.device("cpu"), mirrored=True)
    assert places.taken[:8].tolist() == [0, 1, 2, 3, 4, 5, 2, 3]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_cut_is_joined_again(seed: int) -> None:
    draw = Random(seed)
    size = (draw.randint(1, 9), draw.randint(1, 9))
    window = (draw.randint(1, 5), draw.randint(1, 5))
    kind: dict[str, Any] = {"shift": (draw.randint(0, 4), draw.randint(0, 4))}
    if seed % 2:
        kind = {"mirrored": True}
    places = window_places(size, window, torch.device("cpu"), **kind)
    x = torch.randn(3, size[0] * size[1], 2)
    windows = places.cut(F.pad(x, (0, 0, 0, 1)))
    assert windows.shape == (3 * places.count, window[0] * window[1], 2)
    assert torch.equal(places.join(windows, 3), x)


def test_parts_of_a_batch_are_chunks() -> None:
    x = torch.randn(6, 2, 1)
    for part, chunk in zip(parts_of_batch(x, 3), x.chunk(3), strict=True):
        assert torch.equal(part, chunk)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_zeros_are_appended(dim: int) -> None:
    x = torch.ones(2, 3, 4)
    found = tracing.extend(x, dim, 2)
    shape = list(x.shape)
    shape[dim] += 2
    assert list(found.shape) == shape
    assert torch.equal(found.narrow(dim, 0, x.shape[dim]), x)
    assert not found.narrow(dim, x.shape[dim], 2).any()
    assert tracing.extend(x, dim, 0) is x


def test_lengths_are_whole() -> None:
    assert times(7, Fraction(1, 2)) == 3
    assert times(7, Fraction(1, 2), up=True) == 4
    assert times(6, Fraction(3, 2)) == 9
    assert divided(28, 3.5) == 8


def test_divided_for_symbols_is_divided(as_symbols: None) -> None:
    assert [divided(length, stride) for length, stride in ((28, 3.5), (64, 32), (64, 4))] == [
        8, 2, 16,
    ]  # fmt: skip
