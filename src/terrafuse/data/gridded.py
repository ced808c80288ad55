"""Bands of a raster file, read on a target grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from terrafuse.data.grid import Grid
from terrafuse.data.handles import pool, read_bands
from terrafuse.data.names import gdal_path, is_remote
from terrafuse.data.overlap import extent_in, meeting_points, meets_twice, relative_scale
from terrafuse.data.raster_file import RasterFile
from terrafuse.data.remote import advise, read_patiently
from terrafuse.data.warping import BandSource, Witness, warped_document
from terrafuse.errors import GridMismatchError, RasterReadError
from terrafuse.samples import Window

_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Six digits are what tools print of a float32 at least.
_PRINTED = 1e-5


@dataclass(frozen=True)
class GriddedBands:
    """Selected bands of a file, on a target grid.

    Args:
        extent: Part of the target grid that the file can fill, or None.
        offset: (row, col) of the target grid in the file where pixels coincide, else None.
        spec: What the handle pool opens: the path, or a VRT document.
        where: Names the raster in messages.
    """

    file: RasterFile
    bands: tuple[BandSource, ...]
    extent: Window | None
    offset: tuple[int, int] | None
    spec: str
    where: str

    @property
    def complete(self) -> bool:
        """True if every pixel is certain to have data."""
        return self.offset is not None and all(
            band.finite and not band.masked and band.nodata is None and band.fill is None
            for band in self.bands
        )

    def read(
        self, window: Window, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read raw values of a window inside `extent`, and a mask of pixels without data.

        Args:
            window: Pixels of the target grid.
            shape: Rows and columns to pick from it, evenly spaced; from an overview where the
                file has one. None reads all.

        Returns:
            Values (C, h, w), in the file's dtype if aligned, else float with NaN; and a mask
            (C or 1, h, w) of the pixels without data, or None.

        Raises:
            RasterReadError: Pixels cannot be decoded.
        """
        try:
            return read_patiently(lambda: self._read(window, shape), self.file.path)
        except RasterReadError as error:
            is_far = is_remote(self.file.path)
            remedy = "The file is damaged or incomplete: fetch it again"
            remedy = (advise(str(error)) if is_far else "") or remedy
            raise RasterReadError(
                f"{self.where}: pixels of '{self.file.path}' cannot be "
                f"{'read' if is_far else 'decoded'}: {error} (rows {window.row} to "
                f"{window.row_stop}, columns {window.col} to {window.col_stop}). {remedy}"
            ) from error

    def _read(
        self, window: Window, shape: tuple[int, int] | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        row, col = self.offset or (0, 0)
        box = RasterWindow(window.col + col, window.row + row, window.width, window.height)
        with pool.borrow(self.spec) as dataset:
            if self.offset is None:
                size = shape and (dataset.count, *shape)
                values = dataset.read(window=box, out_shape=size)
                return values, _not_finite(values)
            indexes = [band.index for band in self.bands]
            values = read_bands(dataset, indexes, box, shape)
            return values, self._hidden(dataset, values, box)

    def find_fill(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Find raw values (C, h, w) that are fill if no other band has data there; None: none.

        Values that were resampled hold none any more.
        """
        fills = [band.fill for band in self.bands]
        if self.offset is None or all(fill is None for fill in fills):
            return None
        hits = _equal_per_band(values, fills)
        return hits if hits.any() else None

    def _hidden(
        self, dataset: Any, values: NDArray[Any], box: RasterWindow
    ) -> NDArray[np.bool_] | None:
        found = [] if all(band.finite for band in self.bands) else [_not_finite(values)]
        tags = {band.nodata for band in self.bands}
        if len(tags) == 1:
            (tag,) = tags
            found += [] if tag is None else [equals_nodata(values, tag)]
        else:
            found += [_equal_per_band(values, [band.nodata for band in self.bands])]
        masked = [band.index for band in self.bands if band.masked]
        if masked:
            own = "own mask" in {self.file.hides[index - 1] for index in masked}
            indexes = [band.index for band in self.bands] if own else masked[:1]
            size = (len(indexes), *values.shape[1:])
            found += [dataset.read_masks(indexes, window=box, out_shape=size) == 0]
        masks = [mask for mask in found if mask is not None]
        return reduce(np.logical_or, masks) if masks else None


def place(
    file: RasterFile,
    bands: Sequence[BandSource],
    grid: Grid,
    reference: Grid,
    *,
    resampling: str,
    where: str,
    dtype: str = "Float32",
    witnesses: Callable[[], Sequence[Witness]] = tuple,
) -> GriddedBands:
    """Prepare to read `bands` of a file on `grid`.

    Args:
        reference: Full grid of which `grid` is a part; the file must overlap it.
        resampling: Method where the pixels of the file and of `grid` do not coincide.
        where: Names the raster in messages.
        dtype: GDAL type to resample in.
        witnesses: Tells where the modality has data, on the file's grid (`BandSource.fill`).

    Raises:
        GridMismatchError: No overlap.
    """
    file = file.moved_to(file.grid.turned_to(reference))
    seam = meets_twice(file.grid, reference)
    offset = None if seam else grid.offset_in(file.grid)
    if offset is not None and reference.offset_in(file.grid) is not None:
        _check_overlap_aligned(file, reference, where)
        own = Window(-offset[0], -offset[1], file.grid.height, file.grid.width)
        extent = own.intersection(grid.window)
        return GriddedBands(file, tuple(bands), extent, offset, gdal_path(file.path), where)
    pool.close([gdal_path(file.path)])  # only the VRT is read from here on
    scale = _check_overlap(file, reference, where)
    document = warped_document(
        file.spec, file.grid, grid, list(bands),
        resampling=resampling, scale=scale, dtype=dtype, witnesses=witnesses(), seam=seam,
    )  # fmt: skip
    return GriddedBands(file, tuple(bands), grid.window, None, document, where)


def _check_overlap_aligned(file: RasterFile, reference: Grid, where: str) -> None:
    offset = reference.offset_in(file.grid)
    assert offset is not None
    own = Window(-offset[0], -offset[1], file.grid.height, file.grid.width)
    if own.intersection(reference.window) is None:
        raise GridMismatchError(_apart(file, reference, where))


def _check_overlap(file: RasterFile, reference: Grid, where: str) -> tuple[float, float]:
    try:
        points = meeting_points(file.grid, reference)
    except ValueError as error:
        raise GridMismatchError(
            f"{where}: '{file.path}' cannot be brought to the CRS of the scene's grid: {error}"
        ) from None
    if not points[0].size:
        raise GridMismatchError(_apart(file, reference, where))
    scale = relative_scale(file.grid, reference, points)
    return min(1.0, scale[0]), min(1.0, scale[1])


def _apart(file: RasterFile, reference: Grid, where: str) -> str:
    def show(bounds: tuple[float, float, float, float]) -> str:
        return "left {:.10g}, bottom {:.10g}, right {:.10g}, top {:.10g}".format(*bounds)

    try:
        extent = show(extent_in(file.grid, reference.crs))
    except ValueError:
        extent = "beyond the projection"
    return (
        f"{where}: '{file.path}' does not overlap the scene's grid. Its extent there is {extent}; "
        f"the grid's is {show(reference.bounds)}. "
        "Check that the file belongs to this scene and that its CRS is right"
    )


def _not_finite(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    finite = np.isfinite(values)
    return None if finite.all() else ~finite


def _equal_per_band(values: NDArray[Any], tags: Sequence[float | None]) -> NDArray[np.bool_]:
    hits = np.zeros(values.shape, bool)
    for band, tag in enumerate(tags):
        if tag is not None:
            hits[band] = equals_nodata(values[band], tag)
    return hits


def equals_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Compare values with a nodata value from `usable_nodata`.

    Close to the largest number of float32 or float64 no value is a measurement: there, all that
    print the same are equal.
    """
    for most in (_FLOAT32_MAX, float(np.finfo(np.float64).max)):
        if values.dtype.kind == "f" and abs(nodata) == most:
            size = values * values.dtype.type(np.sign(nodata))
            found = np.asarray(size >= np.float64(most * (1 - _PRINTED)))
            if most == _FLOAT32_MAX:
                found &= size <= np.float64(most * (1 + _PRINTED))
            return found
    return np.asarray(values == values.dtype.type(nodata))


def usable_nodata(value: float | None, dtype: np.dtype[Any]) -> float | None:
    """A nodata value that pixels of this dtype can have; NaN is none, as it never is data.

    The largest number of float32 is meant wherever one is within the digits that tools print of it
    (-3.4028235e+38 is beyond it, -3.40282e+38 short of it). A value beyond the range of a floating
    dtype (-1.8e308 on float32) has become its largest number when it was written.
    """
    if value is None or np.isnan(value):
        return None
    if dtype.kind not in "iu":
        most = float(np.finfo(dtype).max)
        if abs(abs(value) - _FLOAT32_MAX) <= _PRINTED * _FLOAT32_MAX <= most:
            return float(np.copysign(_FLOAT32_MAX, value))
        return float(np.clip(value, -most, most))
    limits = np.iinfo(dtype)
    fits = float(value).is_integer() and limits.min <= value <= limits.max
    return value if fits else None
