"""Cloud-optimised GeoTIFFs from rows of pixels, without an uncompressed copy on disk.

Rows become compressed tiles as they come, and reduced rows the tiles of the overviews. Tiles wait
in a file beside the product; `assemble` puts directories before them, coarse overviews first, as
readers of remote files want it. GDAL compresses tiles and writes the tags of the full image; the
layout is the one of its COG driver, hints for readers included
(https://gdal.org/drivers/raster/cog.html).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from terrafuse.prediction import tiff

#: Side of a tile in pixels.
TILE = 512
# From this size on, offsets need 64 bits.
_MOST_CLASSIC = 2**32 - 2**20
_COPY = 2**22
# Without one, rasterio warns.
_ANYWHERE = Affine.scale(2)
_HINTS = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)

Reduction = Literal["mode", "average"]
Rows = NDArray[Any]


@dataclass(frozen=True)
class Encoding:
    """How the pixels of a product are stored.

    Args:
        dtype: Of the pixels.
        nodata: Value of pixels without data.
        reduction: How four pixels become one of the next overview.
        creation: Options of GDAL's GTiff driver: compression, predictor, level.
    """

    dtype: str
    nodata: float
    reduction: Reduction
    creation: Mapping[str, str]

    @property
    def profile(self) -> dict[str, Any]:
        """Arguments of `rasterio.open` for files of such tiles."""
        return {
            "driver": "GTiff", "count": 1, "dtype": self.dtype, "nodata": self.nodata,
            "tiled": True, "blockxsize": TILE, "blockysize": TILE, "endianness": "LITTLE",
            **self.creation,
        }  # fmt: skip

    def tiles(self, rows: Rows) -> list[bytes]:
        """Compressed tiles of one row of tiles, from left to right; `rows` is (h <= TILE, W)."""
        height, width = rows.shape
        with MemoryFile() as memory:
            with memory.open(
                width=width, height=height, transform=_ANYWHERE, **self.profile
            ) as dataset:
                dataset.write(rows, 1)
            file = memory.getbuffer()
            directory = tiff.read_directory(file)
            places = zip(
                directory[tiff.TILE_OFFSETS].numbers,
                directory[tiff.TILE_BYTE_COUNTS].numbers,
                strict=True,
            )
            return [bytes(file[at : at + size]) for at, size in places]

    def reduce(self, rows: Rows) -> Rows:
        """Halve both sides; what lies beyond an odd end has no data."""
        padding = [(0, length % 2) for length in rows.shape]
        if any(after for _, after in padding):
            rows = np.pad(rows, padding, constant_values=self.nodata)
        quarters = [rows[i::2, j::2] for i in (0, 1) for j in (0, 1)]
        halved = _mode if self.reduction == "mode" else _average
        reduced: Rows = halved(quarters, self.nodata)
        return reduced


def _mode(quarters: Sequence[Rows], nodata: float) -> Rows:
    """The most frequent value of each four, the first of equally frequent ones."""
    a, b, c, d = quarters
    pair = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    best = np.where((a == b) | (a == c) | (a == d), a, pair)
    empty = best == nodata
    if not empty.any():
        return best
    # Of four with two or three empty ones, the first that is not: others are equal, or as frequent.
    for quarter in (d, c, b, a):
        best = np.where(empty & (quarter != nodata), quarter, best)
    return best


def _average(quarters: Sequence[Rows], nodata: float) -> Rows:
    """The mean of those of each four that have data; halves go to the even number."""
    dtype = quarters[0].dtype
    wide = np.float64 if dtype.itemsize > 2 else np.float32
    known = [~np.isnan(q) if np.isnan(nodata) else q != nodata for q in quarters]
    total = np.zeros(quarters[0].shape, wide)
    count = np.zeros(quarters[0].shape, np.uint8)
    for quarter, has_data in zip(quarters, known, strict=True):
        np.add(total, quarter, out=total, where=has_data)
        count += has_data
    mean = total / np.maximum(count, 1)
    if dtype.kind in "iu":
        np.rint(mean, out=mean)
    mean[count == 0] = nodata
    reduced: Rows = mean.astype(dtype)
    return reduced


class Level:
    """One level of a pyramid: takes rows from the top, passes tiles on, and half of it to the next.

    Args:
        width: Of the level in pixels.
        encoding: How tiles are made.
        keep: Called with the tiles of each row of tiles.
        following: Takes the reduced rows.
    """

    def __init__(
        self,
        width: int,
        encoding: Encoding,
        keep: Callable[[list[bytes]], None],
        following: Level | None,
    ) -> None:
        self._encoding, self._keep, self._following = encoding, keep, following
        self._buffer = np.empty((TILE, width), encoding.dtype)
        self._filled = 0

    def write(self, rows: Rows) -> None:
        """The next rows (h, width)."""
        while len(rows):
            taken = min(len(rows), TILE - self._filled)
            self._buffer[self._filled : self._filled + taken] = rows[:taken]
            self._filled += taken
            rows = rows[taken:]
            if self._filled == TILE:
                self._flush()

    def finish(self) -> None:
        """Pass on what is left of this and the following levels."""
        if self._filled:
            self._flush()
        if self._following:
            self._following.finish()

    def _flush(self) -> None:
        rows = self._buffer[: self._filled]
        self._keep(self._encoding.tiles(rows))
        if self._following:
            self._following.write(self._encoding.reduce(rows))
        self._filled = 0


class TileFile:
    """Tiles of one level, in a file that grows.

    Args:
        path: The file; created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: list[int] = []
        self._file: IO[bytes] = path.open("wb")

    def add(self, tiles: Sequence[bytes]) -> None:
        """Append tiles, in the order of the level, each between its size and its last bytes."""
        for tile in tiles:
            self._file.write(struct.pack("<I", len(tile)) + tile + tile[-4:])
            self.sizes.append(len(tile))

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return sum(self.sizes) + 8 * len(self.sizes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Pyramid:
    """All levels of a raster, filled from top to bottom.

    Args:
        folder: Where tiles wait.
        height: Of the raster.
        width: Of the raster.
        encoding: Of its pixels.
    """

    def __init__(self, folder: Path, height: int, width: int, encoding: Encoding) -> None:
        self.encoding = encoding
        self.sizes = level_sizes(height, width)
        self.files = [TileFile(folder / f"level_{n}.tiles") for n in range(len(self.sizes))]
        following: Level | None = None
        for (_, own), file in reversed(list(zip(self.sizes, self.files, strict=True))):
            following = Level(own, encoding, file.add, following)
        assert following is not None
        self._first = following

    def write(self, rows: Rows) -> None:
        """The next rows of the full image (h, width)."""
        self._first.write(rows)

    def finish(self) -> None:
        """Pass on the last rows and close the files."""
        self._first.finish()
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of the image and its overviews, down to one that is a single tile."""
    sizes = [(height, width)]
    while max(sizes[-1]) > TILE:
        rows, cols = sizes[-1]
        sizes.append((-(-rows // 2), -(-cols // 2)))
    return sizes


def assemble(template: Path, pyramid: Pyramid, path: Path) -> None:
    """Write the finished raster.

    Args:
        template: Sparse GeoTIFF of the same size with all its tags, written with
            `pyramid.encoding.profile`.
        pyramid: The tiles, finished.
        path: The file to write.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        tags = tiff.read_directory(template.read_bytes())
    except (AssertionError, LookupError, struct.error) as error:  # GDAL does not report it
        raise OSError(f"{template.name} is not on disk as it was written (disk full?)") from error
    total = sum(file.total for file in pyramid.files)
    big = total + 32 * sum(len(file.sizes) for file in pyramid.files) > _MOST_CLASSIC
    length = len(_head(tags, pyramid, 0, big=big))
    head = _head(tags, pyramid, length, big=big)
    with path.open("wb") as out:
        out.write(head)
        for file in reversed(pyramid.files):
            with file.path.open("rb") as tiles:
                while piece := tiles.read(_COPY):
                    out.write(piece)
    if path.stat().st_size != length + total:
        raise OSError(f"{path.name} is not on disk as it was written (disk full?)")


def _head(tags: tiff.Directory, pyramid: Pyramid, start: int, *, big: bool) -> bytes:
    """Header, hints and directories, for tiles from `start` on."""
    kind = 16 if big else 4
    directories = []
    for (height, width), file in reversed(list(zip(pyramid.sizes, pyramid.files, strict=True))):
        offsets = start + 4 + np.cumsum([0, *(size + 8 for size in file.sizes[:-1])])
        start += file.total
        own = dict(tags)
        if file is not pyramid.files[0]:
            own = {tag: entry for tag, entry in tags.items() if tag in tiff.SHARED_TAGS}
            own[tiff.NEW_SUBFILE_TYPE] = tiff.Entry.of(1)
            own[tiff.IMAGE_WIDTH] = tiff.Entry.of(width)
            own[tiff.IMAGE_LENGTH] = tiff.Entry.of(height)
        own[tiff.TILE_OFFSETS] = tiff.Entry.of(*map(int, offsets), kind=kind)
        own[tiff.TILE_BYTE_COUNTS] = tiff.Entry.of(*file.sizes)
        directories.append(own)
    hints = f"GDAL_STRUCTURAL_METADATA_SIZE={len(_HINTS):06d} bytes\n{_HINTS}".encode("ascii")
    return tiff.write_directories(directories[::-1], big=big, after=hints)


def write_template(path: Path, height: int, width: int, profile: Mapping[str, Any]) -> Any:
    """Open a sparse GeoTIFF to be given its tags; the caller closes it.

    Args:
        path: The file to write.
        height: Of the raster.
        width: Of the raster.
        profile: `Encoding.profile`, and the georeference.
    """
    return rasterio.open(
        path, "w", height=height, width=width, sparse_ok=True, bigtiff="NO", **profile
    )
