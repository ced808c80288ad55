"""Search for the distinct values of label rasters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from terrafuse.classes import hex_color
from terrafuse.data.handles import pool, read_bands
from terrafuse.data.names import gdal_path
from terrafuse.data.raster_file import RasterFile
from terrafuse.errors import LabelError, RasterReadError

# 255 is reserved for ignored pixels.
MAX_CLASSES = 255
_ROWS = 1024


@dataclass(frozen=True)
class Codes:
    """Values of label rasters.

    Args:
        values: Candidate classes, ascending: integers, or colours "#rrggbb".
        void: Negative numbers, which by convention mean "not labelled".
        colors: Display colours of `values`, where the file defines them.
        files: Number of files read.
    """

    values: tuple[int | str, ...]
    void: list[int | str]
    colors: tuple[str, ...] = ()
    files: int = 0

    def classes(self, palette: Sequence[str]) -> list[dict[str, Any]]:
        """Return classes as in a manifest, with placeholder names."""
        own = self.colors or [palette[n % len(palette)] for n in range(len(self.values))]
        return [
            {"name": f"class_{str(value).lstrip('#')}", "code": value, "color": color}
            for value, color in zip(self.values, own, strict=True)
        ]


def find_codes(files: Iterable[RasterFile], *, patience: int | None = None) -> Codes:
    """Find the distinct values of label rasters, without nodata.

    Args:
        files: At least one.
        patience: Files without a new value after which no more are read; None: all are read.

    Raises:
        LabelError: No values, fractional numbers, or more than 255 values.
        RasterReadError: Pixels cannot be decoded.
    """
    rest = iter(files)
    first = next(rest)
    bands = first.count - sum(first.alpha)
    if bands not in (1, 3):
        raise LabelError(
            f"labels '{first.path}' have {bands} bands; class codes need one band, colours three"
        )
    found: set[int] = set()
    number = newest = 0
    for number, file in enumerate(chain([first], rest), start=1):
        before = len(found)
        found |= _values(file, bands)
        newest = number if len(found) > before or not found else newest
        if len(found) > MAX_CLASSES:
            raise LabelError(
                f"labels hold more than {MAX_CLASSES} different values up to '{file.path}'; class "
                "codes should be few. Choose the folder of labels with -O labels=FOLDER"
            )
        if patience is not None and number - newest >= patience:
            break
    if not found:
        raise LabelError(f"labels hold no data in any of {number} files ('{first.path}' …)")
    if bands == 3:
        colors = tuple(f"#{value:06x}" for value in sorted(found))
        return Codes(colors, [], colors, number)
    values = sorted(value for value in found if value >= 0)
    void: list[int | str] = sorted(value for value in found if value < 0)
    return Codes(tuple(values), void, _colors(first, values), number)


def _colors(file: RasterFile, values: Sequence[int]) -> tuple[str, ...]:
    if file.palette is None or max(values, default=0) > 255:
        return ()
    colors = tuple(hex_color(file.palette[value]) for value in values)
    return colors if len(set(colors)) == len(colors) else ()


def _values(file: RasterFile, bands: int) -> set[int]:
    found: set[int] = set()
    numbers = list(range(1, bands + 1))
    try:
        with pool.borrow(gdal_path(file.path)) as dataset:
            for row in range(0, file.grid.height, _ROWS):
                rows = min(_ROWS, file.grid.height - row)
                window = RasterWindow(0, row, file.grid.width, rows)
                pixels = read_bands(dataset, numbers, window)
                if any(file.hides):
                    pixels = pixels[:, dataset.read_masks(1, window=window) > 0]
                found |= _distinct(pixels.reshape(bands, -1), file)
                if len(found) > 2 * MAX_CLASSES:
                    break
    except RasterReadError as error:
        raise RasterReadError(f"labels '{file.path}' cannot be decoded: {error}") from error
    return found


def _distinct(pixels: NDArray[Any], file: RasterFile) -> set[int]:
    if len(pixels) == 3:
        pixels = (pixels.astype(np.int64) * [[65536], [256], [1]]).sum(axis=0)
        return set(np.unique(pixels).tolist())
    values = np.unique(pixels[0])
    values = values[np.isfinite(values)]
    if file.nodata[0] is not None:
        values = values[values != file.nodata[0]]
    if (values != np.round(values)).any():
        raise LabelError(f"labels '{file.path}' hold fractions, for instance {values[0]:g}")
    return {int(value) for value in values}


_LOOK_PX = 512


def peek(path: Path, bands: int) -> NDArray[Any] | None:
    """Read values (bands, h, w) of the middle, up to 512 × 512 pixels.

    None if the file has fewer bands or cannot be read; the step that opens all files reports it.
    """
    spec = gdal_path(str(path))
    pool.forget(spec)  # a handle from before the file was rewritten would show its old pixels
    try:
        with pool.borrow(spec) as dataset:
            if dataset.count < bands:
                return None
            height, width = min(_LOOK_PX, dataset.height), min(_LOOK_PX, dataset.width)
            row, col = (dataset.height - height) // 2, (dataset.width - width) // 2
            window = RasterWindow(col, row, width, height)
            values = read_bands(dataset, range(1, bands + 1), window)
    except RasterReadError:
        return None
    return values
