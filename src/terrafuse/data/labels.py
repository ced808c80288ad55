"""Labels of a scene from a raster of codes or colours; see `polygons` for vector labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme, Code
from terrafuse.data.grid import Grid
from terrafuse.data.gridded import place, usable_nodata
from terrafuse.data.handles import pool
from terrafuse.data.names import gdal_path
from terrafuse.data.raster_file import RasterFile
from terrafuse.data.warping import BandSource
from terrafuse.errors import BandError
from terrafuse.samples import IGNORE_INDEX, Window


@dataclass(frozen=True)
class LabelRules:
    """Rules by which label files become class indices.

    Args:
        attribute: Polygons: field with the class code or class name; None where only one class is
            possible.
        area: Polygons: file with the labelled area; pixels outside it are ignored.
        background: Polygons: code or name of the class outside all polygons; None = ignored.
        nodata: Rasters: value to ignore, instead of the file's own tag.
        page: Rasters: page to take of a file that has several.
        layer: Polygons: layer of files that have several.
        area_layer: Polygons: likewise of the file with the area.
    """

    attribute: str | None = None
    area: str | None = None
    background: Code | None = None
    nodata: float | None = None
    page: int | None = None
    layer: str | None = None
    area_layer: str | None = None


class Labels(Protocol):
    """Labels on a scene's grid."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w); 255 = ignore, also outside the scene."""

    def close(self) -> None:
        """Close the files that this process has open."""


class RasterLabels:
    """Labels from a raster of codes, or of colours where the class scheme has colours.

    Args:
        grid: The scene's grid.
        reference: Full grid of which `grid` is a part.
        where: Names the labels in messages.

    Raises:
        BandError: The file has neither one band of codes nor three of colours.
        GridMismatchError: No overlap with the grid.
    """

    def __init__(
        self,
        file: RasterFile,
        scheme: ClassScheme,
        rules: LabelRules,
        grid: Grid,
        reference: Grid,
        where: str,
    ) -> None:
        self._scheme = scheme
        self._where = f"{where} ({file.path})"
        #: Raw value → pixels that the scheme's `unknown` replaced, in all windows read.
        self.unknown: Counter[str] = Counter()
        self._palette = file.palette if scheme.has_palette and _opaque(file) == 1 else None
        tag = file.nodata[0] if rules.nodata is None else rules.nodata
        self._nodata = usable_nodata(tag, np.dtype(file.dtypes[0]))
        bands = [
            # A nodata tag may be a class code: the scheme decides, not the mask.
            BandSource(
                number, masked=bool(file.hides[number - 1]), finite=file.dtypes[0][0] in "iu"
            )
            for number in _label_bands(file, scheme, self._where)
        ]
        #: Class whose code is the file's value for no data; its pixels count as the class.
        self.class_without_data = _class_of(self._nodata, scheme)
        self._bands = place(
            file, bands, grid, reference, resampling="nearest", where=where, dtype="Float64"
        )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w); 255 = ignore, also outside the scene.

        Raises:
            LabelError: Values outside the class scheme.
            RasterReadError: Pixels cannot be decoded.
        """
        labels = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        extent = self._bands.extent
        inner = None if extent is None else window.intersection(extent)
        if inner is not None:
            labels[inner.slices(window)] = self._encode(*self._bands.read(inner))
        return labels

    def close(self) -> None:
        """Close the file, if this process has it open."""
        pool.forget(gdal_path(self._bands.file.path))

    def _encode(self, values: NDArray[Any], hidden: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        if hidden is None or not hidden.any():
            return self._encode_visible(values)
        visible = ~hidden.any(axis=0)
        labels = np.full(visible.shape, IGNORE_INDEX, np.uint8)
        if visible.any():
            labels[visible] = self._encode_visible(values[:, visible][:, None])[0]
        return labels

    def _encode_visible(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if self._palette is not None:
            values = np.moveaxis(self._palette[values[0].astype(np.intp)], -1, 0)
        raw = values[0] if len(values) == 1 else values
        return self._scheme.encode(raw, nodata=self._nodata, where=self._where, met=self.unknown)


def _class_of(nodata: float | None, scheme: ClassScheme) -> int | None:
    codes = {code: i for code, i in scheme.lookup().items() if isinstance(code, int)}
    index = next((i for code, i in codes.items() if code == nodata), None)
    return None if index == IGNORE_INDEX else index


def _opaque(file: RasterFile) -> int:
    return file.count - sum(file.alpha)


def _label_bands(file: RasterFile, scheme: ClassScheme, where: str) -> range:
    count = _opaque(file)
    if scheme.has_palette and (count == 3 or (count == 1 and file.palette is not None)):
        return range(1, count + 1)
    if not scheme.has_palette and count == 1:
        return range(1, 2)
    wanted = (
        "colours: three bands, or one with a palette, are"
        if scheme.has_palette
        else "numbers: one band is"
    )
    raise BandError(
        f"{where} have {count} bands, but the class codes are {wanted} needed. Correct "
        "'code' of the classes, or convert the labels"
    )
