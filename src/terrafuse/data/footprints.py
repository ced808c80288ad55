"""Overlap and distance of raster footprints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from rasterio.crs import CRS

from terrafuse.data.grid import Grid
from terrafuse.data.overlap import project

# Neighbouring map sheets may share a line of pixels without showing the same place.
_LEAST_OVERLAP = 1e-3
# Straight edges bend in another CRS: points added along an outline.
_OUTLINE_POINTS = 64


def overlapping_grids(grids: Sequence[Grid]) -> list[tuple[int, int]]:
    """Find pairs of georeferenced grids that share more than a thousandth of the smaller one."""
    several = len({grid.crs.to_wkt() for grid in grids if grid.crs is not None}) > 1
    outlines = [None if grid.crs is None else _outline(grid, in_degrees=several) for grid in grids]
    placed = [i for i, outline in enumerate(outlines) if outline is not None]
    polygons = np.array([outlines[i] for i in placed], dtype=object)
    if len(placed) < 2:
        return []
    tree: Any = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    smaller = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    much = shared > _LEAST_OVERLAP * smaller
    return sorted((placed[a], placed[b]) for a, b in zip(first[much], second[much], strict=True))


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


def _outline(grid: Grid, *, in_degrees: bool) -> Any:
    outline = shapely.polygons(np.stack(grid.corners(), axis=1))
    if not in_degrees:
        return outline
    dense = shapely.segmentize(outline, shapely.length(outline) / _OUTLINE_POINTS)
    try:
        lon, lat = project(grid.crs, CRS.from_epsg(4326), *shapely.get_coordinates(dense).T)
    except ValueError:  # a CRS of another celestial body
        return None
    return shapely.polygons(np.stack([lon, lat], axis=1)) if np.isfinite(lon).all() else None
