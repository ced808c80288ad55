from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_files import load_facts
from terrafuse.errors import ConfigError
from terrafuse.prediction import Lattice

PUBLISHED = load_facts("mfnet/protocol")["sliding_window"]


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    crop_size = draw(st.integers(1, 80))
    blending = draw(st.sampled_from(["taper", "uniform", "repeated"]))
    return Lattice(
        height=draw(st.integers(1, 400)),
        width=draw(st.integers(1, 400)),
        crop_size=crop_size,
        overlap=draw(st.integers(0, crop_size // 2 if blending == "taper" else crop_size - 1)),
        alignment=draw(st.integers(1, 12)),
        blending=blending,
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


@given(lattices())
def test_only_repeated_windows_count_more_than_once(lattice: Lattice) -> None:
    for length, counts in (
        (lattice.height, lattice.row_counts),
        (lattice.width, lattice.col_counts),
    ):
        if lattice.blending != "repeated":
            assert set(counts.values()) == {1}
            continue
        *before, last = counts
        assert all(counts[start] == 1 for start in before)
        # One start at every multiple of the step inside the scene.
        assert counts[last] == -(-length // lattice.step) - len(before)


@pytest.mark.parametrize(
    ("crop_size", "overlap", "step"), [(256, 224, 32), (256, 255, 1), (33, 17, 16), (8, 0, 8)]
)
def test_the_step_is_what_the_overlap_leaves(crop_size: int, overlap: int, step: int) -> None:
    lattice = Lattice(999, 999, crop_size, overlap, blending="uniform")
    assert (lattice.size, lattice.step) == (crop_size, step)


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda c: f"{c['H']}x{c['W']}-{c['stride']}")
def test_repeated_windows_are_the_published_ones(case: dict[str, Any]) -> None:
    """Sequences of starts recorded from the MFNet code."""
    size, overlap = case["window"], case["window"] - case["stride"]
    lattice = Lattice(case["H"], case["W"], size, overlap, blending="repeated")
    times = {window: lattice.times(window) for window in lattice}
    assert sum(times.values()) == case["count"]
    assert len(times) == len(lattice) == case["unique"]
    assert list(lattice.row_starts[-len(case["row_starts"]) :]) == case["row_starts"]
    for axis, counts in (("row", lattice.row_counts), ("col", lattice.col_counts)):
        tail = case[f"{axis}_start_sequence_tail"]
        assert list(Counter(counts).elements())[-len(tail) :] == tail
    if "all" in case:
        found = {(w.row, w.col, w.height, w.width): n for w, n in times.items()}
        assert found == Counter(map(tuple, case["all"]))


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
    ("crop_size", "overlap", "blending", "text"),
    [(8, 5, "taper", r"overlap is 5 with crop_size 8; allowed is 0 to half of it \(4\) with "
      "blending 'taper'; 'uniform' allows more"),
     (8, 8, "uniform", "overlap is 8 with crop_size 8; allowed is 0 to 7$"),
     (8, -1, "repeated", "overlap is -1"),
     (0, 0, "taper", "crop_size is 0"),
     (8, 0, "unifrom", "Did you mean 'uniform'")],
)  # fmt: skip
def test_impossible_windows_are_refused(
    crop_size: int, overlap: int, blending: Any, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        Lattice(10, 10, crop_size, overlap, blending=blending)
