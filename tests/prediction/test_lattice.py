from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrafuse.errors import ConfigError
from terrafuse.prediction import Lattice


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    crop_size = draw(st.integers(1, 80))
    return Lattice(
        height=draw(st.integers(1, 400)),
        width=draw(st.integers(1, 400)),
        crop_size=crop_size,
        overlap=draw(st.integers(0, crop_size // 2)),
        alignment=draw(st.integers(1, 12)),
    )


@given(lattices())
def test_every_pixel_is_covered_and_windows_are_aligned(lattice: Lattice) -> None:
    for length, starts in (
        (lattice.height, lattice.row_starts),
        (lattice.width, lattice.col_starts),
    ):
        covered = {pixel for start in starts for pixel in range(start, start + lattice.size)}
        assert covered >= set(range(length))
        assert starts[0] == 0
        assert all(start % lattice.alignment == 0 for start in starts)
        # Nothing is read in vain: the last window reaches beyond by less than the alignment.
        assert len(starts) == 1 or starts[-1] + lattice.size < length + lattice.alignment
    assert lattice.size % lattice.alignment == 0
    assert lattice.size >= lattice.crop_size


@given(lattices())
def test_neighbours_share_at_least_the_overlap_and_only_the_last_two_more(
    lattice: Lattice,
) -> None:
    for starts in (lattice.row_starts, lattice.col_starts):
        steps = [b - a for a, b in pairwise(starts)]
        assert all(lattice.size - step >= lattice.overlap for step in steps)
        assert all(step == lattice.step for step in steps[:-1])
        assert all(0 < step <= lattice.step for step in steps[-1:])


def test_windows_come_row_by_row() -> None:
    lattice = Lattice(10, 20, crop_size=8, overlap=2)
    assert lattice.row_starts == (0, 2)
    assert lattice.col_starts == (0, 6, 12)
    windows = list(lattice)
    assert len(windows) == len(lattice) == 6
    assert [(w.row, w.col) for w in windows[:4]] == [(0, 0), (0, 6), (0, 12), (2, 0)]
    assert [len(row) for row in lattice.rows()] == [3, 3]


def test_a_scene_smaller_than_a_window_is_one_window_that_reaches_beyond() -> None:
    (window,) = Lattice(5, 3, crop_size=8, overlap=4)
    assert (window.row, window.col, window.height, window.width) == (0, 0, 8, 8)


def test_the_step_never_vanishes_between_aligned_windows() -> None:
    lattice = Lattice(100, 100, crop_size=8, overlap=4, alignment=8)
    assert (lattice.size, lattice.step) == (16, 8)


@pytest.mark.parametrize(
    ("crop_size", "overlap", "text"),
    [(8, 5, r"overlap is 5 with crop_size 8; allowed is 0 to half of it \(4\)"),
     (8, -1, "overlap is -1"),
     (0, 0, "crop_size is 0")],
)  # fmt: skip
def test_impossible_windows_are_refused(crop_size: int, overlap: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Lattice(10, 10, crop_size, overlap)
