"""Class maps of overlapping scenes → one map on a common grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from terrafuse.data import Grid
from terrafuse.data.grid import apply_affine
from terrafuse.data.overlap import project
from terrafuse.errors import ConfigError, DataError, GridMismatchError, unknown_name
from terrafuse.maps.class_raster import ClassRaster, RasterReader, open_class_raster, read_grid
from terrafuse.maps.item import ITEM
from terrafuse.maps.preview import PREVIEW
from terrafuse.prediction import (
    PRODUCTS,
    Beside,
    Lattice,
    MapSettings,
    Products,
    Strip,
    open_map,
    plan_units,
)
from terrafuse.prediction.product_table import ABSTAINED, NODATA, SHARE_LEVELS
from terrafuse.prediction.tiling import product_files
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, Window
from terrafuse.version import VERSION
from terrafuse.writing import claimed, refuse_inputs

MosaicRule = Literal["confidence", "first", "last"]
_RULES: tuple[MosaicRule, ...] = get_args(MosaicRule)
# Rows of a strip, a row of tiles.
_ROWS = 512
# Points of a side of the lattice on which a map is looked up in another CRS.
_POINTS = 65
# Picture and item of an earlier map in the folder go.
_NOTHING = Beside((PREVIEW, ITEM), lambda _: ())
_Layers = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def mosaic_maps(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    by: str | None = None,
    like: str | Path | None = None,
    tiles: int | None = None,
    progress: Progress | None = None,
) -> Products:
    """Write the mosaic of class maps; see `terrafuse.api.mosaic`.

    Raises:
        ConfigError: No such rule, or tiles of a side that is not allowed.
        DataError: A map is none, has other classes than the first, or has no confidence to go by.
        GridMismatchError: A map cannot be brought onto the grid.
        OutputError: The folder cannot be written, or holds one of the maps.
    """
    if by is not None and by not in _RULES:
        raise ConfigError(unknown_name("rule of a mosaic", by, _RULES))
    if not paths:
        raise ConfigError("a mosaic is made of maps; name at least one")
    maps = [open_class_raster(path) for path in paths]
    scheme = maps[0].scheme
    order = [_remapped(one, maps[0]) for one in maps]
    with_confidence = all(one.confidence for one in maps)
    rule = by or ("confidence" if with_confidence else "last")
    if rule == "confidence" and not with_confidence:
        lacking = next(one.path for one in maps if not one.confidence)
        raise DataError(
            f"there is no confidence.tif beside '{lacking}'. Map the scene with it, or choose by "
            "order: --by first"
        )
    grid = read_grid(like) if like else _union(maps)
    placed = [_Placed.on(grid, one, table) for one, table in zip(maps, order, strict=True)]
    out = Path(out)
    names = ["class_map", "confidence"] if with_confidence else ["class_map"]
    used = [p for one in maps for p in (one.path, one.confidence) if p]
    refuse_inputs([path for name in names for path in product_files(out, name)], used)
    facts = {
        "terrafuse_version": VERSION,
        "classes": list(scheme.names),
        "mosaic": {
            "by": rule,
            "maps": [
                {"file": str(one.path), "resampled": at.offset is None}
                for one, at in zip(maps, placed, strict=True)
            ],
        },
    }
    products = [PRODUCTS[name] for name in names]
    settings = MapSettings(tuple(names), tiles=tiles)
    lattice = Lattice(grid.height, grid.width, _ROWS, 0)
    plan = plan_units(lattice, len(scheme.names))
    with (
        claimed(out, "mosaic"),
        ExitStack() as stack,
        open_map(
            out,
            grid,
            scheme,
            products,
            plan=plan,
            key=facts,
            abstains=any(one.abstains for one in maps),
            settings=settings,
            is_kept=False,
        ) as writer,
    ):
        readers = [stack.enter_context(one.reading()) for one in maps]
        done, total = 0, grid.height * len(plan.cols)
        for run in writer.job.tasks():
            for row in range(run.row, run.row_stop, _ROWS):
                window = Window(row, run.col, min(_ROWS, run.row_stop - row), run.width)
                layers = _merge(placed, readers, window, rule)
                rows = dict(zip(names, layers, strict=False))
                writer.write(Strip(window.row, window.col, rows))
                done += window.height
                if progress:
                    progress(done, total)
        return writer.finish(facts, beside=_NOTHING)


def _merge(
    placed: Sequence[_Placed], readers: Sequence[RasterReader], window: Window, rule: str
) -> _Layers:
    """Classes and confidence of a window of the mosaic."""
    shape = (window.height, window.width)
    classes, shares = np.full(shape, IGNORE_INDEX, np.uint8), np.full(shape, NODATA, np.uint8)
    for one, reader in zip(placed, readers, strict=True):
        found = one.read(reader, window)
        if found is None:
            continue
        own, own_shares = found
        has_class, is_free = own < ABSTAINED, classes >= ABSTAINED
        if rule == "confidence":
            # Of equal ones the first; what has no confidence comes last.
            mine, theirs = (np.where(s == NODATA, -1, s.astype(int)) for s in (own_shares, shares))
            taken = has_class & (is_free | (mine > theirs))
        else:
            taken = has_class & is_free if rule == "first" else has_class
        # What one map abstains from, another one may name, whatever the rule.
        taken |= (own == ABSTAINED) & (classes == IGNORE_INDEX)
        classes[taken], shares[taken] = own[taken], own_shares[taken]
    return classes, shares


@dataclass(frozen=True)
class _Placed:
    """A map on the grid of the mosaic.

    Args:
        raster: The map.
        table: Its class index → that of the mosaic, as of `_remapped`.
        grid: Of the mosaic.
        offset: (row, col) of its first pixel there, if pixels of both coincide.
        part: Where its pixels may lie; may extend beyond the mosaic.
    """

    raster: ClassRaster
    table: NDArray[np.uint8]
    grid: Grid
    offset: tuple[int, int] | None
    part: Window

    @classmethod
    def on(cls, grid: Grid, raster: ClassRaster, table: NDArray[np.uint8]) -> _Placed:
        """Place a map; one that has to be resampled is told.

        Raises:
            GridMismatchError: One of both has no CRS, or the map does not lie on its plane.
        """
        turned = raster.grid.turned_to(grid)
        raster = replace(raster, grid=turned)
        offset = turned.offset_in(grid)
        if offset is None:
            if (grid.crs is None) != (turned.crs is None):
                raise GridMismatchError(
                    f"'{raster.path}' and the grid of the mosaic do not both have a CRS. Give "
                    "maps that have one, or none of which has"
                )
            warnings.warn(
                f"the pixels of '{raster.path}' are not those of the mosaic; it is resampled "
                "(nearest pixel)",
                stacklevel=4,
            )
        low, high = _extent(raster, grid)
        # Lines between the points that were looked up may be curved.
        margin = 2 + (high - low) / _POINTS * (offset is None)
        (left, top), (right, bottom) = np.floor(low - margin), np.ceil(high + margin)
        part = Window(int(top), int(left), int(bottom - top), int(right - left))
        return cls(raster, table, grid, offset, part)

    def read(self, reader: RasterReader, window: Window) -> _Layers | None:
        """Classes and confidence of a window of the mosaic; None where the map has no pixel."""
        row, col = max(window.row, self.part.row), max(window.col, self.part.col)
        height = min(window.row_stop, self.part.row_stop) - row
        width = min(window.col_stop, self.part.col_stop) - col
        if height <= 0 or width <= 0:
            return None
        rows, cols, inside = self._pixels(Window(row, col, height, width))
        if not inside.any():
            return None
        top, left = int(rows[inside].min()), int(cols[inside].min())
        bottom, right = int(rows[inside].max()) + 1, int(cols[inside].max()) + 1
        part = Window(top, left, bottom - top, right - left)
        at = rows[inside] - top, cols[inside] - left
        classes = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        shares = np.full(classes.shape, NODATA, np.uint8)
        row, col = row - window.row, col - window.col
        here = np.s_[row : row + height, col : col + width]
        classes[here][inside] = self.table[reader.classes(part)[at]]
        if (share := reader.confidence(part)) is not None:
            levels = np.nan_to_num(np.rint(share * SHARE_LEVELS), nan=NODATA)
            shares[here][inside] = levels.astype(np.uint8)[at]
        return classes, shares

    def _pixels(self, window: Window) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """Row and column in the map of each pixel of a window, and whether it lies inside."""
        own = self.raster.grid
        rows, cols = np.mgrid[window.row : window.row_stop, window.col : window.col_stop]
        if self.offset is not None:
            rows, cols = rows - self.offset[0], cols - self.offset[1]
        else:
            cols, rows = _between(self.grid, own, cols + 0.5, rows + 0.5)
            rows, cols = np.floor(rows), np.floor(cols)
        inside = (rows >= 0) & (rows < own.height) & (cols >= 0) & (cols < own.width)
        rows, cols = (np.where(inside, x, 0).astype(np.int64) for x in (rows, cols))
        return rows, cols, inside


def _between(
    source: Grid, target: Grid, cols: NDArray[Any], rows: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixel coordinates of one grid on another; NaN where there are none.

    Raises:
        ValueError: There is no transform between the two CRSs.
    """
    x, y = apply_affine(source.transform, cols, rows)
    moved = project(source.crs, target.crs, x.ravel(), y.ravel())
    x, y = (np.reshape(values, x.shape) for values in moved)
    return apply_affine(~target.transform, x, y)


