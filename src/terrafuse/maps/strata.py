"""Classes of a map as strata of a sample: their size, pixels drawn from each, classes at points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform as warp_points

from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.data.grid import apply_affine
from terrafuse.errors import DataError, GridMismatchError
from terrafuse.maps.class_raster import ClassRaster
from terrafuse.maps.vectorizing import strip_rows
from terrafuse.prediction.areas import AreaCount
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, Window

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Stratum:
    """Pixels of a map that have one class, or whose class was too uncertain.

    Args:
        name: Of the class.
        value: Pixel value.
        pixels: How many there are.
        hectares: On the ground; None without CRS.
    """

    name: str
    value: int
    pixels: int
    hectares: float | None


@dataclass(frozen=True)
class DrawnPixels:
    """Pixels of a sample.

    Args:
        stratum: Position of the stratum of each (n,).
        row: Of the map (n,).
        col: Likewise (n,).
    """

    stratum: Int
    row: Int
    col: Int

    def __len__(self) -> int:
        """Return the number of pixels."""
        return len(self.row)


def count_strata(raster: ClassRaster, progress: Progress | None = None) -> tuple[Stratum, ...]:
    """Size of every class of a map, in the order of its names; one without pixels has 0.

    Raises:
        RasterReadError: The map cannot be read, or holds a value that is no class.
    """
    count = AreaCount(raster.grid)
    for _, rows in _strips(raster, progress):
        count.add(rows)
    found = count.result(ClassScheme(raster.names, raster.colors))
    return tuple(
        Stratum(area.name, value, area.pixels, area.hectares)
        for area, value in zip(found[: len(raster.names)], raster.values, strict=True)
    )


def draw_pixels(
    raster: ClassRaster,
    strata: Sequence[Stratum],
    points: Sequence[int],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DrawnPixels:
    """Draw pixels of each stratum, every one with equal probability and none twice.

    The ranks of the pixels in their stratum, from top left, are drawn first; then the map is read
    once, strip by strip. What is drawn does not depend on the strips. The order is random.

    Args:
        raster: The map.
        strata: All its classes, as `count_strata` has them.
        points: To draw of each.
        seed: The same seed draws the same pixels of the same map.
        progress: Called with (rows done, rows in all).

    Raises:
        RasterReadError: The map cannot be read.
        DataError: It is no longer the one that was counted.
    """
    rng = np.random.default_rng(seed)
    ranks = [
        np.sort(rng.choice(one.pixels, count, replace=False, shuffle=False)).astype(np.int64)
        if count
        else np.empty(0, np.int64)
        for one, count in zip(strata, points, strict=True)
    ]
    seen = np.zeros(len(strata), np.int64)
    found: list[tuple[Int, Int]] = []
    for first, rows in _strips(raster, progress):
        flat = rows.ravel()
        counts = np.bincount(flat, minlength=256)[: len(strata)]
        for h in np.flatnonzero(counts):
            inside = ranks[h][slice(*np.searchsorted(ranks[h], (seen[h], seen[h] + counts[h])))]
            if len(inside):
                places = np.flatnonzero(flat == h)[inside - seen[h]] + first * rows.shape[1]
                found.append((np.full(len(places), h), places))
        seen += counts
    if seen.tolist() != [one.pixels for one in strata]:
        raise DataError(f"'{raster.path}' changed while it was read. Draw the sample again")
    stratum, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(places)[rng.permutation(len(places))]
    row, col = np.divmod(places[order], raster.grid.width)
    return DrawnPixels(stratum[order], row, col)


def centres(grid: Grid, row: Int, col: Int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map x and y of the centres of pixels (n,)."""
    return apply_affine(grid.transform, col + 0.5, row + 0.5)


def classes_at(raster: ClassRaster, grid: Grid, row: Int, col: Int) -> NDArray[np.uint8]:
    """Positions in the names of a map at pixels of a grid (n,); 255 = no data, also outside.

    Args:
        raster: The map. If it lies on another grid, its class at the centres of the pixels counts.
        grid: Whose pixels they are.
        row: Of the pixels (n,).
        col: Likewise (n,).

    Raises:
        GridMismatchError: One of both has a CRS and the other has none, or both have none and
            differ in size.
        RasterReadError: The map cannot be read.
    """
    row, col = _moved(grid, raster, row, col)
    found = np.full(len(row), IGNORE_INDEX, np.uint8)
    own = raster.grid
    inside = (row >= 0) & (row < own.height) & (col >= 0) & (col < own.width)
    # By blocks of rows, so that each tile of the file is decoded once.
    at = np.flatnonzero(inside)
    order = at[np.lexsort((col[at], row[at] // 256))]
    with raster.reading() as reader:
        for n in order:
            window = Window(int(row[n]), int(col[n]), 1, 1)
            found[n] = reader.classes(window)[0, 0]
    return found


def _moved(grid: Grid, raster: ClassRaster, row: Int, col: Int) -> tuple[Int, Int]:
    """Pixels of the map in which the centres of those of the grid lie."""
    own = raster.grid
    same_size = (grid.height, grid.width) == (own.height, own.width)
    if same_size and grid.offset_in(own) == (0, 0):
        return row, col
    if grid.crs is None or own.crs is None:
        have = (
            "the map has a CRS and the sample none"
            if own.crs
            else ("the sample has a CRS and the map none" if grid.crs else "neither has a CRS")
        )
        raise GridMismatchError(
            f"the sample was drawn on {grid.height} × {grid.width} pixels and '{raster.path}' has "
            f"{own.height} × {own.width}, and {have}: its points have no place there. Give the "
            "map that the sample was drawn from"
        )
    x, y = centres(grid, row, col)
    if grid.crs != own.crs:
        x, y = (np.asarray(v) for v in warp_points(grid.crs, own.crs, x.tolist(), y.tolist()))
    cols, rows = apply_affine(~own.transform, x, y)
    return np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)


def _strips(
    raster: ClassRaster, progress: Progress | None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First row and classes of each strip."""
    height, width = raster.grid.height, raster.grid.width
    step = strip_rows(width)
    with raster.reading() as reader:
        for row in range(0, height, step):
            rows = reader.classes(Window(row, 0, min(step, height - row), width))
            yield row, rows
            if progress:
                progress(row + len(rows), height)
