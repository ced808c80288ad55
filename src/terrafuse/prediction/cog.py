"""Cloud-optimised GeoTIFFs from rows of pixels, without an uncompressed copy on disk.

A raster is made of blocks, rectangles that are whole tiles on `OWN_LEVELS` levels. The rows of a
block become compressed tiles as they come, and reduced rows the tiles of overviews; the level after
them is kept as pixels. `assemble` makes the coarser overviews of these, and puts directories and
tiles into one file, coarse overviews first, as readers of remote files want it. GDAL compresses
tiles and writes the tags of the full image; the layout is the one of its COG driver, hints for
readers included (https://gdal.org/drivers/raster/cog.html).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from safetensors import safe_open
from safetensors.numpy import save_file

from terrafuse.prediction import tiff
from terrafuse.samples import Window

#: Side of a tile in pixels.
TILE = 512
#: Levels whose tiles a block holds.
OWN_LEVELS = 3
#: Edges of blocks are multiples of this many pixels, or the end of the raster.
UNIT = TILE * 2 ** (OWN_LEVELS - 1)
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
        bands: Their number. Each has tiles of its own, so that one can be read without the others.
    """

    dtype: str
    nodata: float
    reduction: Reduction
    creation: Mapping[str, str]
    bands: int = 1

    @property
    def profile(self) -> dict[str, Any]:
        """Arguments of `rasterio.open` for the whole raster."""
        if self.bands == 1:
            return self._of_a_band
        # Three or four bands of bytes would be taken for colours.
        apart = {"count": self.bands, "interleave": "band", "photometric": "MINISBLACK"}
        return self._of_a_band | apart

    @property
    def _of_a_band(self) -> dict[str, Any]:
        return {
            "driver": "GTiff", "count": 1, "dtype": self.dtype, "nodata": self.nodata,
            "tiled": True, "blockxsize": TILE, "blockysize": TILE, "endianness": "LITTLE",
            **self.creation,
        }  # fmt: skip

    def tiles(self, rows: Rows) -> list[bytes]:
        """Compressed tiles of a band's row of tiles, from left to right; `rows`: (h <= TILE, W)."""
        height, width = rows.shape
        with MemoryFile() as memory:
            with memory.open(
                width=width, height=height, transform=_ANYWHERE, **self._of_a_band
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
        quarters = [np.ascontiguousarray(rows[i::2, j::2]) for i in (0, 1) for j in (0, 1)]
        halved = _mode if self.reduction == "mode" else _average
        reduced: Rows = halved(quarters, self.nodata)
        return reduced


def _mode(quarters: Sequence[Rows], nodata: float) -> Rows:
    """The most frequent value of each four, the first of equally frequent ones."""
    a, b, c, d = quarters
    best = _choose(c == d, c, a)
    best = _choose((b == c) | (b == d), b, best)
    best = _choose((a == b) | (a == c) | (a == d), a, best)
    empty = best == nodata
    if not empty.any():
        return best
    # Of four with two or three empty ones, the first that is not: others are equal, or as frequent.
    for quarter in (d, c, b, a):
        best = np.where(empty & (quarter != nodata), quarter, best)
    return best


def _choose(mask: NDArray[np.bool_], x: Rows, y: Rows) -> Rows:
    """As `np.where`, of bytes in a third of its time."""
    if x.dtype != np.uint8:
        return np.where(mask, x, y)
    chosen: Rows = y ^ ((x ^ y) & -mask.view(np.uint8))
    return chosen


def _average(quarters: Sequence[Rows], nodata: float) -> Rows:
    """The mean of those of each four that have data; halves go to the even number."""
    dtype = quarters[0].dtype
    if dtype == np.uint8 and not any((quarter == nodata).any() for quarter in quarters):
        return _average_bytes(quarters)
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


def _average_bytes(quarters: Sequence[Rows]) -> Rows:
    """The mean of four bytes that all have data, likewise."""
    total = quarters[0].astype(np.uint16)
    for quarter in quarters[1:]:
        total += quarter
    # 2 would round halves up; 1 rounds them down, and is enough where the result is even.
    total += 1 + ((total >> 2) & 1)
    return (total >> 2).astype(np.uint8)


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
        following: Level | Rest | None,
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


class BlockWriter:
    """Writer of a block, from top to bottom.

    Args:
        width: Of the block in pixels.
        levels: Of the whole raster, the image itself included.
        encoding: Of its pixels.
    """

    def __init__(self, width: int, levels: int, encoding: Encoding) -> None:
        self._bands = [_BandWriter(width, levels, encoding) for _ in range(encoding.bands)]

    def write(self, rows: Rows) -> None:
        """The next rows (h, width), or (bands, h, width)."""
        for band, own in zip(self._bands, rows if rows.ndim == 3 else rows[None], strict=True):
            band.write(own)

    def save(self, path: Path) -> None:
        """Finish the block, and write it where `Block` reads it."""
        save_file(self.finish(), path)

    def finish(self) -> dict[str, NDArray[Any]]:
        """Return the block, in the form that `Block` reads from a safetensors file."""
        found = (band.finish() for band in self._bands)
        return {_key(name, i): x for i, own in enumerate(found) for name, x in own.items()}


def empty_block(
    height: int, width: int, levels: int, encoding: Encoding
) -> dict[str, NDArray[Any]]:
    """Return a block without data, as `BlockWriter.finish` does.

    Args:
        height: Of the block in pixels.
        width: Of the block in pixels.
        levels: Of the whole raster.
        encoding: Of its pixels.
    """
    writer = BlockWriter(width, levels, encoding)
    nothing = np.full((1, 1, 1), encoding.nodata, encoding.dtype)
    for row in range(0, height, TILE):
        rows = min(TILE, height - row)
        writer.write(np.broadcast_to(nothing, (encoding.bands, rows, width)))
    return writer.finish()


class _BandWriter:
    """Writer of one band of a block."""

    def __init__(self, width: int, levels: int, encoding: Encoding) -> None:
        self._tiles: list[list[bytes]] = [[] for _ in range(min(levels, OWN_LEVELS))]
        self._rest: list[Rows] = []
        widths = [width]
        for _ in self._tiles:
            widths.append(-(-widths[-1] // 2))
        following: Level | Rest | None = None
        if levels > OWN_LEVELS:
            following = Rest(self._rest)
        for own, tiles in zip(widths[-2::-1], reversed(self._tiles), strict=True):
            following = Level(own, encoding, tiles.extend, following)
        assert isinstance(following, Level)
        self._first = following

    def write(self, rows: Rows) -> None:
        self._first.write(rows)

    def finish(self) -> dict[str, NDArray[Any]]:
        self._first.finish()
        found: dict[str, NDArray[Any]] = {}
        for level, tiles in enumerate(self._tiles):
            found[f"sizes_{level}"] = np.array([len(tile) for tile in tiles], np.int64)
            found[f"tiles_{level}"] = np.frombuffer(b"".join(map(_framed, tiles)), np.uint8)
        if self._rest:
            found["rest"] = np.concatenate(self._rest)
        return found


def _key(name: str, band: int) -> str:
    """Name of a band's array in a block's file."""
    return f"{name}@{band}" if band else name


def _framed(tile: bytes) -> bytes:
    """A tile between its size and its last bytes, as hinted."""
    return struct.pack("<I", len(tile)) + tile + tile[-4:]


class Rest:
    """End of a block's levels: keeps the rows.

    Args:
        rows: List to which they are added.
    """

    def __init__(self, rows: list[Rows]) -> None:
        self._rows = rows

    def write(self, rows: Rows) -> None:
        """The next rows."""
        self._rows.append(rows)

    def finish(self) -> None:
        """Nothing is left."""


class Block:
    """A finished block on disk.

    Args:
        path: A safetensors file of what `BlockWriter.finish` returned.
        window: Its place in the raster.
    """

    def __init__(self, path: Path, window: Window) -> None:
        #: Its place, or that of the part of it that is read.
        self.window = window
        self._path = path
        self._whole = window
        with safe_open(path, framework="numpy") as file:
            sizes = [name for name in set(file.keys()) if name.startswith("sizes_")]
            self._sizes = {name: file.get_tensor(name) for name in sizes}

    def part(self, window: Window) -> Block:
        """Return the part of it in a window, whose edges are multiples of `UNIT`, or its own."""
        found = copy(self)
        found.window = window
        return found

    def sizes(self, level: int, band: int = 0) -> NDArray[np.int64]:
        """Bytes of each tile of a band's level (rows, columns)."""
        return self._all_sizes(level, band)[self._range(TILE << level)]

    def tiles(self, level: int, band: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of each row of a band's tiles, framed."""
        framed = self._all_sizes(level, band) + 8
        own = self._range(TILE << level)
        stops = np.cumsum(framed).reshape(framed.shape)[own]
        starts = stops - framed[own]
        with safe_open(self._path, framework="numpy") as file:
            # Only the part that is asked for is read.
            kept = file.get_slice(_key(f"tiles_{level}", band))
            for start, stop in zip(starts[:, 0], stops[:, -1], strict=True):
                yield kept[int(start) : int(stop)]

    def rest(self, band: int = 0) -> Rows:
        """Pixels of a band's first level of which it holds no tiles."""
        with safe_open(self._path, framework="numpy") as file:
            pixels: Rows = file.get_tensor(_key("rest", band))[self._range(1 << OWN_LEVELS)]
            return pixels

    def _all_sizes(self, level: int, band: int) -> NDArray[np.int64]:
        sizes: NDArray[np.int64] = self._sizes[_key(f"sizes_{level}", band)]
        return sizes.reshape(-1, -(-self._whole.width // (TILE << level)))

    def _range(self, step: int) -> tuple[slice, slice]:
        """Rows and columns of the part, in squares of so many pixels of the whole block."""
        row, col = self.window.row - self._whole.row, self.window.col - self._whole.col
        stop, end = row + self.window.height, col + self.window.width
        return slice(row // step, -(-stop // step)), slice(col // step, -(-end // step))


def cut_blocks(blocks: Sequence[Sequence[Block]], window: Window) -> list[list[Block]]:
    """Return the blocks of a part of the raster, whose edges are multiples of `UNIT`, or its own.

    Args:
        blocks: Rows of blocks, from the top, each from left to right.
        window: The part.
    """
    found = []
    for row in blocks:
        if row[0].window.row < window.row_stop and window.row < row[0].window.row_stop:
            shared = ((block, block.window.intersection(window)) for block in row)
            found.append([block.part(own) for block, own in shared if own is not None])
    return found


class TileFile:
    """Tiles of a coarse level, in a file that grows.

    Args:
        path: The file; created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: list[int] = []
        self._file: IO[bytes] = path.open("wb")

    def add(self, tiles: Sequence[bytes]) -> None:
        """Append tiles, in the order of the level."""
        self._file.writelines(map(_framed, tiles))
        self.sizes += map(len, tiles)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield its content."""
        with self.path.open("rb") as tiles:
            while piece := tiles.read(_COPY):
                yield piece


def level_sizes(height: int, width: int, least: int = 1) -> list[tuple[int, int]]:
    """Height and width of the image and its overviews, down to one that is a single tile.

    Args:
        least: Number of levels that there are in any case.
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > TILE or len(sizes) < least:
        rows, cols = sizes[-1]
        sizes.append((-(-rows // 2), -(-cols // 2)))
    return sizes


def assemble(
    template: Path,
    blocks: Sequence[Sequence[Block]],
    encoding: Encoding,
    path: Path,
    *,
    first: int = 0,
    least: int = 1,
) -> None:
    """Write the finished raster, or a file of its overviews.

    Args:
        template: Sparse GeoTIFF of the same size with all its tags, written with
            `encoding.profile`; it may have the path of the result.
        blocks: Rows of blocks, from the top, each from left to right.
        encoding: Of the pixels.
        path: The file to write; coarse tiles wait beside it.
        first: Level to begin with; above 0 the file holds overviews only, as GDAL wants those
            beside a raster.
        least: As in `level_sizes`.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        tags = tiff.read_directory(template.read_bytes())
    except (AssertionError, LookupError, struct.error) as error:  # GDAL does not report it
        raise OSError(f"{template.name} is not on disk as it was written (disk full?)") from error
    height, width = (tags[tag].numbers[0] for tag in (tiff.IMAGE_LENGTH, tiff.IMAGE_WIDTH))
    sizes, bands = level_sizes(height, width, least), range(encoding.bands)
    coarse = [_coarse_levels(sizes, blocks, encoding, path, band) for band in bands]
    lengths = [
        np.concatenate(
            [
                np.hstack([b.sizes(level, band) for b in row]).ravel()
                for band in bands
                for row in blocks
            ]
        )
        for level in range(first, min(OWN_LEVELS, len(sizes)))
    ] + [
        np.concatenate([np.array(file.sizes) for file in files])
        for files in zip(*coarse, strict=True)
    ]
    sizes = sizes[first:]
    total = sum(int(own.sum()) + 8 * own.size for own in lengths)
    big = total + 32 * sum(own.size for own in lengths) > _MOST_CLASSIC
    start = len(_head(tags, sizes, lengths, 0, big=big, is_whole=not first))
    with path.open("wb") as out:
        out.write(_head(tags, sizes, lengths, start, big=big, is_whole=not first))
        for files in reversed(list(zip(*coarse, strict=True))):
            for file in files:
                out.writelines(file.pieces())
                file.path.unlink()
        for level in reversed(range(first, first + len(sizes) - len(coarse[0]))):
            for band, row in product(bands, blocks):
                for pieces in zip(*(block.tiles(level, band) for block in row), strict=True):
                    out.writelines(piece.data for piece in pieces)
    if path.stat().st_size != start + total:
        raise OSError(f"{path.name} is not on disk as it was written (disk full?)")


def _coarse_levels(
    sizes: Sequence[tuple[int, int]],
    blocks: Sequence[Sequence[Block]],
    encoding: Encoding,
    path: Path,
    band: int,
) -> list[TileFile]:
    """Make a band's levels of which blocks have no tiles, from fine to coarse."""
    own = sizes[OWN_LEVELS:]
    files = [TileFile(path.with_name(f"{path.name}.{band}.{n}.tiles")) for n in range(len(own))]
    following: Level | None = None
    for (_, width), file in zip(own[::-1], files[::-1], strict=True):
        following = Level(width, encoding, file.add, following)
    try:
        if following is not None:
            for row in blocks:
                following.write(np.hstack([block.rest(band) for block in row]))
            following.finish()
    finally:
        for file in files:
            file.close()
    return files


def _head(
    tags: tiff.Directory,
    sizes: Sequence[tuple[int, int]],
    lengths: Sequence[NDArray[np.int64]],
    start: int,
    *,
    big: bool,
    is_whole: bool,
) -> bytes:
    """Header, hints and directories, for tiles of these lengths from `start` on.

    Args:
        is_whole: Whether the first level is the full image, with all its tags.
    """
    kind = tiff.LONG8 if big else tiff.LONG
    directories = []
    for level in reversed(range(len(sizes))):
        framed = lengths[level] + 8
        offsets = start + 4 + np.cumsum(framed) - framed
        start += int(framed.sum())
        own = dict(tags)
        if level or not is_whole:
            own = {tag: entry for tag, entry in tags.items() if tag in tiff.SHARED_TAGS}
            own[tiff.NEW_SUBFILE_TYPE] = tiff.Entry.of([1])
            own[tiff.IMAGE_LENGTH], own[tiff.IMAGE_WIDTH] = (
                tiff.Entry.of([size]) for size in sizes[level]
            )
        own[tiff.TILE_OFFSETS] = tiff.Entry.of(offsets, kind)
        own[tiff.TILE_BYTE_COUNTS] = tiff.Entry.of(lengths[level])
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
