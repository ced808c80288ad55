"""Encoding of generated rasters (segment numbers, depth) as channels while they are read.

The raster on disk keeps the original values, so that another encoding costs nothing. Encoded values
are 0 to 255, as in a picture. They do not depend on the window in which a pixel is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.handles import pool
from terrafuse.data.names import gdal_path, is_part
from terrafuse.data.raster_file import RasterFile
from terrafuse.errors import BandError, DataError, RasterReadError
from terrafuse.samples import Window

EncodingName = Literal["color", "gray", "boundary", "mean_rgb", "stretch"]

#: Encoding → names of its bands.
ENCODED_BANDS: dict[EncodingName, tuple[str, ...]] = {
    "color": ("color_red", "color_green", "color_blue"),
    "gray": ("gray",),
    "boundary": ("boundary",),
    "mean_rgb": ("mean_red", "mean_green", "mean_blue"),
    "stretch": ("depth",),
}

#: Tags of generated rasters: key of the random colours; fingerprint; limits of "stretch".
KEY_TAG = "TERRAFUSE_KEY"
GENERATOR_TAG = "TERRAFUSE_GENERATOR"
LIMITS_TAG = "TERRAFUSE_LIMITS"

#: Largest segment number; above it, float32 cannot tell neighbouring integers apart.
MOST_SEGMENTS = 2**24 - 1

Read = Callable[[Window], NDArray[np.float32]]


class Encoder:
    """Encoder of one band of a generated raster as channels.

    Args:
        encoding: "color": a random colour per segment, seeded by the raster's key, 1 to 255;
            segment 0 (unsegmented) is black. "gray": its first channel. "boundary": 255 where one
            of the four neighbours is another segment. "mean_rgb": mean colour of the segment in
            the photo. "stretch": 2nd percentile of the raster → 0, 98th → 255.
        file: The raster, with its tags and a table of colours beside it.
        where: Names modality and scene in messages.
    """

    def __init__(self, encoding: EncodingName, file: RasterFile, where: str) -> None:
        self.encoding = encoding
        self.path = file.path
        self._where = where
        self._table: NDArray[np.uint8] | None = None

    def read(self, window: Window, read: Read) -> NDArray[np.float32]:
        """Read the channels of a window.

        Args:
            read: Returns values (1, h, w) of any window, NaN without data.

        Returns:
            Float32 (K, h, w), 0 to 255, NaN without data.

        Raises:
            BandError: Values are not segment numbers.
            DataError: The raster lacks what the encoding needs.
        """
        if self.encoding == "stretch":
            return self._stretch(read(window))
        if self.encoding == "boundary":
            wider = Window(window.row - 1, window.col - 1, window.height + 2, window.width + 2)
            return find_boundaries(read(wider)[0])[None]
        labels = read(window)[0]
        unknown = np.isnan(labels)
        numbers = self._numbers(np.where(unknown, 0, labels))
        if self.encoding == "mean_rgb":
            image = self._mean_colors(numbers)
        else:
            channels = 1 if self.encoding == "gray" else 3
            image = self._drawn_colors(numbers, channels)
        np.copyto(image, np.nan, where=unknown)
        return image

    def encode(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode values (1, h, w) as channels (K, h, w), with no data around them."""
        height, width = image.shape[1:]

        def read(window: Window) -> NDArray[np.float32]:
            rim = -window.row
            return np.pad(image, ((0, 0), (rim, rim), (rim, rim)), constant_values=np.nan)

        return self.read(Window(0, 0, height, width), read)

    def _numbers(self, labels: NDArray[np.float32]) -> NDArray[np.int32]:
        with np.errstate(invalid="ignore"):
            numbers = labels.astype(np.int32)
        outside = numbers.min(initial=0) < 0 or numbers.max(initial=0) > MOST_SEGMENTS
        if outside or (numbers != labels).any():
            wrong = (numbers != labels) | (numbers < 0) | (numbers > MOST_SEGMENTS)
            raise BandError(
                f"{self._where}: '{self.path}' holds {labels[wrong].flat[0]:g}, which is not a "
                f"segment number (0 to {MOST_SEGMENTS}); encoding '{self.encoding}' needs a raster "
                "of segments. Name one, or remove 'encoding'"
            )
        return numbers

    def _drawn_colors(self, numbers: NDArray[np.int32], channels: int) -> NDArray[np.float32]:
        most = int(numbers.max(initial=0))
        if most >= numbers.size:  # more segments in the raster than pixels here
            return draw_colors(numbers, self._key)[:channels].astype(np.float32)
        table = draw_colors(np.arange(most + 1), self._key)[:channels]
        return np.take(table.astype(np.float32), numbers, axis=1)

    def _mean_colors(self, numbers: NDArray[np.int32]) -> NDArray[np.float32]:
        if self._table is None:
            self._table = self._read_table()
        if numbers.max(initial=0) >= len(self._table):
            raise DataError(
                f"{self._where}: '{self.path}' has segment {numbers.max()}, but its table of mean "
                f"colours ends at {len(self._table) - 1}. Generate the raster again"
            )
        return np.take(self._table.T.astype(np.float32), numbers, axis=1)

    def _read_table(self) -> NDArray[np.uint8]:
        path = color_table(self.path)
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self._where}: encoding 'mean_rgb' needs '{path}', which cannot be read "
                f"({error}). terrafuse generate writes it beside the raster; 'color', 'gray' and "
                "'boundary' do not need it"
            ) from None
        if table.dtype != np.uint8 or table.ndim != 2 or table.shape[1] != 3:
            raise DataError(f"{self._where}: '{path}' is not a table of colours (n, 3), uint8")
        return np.asarray(table)

    def _stretch(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = self._limits
        if not high > low:  # the same everywhere
            return np.where(np.isnan(image), image, 0)
        scaled = (image - np.float32(low)) * np.float32(255 / (high - low))
        return np.asarray(np.clip(scaled, 0, 255), np.float32)

    @cached_property
    def _key(self) -> str:
        return self._tag(KEY_TAG) or Path(self.path).stem

    @cached_property
    def _limits(self) -> tuple[float, float]:
        words = self._tag(LIMITS_TAG).split()
        try:
            low, high = map(float, words)
        except ValueError:
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"{self._where}: '{self.path}' does not say between which values to stretch (tag "
                f"{LIMITS_TAG}: '{' '.join(words)}'). Make it with terrafuse generate, or remove "
                "'encoding' to read its values as they are"
            )
        return low, high

    def _tag(self, name: str) -> str:
        return read_tags(self.path).get(name, "")


