"""The directory of a TIFF file: read from one that GDAL wrote, written for another.

Only what the assembly of maps needs: little-endian, one directory read, several written. See the
TIFF 6.0 specification, section 2, and BigTIFF's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# Tags by their names in the specification.
NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, BITS_PER_SAMPLE = 254, 256, 257, 258
COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR_CONFIG = 259, 262, 277, 284
PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_LENGTH = 317, 320, 322, 323
TILE_OFFSETS, TILE_BYTE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 338, 339
GDAL_NODATA = 42113
#: Tags that the directory of an overview shares with that of the full image.
SHARED_TAGS = frozenset(
    {
        BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR_CONFIG, PREDICTOR,
        COLOR_MAP, TILE_WIDTH, TILE_LENGTH, EXTRA_SAMPLES, SAMPLE_FORMAT, GDAL_NODATA,
    }
)  # fmt: skip

#: Types of unsigned integers.
SHORT, LONG, LONG8 = 3, 4, 16
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
_CODES = {SHORT: "<u2", LONG: "<u4", LONG8: "<u8"}


@dataclass(frozen=True)
class Entry:
    """Value of a tag.

    Args:
        kind: Type of its numbers, as TIFF counts types.
        data: The numbers, little-endian.
    """

    kind: int
    data: bytes

    @classmethod
    def of(cls, numbers: ArrayLike, kind: int = LONG) -> Entry:
        """Entry of unsigned integers."""
        return cls(kind, np.asarray(numbers).astype(_CODES[kind]).tobytes())

    @property
    def count(self) -> int:
        """How many numbers, or characters."""
        return len(self.data) // _SIZES[self.kind]

    @property
    def numbers(self) -> list[int]:
        """Its unsigned integers."""
        values: list[int] = np.frombuffer(self.data, _CODES[self.kind]).tolist()
        return values


Directory = Mapping[int, Entry]


def read_directory(file: memoryview | bytes) -> dict[int, Entry]:
    """First directory of a little-endian TIFF or BigTIFF, by tag."""
    assert bytes(file[:2]) == b"II", "not little-endian"
    big = struct.unpack_from("<H", file, 2)[0] == 43
    (start,) = struct.unpack_from("<Q" if big else "<I", file, 8 if big else 4)
    (count,) = struct.unpack_from("<Q" if big else "<H", file, start)
    step, place, head = (20, "<HHQ", 8) if big else (12, "<HHI", 2)
    room = step - struct.calcsize(place)
    found = {}
    for i in range(count):
        at = start + head + i * step
        tag, kind, length = struct.unpack_from(place, file, at)
        size, inside = length * _SIZES[kind], at + step - room
        if size > room:
            (inside,) = struct.unpack_from("<Q" if big else "<I", file, inside)
        found[tag] = Entry(kind, bytes(file[inside : inside + size]))
    return found


def write_directories(directories: Sequence[Directory], *, big: bool, after: bytes = b"") -> bytes:
    """Head of a TIFF file: header, `after` right behind it, then the directories in their order.

    Offsets within the entries are the caller's business; the length of the head does not depend on
    them.
    """
    head, step = (16, 20) if big else (8, 12)
    at = head + len(after) + len(after) % 2
    blocks = []
    for position, directory in enumerate(directories):
        last = position == len(directories) - 1
        block = _directory(directory, at, big=big, is_last=last, step=step)
        blocks.append(block)
        at += len(block)
    first = head + len(after) + len(after) % 2
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack(
        "<2sHI", b"II", 42, first
    )  # fmt: skip
    return header + after.ljust(first - head, b"\0") + b"".join(blocks)


def _directory(directory: Directory, at: int, *, big: bool, is_last: bool, step: int) -> bytes:
    """One directory, its long values behind it, at a place of the file."""
    room, number = (8, "<Q") if big else (4, "<I")
    size = (8 if big else 2) + len(directory) * step + room
    records, behind = [], b""
    for tag, entry in sorted(directory.items()):
        value = entry.data.ljust(room, b"\0")
        if len(entry.data) > room:
            value = struct.pack(number, at + size + len(behind))
            behind += entry.data + b"\0" * (len(entry.data) % 2)
        records.append(struct.pack("<HHQ" if big else "<HHI", tag, entry.kind, entry.count) + value)
    count = struct.pack("<Q" if big else "<H", len(directory))
    following = 0 if is_last else at + size + len(behind)
    return count + b"".join(records) + struct.pack(number, following) + behind
