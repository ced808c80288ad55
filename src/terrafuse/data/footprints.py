"""Overlap and distance of raster footprints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from terrafuse.data.grid import Grid, full_turn, near
from terrafuse.data.overlap import project

# Neighbouring map sheets may share a line of pixels without showing the same place.
_LEAST_OVERLAP = 1e-3
# Straight edges bend in another CRS: points added along an outline.
_OUTLINE_POINTS = 64


def overlapping_grids(grids: Sequence[Grid]) -> list[tuple[int, int]]:
    """Pairs of georeferenced grids that share more than a thousandth of the smaller one."""
    placed, polygons = _all_outlines(grids)
    if len(placed) < 2:
        return []
    tree: Any = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    smaller = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    much = shared > _LEAST_OVERLAP * smaller
    pairs = {
        (min(placed[a], placed[b]), max(placed[a], placed[b]))
        for a, b in zip(first[much], second[much], strict=True)
        if placed[a] != placed[b]
    }
    return sorted(pairs)


def nearby_grids(grids: Sequence[Grid], distance_px: float) -> list[tuple[int, int, float]]:
    """Find pairs of georeferenced grids of one CRS that are disjoint but close.

    Args:
        distance_px: Largest distance, in pixels of the finer grid.

    Returns:
        Positions of both, and the pixels between them; 0 = they touch.
    """
    overlapping = set(overlapping_grids(grids))
    by_crs: dict[str, list[int]] = {}
    for i, grid in enumerate(grids):
        if grid.crs is not None:
            by_crs.setdefault(grid.crs.to_wkt(), []).append(i)
    found = []
    for members in by_crs.values():
        polygons = np.array([_outline(grids[i], in_degrees=False) for i in members], dtype=object)
        pixels = np.array([min(grids[i].pixel_size) for i in members])
        tree: Any = shapely.STRtree(polygons)
        first, second = tree.query(polygons, predicate="dwithin", distance=distance_px * pixels)
        apart = shapely.distance(polygons[first], polygons[second])
        apart = apart / np.minimum(pixels[first], pixels[second])
        # Where both have pixels of one size, a pair is found from either side.
        pairs = {
            (min(members[a], members[b]), max(members[a], members[b])): float(px)
            for a, b, px in zip(first, second, apart, strict=True)
            if a != b and px <= distance_px
        }
        found += [(a, b, px) for (a, b), px in pairs.items() if (a, b) not in overlapping]
    return sorted(found)


def overlap_groups(grids: Sequence[Grid]) -> list[list[int]]:
    """Group the indices of grids that overlap, directly or through others."""
    group_of = list(range(len(grids)))

    def root(i: int) -> int:
        while group_of[i] != i:
            group_of[i] = group_of[group_of[i]]
            i = group_of[i]
        return i

    for a, b in overlapping_grids(grids):
        group_of[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for i in range(len(grids)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _all_outlines(grids: Sequence[Grid]) -> tuple[list[int], NDArray[Any]]:
    """Return indices and polygons, in a common CRS, of the georeferenced grids.

    In degrees, what reaches beyond ±180° is there a second time, a turn away.
    """
    crs = {grid.crs.to_wkt(): grid.crs for grid in grids if grid.crs is not None}
    several = len(crs) > 1
    turn = 360.0 if several else full_turn(next(iter(crs.values()), None))
    placed, polygons = [], []
    for i, grid in enumerate(grids):
        outline = None if grid.crs is None else _outline(grid, in_degrees=several)
        if outline is None:
            continue
        for polygon in _turned(outline, turn):
            placed.append(i)
            polygons.append(polygon)
    return placed, np.array(polygons, dtype=object)


def _turned(outline: Any, turn: float | None) -> list[Any]:
    if turn is None:
        return [outline]
    left, _, right, _ = shapely.bounds(outline)
    middle = (left + right) / 2
    moved = near(middle, 0.0, turn) - middle
    first = _moved(outline, moved) if moved else outline
    left, right = left + moved, right + moved
    further = [turn] if left < -turn / 2 else []
    further += [-turn] if right > turn / 2 else []
    return [first, *(_moved(first, distance) for distance in further)]


def _moved(outline: Any, distance: float) -> Any:
    return shapely.transform(outline, lambda points: points + np.array([distance, 0.0]))


def _outline(grid: Grid, *, in_degrees: bool) -> Any:
    outline = shapely.polygons(np.stack(grid.corners(), axis=1))
    if not in_degrees:
        return outline
    dense = shapely.segmentize(outline, shapely.length(outline) / _OUTLINE_POINTS)
    try:
        lon, lat = project(grid.crs, CRS.from_epsg(4326), *shapely.get_coordinates(dense).T)
    except ValueError:  # a CRS of another celestial body
        return None
    if not np.isfinite(lon).all():
        return None
    lon = near(lon, lon[0], 360.0)  # across the date line it goes on
    return shapely.polygons(np.stack([lon, lat], axis=1))
