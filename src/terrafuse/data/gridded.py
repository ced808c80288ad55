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
    def stored_dtypes(self) -> set[np.dtype[Any]]:
        """Types of the bands in the file."""
        return {self._dtype(band) for band in self.bands}

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns that are decoded together: of the file, or of what is resampled."""
        with pool.borrow(self.spec) as dataset:
            shapes = dataset.block_shapes
            rows, cols = shapes[0 if self.offset is None else self.bands[0].index - 1]
        return int(rows), int(cols)

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

    def is_surely_empty(self, window: Window) -> bool:
        """Tell whether a window has no data for certain, without reading a pixel.

        It has none outside the file, and where a GeoTIFF has left out all blocks (sparse files) and
        what GDAL reads there is no data. Overviews are no evidence: an island of data that is
        smaller than their pixels is in none of them.

        Args:
            window: Pixels of the target grid.

        Raises:
            RasterReadError: The file cannot be opened.
        """
        inner = None if self.extent is None else window.intersection(self.extent)
        if inner is None:
            return True
        if self.offset is None or not all(map(self._is_hidden_where_left_out, self.bands)):
            return False
        row, col = self.offset
        with pool.borrow(self.spec) as dataset:
            indexes = [band.index for band in self.bands]
            if dataset.driver != "GTiff":
                return False
            if dataset.profile.get("interleave") == "pixel":  # one block holds all bands
                indexes = indexes[:1]
            return all(
                _has_no_block(dataset, index, inner.row + row, inner.col + col, inner)
                for index in indexes
            )

    def _dtype(self, band: BandSource) -> np.dtype[Any]:
        return np.dtype(self.file.dtypes[band.index - 1].replace("complex_int16", "complex64"))

    def _is_hidden_where_left_out(self, band: BandSource) -> bool:
        """Tell whether pixels of blocks that are not in the file are no data."""
        dtype = self._dtype(band)
        tag = self.file.nodata[band.index - 1]
        value = np.zeros(1, dtype)
        if tag is not None:
            if usable_nodata(tag, dtype) != tag and not np.isnan(tag):
                return False  # GDAL makes some other value of it
            value[:] = tag
        known = [tag for tag in (band.nodata, band.fill) if tag is not None]
        return bool(np.isnan(value[0])) or any(equals_nodata(value, tag)[0] for tag in known)

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
            mask = self._own_mask(dataset, box, shape or (window.height, window.width))
            if mask is not None and mask.all():  # no pixel of the bands is looked at
                dtypes = [self._dtype(band) for band in self.bands]
                return np.zeros((len(indexes), *mask.shape[1:]), np.result_type(*dtypes)), mask
            values = read_bands(dataset, indexes, box, shape)
            return values, self._hidden(values, mask)

    def find_fill(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Find raw values (C, h, w) that are fill if no other band has data there; None: none.

        Values that were resampled hold none any more.
        """
        fills = [band.fill for band in self.bands]
        if self.offset is None or all(fill is None for fill in fills):
            return None
        hits = _equal_per_band(values, fills)
        return hits if hits.any() else None

    def _own_mask(
        self, dataset: Any, box: RasterWindow, shape: tuple[int, int]
    ) -> NDArray[np.bool_] | None:
        """Pixels (C or 1, h, w) that the file itself hides beside its nodata; None: it does not."""
        masked = [band.index for band in self.bands if band.masked]
        if not masked:
            return None
        own = "own mask" in {self.file.hides[index - 1] for index in masked}
        indexes = [band.index for band in self.bands] if own else masked[:1]
        size = (len(indexes), *shape)
        return np.asarray(dataset.read_masks(indexes, window=box, out_shape=size) == 0)

    def _hidden(
        self, values: NDArray[Any], mask: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_] | None:
        found = [] if all(band.finite for band in self.bands) else [_not_finite(values)]
        tags = [band.nodata for band in self.bands]
        if any(tag is not None for tag in tags):
            found += [_equal_per_band(values, tags)]
        masks = [mask for mask in (*found, mask) if mask is not None]
        return reduce(np.logical_or, masks) if masks else None


def _has_no_block(dataset: Any, index: int, row: int, col: int, size: Window) -> bool:
    """Tell whether a file holds no block of a band under a window.

    Args:
        dataset: A GeoTIFF; GDAL tells where in it a block lies, or nothing if it is left out.
        index: Number of the band.
        row: First row of the window in the file.
        col: First column.
        size: Its height and width.
    """
    height, width = dataset.block_shapes[index - 1]
    return all(
        dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=index) is None
        for y in range(row // height, -(-(row + size.height) // height))
        for x in range(col // width, -(-(col + size.width) // width))
    )


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
    if tags[0] is not None and len(set(tags)) == 1:
        return equals_nodata(values, tags[0])
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
