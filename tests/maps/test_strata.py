"""Classes of a map as strata: their size, and pixels of which each has the same chance."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from made_maps import NAMES, TEN_M, UTM, write_map
from terrafuse.data import Grid
from terrafuse.errors import DataError, GridMismatchError
from terrafuse.maps import classes_at, count_strata, draw_pixels, open_class_raster, strata
from terrafuse.prediction import PixelAreas

DEGREES = Affine(0.01, 0, 10, 0, -0.01, 60)


@dataclass(frozen=True)
class InMemory:
    """A map that is an array, as `ClassRaster` is of a file."""

    array: np.ndarray
    names: tuple[str, ...] = NAMES
    colors: tuple[str, ...] = ("#000001", "#000002", "#000003")
    values: tuple[int, ...] = (0, 1, 2)
    path: Path = Path("memory")

    @property
    def grid(self) -> Grid:
        return Grid(rasterio.CRS.from_string(UTM), TEN_M, *self.array.shape)

    def reading(self) -> Any:
        return nullcontext(self)

    def classes(self, window: Any) -> np.ndarray:
        return self.array[window.row : window.row_stop]


def test_sizes_of_strata(tmp_path: Path) -> None:
    array = np.array([[0, 0, 7, 255], [0, 7, 7, 9]])
    path = write_map(tmp_path / "a.tif", array, values=(0, 7, 3), abstained=9)
    found = count_strata(open_class_raster(path))
    assert [(s.name, s.value, s.pixels, s.hectares) for s in found] == [
        ("sea", 0, 3, 0.03), ("wet land", 7, 3, 0.03), ("ice", 3, 0, 0.0),
        ("abstained", 9, 1, 0.01),
    ]  # fmt: skip


def test_a_map_without_crs_has_pixels_only(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.tif", [[0, 1]], crs=None, transform=Affine.identity())
    assert [s.hectares for s in count_strata(open_class_raster(path))] == [None] * 3


@settings(max_examples=40, deadline=None, database=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_pixels_are_of_their_stratum_whatever_the_strips(seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.choice([0, 1, 2, 255], size=rng.integers(1, 12, 2)).astype(np.uint8)
    raster: Any = InMemory(array)
    sizes = count_strata(raster)
    points = [int(rng.integers(0, s.pixels + 1)) for s in sizes]
    points[0] = max(points[0], min(1, sizes[0].pixels))
    if not sum(points):
        return
    drawn = draw_pixels(raster, sizes, points, seed=seed)
    assert (array[drawn.row, drawn.col] == drawn.stratum).all()
    assert np.bincount(drawn.stratum, minlength=3).tolist() == points
    assert len(set(zip(drawn.row.tolist(), drawn.col.tolist(), strict=True))) == sum(points)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strata, "strip_rows", lambda _: step)
        assert count_strata(raster) == sizes
        again = draw_pixels(raster, sizes, points, seed=seed)
    for name in ("stratum", "row", "col"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name))


def test_every_pixel_has_the_same_chance_and_place() -> None:
    """3 of 8 pixels of class 1: each in 3/8 of the draws, and first in 1/8 of them."""
    array = np.array([[1, 0, 1, 1], [0, 1, 255, 1], [1, 1, 0, 1]], np.uint8)
    raster: Any = InMemory(array)
    sizes = count_strata(raster)
    drawn, first, draws = np.zeros(array.shape), np.zeros(array.shape), 1_500
    for seed in range(draws):
        found = draw_pixels(raster, sizes, [0, 3, 0], seed=seed)
        drawn[found.row, found.col] += 1
        first[found.row[0], found.col[0]] += 1
    chances = drawn[array == 1] / draws
    np.testing.assert_allclose(chances, 3 / 8, atol=4 * np.sqrt(3 / 8 * 5 / 8 / draws))
    np.testing.assert_allclose(
        first[array == 1] / draws, 1 / 8, atol=4 * np.sqrt(7 / 64 / draws)
    )  # fmt: skip
    assert drawn[array != 1].sum() == 0


def test_memory_does_not_depend_on_the_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strata, "strip_rows", lambda _: 48)

    def peak(height: int) -> int:
        block = np.random.default_rng(0).integers(0, 3, (32, 64)).astype(np.uint8)
        raster: Any = InMemory(np.tile(block, (height // 32, 1)))
        tracemalloc.start()
        try:
            draw_pixels(raster, count_strata(raster), [50, 40, 30])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(320)
    assert peak(6400) < 1.3 * peak(640)


def test_a_map_that_changes_meanwhile_is_refused() -> None:
    raster: Any = InMemory(np.array([[0, 0, 1]], np.uint8))
    sizes = count_strata(raster)
    changed: Any = InMemory(np.array([[0, 1, 1]], np.uint8))
    with pytest.raises(DataError, match="changed while it was read"):
        draw_pixels(changed, sizes, [1, 1, 0])


def test_classes_at_points_of_another_grid(tmp_path: Path) -> None:
    """Twice as large pixels, shifted by one: the class at the centre of each drawn pixel."""
    coarse = write_map(
        tmp_path / "coarse.tif", [[0, 1, 2], [255, 2, 1]],
        transform=Affine(20, 0, 500_010, 0, -20, 5_000_000),
    )  # fmt: skip
    grid = Grid(rasterio.CRS.from_string(UTM), TEN_M, 4, 8)
    row, col = np.array([0, 0, 0, 2, 3, 1]), np.array([0, 1, 4, 2, 4, 7])
    found = classes_at(open_class_raster(coarse), grid, row, col)
    assert found.tolist() == [255, 0, 1, 255, 2, 255]


def test_classes_at_points_of_another_crs(tmp_path: Path) -> None:
    """One degree east of 15° is 500 km of UTM zone 33; the map of degrees covers its first rows."""
    path = write_map(
        tmp_path / "d.tif", [[1, 2]], crs="EPSG:4326", transform=Affine(1, 0, 14, 0, -1, 46)
    )
    grid = Grid(rasterio.CRS.from_string(UTM), Affine(10, 0, 499_990, 0, -10, 5_000_000), 1, 2)
    found = classes_at(open_class_raster(path), grid, np.array([0, 0]), np.array([0, 1]))
    assert found.tolist() == [1, 2]


def test_points_without_place_are_refused(tmp_path: Path) -> None:
    plain = write_map(tmp_path / "a.tif", [[0, 1]], crs=None, transform=Affine.identity())
    raster = open_class_raster(plain)
    at = np.array([0])
    with pytest.raises(GridMismatchError, match="the sample has a CRS and the map none"):
        classes_at(raster, Grid(rasterio.CRS.from_string(UTM), TEN_M, 1, 2), at, at)
    with pytest.raises(GridMismatchError, match="neither has a CRS"):
        classes_at(raster, Grid(None, Affine.identity(), 2, 2), at, at)
    same = Grid(None, Affine.identity(), 1, 2)
    assert classes_at(raster, same, at, np.array([1])).tolist() == [1]


def test_area_of_single_pixels() -> None:
    """As those of whole rows: on the ellipsoid, and in a plane."""
    row, col = np.array([0, 40, 99]), np.array([3, 0, 49])
    for grid in (
        Grid(rasterio.CRS.from_string("EPSG:4326"), DEGREES, 100, 50),
        Grid(rasterio.CRS.from_string("EPSG:3857"), Affine(90, 0, 0, 0, -90, 9e6), 100, 50),
        Grid(rasterio.CRS.from_string(UTM), TEN_M, 100, 50),
    ):
        areas = PixelAreas.of(grid)
        whole = areas.of_rows(0, (100, 50))
        np.testing.assert_allclose(areas.at(row, col), whole[row, col], rtol=1e-12)
