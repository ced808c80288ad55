"""Rasters as the page reads them: as they lie on disk where they suit, else as copies.

A copy is a cloud-optimised GeoTIFF of what the scene reads, written strip by strip in constant
memory. Copies are kept in the hidden folder `.terrafuse/view` beside the manifest or the map, else
in the user's cache, and found again while the files that they are made of have not changed. The
folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data import Grid
from terrafuse.data.handles import without_warnings
from terrafuse.data.kept import FOLDER
from terrafuse.data.names import is_part
from terrafuse.data.raster_file import RasterFile
from terrafuse.errors import OutputError, RasterReadError, first_line
from terrafuse.prediction.cog import (
    TILE,
    UNIT,
    Block,
    BlockWriter,
    Encoding,
    assemble,
    level_sizes,
    write_template,
)
from terrafuse.progress import Progress
from terrafuse.samples import Window
from terrafuse.version import VERSION
from terrafuse.writing import written_whole

#: Rasters of at most this side need no overviews, and may be stored in strips.
SMALL = 1024
# A block that is read for one pixel must not be larger.
_LARGEST_BLOCK = 1024 * 1024
# What the page decodes.
_COMPRESSIONS = frozenset({"", "NONE", "LZW", "DEFLATE", "PACKBITS"})
_DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"})
_OFF = 0.01  # of a pixel of the scene
_FORMAT = 1
_CREATION = {"compress": "DEFLATE", "zlevel": "1"}
# Of buffers while a copy is written.
_MOST_BYTES = 1 << 28
# Copies that are kept, and for how long none of them is removed after its last use.
_MOST_KEPT_BYTES, _REST_SECONDS = 20 << 30, 86_400.0

Pixels = NDArray[Any]
#: Reads pixels (bands, h, w) of a window that lies within the raster.
Reader = Callable[[Window], Pixels]


@dataclass(frozen=True)
class Raster:
    """A raster that the page reads.

    Args:
        path: The file; of a copy that is not yet made, where it is going to be.
        pixels: Scene pixels (rows, columns) per pixel.
        height: Rows.
        width: Columns.
        make: Writes it; None: it is there.
    """

    path: Path
    height: int
    width: int
    pixels: tuple[float, float] = (1.0, 1.0)
    make: Callable[[Progress | None], None] | None = field(default=None, compare=False)

    @property
    def is_there(self) -> bool:
        """Whether it can be read."""
        return self.make is None or self.path.exists()

    @property
    def area(self) -> int:
        """Pixels that making it takes."""
        return self.height * self.width

    def prepare(self, progress: Progress | None = None) -> None:
        """Write it, unless it is there.

        Raises:
            RasterReadError: What it is made of cannot be read.
            OutputError: It cannot be written.
        """
        if self.make is None:
            return
        if not self.path.exists():
            self.make(progress)
        with suppress(OSError):
            os.utime(self.path)  # the last ones used stay


class Store:
    """Copies of rasters in a folder.

    Args:
        beside: Folders beside which copies may be kept; the first that can be written is taken.
    """

    def __init__(self, *beside: Path) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._candidates = [
            *(folder.absolute() / FOLDER / "view" for folder in beside),
            Path(home) / "terrafuse" / "view",
        ]
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder, created.

        Raises:
            OutputError: None of the candidates can be written.
        """
        if self._folder is None:
            self._folder = next((f for f in self._candidates if _can_write(f)), None)
        if self._folder is None:
            raise OutputError(
                f"'{self._candidates[0]}' cannot be written, nor can "
                f"'{self._candidates[-1]}'. Name another cache with XDG_CACHE_HOME"
            )
        return self._folder

    def copy(
        self,
        kind: str,
        about: object,
        grid: Grid,
        encoding: Encoding,
        reading: Callable[[], AbstractContextManager[Reader]],
        *,
        names: Sequence[str] = (),
        pixels: tuple[float, float] = (1.0, 1.0),
    ) -> Raster:
        """A copy, which is made when it is first needed.

        Args:
            kind: Word in the name of its file.
            about: All that its pixels depend on.
            grid: Of the copy.
            encoding: Of its pixels.
            reading: Opens what reads the pixels, once the copy is made.
            names: Of the bands.
            pixels: Scene pixels per pixel.
        """
        digest = hashlib.sha256(repr((_FORMAT, VERSION, about)).encode(errors="surrogateescape"))
        path = self.folder / f"{kind}-{digest.hexdigest()[:24]}.tif"

        def make(progress: Progress | None) -> None:
            with reading() as read:
                write_copy(path, grid, encoding, read, names=names, progress=progress)
            thin_out(path.parent)

        return Raster(path, grid.height, grid.width, pixels, make)


