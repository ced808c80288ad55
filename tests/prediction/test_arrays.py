"""The engine's arithmetic by NumPy and by torch: the same sums, and the same products."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.errors import ModelError
from terrafuse.prediction import PRODUCTS, Accumulator, Lattice, Part, SampledRows, find_products
from terrafuse.prediction.array_kinds import arrays_of
from terrafuse.prediction.arrays import NUMPY, Arrays
from terrafuse.prediction.lattice import Blending
from terrafuse.prediction.product_table import needs_of
from terrafuse.prediction.torch_arrays import TorchArrays
from terrafuse.prediction.tta import find_views, resize

CPU = TorchArrays("cpu")
EVERY = find_products(tuple(PRODUCTS))
SAMPLED = SampledRows(("disagreement", "margin"), 3)
#: Shares of a softmax: the libraries' exponentials differ in their last bit.
EXACT = {"class_map", "sources", "disagreement", "attribution", "class_sets", "class_set_size"}


def strips_of(lattice: Lattice, arrays: Arrays, seed: int, **options: Any) -> list[Any]:
    """All products of random logits in sixteenths, which all sums hold exactly."""
    rng = np.random.default_rng(seed)
    accumulator = Accumulator(
        Part.whole(lattice), 4, arrays=arrays, needs=needs_of(EVERY), set_threshold=0.3,
        left_out=(0, 2), sampled=SAMPLED, **options,
    )  # fmt: skip
    size, strips = lattice.size, []
    rows = [*lattice.row_starts, lattice.height]
    for windows, (start, stop) in zip(lattice.rows(), pairwise(rows), strict=True):
        for window in windows:
            logits, *without = rng.integers(-99, 99, (3, 4, size, size)).astype(np.float32) / 16
            valid, is_run = rng.random((size, size)) < 0.8, rng.random() < 0.9
            logits[:, ~valid] = rng.choice([0.0, np.nan, np.inf], (4, 1))
            sources = rng.integers(0, 8, (size, size), np.uint8)
            given = [arrays.put(x) for x in (logits, valid, sources, np.stack(without))]
            accumulator.add(window, given[0] if is_run else None, *given[1:])
        strips.append(accumulator.average(start, stop))
        strips.append(accumulator.advance(stop, EVERY))
    return strips


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 50), st.integers(1, 50), st.integers(2, 20), st.floats(0, 0.5),
    st.sampled_from(["taper", "uniform", "repeated"]), st.integers(0, 2**31),
    st.sampled_from([{}, {"abstain": 0.55}, {"temperature": 1.75}]),
)  # fmt: skip
def test_products_are_those_of_torch_whatever_the_cut(
    height: int, width: int, crop: int, share: float, blending: Blending, seed: int, options: Any
) -> None:
    lattice = Lattice(height, width, crop, int(crop * share), blending=blending)
    pair = [strips_of(lattice, arrays, seed, **options) for arrays in (CPU, NUMPY)]
    for ours, theirs in zip(pair[0], pair[1], strict=True):
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(ours.numpy(), theirs)  # averages, exactly
            continue
        assert (ours.row, ours.col) == (theirs.row, theirs.col)
        for name in PRODUCTS:
            _compare(name, ours.layers[name], theirs.layers[name])
        for name in SAMPLED.products:
            _compare(name, ours.sampled[name], theirs.sampled[name])


def _compare(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype
    if name in EXACT:
        np.testing.assert_array_equal(ours, theirs)
    elif ours.dtype == np.uint8:
        assert np.array_equal(ours == 255, theirs == 255)
        assert np.abs(ours.astype(int) - theirs).max(initial=0) <= 1
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_last_bit_of_other_sums_may_differ_and_no_more() -> None:
    """Torch fuses product and sum; one rounding of each of the 6 windows, of 2**-24 of the sum."""
    rng = np.random.default_rng(0)
    total, weights = np.zeros((3, 40, 40), np.float32), rng.integers(1, 99, (40, 40))
    ours, most = torch.zeros(3, 40, 40), np.zeros((3, 40, 40))
    for times in (1, 1, 2, 1, 3, 1):
        values = rng.normal(size=(3, 40, 40)).astype(np.float32)
        NUMPY.add_weighted(total, values, weights.astype(np.float32), times)
        CPU.add_weighted(ours, torch.from_numpy(values), torch.from_numpy(weights).float(), times)
        most += np.abs(values) * weights * times
    assert (np.abs(total - ours.numpy()) <= 4 * 6 * 2.0**-24 * most).all()
    assert np.array_equal(total.argmax(0), ours.numpy().argmax(0))


@pytest.mark.parametrize(("size", "side"), [(8, 6), (8, 10), (24, 18), (5, 3), (17, 2), (1, 4)])
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_is_that_of_torch(size: int, side: int, antialias: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    theirs = CPU.resize(torch.from_numpy(x), side, antialias=antialias).numpy()
    found = NUMPY.resize(x, side, antialias=antialias)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert np.array_equal(NUMPY.nearest(x, side), CPU.nearest(torch.from_numpy(x), side).numpy())


@pytest.mark.parametrize("nearest", [True, False])
def test_images_with_gaps_are_resized_as_by_torch(nearest: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 2, 16, 16)).astype(np.float32)
    x[rng.random(x.shape) < 0.6] = np.nan
    x[2, 1] = np.nan
    x[2, 0, 1:] = np.nan  # less than half of any pixel
    for side in (12, 20):
        theirs = resize(torch.from_numpy(x), side, nearest=nearest).numpy()
        np.testing.assert_allclose(resize(x, side, nearest=nearest), theirs, atol=1e-5)


def test_views_turn_arrays_as_tensors() -> None:
    x = np.arange(24.0).reshape(1, 1, 4, 6)
    for view in find_views(("flips", "turns")):
        turned = view.turn(x)
        assert np.array_equal(turned, view.turn(torch.from_numpy(x)).numpy())
        assert np.array_equal(view.turn_back(turned), x)


def test_nan_where_there_is_data_is_refused_of_arrays_too() -> None:
    lattice = Lattice(4, 4, 4, 0)
    scores = np.zeros((3, 4, 4), np.float32)
    scores[1, 2, 2] = np.nan
    accumulator = Accumulator(Part.whole(lattice), 3)
    accumulator.add(next(iter(lattice)), scores, np.ones((4, 4), bool))
    with pytest.raises(ModelError, match="NaN scores"):
        accumulator.advance(4, find_products(["class_map"]))


def test_exponentials_are_normal_numbers_or_zero_beside_one() -> None:
    """Denormal ones make a confident map many times slower, and change no sum."""
    x = torch.tensor([-np.inf, -1000.0, -95.0, -87.5, -80.0, -1.0, 0.0, np.nan])
    found = arrays_of(x).exp(x.clone())
    normal = torch.finfo(torch.float32).tiny
    assert (found[:4] >= normal).all()
    assert (1 + found[:4] == 1).all()
    assert torch.equal(found[4:7], x[4:7].exp())
    assert found[7].isnan()


def test_arrays_are_told_apart() -> None:
    assert arrays_of(np.zeros(2)) is NUMPY
    assert arrays_of(torch.zeros(2)).lib is torch
    # What cannot be written to becomes a tensor of its own.
    fixed = np.broadcast_to(np.True_, (2, 2))
    CPU.put(fixed)[0, 0] = False
    assert fixed.all()
