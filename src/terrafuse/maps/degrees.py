"""Polygons in longitude and latitude."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as warp_points

_HALF_TURN = 180.0
# A tenth of a millimetre on the ground.
_DECIMALS = 9


def to_degrees(shapes: NDArray[Any], crs: CRS) -> NDArray[Any]:
    """Polygons in longitude and latitude; those across the antimeridian in two parts."""

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = warp_points(crs, "OGC:CRS84", *points.T)
        return np.round(np.stack([lon, lat], axis=1), _DECIMALS)

    found: NDArray[Any] = shapely.orient_polygons(shapely.transform(shapes, moved))
    west, _, east, _ = shapely.bounds(found).T
    for n in np.flatnonzero((east - west > _HALF_TURN) | (east > _HALF_TURN)):
        found[n] = _cut_at_antimeridian(found[n])
    return found


def _cut_at_antimeridian(shape: Any) -> Any:
    """Part of a polygon east of it, and the part west of it, both between ±180°."""

    def unwrapped(points: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = points.T
        return np.stack([lon % (2 * _HALF_TURN), lat], axis=1)

    def back(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points - [2 * _HALF_TURN, 0]

    whole = shapely.transform(shape, unwrapped)
    left = whole.intersection(shapely.box(0, -90, _HALF_TURN, 90))
    right = whole.intersection(shapely.box(_HALF_TURN, -90, 2 * _HALF_TURN, 90))
    parts = [*shapely.get_parts(left), *shapely.get_parts(shapely.transform(right, back))]
    return shapely.orient_polygons(shapely.multipolygons([p for p in parts if p.area > 0]))
