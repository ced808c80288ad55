"""Generated rasters on disk with all their accompanying files, whole or not at all."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio._err import CPLE_BaseError  # raised for failures inside GDAL
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.encoding import color_table
from terrafuse.data.grid import Grid
from terrafuse.data.handles import pool, without_warnings
from terrafuse.data.names import gdal_path
from terrafuse.errors import RasterReadError
from terrafuse.generate.photos import Picture

RECORD_TAG = "TERRAFUSE_RECORD"
_BLOCK = 256
_GUTTER_PX = 8


@dataclass(frozen=True)
class RasterFiles:
    """Paths of a generated raster (GeoTIFF) and the files beside it."""

    raster: Path

    @property
    def record(self) -> Path:
        """Record of its photo, settings and result, JSON."""
        return self.raster.with_suffix(".json")

    @property
    def preview(self) -> Path:
        """Photo and result side by side, PNG."""
        return self.raster.with_suffix(".png")

    @property
    def colors(self) -> Path:
        """Mean colour per segment, uint8 (segments + 1, 3)."""
        return color_table(self.raster)

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is written."""
        return self.raster, self.record, self.preview, self.colors

    @property
    def partial(self) -> Path:
        """Folder of finished windows until the raster is complete."""
        return self.raster.with_suffix(".partial")

    def read_record(self) -> dict[str, Any] | None:
        """Read the record in the raster; None without a raster, or if it is not terrafuse's."""
        if not self.raster.exists():
            return None
        pool.forget(gdal_path(str(self.raster)))
        try:
            with pool.borrow(str(self.raster)) as dataset:
                found = json.loads(dataset.tags()[RECORD_TAG])
        except (RasterReadError, KeyError, ValueError):
            return None
        return found if isinstance(found, dict) else None


class RasterWriter:
    """Writer of a tiled one-band GeoTIFF that is filled from top to bottom.

    Blocks are written once, when all their rows have arrived: their bytes do not depend on how the
    rows arrive.

    Args:
        nodata: Value of pixels without data.
    """

    def __init__(self, path: Path, grid: Grid, dtype: str, nodata: float) -> None:
        self.path, self.grid = path, grid
        self._row, self._crc = 0, 0
        self._waiting: list[NDArray[Any]] = []
        with _failures(), without_warnings():
            self._dataset: Any = rasterio.open(
                path, "w", driver="GTiff", height=grid.height, width=grid.width, count=1,
                dtype=dtype, crs=grid.crs, transform=grid.transform, nodata=nodata, tiled=True,
                blockxsize=_BLOCK, blockysize=_BLOCK, compress="deflate",
                predictor=3 if dtype == "float32" else 2, bigtiff="IF_SAFER",
            )  # fmt: skip

    def write(self, rows: NDArray[Any]) -> None:
        """Write the next rows (n, width)."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _BLOCK:
            rows = np.concatenate(self._waiting)
            whole = len(rows) // _BLOCK * _BLOCK
            self._flush(rows[:whole])
            self._waiting = [rows[whole:].copy()]

    def finish(self, tags: Mapping[str, str], *, smooth: bool) -> None:
        """Complete the file, verify it on disk, and add overviews.

        Args:
            smooth: True: values are continuous and may be averaged in overviews.
        """
        if self._waiting and len(self._waiting[-1]):
            self._flush(np.concatenate(self._waiting))
        assert self._row == self.grid.height, (self._row, self.grid.height)
        with _failures(), without_warnings():
            self._dataset.update_tags(**tags)
            self._dataset.close()
            # GDAL writes the last kilobytes on closing and does not report failures.
            if self._read_crc() != self._crc:
                raise OSError(f"{self.path.name} is not on disk as it was written (disk full?)")
            self._add_overviews(Resampling.average if smooth else Resampling.nearest)

    def close(self) -> None:
        """Discard what was not finished."""
        self._dataset.close()

    def _flush(self, rows: NDArray[Any]) -> None:
        with _failures():
            box = RasterWindow(0, self._row, self.grid.width, len(rows))
            self._dataset.write(rows, 1, window=box)
        self._crc = zlib.crc32(np.ascontiguousarray(rows).data, self._crc)
        self._row += len(rows)

    def _read_crc(self) -> int:
        crc = 0
        with rasterio.open(self.path) as dataset:
            for row in range(0, dataset.height, _BLOCK):
                height = min(_BLOCK, dataset.height - row)
                rows = dataset.read(1, window=RasterWindow(0, row, dataset.width, height))
                crc = zlib.crc32(rows, crc)
        return crc

    def _add_overviews(self, resampling: Resampling) -> None:
        longest, factors = max(self.grid.height, self.grid.width), [2]
        while longest // factors[-1] > _BLOCK:
            factors.append(2 * factors[-1])
        if longest > 2 * _BLOCK:
            with rasterio.open(self.path, "r+") as dataset:
                dataset.build_overviews(factors, resampling)


def save_preview(path: Path, photo: Picture, made: Picture) -> None:
    """Save two pictures (h, w, 3) of equal height side by side, as PNG."""
    gutter = np.full((len(photo), _GUTTER_PX, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([photo, gutter, made], axis=1)).save(path, format="PNG")


#: Values (1, h, w) → picture (h, w, 3).
Preview = Callable[[NDArray[np.float32]], Picture]


@contextmanager
def _failures() -> Iterator[None]:
    """Report GDAL failures as OSError; rasterio raises SystemError if GDAL gives no reason."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, SystemError) as error:
        raise OSError(str(error)) from error
