"""Overlap of two grids, and the size of one's pixels in the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from terrafuse.data.grid import Grid, apply_affine, full_turn, near

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
# Points tried per side: enough to find any overlap wider than 1/32 of the smaller grid.
_LATTICE = 33


def project(source: CRS | None, target: CRS | None, x: Any, y: Any) -> Points:
    """Transform map coordinates from `source` to `target`; NaN where the projection is undefined.

    Raises:
        ValueError: There is no transform between the two CRSs.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if source is None or target is None or source == target:
        return x, y
    try:
        new_x, new_y = transform_points(source, target, x, y)[:2]
    except Exception as error:  # GDAL's own classes: one bad point fails all
        if type(error).__name__ == "CPLE_NotSupportedError":
            names = f"{_name(source)} to {_name(target)}"
            raise ValueError(f"there is no transform from {names}") from None
        if x.size == 1:
            return np.full(1, np.nan), np.full(1, np.nan)
        half = x.size // 2
        parts = [project(source, target, x[s], y[s]) for s in (slice(half), slice(half, None))]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    new = np.array([new_x, new_y])
    new[:, ~np.isfinite(new).all(axis=0)] = np.nan
    return new[0], new[1]


def pixel_transform(source: Grid, target: Grid) -> Callable[[Any, Any], Points]:
    """Function (cols, rows) of `source` → (cols, rows) in `target`; NaN where impossible.

    Longitudes count by whole turns: 300° is −60°.
    """
    to_pixel = ~target.transform

    def convert(cols: Any, rows: Any) -> Points:
        x, y = apply_affine(source.transform, np.asarray(cols, float), np.asarray(rows, float))
        x, y = project(source.crs, target.crs, x, y)
        return apply_affine(to_pixel, near(x, target.middle_x, target.turn), y)

    return convert


def meeting_points(source: Grid, target: Grid) -> Points:
    """Return pixel coordinates (cols, rows) in `target` of points that lie in both grids.

    Raises:
        ValueError: There is no transform between the two CRSs.
    """
    own_cols, own_rows = _lattice(target)
    inside = _inside(source, *pixel_transform(target, source)(own_cols, own_rows))
    cols, rows = pixel_transform(source, target)(*_lattice(source))
    within = _inside(target, cols, rows)
    return (
        np.concatenate([own_cols[inside], cols[within]]),
        np.concatenate([own_rows[inside], rows[within]]),
    )


def meets_twice(source: Grid, target: Grid) -> bool:
    """Tell whether `source` meets `target` with both ends of its turn around the Earth.

    So does a raster from 0° to 360° a grid from −10° to 10°. In other CRSs than that of `target`
    it does not matter.
    """
    if source.turn is None or source.crs != target.crs:
        return False
    left, _, right, _ = source.bounds
    start, _, stop, _ = target.bounds
    edge = 1e-6 * min(*source.pixel_size, *target.pixel_size)
    turns = [k * source.turn for k in (-2, -1, 0, 1, 2)]
    return sum(left + k < stop - edge and right + k > start + edge for k in turns) > 1


def relative_scale(source: Grid, target: Grid, points: Points) -> tuple[float, float]:
    """Return target pixels per source pixel, along the source's columns and rows.

    Args:
        points: Points that lie in both grids; the scale is measured in their middle.
    """
    cols, rows = points
    middle = int(np.hypot(cols - cols.mean(), rows - rows.mean()).argmin())
    col, row = cols[middle], rows[middle]
    x, y = pixel_transform(target, source)(
        [col - 0.5, col + 0.5, col, col], [row, row, row - 0.5, row + 0.5]
    )
    along_cols = hypot(x[1] - x[0], x[3] - x[2])
    along_rows = hypot(y[1] - y[0], y[3] - y[2])
    if not (along_cols > 0 and along_rows > 0):  # also where the projection is undefined
        return 1.0, 1.0
    return 1 / along_cols, 1 / along_rows


def extent_in(source: Grid, crs: CRS | None) -> tuple[float, float, float, float]:
    """Return the bounds (left, bottom, right, top) of a grid in another CRS.

    Across the date line longitudes go on beyond ±180°.

    Raises:
        ValueError: There is no transform between the two CRSs, or none at this place.
    """
    x, y = project(source.crs, crs, *apply_affine(source.transform, *_lattice(source)))
    if not np.isfinite(x).any():
        raise ValueError(f"{_name(crs) if crs else 'no CRS'} does not reach there")
    if source.crs != crs:
        middle = project(source.crs, crs, *apply_affine(source.transform, *_middle(source)))[0][0]
        x = near(x, middle if np.isfinite(middle) else float(np.nanmedian(x)), full_turn(crs))
    return float(np.nanmin(x)), float(np.nanmin(y)), float(np.nanmax(x)), float(np.nanmax(y))


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    found = re.search(r'"([^"]+)"', crs.to_wkt())
    return f"EPSG:{code}" if code else f"'{found.group(1)}'" if found else "an unnamed CRS"


def _lattice(grid: Grid) -> Points:
    cols, rows = np.meshgrid(
        np.linspace(0, grid.width, _LATTICE), np.linspace(0, grid.height, _LATTICE)
    )
    return cols.ravel(), rows.ravel()


def _middle(grid: Grid) -> Points:
    return np.array([grid.width / 2]), np.array([grid.height / 2])


def _inside(grid: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]) -> Any:
    # Strictly: grids that only touch share no pixel.
    edge = 1e-6
    return (cols > edge) & (cols < grid.width - edge) & (rows > edge) & (rows < grid.height - edge)
