"""Polygons of a class map, strip by strip: each is passed on as soon as no row can add to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from terrafuse.maps.class_raster import ClassRaster, RasterReader
from terrafuse.maps.tracing import trace, without_points
from terrafuse.prediction import PixelAreas
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, Window

# Pixels of a strip, and its rows. Lines are simplified within strips, so that these may not depend
# on the machine.
_STRIP_PIXELS, _LEAST_ROWS, _MOST_ROWS = 2**22, 16, 1024
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Polygons:
    """Polygons of a class map.

    Args:
        shapes: Polygons in pixels of the map (col, row).
        classes: Index of the class of each.
        pixels: How many each covers.
        m2: Its area on the ground, of the pixels; 0 without CRS.
        confidence: Mean of its pixels, NaN without any.
    """

    shapes: NDArray[Any]
    classes: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    m2: Float
    confidence: Float

    def __len__(self) -> int:
        """Return the number of polygons."""
        return len(self.shapes)

    def select(self, chosen: NDArray[np.bool_]) -> Polygons:
        """Those of a boolean mask."""
        return Polygons(*(getattr(self, one.name)[chosen] for one in fields(self)))

    @classmethod
    def together(cls, parts: Sequence[Polygons]) -> Polygons:
        """Join several."""
        names = [one.name for one in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def strip_rows(width: int) -> int:
    """Rows of a strip of a map of some width."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, _STRIP_PIXELS // width))


