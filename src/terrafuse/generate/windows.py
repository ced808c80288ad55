"""Overlapping windows over a photo, and the core that each contributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError
from terrafuse.samples import Window


@dataclass(frozen=True)
class WindowPlan:
    """Windows in which a model processes a photo.

    Args:
        size: Side of a window in pixels; windows never exceed the photo.
        overlap: Smallest number of pixels that neighbours share; at most half of `size`.

    Raises:
        ConfigError: `overlap` does not suit `size`.
    """

    height: int
    width: int
    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.overlap <= self.size // 2:
            raise ConfigError(
                f"overlap is {self.overlap} with windows of {self.size} pixels; allowed is 0 to "
                f"half of the window ({self.size // 2})"
            )

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """All windows, row by row, inside the photo."""
        return tuple(
            Window(row, col, min(self.size, self.height), min(self.size, self.width))
            for row in self._row_starts
            for col in self._col_starts
        )

    @cached_property
    def cores(self) -> tuple[Window, ...]:
        """Core of every window, which extends to the middle of the overlaps."""
        rows = _borders(self._row_starts, self.size, self.height)
        cols = _borders(self._col_starts, self.size, self.width)
        return tuple(
            Window(top, left, bottom - top, right - left)
            for top, bottom in pairwise(rows)
            for left, right in pairwise(cols)
        )

    @property
    def columns(self) -> int:
        """Number of windows per row of windows."""
        return len(self._col_starts)

    def rows(self) -> Iterator[range]:
        """Yield the numbers of the windows in each row of windows."""
        for first in range(0, len(self.windows), self.columns):
            yield range(first, first + self.columns)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield adjacent windows that share pixels, as numbers (left, right) and (upper, lower).

        They are ordered by the second number.
        """
        for number in range(len(self.windows)):
            beside = [number - 1] if number % self.columns else []
            above = [number - self.columns] if number >= self.columns else []
            for other in (*above, *beside):
                if self.windows[other].intersection(self.windows[number]):
                    yield other, number

    def touching(self, area: Window) -> list[int]:
        """Return the numbers of the windows that share pixels with an area."""
        rows, cols = (
            [n for n, start in enumerate(starts) if start < stop and start + self.size > first]
            for starts, first, stop in (
                (self._row_starts, area.row, area.row_stop),
                (self._col_starts, area.col, area.col_stop),
            )
        )
        return [row * self.columns + col for row in rows for col in cols]

    @cached_property
    def _row_starts(self) -> list[int]:
        return _starts(self.height, self.size, self.overlap)

    @cached_property
    def _col_starts(self) -> list[int]:
        return _starts(self.width, self.size, self.overlap)

    def cut_border(self, number: int, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return a window's values (h, w) along its sides that lie inside the photo, (n,)."""
        window = self.windows[number]
        sides = [
            labels[0] if window.row > 0 else None,
            labels[-1] if window.row_stop < self.height else None,
            labels[:, 0] if window.col > 0 else None,
            labels[:, -1] if window.col_stop < self.width else None,
        ]
        return np.concatenate([side for side in sides if side is not None] or [labels[:0, 0]])


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Return first pixels; the last window is moved back so that it ends with the photo."""
    last = max(0, length - size)
    return sorted({min(start, last) for start in range(0, length, size - overlap)})


def _borders(starts: Sequence[int], size: int, length: int) -> list[int]:
    """Return the first pixel of every core, and the end of the last."""
    middles = [(start + before + size) // 2 for before, start in pairwise(starts)]
    return [0, *middles, length]
