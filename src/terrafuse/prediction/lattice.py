"""The global lattice of windows over a scene."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.samples import Window, round_up

#: Weighting of overlapping windows (`prediction.blending`).
Blending = Literal["taper", "uniform", "repeated"]


@dataclass(frozen=True)
class Lattice:
    """Overlapping square windows that cover a scene.

    The lattice depends on these settings only, never on batches or on how the work is split;
    that is what makes the map independent of them. Windows start at multiples of a step; the last
    one of a row or column is moved back so that it ends with the scene. Where that is impossible
    (a scene smaller than a window, or an end that is not a multiple of `alignment`) it extends
    beyond.

    Published sliding windows often start at every multiple of the step inside the scene; each that
    would extend beyond is moved back, and the several windows that then coincide at the end are
    all run and added. With blending "repeated", such a window counts as often but is run once.

    Args:
        crop_size: Requested side of a window in pixels; `size` is the one used.
        overlap: Smallest number of pixels shared by neighbours; at most half of `crop_size` with
            blending "taper", else less than it.
        alignment: Starts and sizes of windows are multiples of this.
        blending: "taper" (weights fall towards a window's edge), "uniform" (equal weights) or
            "repeated" (equal, times the number of repetitions).

    Raises:
        ConfigError: `overlap` does not suit `crop_size`.
    """

    height: int
    width: int
    crop_size: int
    overlap: int
    alignment: int = 1
    blending: Blending = "taper"

    def __post_init__(self) -> None:
        assert min(self.height, self.width, self.alignment) > 0, self
        check_windows(self.crop_size, self.overlap, self.blending)

    @cached_property
    def size(self) -> int:
        """Side of a window: `crop_size` rounded up so that aligned neighbours can overlap."""
        return round_up(max(self.crop_size, self.overlap + self.alignment), self.alignment)

    @cached_property
    def step(self) -> int:
        """Distance between the starts of neighbours."""
        return (self.size - self.overlap) // self.alignment * self.alignment

    @cached_property
    def row_counts(self) -> Mapping[int, int]:
        """First rows of windows, ascending, with the number of times each counts."""
        return self._counts(self.height)

    @cached_property
    def col_counts(self) -> Mapping[int, int]:
        """First columns of windows, ascending, with the number of times each counts."""
        return self._counts(self.width)

    @cached_property
    def row_starts(self) -> tuple[int, ...]:
        """First rows of windows, ascending."""
        return tuple(self.row_counts)

    @cached_property
    def col_starts(self) -> tuple[int, ...]:
        """First columns of windows, ascending."""
        return tuple(self.col_counts)

    def times(self, window: Window) -> int:
        """Return the number of times a window counts."""
        return self.row_counts[window.row] * self.col_counts[window.col]

    def rows(self) -> Iterator[tuple[Window, ...]]:
        """Yield the rows of windows from the top; each from left to right."""
        for row in self.row_starts:
            yield tuple(Window(row, col, self.size, self.size) for col in self.col_starts)

    def __iter__(self) -> Iterator[Window]:
        """Yield every window, row by row."""
        for windows in self.rows():
            yield from windows

    def __len__(self) -> int:
        """Return the number of windows to run."""
        return len(self.row_starts) * len(self.col_starts)

    def _counts(self, length: int) -> Mapping[int, int]:
        last = max(0, round_up(length - self.size, self.alignment))
        counts = Counter(min(start, last) for start in range(0, length, self.step))
        return counts if self.blending == "repeated" else dict.fromkeys(counts, 1)


@dataclass(frozen=True)
class Part:
    """The windows of a lattice that touch a rectangle of the scene.

    Run from top to bottom they give its pixels the same sums, added in the same order, as all
    windows of the scene would.

    Args:
        lattice: Of the whole scene.
        window: The rectangle, within the scene.
    """

    lattice: Lattice
    window: Window

    @classmethod
    def whole(cls, lattice: Lattice) -> Part:
        """All of a scene."""
        return cls(lattice, Window(0, 0, lattice.height, lattice.width))

    @cached_property
    def row_starts(self) -> tuple[int, ...]:
        """First rows of its windows, ascending; the first ones may lie above it."""
        return self._touching(self.lattice.row_starts, self.window.row, self.window.row_stop)

    @cached_property
    def col_starts(self) -> tuple[int, ...]:
        """First columns of its windows, ascending; the first ones may lie left of it."""
        return self._touching(self.lattice.col_starts, self.window.col, self.window.col_stop)

    def __iter__(self) -> Iterator[Window]:
        """Yield its windows, row by row."""
        size = self.lattice.size
        for row in self.row_starts:
            for col in self.col_starts:
                yield Window(row, col, size, size)

    def __len__(self) -> int:
        """Return the number of its windows."""
        return len(self.row_starts) * len(self.col_starts)

    def _touching(self, starts: tuple[int, ...], first: int, stop: int) -> tuple[int, ...]:
        # `starts` ascend: those from the first one that reaches `first` to the last before `stop`.
        begin = bisect_right(starts, first - self.lattice.size)
        return starts[begin : bisect_left(starts, stop)]


def check_windows(crop_size: int, overlap: int, blending: Blending) -> None:
    """Refuse windows that cannot cover a scene with this blending.

    Raises:
        ConfigError: Names the allowed values.
    """
    if blending not in get_args(Blending):
        raise ConfigError(unknown_name("blending", blending, get_args(Blending)))
    if crop_size < 1:
        raise ConfigError(f"crop_size is {crop_size}; allowed are positive numbers")
    tapered = blending == "taper"
    most = crop_size // 2 if tapered else crop_size - 1
    if not 0 <= overlap <= most:
        limit = f"half of it ({most}) with blending 'taper'" if tapered else f"{most}"
        more = "; 'uniform' allows more" if tapered and 0 < overlap < crop_size else ""
        raise ConfigError(
            f"overlap is {overlap} with crop_size {crop_size}; allowed is 0 to {limit}{more}"
        )
