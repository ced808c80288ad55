"""Relief with a river, its tributaries and a lake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from terrafuse.landscape.noise import (
    Bool,
    Float,
    Int,
    distance_to,
    draw,
    fractal,
    smooth_line,
)

RELIEF_M = 0.37  # per pixel of the side, so that slopes do not depend on the size
FALL_M = 0.027  # of the river from edge to edge, likewise


@dataclass(frozen=True)
class Ground:
    """The bare land; arrays (H, W).

    Args:
        height: Terrain height in metres; level on the lake.
        water: Water bodies and watercourses.
        above_water: Height above the nearest water, in metres.
        to_water: Distance to water in pixels.
        to_lake: Distance to the lake in pixels.
        to_brook: Distance to brooks too small to be mapped as water, in pixels.
        slope: Metres per metre.
    """

    height: Float
    water: Bool
    above_water: Float
    to_water: Float
    to_lake: Float
    to_brook: Float
    slope: Float


class RouteGraph:
    """Least-cost paths over a coarse grid of nodes, eight neighbours each.

    Args:
        cost: Cost of crossing a node (n, n), positive.
        step_px: Pixels between nodes.
        jitter: Displacement of the nodes in pixels (n, n, 2), so that paths do not look gridded.
    """

    def __init__(self, cost: Float, step_px: float, jitter: NDArray[np.float64]) -> None:
        self.size = cost.shape[0]
        rows, cols = np.mgrid[: self.size, : self.size]
        self.points = (np.stack([rows, cols], -1) + 0.5) * step_px + jitter
        self.graph = self._connect(cost)

    def _connect(self, cost: Float) -> sparse.csr_matrix:
        n = self.size
        index = np.arange(n * n).reshape(n, n)
        parts = []
        for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
            here = (slice(0, n - dr), slice(max(0, -dc), n - max(0, dc)))
            there = (slice(dr, n), slice(max(0, dc), n + min(0, dc)))
            weight = (cost[here] + cost[there]) * np.hypot(dr, dc) / 2
            parts.append((index[here].ravel(), index[there].ravel(), weight.ravel()))
        start, stop, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        return sparse.csr_matrix((weight, (start, stop)), shape=(n * n, n * n))

    def node(self, row_px: float, col_px: float) -> int:
        """Return the node nearest to a pixel."""
        return int(np.argmin(((self.points - (row_px, col_px)) ** 2).sum(-1)))

    def way(self, start: int, stop: int) -> Int:
        """Return the nodes of the least-cost path."""
        _, before = csgraph.dijkstra(
            self.graph, directed=False, indices=start, return_predecessors=True
        )
        return follow(before, stop)[::-1]

    def line(self, nodes: Int) -> NDArray[np.float64]:
        """Return pixel positions (N, 2) of nodes."""
        return np.asarray(self.points.reshape(-1, 2)[nodes], np.float64)


def follow(before: NDArray[np.int32], node: int) -> Int:
    """Return the nodes from `node` back to the source of its shortest path."""
    nodes = [node]
    while before[nodes[-1]] >= 0:
        nodes.append(int(before[nodes[-1]]))
    return np.array(nodes)


def make_ground(rng: np.random.Generator, size: int) -> Ground:
    """Make relief and water of one place.

    Args:
        size: H = W in pixels of 10 m.
    """
    shape = (size, size)
    relief = fractal(rng, shape, hurst=0.85, wavelength_px=0.55 * size)
    relief = 1 / (1 + np.exp(-1.2 * relief))
    routes = make_route_graph(rng, 0.03 + relief**2)
    course = _choose_course(rng, routes)
    river = smooth_line(_meander(rng, routes.line(course), size), 1.6)
    streams, brooks = _find_tributaries(routes, course)

    to_river = distance_to(draw(shape, river))
    to_stream = distance_to(_draw_all(shape, streams))
    to_brook = distance_to(_draw_all(shape, brooks))
    height = _carve(relief, to_river, np.minimum(to_stream, to_brook + 1), size)
    height += _fall(river, shape)

    lake = _make_lake(rng, river, size)
    to_lake = distance_to(lake)
    level = float(height[lake].min()) - 0.5 if lake.any() else 0.0
    shore = 1 - np.exp(-((to_lake / (0.035 * size)) ** 2))
    height = np.where(lake, level, level + (height - level) * shore).astype(np.float32)

    water = lake | (to_river < _width(rng, shape)) | (to_stream < 0.9)
    to_water, nearest = ndimage.distance_transform_edt(~water, return_indices=True)
    rows, cols = np.gradient(ndimage.gaussian_filter(height, 1.5) / 10)
    return Ground(
        height=height,
        water=water,
        above_water=np.maximum(height - height[tuple(nearest)], 0),
        to_water=to_water.astype(np.float32),
        to_lake=to_lake,
        to_brook=to_brook,
        slope=np.hypot(rows, cols),
    )


def make_route_graph(rng: np.random.Generator, cost: Float) -> RouteGraph:
    """Make a coarse grid over `cost` (H, W), averaged and slightly roughened."""
    size = cost.shape[0]
    n = int(np.clip(size // 8, 12, 72))
    step = size / n
    coarse = ndimage.zoom(ndimage.gaussian_filter(cost, step / 2), n / size, order=1)
    jitter = rng.uniform(-0.35, 0.35, (n, n, 2)) * step
    return RouteGraph(coarse + 0.08 * rng.random((n, n), dtype=np.float32), step, jitter)


def _choose_course(rng: np.random.Generator, routes: RouteGraph) -> Int:
    n = routes.size
    start, stop = (int(n * x) for x in rng.uniform(0.25, 0.75, 2))
    ends = [start, (n - 1) * n + stop] if rng.random() < 0.5 else [start * n, stop * n + n - 1]
    if rng.random() < 0.5:
        ends.reverse()
    return routes.way(ends[0], ends[1])


def _meander(rng: np.random.Generator, line: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    smooth = ndimage.gaussian_filter1d(line, 2.5, axis=0, mode="nearest")
    fine = smooth_line(smooth, 1.0, step_px=size / 64).astype(np.float64)
    along = np.gradient(fine, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.hypot(*along.T)[:, None]
    phase = np.cumsum(rng.uniform(0.3, 1.1, len(fine)))
    swing = (
        np.sin(phase)
        * 0.014
        * size
        * ndimage.gaussian_filter1d(rng.uniform(0.2, 2.0, len(fine)), 4)
    )
    bent = fine + across * swing[:, None]
    # Extended beyond the frame at both ends, so that the river never starts inside the picture.
    ends = [bent[0] - 12 * along[0], bent[-1] + 12 * along[-1]]
    return np.concatenate([ends[:1], bent, ends[1:]])


def _find_tributaries(routes: RouteGraph, course: Int) -> tuple[list[Float], list[Float]]:
    """Find streams and brooks as lines: the least-cost paths down to the river form a tree."""
    distance, before, _ = csgraph.dijkstra(
        routes.graph, directed=False, indices=course, min_only=True, return_predecessors=True
    )
    drained = np.ones(len(distance))
    for node in np.argsort(-distance):
        if before[node] >= 0:
            drained[before[node]] += drained[node]
    limits = (0.035 * len(distance), 0.009 * len(distance))
    drained[course] = np.inf
    lines: list[list[Float]] = []
    for limit in limits:
        kept = np.flatnonzero((drained >= limit) & (before >= 0))
        heads = np.setdiff1d(kept, before[kept])
        lines.append([smooth_line(routes.line(follow(before, int(h))), 1.5) for h in heads])
    return lines[0], lines[1]


def _draw_all(shape: tuple[int, int], lines: list[Float]) -> Bool:
    mask = np.zeros(shape, bool)
    for line in lines:
        mask |= draw(shape, line)
    return mask


def _carve(relief: Float, to_river: Float, to_stream: Float, size: int) -> Float:
    valley = 1 - np.exp(-((to_river / (0.16 * size)) ** 1.5))
    side = 0.35 + 0.65 * (1 - np.exp(-((to_stream / (0.06 * size)) ** 1.1)))
    hills = 0.15 + 0.85 * relief
    return np.asarray(RELIEF_M * size * hills * (0.02 + 0.98 * valley * side), np.float32)


def _fall(river: Float, shape: tuple[int, int]) -> Float:
    # A plane from the river's source to its mouth: water flows one way.
    start, stop = river[0], river[-1]
    axis = (stop - start) / np.hypot(*(stop - start)) ** 2
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    along = (rows - start[0]) * axis[0] + (cols - start[1]) * axis[1]
    return np.asarray(220 + FALL_M * shape[0] * (1 - along), np.float32)


def _make_lake(rng: np.random.Generator, river: Float, size: int) -> Bool:
    middle = river[int(len(river) * rng.uniform(0.35, 0.65))]
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.6, 0.95)
    u = (rows - middle[0]) * np.cos(angle) + (cols - middle[1]) * np.sin(angle)
    v = (cols - middle[1]) * np.cos(angle) - (rows - middle[0]) * np.sin(angle)
    radius = np.hypot(u * stretch, v / stretch) / (size * rng.uniform(0.09, 0.13))
    ragged = radius + 0.22 * fractal(rng, (size, size), hurst=0.8, wavelength_px=0.15 * size)
    parts, count = ndimage.label(ragged < 1)
    if not count:
        return np.zeros((size, size), bool)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


def _width(rng: np.random.Generator, shape: tuple[int, int]) -> Float:
    swell = fractal(rng, shape, hurst=0.9, wavelength_px=shape[0] / 5)
    return np.asarray(2.0 + 0.5 * np.clip(swell, -1.5, 1.5), np.float32)
