from fractions import Fraction

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from terrafuse.data import Grid, typical_pixel_size_m
from terrafuse.samples import Window

UTM = CRS.from_epsg(32633)
GRID = Grid(UTM, Affine(10, 0, 500_000, 0, -10, 5_000_000), 100, 200)


def moved(grid: Grid, cols: float, rows: float, stretch: float = 1.0) -> Grid:
    t = grid.transform * Affine.translation(cols, rows) * Affine.scale(stretch)
    return Grid(grid.crs, t, grid.height, grid.width)


def test_bounds_and_pixel_size() -> None:
    assert GRID.bounds == (500_000, 4_999_000, 502_000, 5_000_000)
    assert GRID.pixel_size == (10, 10)
    assert GRID.pixel_size_m == pytest.approx(10)


def test_bounds_of_a_rotated_grid_hold_all_corners() -> None:
    turned = Grid(UTM, Affine.rotation(90) * Affine.scale(2, 3), 5, 7)
    assert turned.bounds == pytest.approx((-15, 0, 0, 14))
    assert turned.pixel_size == pytest.approx((2, 3))


def test_pixel_size_in_metres_of_degrees_and_feet() -> None:
    degrees = Grid(CRS.from_epsg(4326), Affine(1e-4, 0, 10, 0, -1e-4, 60.05), 1000, 1000)
    assert degrees.pixel_size_m == pytest.approx(7.87, abs=0.01)  # cos 60° shrinks one side
    feet = Grid(CRS.from_epsg(2263), Affine(10, 0, 0, 0, -10, 0), 5, 5)
    assert feet.pixel_size_m == pytest.approx(3.048, abs=1e-3)
    assert Grid(None, Affine.identity(), 5, 5).pixel_size_m is None
    oblong = Grid(UTM, Affine(4, 0, 0, 0, -9, 0), 5, 5)
    assert oblong.pixel_size_m == pytest.approx(6)  # the side of a square of the same area


def test_same_grid_up_to_a_hundredth_of_a_pixel() -> None:
    assert GRID.offset_in(moved(GRID, 0.009, -0.009)) == (0, 0)
    assert GRID.offset_in(moved(GRID, 0.011, 0)) is None
    # One part in 10 000: nothing at the origin, 0.02 px at the far corner of 200 columns.
    assert GRID.offset_in(moved(GRID, 0, 0, stretch=1.0001)) is None
    assert GRID.offset_in(moved(GRID, 0, 0, stretch=1.00001)) == (0, 0)
    assert GRID.offset_in(Grid(CRS.from_epsg(32632), GRID.transform, 100, 200)) is None


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_offset_counts_whole_pixels(cols: int, rows: int) -> None:
    part = Grid(UTM, GRID.transform * Affine.translation(cols + 0.004, rows), 7, 9)
    assert part.offset_in(GRID) == (rows, cols)
    assert moved(part, 0.5, 0).offset_in(GRID) is None


def test_scaled_keeps_the_origin_and_covers_the_grid() -> None:
    coarse = GRID.scaled(Fraction(3))
    assert (coarse.height, coarse.width) == (34, 67)
    assert coarse.transform == Affine(30, 0, 500_000, 0, -30, 5_000_000)
    assert GRID.scaled(Fraction(1, 2)).pixel_size == (5, 5)
    assert GRID.scaled(1) is GRID


def test_crop_is_where_the_window_is() -> None:
    part = GRID.crop(Window(-10, 20, 30, 40))
    assert part.offset_in(GRID) == (-10, 20)
    assert (part.height, part.width) == (30, 40)
    assert part.bounds == (500_200, 4_999_800, 500_600, 5_000_100)


def test_the_typical_pixel_size_is_the_median_of_those_known() -> None:
    def grid(size: float, crs: str | None = "EPSG:32633") -> Grid:
        return Grid(CRS.from_string(crs) if crs else None, Affine.scale(size), 10, 10)

    assert typical_pixel_size_m([grid(10), grid(30), grid(20), grid(1, None)]) == 20
    assert typical_pixel_size_m([grid(1, None)]) is None
    assert typical_pixel_size_m([]) is None