def color_table(path: str | Path) -> Path:
    """Return the path of a segment raster's mean colours, uint8 (segments + 1, 3).

    Raises:
        RasterReadError: The raster is not on this disk.
    """
    if is_part(str(path)):
        raise RasterReadError(
            f"encoding 'mean_rgb' needs the table beside '{path}', which is no file on this disk. "
            "Fetch the raster and its .colors.npy, or choose another encoding"
        )
    return Path(path).with_suffix(".colors.npy")


def read_tags(path: str) -> dict[str, str]:
    """Read the tags of a raster.

    Raises:
        RasterReadError: The raster cannot be opened.
    """
    with pool.borrow(gdal_path(path)) as dataset:
        return dict(dataset.tags())


def check_generator(file: RasterFile, expected: str, where: str) -> None:
    """Reject a raster made by another model or with other settings.

    Args:
        expected: Fingerprint of the model and settings that should have made it.
        where: Names modality and scene in messages.

    Raises:
        DataError: The fingerprints differ; names both.
    """
    found = read_tags(file.path).get(GENERATOR_TAG, "")
    if found != expected:
        made = f"by generator {found}" if found else "by no known generator (it has no fingerprint)"
        raise DataError(
            f"{where}: '{file.path}' was made {made}; expected {expected}. Train and map with "
            "rasters of one model and one set of settings: generate this one again with "
            "those of the others"
        )


def draw_colors(numbers: NDArray[np.integer[Any]], key: str) -> NDArray[np.uint8]:
    """Draw a colour per segment, the same in every process and on every machine.

    Args:
        numbers: Segments, of any shape; 0 becomes black.
        key: Image they belong to; segment 3 of another image gets another colour.

    Returns:
        Uint8 (3, …), 1 to 255.
    """
    seed = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], "<u8")[0]
    # SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers give unrelated bits.
    with np.errstate(over="ignore"):
        bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    low = np.uint64(0xFFFF)
    parts = [(bits >> np.uint64(16 * channel)) & low for channel in range(3)]
    colors = np.stack([((part * np.uint64(255)) >> np.uint64(16)) + np.uint64(1) for part in parts])
    return np.where(numbers == 0, 0, colors).astype(np.uint8)


def find_boundaries(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find the boundaries between segments; the outermost pixels serve only as neighbours.

    Args:
        labels: Segments (h + 2, w + 2), NaN without data.

    Returns:
        Float32 (h, w): 255 where one of the four neighbours is another segment, else 0; NaN
        without data. A neighbour without data makes no boundary.
    """
    inner = labels[1:-1, 1:-1]
    found = np.zeros(inner.shape, bool)
    for other in (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:]):
        found |= (other != inner) & ~np.isnan(other)
    return np.where(np.isnan(inner), np.nan, np.where(found, 255, 0)).astype(np.float32)