def float_encoding(bands: int) -> Encoding:
    """Physical values; NaN = no data."""
    return Encoding("float32", nan, "average", {**_CREATION, "predictor": "3"}, bands)


def byte_encoding(bands: int) -> Encoding:
    """Bytes as they are, in two bytes each, so that there is a value for no data."""
    return Encoding("uint16", 65535, "average", {**_CREATION, "predictor": "2"}, bands)


def class_encoding(nodata: int) -> Encoding:
    """Values of classes, of which overviews have the most frequent one."""
    return Encoding("uint8", nodata, "mode", {**_CREATION, "predictor": "1"})


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignored = folder.parent / ".gitignore"
        if folder.parent.name == FOLDER and not ignored.exists():
            ignored.write_text("*\n", encoding="utf-8")
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def thin_out(folder: Path, most: int = _MOST_KEPT_BYTES, now: float | None = None) -> None:
    """Remove copies that were not used for the longest time, where there are too many bytes."""
    about = []
    for path in folder.glob("*.tif"):
        with suppress(OSError):  # another process removed it
            status = path.stat()
            about.append((status.st_mtime, status.st_size, path))
    size = 0
    for used, own, path in sorted(about, reverse=True):
        size += own
        if size > most and used < (now or time.time()) - _REST_SECONDS:
            path.unlink(missing_ok=True)


def suits(file: RasterFile, grid: Grid) -> Raster | None:
    """A raster as it lies on disk, if the page can read it there on a scene's grid; else None.

    It is a GeoTIFF on this disk that covers the grid from its first pixel on with axes along its,
    in tiles with overviews by halves within the file, unless it is small; without masks.
    """
    if is_part(file.path) or any(file.hides) or file.unplaced or file.grid.crs != grid.crs:
        return None
    path = Path(file.path)
    ratio = _aligned(file.grid, grid)
    if ratio is None or not path.is_file():
        return None
    try:
        with without_warnings(), rasterio.open(path) as dataset:
            fits = _is_readable(dataset) and not path.with_name(f"{path.name}.ovr").exists()
    except rasterio.errors.RasterioError:
        return None
    return Raster(path, file.grid.height, file.grid.width, ratio) if fits else None


def _aligned(own: Grid, grid: Grid) -> tuple[float, float] | None:
    """Scene pixels per pixel, where a raster begins and ends with the grid."""
    to_scene = ~grid.transform * own.transform
    if to_scene.a <= 0 or to_scene.e <= 0:
        return None
    far = max(abs(to_scene.b) * own.height, abs(to_scene.d) * own.width)
    if max(abs(to_scene.c), abs(to_scene.f), far) > _OFF:
        return None
    ratio = tuple(float(v) for v in (to_scene.e, to_scene.a))
    rows, cols = (
        round(v) if abs(v - round(v)) * n <= _OFF else v
        for v, n in zip(ratio, (own.height, own.width), strict=True)
    )
    lacks = abs(own.height * rows - grid.height), abs(own.width * cols - grid.width)
    return (rows, cols) if lacks[0] <= rows - 1 + _OFF and lacks[1] <= cols - 1 + _OFF else None


def _is_readable(dataset: Any) -> bool:
    if dataset.driver != "GTiff" or dataset.subdatasets:
        return False
    stored = dataset.tags(ns="IMAGE_STRUCTURE")
    bands = [dataset.tags(b, ns="IMAGE_STRUCTURE") for b in dataset.indexes]
    side = max(dataset.height, dataset.width)
    halves = len(dataset.overviews(1))
    rows, cols = dataset.block_shapes[0]
    return (
        stored.get("COMPRESSION", "").upper() in _COMPRESSIONS
        and not any("NBITS" in tags for tags in (stored, *bands))
        and len(set(dataset.dtypes)) == 1
        and dataset.dtypes[0] in _DTYPES
        and len(set(map(str, dataset.nodatavals))) == 1  # NaN differs from itself
        and (side <= SMALL or (rows * cols <= _LARGEST_BLOCK and rows > 1))
        and side / 2**halves <= SMALL
        and all(_is_half(dataset, level) for level in range(halves))
    )


