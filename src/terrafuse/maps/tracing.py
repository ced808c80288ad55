"""Outlines of the areas of one class in some rows of a map, traced along edges of pixels.

Coordinates are (col, row) of pixel corners: whole numbers, in which nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]

# Directions right, down, left, up: steps (col, row). The area lies on the right hand.
_STEP_COL, _STEP_ROW = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1])


@dataclass(frozen=True)
class Outlines:
    """Areas in some rows.

    Args:
        labels: Number of the area of each pixel (h, w), from 0 in the order of first pixels.
        polygons: By that number; valid, and with a vertex wherever three areas meet.
    """

    labels: NDArray[np.int32]
    polygons: NDArray[Any]


def label_areas(values: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Number the areas of equal values whose pixels share sides, in the order of first pixels."""
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    runs = np.cumsum(starts).reshape(values.shape) - 1
    touch = values[1:] == values[:-1]
    # Runs of equal value touch over whole stretches, of which the first pixel will do.
    touch[:, 1:] &= starts[1:, 1:] | starts[:-1, 1:]
    above, below = runs[:-1][touch], runs[1:][touch]
    count = int(runs[-1, -1]) + 1
    graph = coo_array((np.ones(len(above), bool), (above, below)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    labels: NDArray[np.int32] = component[runs].astype(np.int32)
    return labels


def trace(
    values: NDArray[np.uint8],
    row: int = 0,
    above: NDArray[np.uint8] | None = None,
    below: NDArray[np.uint8] | None = None,
) -> Outlines:
    """Trace the areas of some rows of a map.

    Args:
        values: Classes (h, w); no data is a value like others.
        row: Number of the first row.
        above: The row before them, if any; says where three areas meet on the upper edge.
        below: The row after them, likewise.
    """
    labels = label_areas(values)
    framed = np.full((len(labels) + 2, labels.shape[1] + 2), -1, np.int32)
    framed[1:-1, 1:-1] = labels
    edges = _Edges.of(framed)
    rings, order = _order_cycles(edges.following(framed))
    kept = (
        _bends(edges, rings, order) | _meetings(values, above, below)[edges.row, edges.col][order]
    )
    ring, taken = rings[kept], order[kept]
    points = np.stack([edges.col[taken], edges.row[taken] + row], axis=1).astype(np.float64)
    return Outlines(labels, _polygons(points, ring, edges.label[taken]))


@dataclass(frozen=True)
class _Edges:
    """Sides of pixels between two areas, once for each of both, seen from there.

    Args:
        row: Of the corner where it begins.
        col: Likewise.
        side: Direction, 0 to 3.
        label: Area on its right hand.
    """

    row: Ints
    col: Ints
    side: Ints
    label: Ints

    @classmethod
    def of(cls, framed: NDArray[np.int32]) -> _Edges:
        """Find those of labels with a frame of -1 around them."""
        inner = framed[1:-1, 1:-1]
        found = []
        # The upper side goes right from the upper left corner, the right side down, and so on.
        for side, (other, at) in enumerate(
            (
                (framed[:-2, 1:-1], (0, 0)),
                (framed[1:-1, 2:], (0, 1)),
                (framed[2:, 1:-1], (1, 1)),
                (framed[1:-1, :-2], (1, 0)),
            )
        ):
            rows, cols = np.nonzero(inner != other)
            label = inner[rows, cols].astype(np.int64)
            found.append((rows + at[0], cols + at[1], np.full(len(rows), side), label))
        return cls(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def following(self, framed: NDArray[np.int32]) -> Ints:
        """Position of the edge after each.

        Where an area touches itself across a corner, its edge goes on around the pixel opposite:
        so no ring meets itself, and a hole may touch the outline in that corner.
        """
        end_row, end_col = self.row + _STEP_ROW[self.side], self.col + _STEP_COL[self.side]
        # Pixels around the end, ahead on the left hand and on the right; `framed` is one off.
        ahead_left = framed[
            end_row + np.array([0, 1, 1, 0])[self.side], end_col + np.array([1, 1, 0, 0])[self.side]
        ]
        ahead_right = framed[
            end_row + np.array([1, 1, 0, 0])[self.side], end_col + np.array([1, 0, 0, 1])[self.side]
        ]
        turn = np.where(ahead_left == self.label, -1, np.where(ahead_right == self.label, 0, 1))
        side = (self.side + turn) % 4
        width = framed.shape[1]
        keys = (self.row * width + self.col) * 4 + self.side
        wanted = (end_row * width + end_col) * 4 + side
        by_key = np.argsort(keys)
        following: Ints = by_key[np.searchsorted(keys, wanted, sorter=by_key)]
        return following


def _order_cycles(following: Ints) -> tuple[Ints, Ints]:
    """Cycles of a permutation: number of the cycle of each position, and positions in order."""
    count = len(following)
    leader, jump = np.arange(count), following
    while True:  # the smallest position of each cycle, by doubled steps
        smaller = np.minimum(leader, leader[jump])
        if (smaller == leader).all():
            break
        leader, jump = smaller, jump[jump]
    is_last = following == leader
    steps = np.where(is_last, 0, 1)
    jump = np.where(is_last, np.arange(count), following)
    while not is_last[jump].all():
        steps, jump = steps + steps[jump], jump[jump]
    order = np.lexsort((-steps, leader))
    return leader[order], order


def _bends(edges: _Edges, rings: Ints, order: Ints) -> NDArray[np.bool_]:
    """Tell in order which edges have another direction than that before them."""
    side = edges.side[order]
    before = np.roll(side, 1)
    first = np.flatnonzero(np.r_[True, rings[1:] != rings[:-1]])
    last = np.r_[first[1:], len(rings)] - 1
    before[first] = side[last]
    bends: NDArray[np.bool_] = side != before
    return bends


def _meetings(
    values: NDArray[np.uint8],
    above: NDArray[np.uint8] | None,
    below: NDArray[np.uint8] | None,
) -> NDArray[np.bool_]:
    """Corners (h + 1, w + 1) that are vertices of every area around them.

    There three areas meet, or the outline of the whole map bends.
    """
    framed = np.full((values.shape[0] + 2, values.shape[1] + 2), -1, np.int16)
    framed[1:-1, 1:-1] = values
    for row, at in ((above, 0), (below, -1)):
        if row is not None:
            framed[at, 1:-1] = row
    upper = framed[:-1, :-1] != framed[:-1, 1:]
    lower = framed[1:, :-1] != framed[1:, 1:]
    left = framed[:-1, :-1] != framed[1:, :-1]
    right = framed[:-1, 1:] != framed[1:, 1:]
    degree = upper.astype(np.int8) + lower + left + right
    meetings: NDArray[np.bool_] = degree >= 3
    # On the edge to other rows, lines that bend there are vertices of what lies on this side too.
    for at in (0, -1):
        meetings[at] |= (degree[at] == 2) & (upper[at] != lower[at])
    return meetings


def _polygons(points: NDArray[np.float64], ring: Ints, label: Ints) -> NDArray[Any]:
    """Polygons of ordered vertices: the outline of each area, then its holes."""
    first = np.flatnonzero(np.r_[True, ring[1:] != ring[:-1]])
    sizes = np.diff(np.r_[first, len(ring)])
    following = np.arange(1, len(ring) + 1)
    following[first + sizes - 1] = first
    x, y = points.T
    twice = np.add.reduceat(x * y[following] - x[following] * y, first)
    # Rows go down: the right hand lies inside where this sum is positive.
    by_area = np.lexsort((twice < 0, label[first]))
    starts, sizes = first[by_area], sizes[by_area]
    taken = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(len(ring))
    closed, offsets = _closed(points[taken], sizes)
    areas = label[starts]
    rings = np.flatnonzero(np.r_[True, areas[1:] != areas[:-1], True])
    polygons: NDArray[Any] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (offsets, rings)
    )
    return polygons


def without_points(polygon: Any, points: Mapping[int, NDArray[np.int32]]) -> Any:
    """Take vertices that lie on straight lines out of a polygon.

    Args:
        polygon: With vertices in whole numbers.
        points: Row → columns of those that go, where their line is straight.
    """
    _, vertices, (offsets, _) = shapely.to_ragged_array([polygon])
    sizes = np.diff(offsets) - 1
    is_open = np.ones(len(vertices), bool)
    is_open[offsets[1:] - 1] = False
    vertices = vertices[is_open]
    stops = np.cumsum(sizes)
    starts = stops - sizes
    before, after = np.arange(-1, len(vertices) - 1), np.arange(1, len(vertices) + 1)
    before[starts], after[stops - 1] = stops - 1, starts
    (dx, dy), (ex, ey) = (vertices - vertices[before]).T, (vertices[after] - vertices).T
    goes = dx * ey == dy * ex
    for row in np.unique(vertices[goes, 1]):
        here = goes & (vertices[:, 1] == row)
        goes[here] = np.isin(vertices[here, 0], points.get(int(row), ()))
    if not goes.any():
        return polygon
    ring = np.repeat(np.arange(len(sizes)), sizes)[~goes]
    closed, ends = _closed(vertices[~goes], np.bincount(ring, minlength=len(sizes)))
    made = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (ends, np.array([0, len(sizes)]))
    )
    return made[0]


def _closed(points: NDArray[np.float64], sizes: Ints) -> tuple[NDArray[np.float64], Ints]:
    """Rings one after the other, each closed by its first vertex, and where they end."""
    ends = np.r_[0, np.cumsum(sizes + 1)]
    starts = np.cumsum(sizes) - sizes
    taken = np.repeat(starts - ends[:-1], sizes + 1) + np.arange(ends[-1])
    taken[ends[1:] - 1] = starts
    return points[taken], ends
