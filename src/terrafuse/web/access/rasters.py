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

from terrafuse.data.handles import pool, without_warnings
from terrafuse.data.names import gdal_path
from terrafuse.data.raster_file import RasterFile, inspect_raster
from terrafuse.data.remote import OPENING
from terrafuse.errors import DataError, RasterReadError, cut, first_line

#: How files begin → driver of GDAL that reads one file and opens nothing else, neither files nor
#: addresses. Formats that are text, as VRT is, begin with none of these.
_SIGNATURES = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",  # BigTIFF
    b"MM\0+": "GTiff",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",  # a bare codestream
}
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
    """Check a file that somebody sent, before anything else opens it.

    Args:
        path: A regular file.
        name: As its owner calls it; messages name nothing else.
        limits: None: the usual ones.

    Raises:
        DataError: It is none of the known formats, too large, damaged, or lies nowhere.
    """
    with _named(path, name), rasterio.Env(**_ALONE):
        with _measured(path, name, limits or Limits()) as dataset:
            _probe(dataset, name)
        try:
            return inspect_raster(path, "upload", judge_alpha=False)
        finally:
            pool.forget(str(path))  # it will have another path, and then what lies beside it counts


def check_kind(path: Path, name: str, limits: Limits | None = None) -> None:
    """Check a file of the server that somebody names: its format and size, no pixel of it.

    A VRT could name any file of the machine, and a file of GDAL's drivers for services any address.

    Raises:
        DataError: It is none of the known formats, or too large.
    """
    with _measured(path, name, limits or Limits()):
        pass


def check_address(address: str, name: str, limits: Limits | None = None) -> None:
    """Check a raster of a web server like `check_kind`: a VRT there could name files here.

    Raises:
        DataError: It is none of the known formats, too large, or cannot be read.
    """
    for driver in dict.fromkeys(_SIGNATURES.values()):
        try:
            # Without a look for what lies beside it, in which GDAL lets no other thread run.
            with without_warnings(), rasterio.Env(**OPENING):
                dataset = rasterio.open(gdal_path(address), driver=driver)
        except RasterioError:
            continue
        with dataset:
            _check_size(dataset, name, limits or Limits())
        return
    raise RasterReadError(
        f"'{cut(name)}' cannot be read, or is none of the formats that are taken: {KINDS}. Check "
        "the address"
    )


@contextmanager
def _measured(path: Path, name: str, limits: Limits) -> Iterator[Any]:
    with _open(path, name) as dataset:
        _check_size(dataset, name, limits)
        yield dataset


def _open(path: Path, name: str) -> Any:
    """Open a file as what it begins like: nothing else, as a VRT, is even looked at."""
    with path.open("rb") as file:
        begin = file.read(16)
    driver = next((d for signature, d in _SIGNATURES.items() if begin.startswith(signature)), None)
    if driver is None:
        raise RasterReadError(
            f"'{cut(name)}' is none of the formats that are taken: {KINDS}. Convert it to one"
        )
    try:
        with without_warnings():
            return rasterio.open(path, driver=driver)
    except RasterioError as error:
        raise RasterReadError(
            f"'{cut(name)}' is damaged: it begins as a {driver} file, and cannot be opened as one. "
            "Check that it is complete, and send it again"
        ) from error


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
