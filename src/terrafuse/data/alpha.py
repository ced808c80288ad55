"""Alpha bands that hold data: near infrared, say, as the fourth band of a PNG or TIFF.

Formats with four bands call the last one alpha, and so do many writers whatever it shows. Opacity
is full nearly everywhere it is not 0, apart from softened edges and seams; few pixels of an image
are as bright as its brightest.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.handles import gdal_path, is_remote, pool
from terrafuse.errors import RasterReadError

# Of the pixels above 0, those within 3 % of the largest value: 80 % of a mask with soft edges, a
# third of one that is feathered over a fifth of its side; of near infrared, mostly less than 5 %.
_FULL, _SHARE = 0.97, 0.3
# Larger rasters are judged by an overview, else by windows spread over them.
_WHOLE_PIXELS = 1 << 20
_SMALL_SIDE = 512
_SIDE, _PER_AXIS = 256, 4


def alpha_holds_data(path: str, band: int) -> bool:
    """Whether less than 30 % of an alpha band's pixels above 0 have its largest value, or nearly.

    Costs at most 2²⁰ pixels, and of a file elsewhere one overview or one window in its middle. A
    band that cannot be read is opacity: reading it for its own sake tells why.

    Args:
        path: The file.
        band: 1-based number.
    """
    if is_remote(path):
        return _judge(path, band, None)
    try:
        about = Path(path).stat()
    except OSError:
        return False
    return _judge(path, band, (about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=4096)
def _judge(path: str, band: int, stamp: tuple[int, int] | None) -> bool:
    """The answer for a file; `stamp` tells a new one of the same name."""
    try:
        with pool.borrow(gdal_path(path)) as dataset:
            values = _sample(dataset, band, 1 if stamp is None else _PER_AXIS)
    except (RasterReadError, RasterioError, OSError):
        return False
    shown = values[values > 0]
    if not shown.size:
        return False
    return bool((shown >= _FULL * shown.max()).mean() < _SHARE)


def _sample(dataset: Any, band: int, per_axis: int) -> NDArray[Any]:
    """Values (n,) that stand for a band."""
    height, width = dataset.shape
    if per_axis > 1 and height * width <= _WHOLE_PIXELS:
        return np.ravel(dataset.read(band))
    if dataset.overviews(band):
        step = max(height, width) / _SMALL_SIDE
        shape = max(1, round(height / step)), max(1, round(width / step))
        return np.ravel(dataset.read(band, out_shape=shape))
    side = min(_SIDE, height), min(_SIDE, width)
    rows, cols = (
        np.linspace(0, n - s, per_axis + 2)[1:-1].astype(int)
        for n, s in zip((height, width), side, strict=True)
    )
    windows = [RasterWindow(int(c), int(r), side[1], side[0]) for r in rows for c in cols]
    return np.concatenate([np.ravel(dataset.read(band, window=window)) for window in windows])
