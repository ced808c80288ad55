from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_scenes import MemoryScene
from terrafuse.data.streaming import Reservoir, cover, resize_mask
from terrafuse.modalities import Modality


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    block=st.integers(1, 70),
    alignment=st.integers(1, 9),
)
def test_windows_cover_every_pixel_once(size, block, alignment):
    scene = MemoryScene([Modality("a", ("b",))], {}, size=size)
    seen = np.zeros((200, 200), int)
    for window in cover(scene, block, alignment):
        assert all(n % alignment == 0 for n in (window.row, window.col, window.height))
        seen[window.slices()] += 1
    assert (seen[: size[0], : size[1]] == 1).all()
    assert not seen[size[0] + alignment :].any()
    assert not seen[:, size[1] + alignment :].any()


def test_blocks_are_measured_in_pixels_of_the_finest_raster():
    scene = MemoryScene([Modality("ortho", ("r",), scale=0.125)], {}, size=(64, 64))
    assert {w.height for w in cover(scene, 128)} == {16}


def test_mask_takes_the_nearest_pixel():
    mask = np.array([[True, False]])
    assert resize_mask(mask, (2, 4)).tolist() == [[True, True, False, False]] * 2
    assert resize_mask(np.array([[1, 0, 1, 1]], bool), (1, 2)).tolist() == [[False, True]]


def test_reservoir_keeps_all_until_it_is_full():
    reservoir = Reservoir(10, np.random.default_rng(0))
    reservoir.add(np.arange(4))
    reservoir.add(np.arange(4, 10))
    assert sorted(reservoir.items) == list(range(10))


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_reservoir_is_uniform_whatever_the_chunks(chunk):
    hits = np.zeros(100)
    for seed in range(400):
        reservoir = Reservoir(20, np.random.default_rng(seed))
        for start in range(0, 100, chunk):
            reservoir.add(np.arange(start, min(100, start + chunk)))
        assert len(set(reservoir.items.tolist())) == 20
        hits[reservoir.items] += 1
    # Each is kept with probability 0.2: 80 ± 8 of 400; over 100 of them 4.5 deviations.
    assert abs(hits - 80).max() < 36
    # Early and late items alike: means of 50 with a deviation of about 1.
    assert abs(hits[:50].mean() - hits[50:].mean()) < 5
