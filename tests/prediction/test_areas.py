"""Areas of classes, by hand and against the ellipsoid's own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.errors import ConfigError
from terrafuse.prediction import PixelAreas, ScenePredictor, WindowSettings
from terrafuse.prediction.areas import AreaCount

DEGREES = CRS.from_epsg(4326)
# The whole WGS 84 ellipsoid, from its published authalic radius of 6371007.1809 m.
EARTH_M2 = 4 * math.pi * 6_371_007.1809**2


def total(grid: Grid) -> float:
    return float(PixelAreas.of(grid).of_rows(0, (grid.height, grid.width)).sum())


def test_the_whole_earth_and_its_half() -> None:
    whole = Grid(DEGREES, Affine(1, 0, -180, 0, -1, 90), 180, 360)
    assert total(whole) == pytest.approx(EARTH_M2, rel=1e-8)
    north = Grid(DEGREES, Affine(1, 0, -180, 0, -1, 90), 90, 360)
    assert total(north) == pytest.approx(EARTH_M2 / 2, rel=1e-8)


@pytest.mark.parametrize(
    ("latitude", "km2"),
    # One square degree south of it, from the integral of M·N·cos φ by hand (Simpson's rule).
    [(0.5, 12_308.778), (60.5, 6_216.0)],
)
def test_a_square_degree(latitude: float, km2: float) -> None:
    a, e2 = 6_378_137.0, 0.006_694_379_990_14

    def strip(phi: float) -> float:
        return a**2 * (1 - e2) * math.cos(phi) / (1 - e2 * math.sin(phi) ** 2) ** 2

    low, high = math.radians(latitude - 1), math.radians(latitude)
    by_hand = (
        math.radians(1) * (high - low) / 6
        * (strip(low) + 4 * strip((low + high) / 2) + strip(high))
    )  # fmt: skip
    assert by_hand / 1e6 == pytest.approx(km2, rel=2e-3)
    grid = Grid(DEGREES, Affine(0.01, 0, 7, 0, -0.01, latitude), 100, 100)
    assert total(grid) == pytest.approx(by_hand, rel=1e-8)


def test_small_pixels_are_not_lost_in_rounding() -> None:
    """10 m at 40° north, by the radii of curvature there."""
    size = 9e-5
    grid = Grid(DEGREES, Affine(size, 0, 100, 0, -size, 40 + size / 2), 1, 1)
    a, e2, phi = 6_378_137.0, 0.006_694_379_990_14, math.radians(40)
    w = math.sqrt(1 - e2 * math.sin(phi) ** 2)
    by_hand = (a * (1 - e2) / w**3) * (a / w * math.cos(phi)) * math.radians(size) ** 2
    assert total(grid) == pytest.approx(by_hand, rel=1e-6)


def test_across_the_antimeridian() -> None:
    east = Grid(DEGREES, Affine(1, 0, 10, 0, -1, 50), 2, 4)
    over = Grid(DEGREES, Affine(1, 0, 178.5, 0, -1, 50), 2, 4)
    assert total(over) == pytest.approx(total(east), rel=1e-9)


def test_utm_keeps_its_plane_and_web_mercator_does_not() -> None:
    utm = Grid(CRS.from_epsg(32633), Affine(10, 0, 500_000, 0, -10, 5_000_000), 3, 4)
    assert PixelAreas.of(utm).by == "map plane"
    assert total(utm) == 12 * 100
    # At 60° north Web Mercator shows areas four times as large, to 0.6 % of the ellipsoid.
    y = 6_378_137 * math.log(math.tan(math.radians(75)))
    mercator = Grid(CRS.from_epsg(3857), Affine(10, 0, 0, 0, -10, y + 20), 4, 4)
    assert PixelAreas.of(mercator).by == "ellipsoid"
    assert total(mercator) == pytest.approx(16 * 100 / 4, rel=0.01)


def test_feet_are_no_metres() -> None:
    feet = Grid(CRS.from_epsg(2263), Affine(10, 0, 980_000, 0, -10, 200_000), 2, 2)
    assert total(feet) == pytest.approx(4 * 100 * 0.3048006096**2, rel=1e-6)


def test_shares_follow_the_ground_not_the_pixels() -> None:
    """Pixels of the row at the pole are half as large as those at the equator."""
    grid = Grid(DEGREES, Affine(1, 0, 0, 0, -60, 30), 2, 6)
    count = AreaCount(grid)
    count.add(np.array([[0, 0, 0, 0, 0, 0]], np.uint8))
    count.add(np.array([[1, 1, 1, 1, 1, 255]], np.uint8))
    first, second, rest = count.result(ClassScheme(("sea", "ice")))
    assert (first.pixels, second.pixels, rest.pixels) == (6, 5, 1)
    assert rest.name == "no data"
    assert rest.percent is None
    # Of the sphere: sin 30° + sin 30° = 1 against sin 90° − sin 30° = 1/2, to 1 % of the ellipsoid.
    assert first.percent == pytest.approx(100 * 6 / (6 + 5 / 2), rel=0.01)
    assert first.percent + second.percent == pytest.approx(100)


def test_without_crs_there_are_shares_only() -> None:
    count = AreaCount(Grid(None, Affine.identity(), 1, 4))
    count.add(np.array([[0, 1, 1, 1]], np.uint8))
    first, second, _ = count.result(ClassScheme(("a", "b")))
    assert (first.hectares, first.percent) == (None, 25)
    assert second.percent == 75
    assert count.by == ""


def predict(out, products=("class_map",)):
    image = np.zeros((2, 40, 50), np.float32)
    image[1, :, :10] = 1  # class 1 west of column 10
    image[:, 30:] = np.nan
    scene = ArrayScene({"a": image}, scheme=ClassScheme(("dry", "wet land")))
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    return predictor.predict(scene, out, products=products, areas=True)


def test_areas_of_a_map(tmp_path) -> None:
    made = predict(tmp_path)
    assert [(a.name, a.pixels, a.hectares) for a in made.areas] == [
        ("dry", 1200, 12.0), ("wet land", 300, 3.0), ("no data", 500, 5.0),
    ]  # fmt: skip
    assert (tmp_path / "areas.csv").read_text() == (
        "class,pixels,hectares,percent\ndry,1200,12.0000,80.000\nwet land,300,3.0000,20.000\n"
        "no data,500,5.0000,\n"
    )


def test_areas_need_the_class_map(tmp_path) -> None:
    with pytest.raises(ConfigError, match="add 'class_map'"):
        predict(tmp_path, ("entropy",))
