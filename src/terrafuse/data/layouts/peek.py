"""A look at the middle of a raster, to tell what kind of file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.handles import gdal_path, pool
from terrafuse.errors import RasterReadError

_LOOK_PX = 512


def peek(path: Path, bands: int) -> NDArray[Any] | None:
    """Values (bands, h, w) of the middle, up to 512 × 512 pixels.

    None where the file has fewer bands or cannot be read; who opens all files says so.
    """
    spec = gdal_path(str(path))
    pool.forget(spec)  # a handle from before the file was rewritten would show its old pixels
    try:
        with pool.borrow(spec) as dataset:
            if dataset.count < bands:
                return None
            height, width = min(_LOOK_PX, dataset.height), min(_LOOK_PX, dataset.width)
            row, col = (dataset.height - height) // 2, (dataset.width - width) // 2
            values: NDArray[Any] = dataset.read(
                list(range(1, bands + 1)), window=RasterWindow(col, row, width, height)
            )
    except (RasterReadError, RasterioError, OSError):
        return None
    return values
