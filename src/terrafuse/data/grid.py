"""`Grid`: the georeferenced pixel grid of a raster or of a scene."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, hypot, pi
from statistics import median
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from terrafuse.modalities import Modality
from terrafuse.samples import Window

# Metres per degree of latitude, to state the pixel size of geographic grids.
_DEGREE_M = 111_320.0


@dataclass(frozen=True)
class Grid:
    """CRS, transform and size of a raster or of a scene.

    Args:
        crs: Coordinate reference system; None for images that are not georeferenced.
        transform: Pixel (col, row) → map (x, y); (0, 0) is the outer corner of the first pixel.
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @classmethod
    def from_dataset(cls, dataset: Any) -> Grid:
        """Return the grid of an open rasterio dataset."""
        return cls(dataset.crs, dataset.transform, dataset.height, dataset.width)

    @property
    def turn(self) -> float | None:
        """Length of a full turn of longitude in CRS units; None unless these are angles."""
        return full_turn(self.crs)

    @property
    def middle_x(self) -> float:
        """Map x in the middle."""
        t = self.transform
        return float(t.a * self.width / 2 + t.b * self.height / 2 + t.c)

    @property
    def window(self) -> Window:
        """Window of the whole grid."""
        return Window(0, 0, self.height, self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Extent (left, bottom, right, top) in CRS units; rotated grids included."""
        x, y = self.corners()
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Size of a pixel along rows and along columns, in CRS units."""
        t = self.transform
        return hypot(t.a, t.d), hypot(t.b, t.e)

    @property
    def pixel_size_m(self) -> float | None:
        """Geometric mean of both pixel sizes in metres; None without a CRS."""
        if self.crs is None:
            return None
        width, height = self.pixel_size
        if self.crs.is_geographic:
            _, bottom, _, top = self.bounds
            shrink = float(np.cos(np.radians(np.clip((bottom + top) / 2, -89.9, 89.9))))
            return float(np.sqrt(width * height * shrink)) * _DEGREE_M
        try:
            factor = float(self.crs.linear_units_factor[1])
        except Exception:  # a CRS without linear units (engineering, unknown)
            return None
        return float(np.sqrt(width * height)) * factor

    def corners(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return map x and y (4,) of the outer corners."""
        cols = np.array([0.0, self.width, self.width, 0.0])
        rows = np.array([0.0, 0.0, self.height, self.height])
        return apply_affine(self.transform, cols, rows)

    def offset_in(self, other: Grid, tolerance_px: float = 0.01) -> tuple[int, int] | None:
        """Return the (row, col) of this grid's first pixel in `other`, or None.

        None where the pixels of both do not coincide, be it at this grid's far corner. The grids
        need not overlap. Longitudes count as they are written (see `turned_to`).

        Args:
            tolerance_px: Largest misalignment that is ignored, in pixels of `other`.
        """
        if self.crs != other.crs:
            return None
        to_other = ~other.transform * self.transform
        col, row = round(to_other.c), round(to_other.f)
        for corner in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height)):
            x, y = to_other * corner
            if abs(x - corner[0] - col) > tolerance_px or abs(y - corner[1] - row) > tolerance_px:
                return None
        return row, col

    def turned_to(self, other: Grid) -> Grid:
        """The same grid, with longitudes by whole turns as close to those of `other` as can be.

        Where this one covers more than half a turn, or lies across the place opposite of `other`,
        only a part of it may be near.
        """
        if self.turn is None or self.crs != other.crs:
            return self
        moved = near(self.middle_x, other.middle_x, self.turn) - self.middle_x
        return self if moved == 0 else replace(self, transform=_shift_x(self.transform, moved))

    def scaled(self, ratio: Fraction | int) -> Grid:
        """Return the covering grid of the same origin, with pixels `ratio` times as large."""
        ratio = Fraction(ratio)
        if ratio == 1:
            return self
        return replace(
            self,
            transform=self.transform * Affine.scale(float(ratio)),
            height=ceil(self.height / ratio),
            width=ceil(self.width / ratio),
        )

    def crop(self, window: Window) -> Grid:
        """Return the grid of a window, which may extend beyond this one."""
        return replace(
            self,
            transform=self.transform * Affine.translation(window.col, window.row),
            height=window.height,
            width=window.width,
        )


def apply_affine(t: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points moved by a transform, such as (col, row) → (x, y) of a map."""
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def full_turn(crs: CRS | None) -> float | None:
    """A turn around the Earth in units of a CRS; None unless these are angles."""
    if crs is None or not crs.is_geographic:
        return None
    radians = float(crs.units_factor[1])
    # 360 exactly, where it is degrees.
    return round(2 * pi / radians, 9) if radians > 0 else None


def near(x: Any, middle: float, turn: float | None) -> Any:
    """Longitudes by whole turns as close to `middle` as can be; unchanged without a turn."""
    return x if turn is None else x + turn * np.round((middle - x) / turn)


def own_window(modality: Modality, window: Window) -> Window:
    """Convert a window of the scene to pixels of a modality.

    Raises:
        ConfigError: The window does not fit the modality's scale.
    """
    if modality.scale == 1:
        return window
    return Window(
        modality.size_at(window.row),
        modality.size_at(window.col),
        modality.size_at(window.height),
        modality.size_at(window.width),
    )


def typical_pixel_size_m(grids: Iterable[Grid]) -> float | None:
    """Return the median pixel size in metres of the grids that have one; None if none has."""
    known = [size for grid in grids if (size := grid.pixel_size_m) is not None]
    return median(known) if known else None


def _shift_x(t: Affine, distance: float) -> Affine:
    return Affine(t.a, t.b, t.c + distance, t.d, t.e, t.f)
