"""The global lattice of windows over a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from terrafuse.errors import ConfigError
from terrafuse.samples import Window, round_up


@dataclass(frozen=True)
class Lattice:
    """Overlapping square windows that cover a scene.

    The lattice depends on these five numbers only, never on batches or on how the work is cut up;
    that is what makes the map independent of them. Windows start at multiples of a step; the last
    one of a row or column is moved back so that it ends with the scene. Where that is impossible
    (a scene smaller than a window, or an end that is no multiple of `alignment`) it reaches beyond.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        crop_size: Wanted side of a window; `size` is the one used.
        overlap: Least number of pixels shared by neighbours; at most half of `crop_size`.
        alignment: Starts and sizes of windows are multiples of this.

    Raises:
        ConfigError: `overlap` does not suit `crop_size`.
    """

    height: int
    width: int
    crop_size: int
    overlap: int
    alignment: int = 1

    def __post_init__(self) -> None:
        assert min(self.height, self.width, self.alignment) > 0, self
        if self.crop_size < 1:
            raise ConfigError(f"crop_size is {self.crop_size}; allowed are positive numbers")
        if not 0 <= 2 * self.overlap <= self.crop_size:
            raise ConfigError(
                f"overlap is {self.overlap} with crop_size {self.crop_size}; allowed is 0 to half "
                f"of it ({self.crop_size // 2})"
            )

    @cached_property
    def size(self) -> int:
        """Side of a window: `crop_size` rounded up so that aligned neighbours can overlap."""
        return round_up(max(self.crop_size, self.overlap + self.alignment), self.alignment)

    @cached_property
    def step(self) -> int:
        """Distance between the starts of neighbours."""
        return (self.size - self.overlap) // self.alignment * self.alignment

    @cached_property
    def row_starts(self) -> tuple[int, ...]:
        """First rows of windows, ascending."""
        return self._starts(self.height)

    @cached_property
    def col_starts(self) -> tuple[int, ...]:
        """First columns of windows, ascending."""
        return self._starts(self.width)

    def rows(self) -> Iterator[tuple[Window, ...]]:
        """Windows by row of windows, from the top; each from left to right."""
        for row in self.row_starts:
            yield tuple(Window(row, col, self.size, self.size) for col in self.col_starts)

    def __iter__(self) -> Iterator[Window]:
        """Every window, row by row."""
        for windows in self.rows():
            yield from windows

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.row_starts) * len(self.col_starts)

    def _starts(self, length: int) -> tuple[int, ...]:
        if length <= self.size:
            return (0,)
        last = round_up(length - self.size, self.alignment)
        return (*range(0, last, self.step), last)
