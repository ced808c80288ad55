"""Rasters from strangers: opened only as what they are said to be, and measured before read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from terrafuse.data.raster_file import RasterFile, inspect_raster
from terrafuse.errors import DataError, RasterReadError, cut, first_line

#: Drivers of GDAL that read one file and open nothing else, neither files nor addresses: no VRT.
DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG")
KINDS = "GeoTIFF (COG), PNG, JPEG, JPEG 2000"
#: Formats that are decoded window by window; of others the whole image may be in memory.
_BY_BLOCKS = ("GTiff",)
#: GDAL looks at no file beside the raster.
_ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
_PROBE = 64


@dataclass(frozen=True)
class Limits:
    """Sizes that are read.

    Args:
        samples: Pixels × bands.
        whole: Likewise, of formats that decode all of it at once, and of one block of the others.
        bands: Of a raster.
    """

    samples: int = 40_000_000_000
    whole: int = 500_000_000
    bands: int = 2048


def check_raster(path: Path, name: str, limits: Limits | None = None) -> RasterFile:
    """Check a file that somebody sent or named, before anything else opens it.

    Args:
        path: A regular file.
        name: As its owner calls it; messages name nothing else.
        limits: None: the usual ones.

    Raises:
        DataError: It is none of the known formats, too large, damaged, or lies nowhere.
    """
    limits = limits or Limits()
    with _named(path, name), rasterio.Env(**_ALONE):
        try:
            # Recognised by these drivers only: a VRT or a file of addresses is not even looked at.
            dataset = rasterio.open(path, driver=list(DRIVERS))
        except RasterioError as error:
            raise RasterReadError(
                f"'{cut(name)}' cannot be read: {KINDS} are taken, and it is none of these, or "
                "damaged. Send one of these"
            ) from error
        with dataset:
            _check_size(dataset, name, limits)
            _probe(dataset, name)
        return inspect_raster(path, "upload", judge_alpha=False)


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Say the owner's name of the file instead of its place on the server."""
    try:
        yield
    except DataError as error:
        text = str(error).replace(f"upload: '{path}'", f"'{cut(name)}'").replace(str(path), name)
        raise type(error)(text) from error


def _check_size(dataset: Any, name: str, limits: Limits) -> None:
    size = f"{dataset.height} × {dataset.width} pixels × {dataset.count} bands"
    samples = dataset.height * dataset.width * dataset.count
    if dataset.count > limits.bands:
        raise DataError(f"'{cut(name)}' has {dataset.count} bands; send at most {limits.bands}")
    if samples > limits.samples:
        raise DataError(
            f"'{cut(name)}' declares {size}, and {limits.samples:,} values are allowed. Cut it "
            "into parts"
        )
    if dataset.driver not in _BY_BLOCKS:
        if samples > limits.whole:
            raise DataError(
                f"'{cut(name)}' declares {size}, and {limits.whole:,} values are allowed of "
                "formats that are decoded as a whole. Convert it to a tiled GeoTIFF "
                "(gdal_translate -of COG)"
            )
        return
    together = dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
    largest = max((h * w * together for h, w in dataset.block_shapes), default=0)
    if largest > limits.whole:
        raise DataError(
            f"'{cut(name)}' has blocks of {largest:,} values, and {limits.whole:,} are allowed. "
            "Convert it to a tiled GeoTIFF (gdal_translate -of COG)"
        )


def _probe(dataset: Any, name: str) -> None:
    """Decode the first and the last pixels: a file that was cut off ends before them."""
    height, width = min(_PROBE, dataset.height), min(_PROBE, dataset.width)
    for row, col in ((0, 0), (dataset.height - height, dataset.width - width)):
        try:
            dataset.read(1, window=Window(col, row, width, height))
        except (RasterioError, MemoryError) as error:
            raise RasterReadError(
                f"'{cut(name)}' is damaged: its pixels at row {row}, column {col} cannot be "
                f"decoded ({cut(first_line(error))}). Check that it is complete, and send it again"
            ) from error
