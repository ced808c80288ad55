"""Areas of the classes of a map: hectares on the ground, also where degrees are the unit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what GDAL's own failures arrive as
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warp_points
from rasterio.windows import Window as RasterWindow

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import apply_affine
from terrafuse.prediction.class_values import ABSTAINED_NAME
from terrafuse.prediction.product_table import ABSTAINED
from terrafuse.samples import IGNORE_INDEX

if TYPE_CHECKING:
    from terrafuse.data.grid import Grid

AREAS_CSV = "areas.csv"
Float = NDArray[np.float64]

# WGS 84. The ellipsoids of other geographic CRSs in use differ by less than 1e-4 in area.
_SEMI_MAJOR_M = 6_378_137.0
_FLATTENING = 1 / 298.257_223_563
_DEGREES = "EPSG:4326"
# Cells of a coarse lattice on which a projected CRS is compared with the ellipsoid.
_CELLS = 32
# UTM is within 0.2 % of the ground in its zone; Web Mercator is not.
_TRUE_WITHIN = 0.005
_M2_PER_HA = 10_000.0
# Of a map, at a time.
_MOST_PIXELS = 2**22


@dataclass(frozen=True)
class ClassArea:
    """A class of a map.

    Args:
        name: Of the class; "abstained" where none is sure enough; "no data" for the rest.
        pixels: How many.
        hectares: On the ground; None without CRS.
        percent: Of the area that has a class; None for "abstained" and "no data", and for a map
            without any.
    """

    name: str
    pixels: int
    hectares: float | None
    percent: float | None


class AreaCount:
    """Adds up the area of each class from strips of a map.

    Args:
        grid: Of the map.
    """

    def __init__(self, grid: Grid) -> None:
        self._area = PixelAreas.of(grid)
        self._row = 0
        self._pixels = np.zeros(256, np.int64)
        self._m2 = np.zeros(256)

    @property
    def by(self) -> str:
        """Measure of pixel areas: "ellipsoid", "map plane", or "" without CRS."""
        return self._area.by

    def add(self, rows: NDArray[np.uint8]) -> None:
        """The next rows of class indices (h, W); 254 = abstained, 255 = no data."""
        self._pixels += np.bincount(rows.ravel(), minlength=256)
        areas = self._area.of_rows(self._row, rows.shape)
        self._m2 += np.bincount(rows.ravel(), weights=areas.ravel(), minlength=256)
        self._row += len(rows)

    def add_map(self, path: Path, lookup: NDArray[np.uint8]) -> None:
        """All rows of a class map on disk.

        Args:
            path: The map.
            lookup: Class index, 254 or 255 → pixel value.
        """
        indices = np.full(256, IGNORE_INDEX, np.uint8)
        indices[lookup[:IGNORE_INDEX]] = np.arange(IGNORE_INDEX)
        indices[lookup[IGNORE_INDEX]] = IGNORE_INDEX
        for _, rows in read_rows(path):
            self.add(indices[rows])

    def result(self, scheme: ClassScheme, *, abstains: bool = False) -> list[ClassArea]:
        """A row per class, then "abstained" if there may be such pixels, then "no data"."""
        # Without CRS every pixel counts alike.
        weights = self._m2 if self.by else self._pixels.astype(np.float64)
        mapped = float(weights[: scheme.num_classes].sum())
        rows = [
            ClassArea(
                name,
                int(self._pixels[index]),
                self._hectares(index),
                100 * float(weights[index]) / mapped if mapped else None,
            )
            for index, name in enumerate(scheme.names)
        ]
        others = {ABSTAINED_NAME: ABSTAINED} if abstains else {}
        rest = [
            ClassArea(name, int(self._pixels[index]), self._hectares(index), None)
            for name, index in (others | {"no data": IGNORE_INDEX}).items()
        ]
        return [*rows, *rest]

    def _hectares(self, index: int) -> float | None:
        return float(self._m2[index]) / _M2_PER_HA if self.by else None


@dataclass(frozen=True)
class PixelAreas:
    """Area of each pixel of a grid in m².

    A geographic grid is measured on the ellipsoid. So is a projected one whose plane is more than
    0.5 % off the ground somewhere (Web Mercator); UTM and national grids keep the area of their
    plane, as every other tool counts it.

    Args:
        by: "ellipsoid", "map plane", or "" without CRS.
        plane_m2: Of every pixel, in the plane of the CRS.
        rows: Rows (n,) between which areas are interpolated.
        cols: Columns (m,).
        lattice_m2: Area of a pixel there (n, m).
    """

    by: str
    plane_m2: float = 1.0
    rows: Float | None = None
    cols: Float | None = None
    lattice_m2: Float | None = None

    @classmethod
    def of(cls, grid: Grid) -> PixelAreas:
        """Choose the measure of a grid."""
        if grid.crs is None:
            return cls("")
        plane = None
        if not grid.crs.is_geographic:
            try:
                unit_m = float(grid.crs.linear_units_factor[1])
            except Exception:  # a CRS without linear units
                return cls("")
            plane = abs(grid.transform.determinant) * unit_m**2
        try:
            measured = _measure(grid)
        except (RasterioError, CPLE_BaseError, ValueError):  # another planet
            measured = None
        if measured is None or not np.isfinite(measured[2]).all():
            return cls("") if plane is None else cls("map plane", plane)
        rows, cols, areas = measured
        if plane is not None and np.abs(areas / plane - 1).max() <= _TRUE_WITHIN:
            return cls("map plane", plane)
        return cls("ellipsoid", 0.0, rows, cols, areas)

    def of_rows(self, row: int, shape: tuple[int, int]) -> Float:
        """Area of each pixel of some rows (h, W), from `row` on."""
        if self.lattice_m2 is None or self.rows is None or self.cols is None:
            return np.full(shape, self.plane_m2)
        at_row = np.arange(row, row + shape[0]) + 0.5
        at_col = np.arange(shape[1]) + 0.5
        by_row = np.stack([np.interp(at_row, self.rows, c) for c in self.lattice_m2.T], axis=1)
        return np.stack([np.interp(at_col, self.cols, r) for r in by_row])

    def at(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> Float:
        """Area of single pixels (n,)."""
        if self.lattice_m2 is None or self.rows is None or self.cols is None:
            return np.full(len(row), self.plane_m2)
        by_row = np.stack([np.interp(row + 0.5, self.rows, c) for c in self.lattice_m2.T], axis=1)
        return np.array(
            [np.interp(c + 0.5, self.cols, r) for c, r in zip(col, by_row, strict=True)], np.float64
        )


def read_rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the rows of a class map, some at a time, with the number of the first."""
    with rasterio.open(path) as dataset:
        step = max(1, _MOST_PIXELS // dataset.width)
        for row in range(0, dataset.height, step):
            height = min(step, dataset.height - row)
            yield row, dataset.read(1, window=RasterWindow(0, row, dataset.width, height))


def count_pixels(path: Path, value: int) -> int:
    """Number of pixels of a class map with a value."""
    return sum(int(np.count_nonzero(rows == value)) for _, rows in read_rows(path))


def _measure(grid: Grid) -> tuple[Float, Float, Float]:
    """Area of the pixels of a lattice, from their four corners on the ellipsoid.

    Degrees shrink along every meridian, so that a geographic grid is measured in every row.
    """
    assert grid.crs is not None
    cells = grid.height if grid.crs.is_geographic else _CELLS
    rows, cols = _lattice(grid.height, cells), _lattice(grid.width, _CELLS)
    corners = []
    for d_row, d_col in ((0, 0), (0, 1), (1, 1), (1, 0)):
        col, row = np.meshgrid(cols + d_col, rows + d_row)
        corners.append(_to_degrees(grid.crs, grid.transform, col, row))
    lon, lat = (np.stack(values) for values in zip(*corners, strict=True))
    # A pixel may lie across the antimeridian.
    lon = (lon - lon[0] + 180) % 360 - 180
    east, north = _equal_area(lon, lat)
    north = north - north[0]
    following = [1, 2, 3, 0]
    areas = np.abs((east * north[following] - east[following] * north).sum(axis=0)) / 2
    return rows + 0.5, cols + 0.5, areas


def _lattice(size: int, cells: int) -> Float:
    lattice: Float = np.unique(np.linspace(0, size - 1, min(size, cells + 1)).round())
    return lattice


def _to_degrees(crs: CRS, transform: Affine, col: Float, row: Float) -> tuple[Float, Float]:
    x, y = apply_affine(transform, col, row)
    if crs == CRS.from_string(_DEGREES):
        return x, np.clip(y, -90, 90)
    lon, lat = warp_points(crs, _DEGREES, x.ravel(), y.ravel())
    return np.reshape(lon, x.shape), np.reshape(lat, x.shape)


def _equal_area(lon: Float, lat: Float) -> tuple[Float, Float]:
    """Degrees → metres of the ellipsoid's cylindrical equal-area projection.

    Reference:
        Snyder (1987), Map Projections: A Working Manual, equations 3-12 and 10-14 and 10-15 with
        the standard parallel at the equator. Meridians and parallels are straight in it.
    """
    e2 = _FLATTENING * (2 - _FLATTENING)
    e = np.sqrt(e2)
    sine = np.sin(np.radians(lat))
    q = (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
    return np.radians(lon) * _SEMI_MAJOR_M, _SEMI_MAJOR_M * q / 2


def write_areas(folder: Path, areas: Sequence[ClassArea]) -> Path:
    """Write `areas.csv` into the folder of a map that is being written.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / AREAS_CSV
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["class", "pixels", "hectares", "percent"])
    for area in areas:
        rows.writerow([area.name, area.pixels, _number(area.hectares, 4), _number(area.percent, 3)])
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def describe_areas(areas: Sequence[ClassArea]) -> list[Mapping[str, Any]]:
    """A row per class, to be printed."""
    return [
        {
            "class": area.name,
            "pixels": f"{area.pixels:,}",
            "hectares": "–" if area.hectares is None else f"{area.hectares:,.2f}",
            "%": "–" if area.percent is None else f"{area.percent:.1f}",
        }
        for area in areas
    ]