def _union(maps: Sequence[ClassRaster]) -> Grid:
    """The grid of the first, as large as all.

    Raises:
        GridMismatchError: A map does not lie on the plane of the first one's CRS.
    """
    first = maps[0].grid
    low, high = np.zeros(2), np.array([first.width, first.height], float)
    for one in maps[1:]:
        grid = one.grid.turned_to(first)
        if (grid.crs is None) != (first.crs is None):
            continue  # refused with its reason when it is placed
        own_low, own_high = _extent(replace(one, grid=grid), first)
        low, high = np.minimum(low, own_low), np.maximum(high, own_high)
    # A hundredth of a pixel is nothing.
    left, top = (floor(value + 0.01) for value in low)
    right, bottom = (ceil(value - 0.01) for value in high)
    transform = first.transform * Affine.translation(left, top)
    return Grid(first.crs, transform, bottom - top, right - left)


def _extent(raster: ClassRaster, grid: Grid) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest (col, row) of a map on another grid.

    Raises:
        GridMismatchError: It does not lie on the plane of that grid's CRS.
    """
    share = np.linspace(0, 1, _POINTS)
    cols, rows = np.meshgrid(share * raster.grid.width, share * raster.grid.height)
    try:
        points = np.stack(_between(raster.grid, grid, cols, rows)).reshape(2, -1)
    except ValueError:
        points = np.full((2, 1), np.inf)
    if not np.isfinite(points).all():
        raise GridMismatchError(
            f"'{raster.path}' cannot be brought into the CRS of the mosaic. Name another map "
            "first, or the grid of another raster: --like"
        )
    return points.min(axis=1), points.max(axis=1)


def _remapped(one: ClassRaster, first: ClassRaster) -> NDArray[np.uint8]:
    """Class index of a map → that of the first; what it abstains from → `ABSTAINED`.

    Raises:
        DataError: They have other classes.
    """
    own, names = one.scheme.names, first.scheme.names
    if set(own) != set(names):
        differing = ", ".join(sorted(set(own) ^ set(names))[:10])
        raise DataError(
            f"'{one.path}' has other classes than '{first.path}': {differing} in one of both only. "
            "Map the scenes with models of the same classes"
        )
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(own)] = [names.index(name) for name in own]
    if one.abstains:
        table[len(own)] = ABSTAINED
    return table
