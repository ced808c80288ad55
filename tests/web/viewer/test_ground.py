"""Where a scene's pixels lie: degrees against rasterio, north and sizes by hand."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as warp_points

from terrafuse.data import Grid
from terrafuse.data.grid import apply_affine
from terrafuse.web.viewer.document import LonLat
from terrafuse.web.viewer.ground import describe_ground, metres_per_degree

Float = NDArray[np.float64]
TURNED = Affine.translation(500_000, 4_000_000) * Affine.rotation(25) * Affine.scale(30, -30)


def interpolated(lonlat: LonLat, rows: Float, cols: Float) -> tuple[Float, Float]:
    """Degrees as the page finds them: linear along rows and columns of a cell."""

    def along(values: tuple[tuple[float, ...], ...]) -> Float:
        table = np.array(values)
        r = np.clip(np.searchsorted(lonlat.rows, rows, "right") - 1, 0, len(lonlat.rows) - 2)
        c = np.clip(np.searchsorted(lonlat.cols, cols, "right") - 1, 0, len(lonlat.cols) - 2)
        y = (rows - np.take(lonlat.rows, r)) / np.diff(lonlat.rows)[r]
        x = (cols - np.take(lonlat.cols, c)) / np.diff(lonlat.cols)[c]
        top = table[r, c] * (1 - x) + table[r, c + 1] * x
        low = table[r + 1, c] * (1 - x) + table[r + 1, c + 1] * x
        return np.asarray(top * (1 - y) + low * y)

    return along(lonlat.lon), along(lonlat.lat)


@pytest.mark.parametrize(
    ("crs", "transform", "size"),
    [
        ("EPSG:32630", TURNED, (9_000, 7_000)),
        ("EPSG:3035", Affine(10, 0, 2_700_000, 0, -10, 5_400_000), (60_000, 90_000)),
        ("EPSG:4326", Affine(1e-3, 0, 178.5, 0, -1e-3, -10), (5_000, 4_000)),
        ("EPSG:3832", Affine(100, 0, 3_000_000, 0, -100, 1_000_000), (3_000, 6_000)),
        ("EPSG:32701", Affine(10, 0, 200_000, 0, -10, 8_200_000), (10_980, 10_980)),
    ],
)
def test_degrees_are_those_of_rasterio(crs: str, transform: Affine, size: tuple[int, int]) -> None:
    grid = Grid(CRS.from_string(crs), transform, *size)
    ground = describe_ground(grid)
    assert ground.crs == crs
    assert ground.lonlat is not None
    assert ground.pixel_metres is not None
    rng = np.random.default_rng(5)
    rows, cols = rng.uniform(0, size[0], 400), rng.uniform(0, size[1], 400)
    lon, lat = interpolated(ground.lonlat, rows, cols)
    x, y = apply_affine(transform, cols, rows)
    true_lon, true_lat = map(np.array, warp_points(grid.crs, "EPSG:4326", x, y))
    off = (lon - true_lon + 180) % 360 - 180
    scales = np.array([metres_per_degree(v) for v in true_lat])
    metres = np.hypot(off * scales[:, 0], (lat - true_lat) * scales[:, 1])
    assert metres.max() < 0.1 * min(ground.pixel_metres)
    # Continuous, also where the scene crosses the date line.
    assert np.abs(np.diff(ground.lonlat.lon, axis=1)).max() < 90
    assert np.abs(np.diff(ground.lonlat.lon, axis=0)).max() < 90


def test_degrees_go_on_beyond_the_date_line() -> None:
    grid = Grid(CRS.from_epsg(4326), Affine(1, 0, 178, 0, -1, 10), 4, 6)
    lonlat = describe_ground(grid).lonlat
    assert lonlat is not None
    assert lonlat.lon == ((178.0, 184.0), (178.0, 184.0))
    assert lonlat.lat == ((10.0, 10.0), (6.0, 6.0))


def test_north_and_pixels_by_hand() -> None:
    degrees = CRS.from_epsg(4326)
    # On the equator a degree is 111 319.49 m of longitude and 110 574.28 m of latitude.
    up = describe_ground(Grid(degrees, Affine(0.01, 0, 20, 0, -0.02, 0.02), 2, 2))
    assert up.north == pytest.approx(0, abs=1e-6)
    assert up.unit == "degree"
    assert up.pixel_metres == pytest.approx((1113.1949, 2211.4854), rel=1e-4)
    down = describe_ground(Grid(degrees, Affine(0.01, 0, 20, 0, 0.01, -0.01), 2, 2))
    assert abs(down.north) == pytest.approx(pi)
    # Columns run north: it lies to the right, a quarter of a turn clockwise.
    right = describe_ground(Grid(degrees, Affine(0, 0.01, 20, 0.01, 0, 0), 2, 2))
    assert right.north == pytest.approx(pi / 2)


def test_without_crs_there_is_no_ground() -> None:
    ground = describe_ground(Grid(None, Affine.identity(), 3, 4))
    assert (ground.crs, ground.unit, ground.pixel_metres) == (None, None, None)
    assert ground.lonlat is None
    assert ground.north == 0


def test_a_crs_that_leads_nowhere_is_named() -> None:
    crs = CRS.from_wkt('LOCAL_CS["quarry",UNIT["metre",1]]')
    ground = describe_ground(Grid(crs, Affine(1, 0, 0, 0, -1, 0), 3, 4))
    assert ground.crs == "quarry"
    assert ground.lonlat is None
