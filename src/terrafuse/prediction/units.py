"""Units of a scene's map: rectangles that are done and kept one by one.

Units lie in columns. Within a column they follow each other from top to bottom, so that one that
comes after another goes on with its sums and no window is run twice; windows on the edge of two
columns are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from terrafuse.prediction.cog import TILE, UNIT
from terrafuse.prediction.lattice import Lattice, Part
from terrafuse.prediction.product_table import Product, held_bytes, needs_of
from terrafuse.samples import Window

#: Largest share of windows that are run once more because of the edges of columns.
MOST_TWICE = 0.1
# Memory of the sums of a column, and of the rows that wait for tiles of products with many bands.
_SUMS_BYTES = 32 * 2**20


@dataclass(frozen=True)
class UnitPlan:
    """Units of a scene.

    Args:
        lattice: Windows of the scene.
        height: Of a unit; those at the bottom may be lower.
        width: Of a column; the last may be narrower.
    """

    lattice: Lattice
    height: int
    width: int

    @cached_property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """First row and the row after the last, of each row of units."""
        return _edges(self.lattice.height, self.height)

    @cached_property
    def cols(self) -> tuple[tuple[int, int], ...]:
        """First column and the column after the last, of each column of units."""
        return _edges(self.lattice.width, self.width)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.rows) * len(self.cols)

    def __iter__(self) -> Iterator[Window]:
        """Return the units, column by column, each from top to bottom."""
        return map(self.window, range(len(self)))

    def unit_at(self, row: int, col: int) -> Window:
        """Return the unit that a pixel lies in."""
        return self.window(self.number(Window(row, col, 1, 1)))

    def window(self, number: int) -> Window:
        """Return the unit at a position."""
        top, bottom = self.rows[number % len(self.rows)]
        left, right = self.cols[number // len(self.rows)]
        return Window(top, left, bottom - top, right - left)

    def number(self, window: Window) -> int:
        """Return the position of a unit, or of that in which a window begins."""
        col = window.col // self.width
        return col * len(self.rows) + window.row // self.height

    def runs(self, missing: set[int] | None = None) -> list[Window]:
        """Rectangles to map, each from top to bottom: what follows each other is done in one go.

        Args:
            missing: Positions of the units wanted; None: all.
        """
        found: list[Window] = []
        for number, unit in enumerate(self):
            if missing is not None and number not in missing:
                continue
            last = found[-1] if found else None
            if last and (last.row_stop, last.col) == (unit.row, unit.col):
                found[-1] = Window(last.row, last.col, last.height + unit.height, last.width)
            else:
                found.append(unit)
        return found

    def windows(self, runs: list[Window] | None = None) -> int:
        """Number of windows that are run for these rectangles, or for all of `runs`."""
        return sum(len(self.part(run)) for run in (self.runs() if runs is None else runs))

    def part(self, run: Window) -> Part:
        """Return the windows of a rectangle."""
        return Part(self.lattice, run)

    @property
    def allowance(self) -> float:
        """Number of windows of the scene that may be run once more."""
        return MOST_TWICE * len(self.lattice)

    @property
    def twice(self) -> float:
        """Share of the lattice's windows that are run once more."""
        columns = (Window(0, left, 1, right - left) for left, right in self.cols)
        run = sum(len(Part(self.lattice, column).col_starts) for column in columns)
        return run / len(self.lattice.col_starts) - 1


def plan_units(
    lattice: Lattice, num_classes: int, products: Sequence[Product] = (), modalities: int = 0
) -> UnitPlan:
    """Cut a scene into units.

    Columns are as wide as the memory of their sums allows; wider, if too many windows would be run
    twice.

    Args:
        lattice: Windows of the scene.
        num_classes: K.
        products: What is made, of which some hold sums of their own or have a band per class.
        modalities: Number of those of the model.
    """
    bytes_per_column = held_bytes(num_classes, needs_of(products), modalities) * lattice.size
    for product in products:
        if product.per_class:
            # Finished rows, and a row of tiles of the image and of its overviews.
            rows = lattice.size + 2 * TILE
            bytes_per_column += rows * num_classes * np.dtype(product.dtype).itemsize
    width = max(UNIT, _SUMS_BYTES // bytes_per_column // UNIT * UNIT)
    while width < lattice.width:
        plan = UnitPlan(lattice, UNIT, width)
        if plan.twice <= MOST_TWICE:
            return plan
        width += UNIT
    return UnitPlan(lattice, UNIT, width)


def _edges(length: int, step: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, min(start + step, length)) for start in range(0, length, step))