def _is_half(dataset: Any, level: int) -> bool:
    """Whether an overview has the size of a raster halved so often; GDAL rounds the factor."""
    step = 2 ** (level + 1)
    with rasterio.open(dataset.name, OVERVIEW_LEVEL=level) as overview:
        sizes = (overview.height, overview.width)
    return bool(sizes == (-(-dataset.height // step), -(-dataset.width // step)))


def write_copy(
    path: Path,
    grid: Grid,
    encoding: Encoding,
    read: Reader,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
) -> None:
    """Write a cloud-optimised GeoTIFF, block by block.

    Args:
        path: Appears once it is whole.
        grid: Of the raster.
        encoding: Of its pixels.
        read: Gives pixels of windows of at most 512 rows, from top to bottom within a block.
        names: Of the bands.
        progress: Called with (pixels done, pixels in all).

    Raises:
        OutputError: It cannot be written.
    """
    height, width = grid.height, grid.width
    levels = len(level_sizes(height, width))
    per_column = 2 * encoding.bands * np.dtype(encoding.dtype).itemsize * TILE
    block_width = max(UNIT, _MOST_BYTES // per_column // UNIT * UNIT)
    done = 0
    with written_whole(path) as (partial,):
        rows: list[list[Block]] = []
        for row in range(0, height, UNIT):
            rows.append([])
            for col in range(0, width, block_width):
                window = Window(row, col, min(UNIT, height - row), min(block_width, width - col))
                writer = BlockWriter(window.width, levels, encoding)
                for top in range(row, window.row_stop, TILE):
                    part = Window(top, col, min(TILE, window.row_stop - top), window.width)
                    writer.write(read(part))
                    done += part.height * part.width
                    if progress:
                        progress(done, height * width)
                file = partial.with_name(f"{row}-{col}.block")
                writer.save(file)
                rows[-1].append(Block(file, window))
        place = {"crs": grid.crs, "transform": grid.transform}
        with (
            without_warnings(),
            write_template(partial, height, width, {**encoding.profile, **place}) as template,
        ):
            if names:
                template.descriptions = tuple(names)
        assemble(partial, rows, encoding, partial)


def read_small(path: Path, most: int, nodata: float | None = None) -> tuple[Pixels, Pixels]:
    """All bands of a raster in at most so many pixels a side, from its overviews.

    Args:
        path: The raster.
        most: Pixels.
        nodata: Stored value that is no data; None: that of the file.

    Returns:
        Stored values (C, h, w), and whether they are data, bool (C, h, w).
    """
    with without_warnings(), rasterio.open(path) as dataset:
        step = 1
        while -(-max(dataset.height, dataset.width) // step) > most:
            step *= 2
        shape = (-(-dataset.height // step), -(-dataset.width // step))
        values: Pixels = dataset.read(out_shape=(dataset.count, *shape))
        return values, known_pixels(values, _tags(dataset, nodata))


def read_window(
    path: Path, window: Window, shape: tuple[int, int], nodata: float | None = None
) -> tuple[Pixels, Pixels]:
    """A window of a raster in so many pixels, as `read_small`."""
    with without_warnings(), rasterio.open(path) as dataset:
        values: Pixels = dataset.read(
            window=raster_window(window), out_shape=(dataset.count, *shape)
        )
        return values, known_pixels(values, _tags(dataset, nodata))


def raster_window(window: Window) -> RasterWindow:
    """A window as rasterio has it."""
    return RasterWindow(window.col, window.row, window.width, window.height)


def _tags(dataset: Any, nodata: float | None) -> Sequence[float | None]:
    found: Sequence[float | None] = dataset.nodatavals
    return found if nodata is None else [nodata] * dataset.count


def known_pixels(values: Pixels, nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Tell which stored values (C, h, w) are data."""
    known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    for band, none in enumerate(nodata):
        if none is not None and not isnan(none):
            known[band] &= values[band] != none
    return known


@contextmanager
def told_damage(path: Path) -> Iterator[None]:
    """Say of a raster that GDAL cannot read which one it is.

    Raises:
        RasterReadError: It cannot be read.
    """
    try:
        yield
    except RasterioError as error:
        raise RasterReadError(
            f"'{path}' cannot be decoded: {first_line(error.__cause__ or error)}. The file is "
            "damaged or incomplete: fetch it again"
        ) from error
