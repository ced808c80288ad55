"""Segments: painting masks, joining windows, and the raster that comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import from_origin

from generate_parts import (
    FakeGenerator,
    as_picture,
    from_picture,
    known_segments,
    make_job,
    run,
    same_partition,
    seen_alone,
)
from terrafuse.data.grid import Grid
from terrafuse.generate import paint
from terrafuse.generate.joining import UnionFind, join_segments, match
from terrafuse.generate.products import RasterWriter
from terrafuse.generate.stitching import stitch_labels
from terrafuse.generate.windows import WindowPlan

MakeRaster = Callable[..., Path]


def square(rows: slice, cols: slice) -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[rows, cols] = True
    return mask


A, B, C = (
    square(slice(0, 6), slice(0, 6)),
    square(slice(2, 4), slice(2, 4)),
    square(slice(4, 8), slice(4, 8)),
)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_smallest_mask_lies_on_top(order: tuple[int, ...]) -> None:
    expected = np.zeros((8, 8), int)
    expected[:6, :6], expected[4:, 4:], expected[2:4, 2:4] = 1, 2, 3
    labels = paint([(A, B, C)[n] for n in order], (8, 8))
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint16
    assert (labels == 0).sum() == 16


def test_hidden_masks_leave_no_number_and_small_ones_can_be_left_out() -> None:
    hidden = paint([A, square(slice(0, 3), slice(0, 6)), square(slice(3, 6), slice(0, 6))], (8, 8))
    assert set(np.unique(hidden)) == {0, 2, 3}
    assert set(np.unique(paint([A, B, C], (8, 8), min_area=5))) == {0, 1, 2}
    assert not paint([], (8, 8)).any()
    assert not paint([np.zeros((8, 8), bool)], (8, 8)).any()


def test_more_masks_than_two_bytes_tell_apart() -> None:
    masks = [square(slice(n % 8, n % 8 + 1), slice(0, 1)) for n in range(300)]
    assert paint(masks, (8, 8)).max() == 300
    few = np.zeros((1, 1), bool)
    few[0, 0] = True
    assert paint([few] * 65534, (1, 1)).dtype == np.uint16
    assert paint([few] * 65535, (1, 1)).dtype == np.uint32


def windows_of(plan: WindowPlan, labels: np.ndarray, make: Callable) -> list[np.ndarray]:
    pictures = np.moveaxis(as_picture(labels), 0, -1)
    return [make(pictures[window.slices()]) for window in plan.windows]


def stitch(plan: WindowPlan, windows: list[np.ndarray]) -> np.ndarray:
    segments = join_segments(plan, windows.__getitem__)
    return np.concatenate(list(stitch_labels(plan, windows.__getitem__, segments)))


@given(
    height=st.integers(40, 150),
    width=st.integers(40, 150),
    size=st.integers(30, 64),
    share=st.floats(0.2, 0.5),
    count=st.integers(1, 60),
    gaps=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_no_segment_is_cut_where_a_window_ends(height, width, size, share, count, gaps, seed):
    """Every window names what it sees anew; the whole is as if one had seen all."""
    labels = known_segments(height, width, count, seed, gaps)
    plan = WindowPlan(height, width, size, int(size * share))
    found = stitch(plan, windows_of(plan, labels, from_picture_anew))
    assert same_partition(found, labels)
    assert set(np.unique(found)) - {0} == set(range(1, int(found.max()) + 1))


def from_picture_anew(picture: np.ndarray) -> np.ndarray:
    """One number per segment and window, in an order of its own, also where it is in parts."""
    labels = from_picture(picture)
    rng = np.random.default_rng(labels.size + int(labels.sum()) % 1000)
    present = np.unique(labels[labels > 0])
    names = np.zeros(int(labels.max()) + 1, np.int64)
    names[present] = rng.permutation(len(present)) + 1
    return names[labels]


@pytest.mark.parametrize("seed", range(12))
def test_parts_that_meet_outside_a_window_become_one_segment(seed: int) -> None:
    """A window that sees two arms of a segment, not what joins them, takes them for two."""
    rng = np.random.default_rng(seed)
    height, width, size = (int(n) for n in rng.integers((60, 60, 40), (160, 160, 70)))
    labels = known_segments(height, width, int(rng.integers(2, 30)), seed, 0.2 * (seed % 2))
    plan = WindowPlan(height, width, size, int(size * rng.uniform(0.25, 0.5)))
    assert same_partition(stitch(plan, windows_of(plan, labels, seen_alone)), labels)


def strip(text: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in text.split()])


def test_what_counts_as_the_same_by_hand() -> None:
    # Left of the bar nothing is seen: columns are those that both windows have.
    same = match(strip("110022 110022"), strip("330444 330444"), stacked=False)
    assert same == [(1, 3), (2, 4)]
    # 1 ends before the window does and shares a fifth with 5: another one.
    assert match(strip("11100 11100"), strip("00555 00555"), stacked=False) == []
    # Cut off by the end of its window, it goes on in 5, however large that is.
    assert match(strip("00001 00001"), strip("55555 55555"), stacked=False) == [(1, 5)]
    # Not so what the other window sees only in part, if it is not cut off.
    assert match(strip("00110 00000"), strip("55555 55555"), stacked=False) == []
    # Two arms of 5, but not two neighbours, thin gap or not: only the larger of those.
    arms = "00001 00000 00000 00000 00002"
    assert match(strip(arms), strip("55555 " * 5), stacked=False) == [(1, 5), (2, 5)]
    for beside in ("00001 00001 00002", "00001 00001 00000 00002"):
        whole = strip("55555 " * len(beside.split()))
        assert match(strip(beside), whole, stacked=False) == [(1, 5)]
    # Along the other axis the last row is the end.
    assert match(strip("00001 00001").T, strip("55555 55555").T, stacked=True) == [(1, 5)]


def test_an_object_that_one_window_missed_stays_its_own() -> None:
    """A yard; only the right window sees the car in it, complete."""
    plan = WindowPlan(20, 50, 30, 10)
    left, right = np.ones((2, 20, 30), np.int64)
    right[5:9, 4:12] = 2
    found = stitch(plan, [left, right])
    assert set(np.unique(found)) == {1, 2}
    rows, cols = np.nonzero(found == 2)
    # All of it, also left of the middle of the overlap, which is the left window's.
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (5, 8, 24, 31)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cut_segment_that_one_window_saw_ends_in_the_middle_of_the_overlap(side: str) -> None:
    """Not where the window ends, although most of it lies in the core, which ends at 25."""
    plan = WindowPlan(20, 50, 30, 10)
    windows = [np.zeros((20, 30), np.int64) for _ in plan.windows]
    expected = np.zeros((20, 50), int)
    if side == "left":  # columns 10 to 30 of the raster
        windows[0][5:9, 10:] = 1
        expected[5:9, 10:25] = 1
    else:  # 20 to 38
        windows[1][5:9, :18] = 1
        expected[5:9, 25:38] = 1
    np.testing.assert_array_equal(stitch(plan, windows), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_of_whole_segments_the_smallest_is_on_top(side: str) -> None:
    """Whichever window saw it: a yard with a car in it, one of them seen by either only."""
    plan = WindowPlan(20, 44, 30, 15)
    assert [(w.col, w.col_stop) for w in plan.windows] == [(0, 30), (14, 44)]
    windows = [np.zeros((20, 30), np.int64) for _ in plan.windows]
    # Columns of the raster; half of each lies in either window's core, which meet at 22.
    yard, car = (slice(4, 16), 16, 28), (slice(8, 12), 20, 24)
    of_yard, of_car = (0, 1) if side == "right" else (1, 0)
    for window, (rows, start, stop), number in ((of_yard, yard, 1), (of_car, car, 2)):
        first = plan.windows[window].col
        windows[window][rows, start - first : stop - first] = number
    found = stitch(plan, windows)
    expected = np.zeros((20, 44), int)
    expected[yard[0], yard[1] : yard[2]] = 1
    expected[car[0], car[1] : car[2]] = 2
    assert same_partition(found, expected)


def test_sets_are_known_by_their_smallest_number() -> None:
    union = UnionFind(8)
    for a, b in ((6, 7), (2, 6), (5, 4), (7, 1)):
        union.join(a, b)
    assert union.roots().tolist() == [0, 1, 1, 3, 4, 4, 1, 1]
    assert union.find(7) == 1


def test_numbers_go_in_order_of_the_windows() -> None:
    labels = np.repeat(np.repeat(np.arange(1, 10).reshape(3, 3), 20, 0), 20, 1)
    plan = WindowPlan(60, 60, 30, 10)
    found = stitch(plan, windows_of(plan, labels, from_picture_anew))
    assert same_partition(found, labels)
    # Windows of 30 pixels: the first sees segments 1, 2, 4 and 5.
    first = set(np.unique(found[:20, :20]))
    assert first == set(range(1, 1 + len(first)))
    assert found[-1, -1] == 9


def test_the_raster_has_the_photos_grid_and_says_what_it_is(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    labels = known_segments(150, 190, 40, seed=3, gaps=0.2)
    picture = as_picture(labels)
    photo = make_raster(tmp_path / "town.tif", picture, nodata=255)
    with rasterio.open(photo, "r+") as dataset:
        image = dataset.read()
        image[:, :20, :30] = 255
        dataset.write(image)
    made = run(make_job(photo, tmp_path / "out"), FakeGenerator(from_picture_anew))
    expected = labels.copy()
    expected[:20, :30] = 0
    with rasterio.open(made.raster) as dataset, rasterio.open(photo) as original:
        found = dataset.read(1)
        assert dataset.transform == original.transform
        assert dataset.crs == original.crs
        assert dataset.profile["tiled"]
        assert dataset.profile["compress"] == "deflate"
        assert dataset.dtypes == ("uint16",)
        assert dataset.nodata == 65535
        tags = dataset.tags()
    assert (found[:20, :30] == 65535).all()
    found[:20, :30] = 0
    assert same_partition(found, expected)
    assert tags["TERRAFUSE_KEY"] == "town"
    assert tags["TERRAFUSE_GENERATOR"] == made.record["generator"]
    result = made.record["result"]
    assert result["segments"] == len(np.unique(found)) - 1
    known = np.ones(found.shape, bool)
    known[:20, :30] = False
    assert result["covered"] == pytest.approx((found > 0)[known].mean())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"town.tif", "town.json", "town.png", "town.colors.npy"}
    colors = np.load(tmp_path / "out" / "town.colors.npy")
    assert colors.shape == (result["segments"] + 1, 3)
    assert (colors[0] == 0).all()
    for number in (1, result["segments"]):
        pixels = picture[:, found == number].mean(axis=1)
        np.testing.assert_allclose(colors[number], pixels, atol=0.5001)


@pytest.mark.parametrize("smooth", [True, False])
def test_overviews_are_means_of_depth_and_one_of_the_segments(tmp_path: Path, smooth: bool) -> None:
    values = np.empty((1024, 1024), np.float32 if smooth else np.uint16)
    values[::2, ::2], values[::2, 1::2], values[1::2, ::2], values[1::2, 1::2] = 20, 60, 100, 200
    grid = Grid(CRS.from_epsg(32633), from_origin(500_000, 5_000_000, 1, 1), 1024, 1024)
    nodata = float("nan") if smooth else 65535
    writer = RasterWriter(tmp_path / "a.tif", grid, values.dtype.name, nodata)
    writer.write(values)
    writer.finish({}, smooth=smooth)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as dataset:
        small = dataset.read(1)
    assert small.shape == (512, 512)
    if smooth:
        np.testing.assert_allclose(small, 95)
    else:
        assert set(np.unique(small)) <= {20, 60, 100, 200}


def test_many_segments_need_four_bytes(make_raster: MakeRaster, tmp_path: Path) -> None:
    labels = np.arange(1, 300 * 300 + 1).reshape(300, 300)
    photo = make_raster(tmp_path / "a.tif", as_picture(labels))
    made = run(make_job(photo, tmp_path / "out"), FakeGenerator(from_picture), size=160, overlap=10)
    with rasterio.open(made.raster) as dataset:
        assert dataset.dtypes == ("uint32",)
        assert dataset.nodata == 2**24
        assert same_partition(dataset.read(1), labels)


def test_no_mask_at_all_is_a_raster_of_zeros_and_a_warning(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    photo = make_raster(tmp_path / "a.tif", np.full((3, 70, 80), 9, np.uint8))
    generator = FakeGenerator(lambda picture: np.zeros(picture.shape[:2], np.uint16))
    with pytest.warns(UserWarning, match="photo 'a': no segments were found"):
        made = run(make_job(photo, tmp_path / "out"), generator)
    with rasterio.open(made.raster) as dataset:
        assert not dataset.read(1).any()
    assert made.record["result"] == {"segments": 0, "covered": 0.0}
