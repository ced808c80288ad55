"""Where the pixels of a scene lie on the ground, as the page reads it."""

from __future__ import annotations

import re
from math import atan2, ceil, hypot, log10

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what GDAL's own failures arrive as
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warp_points

from terrafuse.data.grid import Grid, apply_affine, near
from terrafuse.web.viewer.document import Ground, LonLat

#: Largest error of interpolated degrees along rows, and along columns, in pixels of the scene.
TOLERANCE_PX = 0.045
# Cells along a side of the lattice, at most.
_MOST_CELLS = 512
# Of a pixel, that rounding may cost.
_ROUNDING_PX = 0.002
_DEGREES = "OGC:CRS84"
_TURN = 360.0
# WGS 84.
_SEMI_MAJOR_M = 6_378_137.0
_FLATTENING = 1 / 298.257_223_563
_NAME = re.compile(r'^\w+\["([^"]*)"')

Float = NDArray[np.float64]


def describe_ground(grid: Grid) -> Ground:
    """Describe a scene's grid: its CRS, and the way from pixels to degrees."""
    t = grid.transform
    place = _Place.of(grid)
    return Ground(
        crs=None if grid.crs is None else crs_name(grid.crs),
        unit=None if grid.crs is None else _unit(grid.crs),
        transform=(t.a, t.b, t.c, t.d, t.e, t.f),
        pixel_metres=None if place is None else place.pixel_metres,
        north=0.0 if place is None else place.north,
        lonlat=None if place is None else _lattice(grid, place),
    )


def crs_name(crs: CRS) -> str:
    """Name of a CRS as people say it: "EPSG:32630", else that in its WKT."""
    authority = crs.to_authority()
    if authority is not None:
        return ":".join(authority)
    found = _NAME.match(crs.to_wkt())
    return found[1] if found and found[1] else "unnamed CRS"


def _unit(crs: CRS) -> str | None:
    try:
        return str(crs.units_factor[0])
    except Exception:  # a CRS without units
        return None


class _Place:
    """The middle of a grid on the ellipsoid.

    Args:
        grid: With a CRS that leads to degrees.
        lon: Of the middle.
        jacobian: Metres (east, north) per step of a (column, row), (2, 2).
    """

    def __init__(self, grid: Grid, lon: float, jacobian: Float) -> None:
        self._grid, self.lon, self._jacobian = grid, lon, jacobian

    @classmethod
    def of(cls, grid: Grid) -> _Place | None:
        """Measure it; None: there is no way to degrees."""
        if grid.crs is None:
            return None
        col, row = grid.width / 2, grid.height / 2
        cols = np.array([col, col - 0.5, col + 0.5, col, col])
        rows = np.array([row, row, row, row - 0.5, row + 0.5])
        degrees = _to_degrees(grid, cols, rows)
        if degrees is None:
            return None
        lon, lat = degrees
        lon = near(lon, float(lon[0]), _TURN)
        east, north = metres_per_degree(float(lat[0]))
        jacobian = np.array(
            [
                [(lon[2] - lon[1]) * east, (lon[4] - lon[3]) * east],
                [(lat[2] - lat[1]) * north, (lat[4] - lat[3]) * north],
            ]
        )
        if not np.isfinite(jacobian).all() or abs(np.linalg.det(jacobian)) == 0:
            return None
        return cls(grid, float(lon[0]), jacobian)

    @property
    def pixel_metres(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        (a, b), (c, d) = self._jacobian.tolist()
        return hypot(a, c), hypot(b, d)

    @property
    def north(self) -> float:
        """Clockwise angle in radians from up to north."""
        col, row = np.linalg.solve(self._jacobian, [0.0, 1.0]).tolist()
        return atan2(col, -row)


def metres_per_degree(lat: float) -> tuple[float, float]:
    """Metres per degree of longitude and of latitude on the ellipsoid.

    Reference:
        Snyder (1987), Map Projections: A Working Manual, equations 4-18 and 4-20: the radii of
        curvature.
    """
    e2 = _FLATTENING * (2 - _FLATTENING)
    sine, cosine = np.sin(np.radians(lat)), np.cos(np.radians(lat))
    across = _SEMI_MAJOR_M / np.sqrt(1 - e2 * sine**2)
    along = _SEMI_MAJOR_M * (1 - e2) / (1 - e2 * sine**2) ** 1.5
    return float(np.radians(across * cosine)), float(np.radians(along))


def _to_degrees(grid: Grid, cols: Float, rows: Float) -> tuple[Float, Float] | None:
    """Longitude and latitude of places of the grid; None: not all of them have some."""
    x, y = apply_affine(grid.transform, cols, rows)
    try:
        lon, lat = warp_points(grid.crs, _DEGREES, x.ravel(), y.ravel())
    except (RasterioError, CPLE_BaseError, ValueError):  # another planet, or none
        return None
    found = np.reshape(lon, x.shape), np.reshape(lat, x.shape)
    return found if np.isfinite(found[0]).all() and np.isfinite(found[1]).all() else None


def _lattice(grid: Grid, place: _Place) -> LonLat | None:
    """Degrees as dense as they must be; None: a part of the grid has none.

    The interpolation is compared with what lies between, and refined along the side where it is
    worse, until both are good.
    """
    cells = [1, 1]
    while True:
        rows = np.linspace(0, grid.height, 2 * cells[0] + 1)
        cols = np.linspace(0, grid.width, 2 * cells[1] + 1)
        found = _to_degrees(grid, *np.meshgrid(cols, rows))
        if found is None:
            return None
        lon, lat = near(found[0], place.lon, _TURN), found[1]
        by_row, by_col = (_error(lon, lat, axis, place) for axis in (0, 1))
        finer = [
            error > TOLERANCE_PX and n < _MOST_CELLS
            for error, n in zip((by_row, by_col), cells, strict=True)
        ]
        if not any(finer):
            return LonLat(
                rows=tuple(rows[::2].tolist()),
                cols=tuple(cols[::2].tolist()),
                lon=_rounded(lon[::2, ::2], place),
                lat=_rounded(lat[::2, ::2], place),
            )
        cells = [2 * n if is_coarse else n for n, is_coarse in zip(cells, finer, strict=True)]


def _error(lon: Float, lat: Float, axis: int, place: _Place) -> float:
    """Largest distance in pixels between what lies between along an axis and the truth."""
    degrees = np.moveaxis(np.stack([lon, lat]), axis + 1, 1)
    off = np.abs((degrees[:, :-2:2] + degrees[:, 2::2]) / 2 - degrees[:, 1::2])
    scales = np.array([metres_per_degree(v) for v in np.moveaxis(lat, axis, 0)[1::2, 0]])
    metres = np.hypot(off[0] * scales[:, :1], off[1] * scales[:, 1:])
    return float(metres.max()) / min(place.pixel_metres)


def _rounded(values: Float, place: _Place) -> tuple[tuple[float, ...], ...]:
    degrees = min(place.pixel_metres) / metres_per_degree(0.0)[1] * _ROUNDING_PX
    decimals = max(0, ceil(-log10(degrees)))
    return tuple(tuple(row) for row in np.round(values, decimals).tolist())