def polygonize(
    raster: ClassRaster,
    *,
    rows: int | None = None,
    tolerance_px: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[Polygons]:
    """Yield the polygons of a class map, some at a time; pixels without class have none.

    Pixels of one class that share a side are one polygon, also across strips. Every polygon is
    valid, and has a vertex wherever a third one touches its line.

    Args:
        raster: The map.
        rows: Of a strip; default: `strip_rows`.
        tolerance_px: How far lines may be simplified, in pixels: about the root of the area of the
            triangles that vanish. Neighbours keep a common line; points on edges of strips stay.
        progress: Called with (rows done, rows in all).

    Raises:
        RasterReadError: The map cannot be read, or holds a value that is no class.
    """
    height, width = raster.grid.height, raster.grid.width
    rows = rows or strip_rows(width)
    areas = PixelAreas.of(raster.grid)
    with raster.reading() as reader:
        joined = _Joined(width)
        above = None
        values = reader.classes(Window(0, 0, min(rows, height), width))
        for row in range(0, height, rows):
            below = None
            if (next_row := row + len(values)) < height:
                following = reader.classes(Window(next_row, 0, min(rows, height - next_row), width))
                below = following[0]
            outlines = trace(values, row, above, below)
            shapes = outlines.polygons
            if tolerance_px > 0:
                shapes = shapely.coverage_simplify(shapes, tolerance_px, simplify_boundary=False)
            sums = _sums(reader, areas, row, outlines.labels, len(shapes))
            yield joined.add(_Strip(row, values, outlines.labels, shapes, sums), below)
            if progress:
                progress(next_row, height)
            if below is not None:
                above, values = values[-1], following


def _sums(
    reader: RasterReader, areas: PixelAreas, row: int, labels: NDArray[np.int32], count: int
) -> Float:
    """Pixels, m², sum of confidence and pixels that have one, of each area (4, n)."""
    flat = labels.ravel()
    sums = np.zeros((4, count))
    sums[0] = np.bincount(flat, minlength=count)
    if areas.by:
        m2 = areas.of_rows(row, labels.shape).ravel()
        sums[1] = np.bincount(flat, weights=m2, minlength=count)
    share = reader.confidence(Window(row, 0, *labels.shape))
    if share is not None:
        known = ~np.isnan(share).ravel()
        sums[2] = np.bincount(flat[known], weights=share.ravel()[known], minlength=count)
        sums[3] = np.bincount(flat[known], minlength=count)
    return sums


@dataclass(frozen=True)
class _Strip:
    """Areas in the rows of a strip.

    Args:
        row: First row.
        values: Classes (h, w).
        labels: Number of the area of each pixel (h, w).
        shapes: By that number (n,).
        sums: Likewise (4, n).
    """

    row: int
    values: NDArray[np.uint8]
    labels: NDArray[np.int32]
    shapes: NDArray[Any]
    sums: Float

    def classes(self) -> NDArray[np.uint8]:
        """Value of each area."""
        found = np.empty(len(self.shapes), np.uint8)
        found[self.labels.ravel()] = self.values.ravel()
        return found


@dataclass
class _Open:
    """An area that reaches the last row so far.

    Args:
        value: Its class.
        pieces: Its shapes in the strips so far.
        sums: As in `_Strip` (4,).
        crossings: Row of an edge between strips → columns in which lines cross it straight.
    """

    value: int
    pieces: list[Any] = field(default_factory=list)
    sums: Float = field(default_factory=lambda: np.zeros(4))
    crossings: dict[int, NDArray[np.int32]] = field(default_factory=dict)

    def add(self, other: _Open) -> None:
        """Take over the pieces of another one that turns out to be the same area."""
        self.pieces += other.pieces
        self.sums = self.sums + other.sums
        self.crossings |= other.crossings

    def shape(self) -> Any:
        """The whole polygon."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        return without_points(shapely.union_all(self.pieces), self.crossings)


class _Joined:
    """Areas that are open at the end of a strip, and their joining with those of the next.

    Args:
        width: Of the map.
    """

    def __init__(self, width: int) -> None:
        self._open: list[_Open] = []
        #: Number of the open area of each pixel of the last row, and its class.
        self._at = np.zeros(width, np.int64)
        self._values = np.full(width, IGNORE_INDEX, np.uint8)
        self._crossed: tuple[int, NDArray[np.int32]] = (0, np.empty(0, np.int32))

    def add(self, strip: _Strip, below: NDArray[np.uint8] | None) -> Polygons:
        """Join the areas of the next strip; return what is finished.

        Args:
            below: The row after it, if any.
        """
        classes = strip.classes()
        top, bottom = strip.labels[0], strip.labels[-1]
        touches = np.zeros(len(classes), bool)
        if strip.row > 0:
            touches[top] = True
        if below is not None:
            touches[bottom] = True
        touches &= classes != IGNORE_INDEX
        alone = ~touches & (classes != IGNORE_INDEX)
        inner = _finished(strip.shapes[alone], classes[alone], strip.sums[:, alone])
        groups, group_of = self._grouped(strip, np.flatnonzero(touches), classes)
        stays = np.zeros(len(groups), bool)
        if below is not None:
            ahead = bottom[(below == strip.values[-1]) & (below != IGNORE_INDEX)]
            stays[group_of[ahead]] = True
        ended = [group for group, is_open in zip(groups, stays, strict=True) if not is_open]
        self._keep(strip, below, groups, group_of, stays)
        outer = _finished(
            np.array([group.shape() for group in ended], object),
            np.array([group.value for group in ended], np.uint8),
            np.array([group.sums for group in ended]).reshape(-1, 4).T,
        )
        return Polygons.together([inner, outer])

    def _grouped(
        self, strip: _Strip, own: NDArray[np.int64], classes: NDArray[np.uint8]
    ) -> tuple[list[_Open], NDArray[np.int64]]:
        """Areas made of open ones and of those in `own`, and the number of that of each in `own`.

        Args:
            own: Areas of the strip that touch its first or last row.
            classes: Of all its areas.
        """
        count = len(self._open)
        number = np.full(len(classes), -1, np.int64)
        number[own] = count + np.arange(len(own))
        same = (self._values == strip.values[0]) & (self._values != IGNORE_INDEX)
        pairs = self._at[same], number[strip.labels[0][same]]
        total = count + len(own)
        graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(total, total))
        found, group = connected_components(graph, directed=False) if total else (0, own)
        groups: list[_Open | None] = [None] * found
        pieces = [
            _Open(int(classes[n]), [strip.shapes[n]], strip.sums[:, n], dict([self._crossed]))
            for n in own
        ]
        for at, piece in zip(group, [*self._open, *pieces], strict=True):
            if (before := groups[at]) is None:
                groups[at] = piece
            else:
                before.add(piece)
        group_of = np.full(len(classes), -1, np.int64)
        group_of[own] = group[count:]
        return [one for one in groups if one is not None], group_of

    def _keep(
        self,
        strip: _Strip,
        below: NDArray[np.uint8] | None,
        groups: list[_Open],
        group_of: NDArray[np.int64],
        stays: NDArray[np.bool_],
    ) -> None:
        self._open = [group for group, is_open in zip(groups, stays, strict=True) if is_open]
        renumbered = np.cumsum(stays) - 1
        last = group_of[strip.labels[-1]]
        self._values = np.where(
            (last >= 0) & stays[last] if len(groups) else False, strip.values[-1], IGNORE_INDEX
        ).astype(np.uint8)
        self._at = renumbered[last] if len(groups) else last
        if below is not None:
            crossed = (strip.row + len(strip.values), _crossings(strip.values[-1], below))
            self._crossed = crossed
            for group in self._open:
                group.crossings |= dict([crossed])


def _crossings(last: NDArray[np.uint8], below: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Columns in which a line goes straight on from one row of pixels to the next."""
    same = last == below
    straight = same[1:] & same[:-1] & (last[1:] != last[:-1])
    # The edge of the map goes on everywhere.
    columns = np.flatnonzero(np.r_[same[0], straight, same[-1]])
    return columns.astype(np.int32)


def _finished(shapes: NDArray[Any], classes: NDArray[np.uint8], sums: Float) -> Polygons:
    with np.errstate(invalid="ignore"):
        mean = sums[2] / sums[3]
    return Polygons(shapes, classes, sums[0].astype(np.int64), sums[1], mean)
