"""Order of training crops in which those of one place are read soon after each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Crops that are put in order together: of 8192 x 8192 pixels in blocks of 512, sixteen and more in
# each block; and how many such groups a run has at least, so that it sees all places as often.
_MOST_TOGETHER = 4096
_LEAST_GROUPS = 16
# Places that are visited in turn. A batch of as many samples has one of each.
_STRANDS = 8


class NearOrder:
    """Order of the crops of a training by their places, within groups of consecutive crops.

    The crops of each group are those that it would have anyway. They are sorted along a Z-shaped
    curve through the blocks of each scene, and the curve is cut, from a random start, into eight
    strands of equal length; crops are taken from one strand after another. A crop thus shares
    blocks with that of eight positions before, while eight consecutive ones are of places far from
    each other. The order is a function of the arguments alone.

    Args:
        place_of: Number of a crop → position of its scene, row and column of the block under its
            centre.
        total: Crops of the whole training.
        seed: Seed of where each group starts.
    """

    def __init__(
        self, place_of: Callable[[int], tuple[int, int, int]], total: int, seed: int
    ) -> None:
        self.place_of, self.total, self.seed = place_of, total, seed
        self.size = max(1, min(_MOST_TOGETHER, total // _LEAST_GROUPS))
        self._group: tuple[int, NDArray[np.int64]] | None = None

    def __call__(self, position: int) -> int:
        """Return the number of the crop at a position from 0 to `total` - 1."""
        group, offset = divmod(position, self.size)
        if self._group is None or self._group[0] != group:
            self._group = group, self._order(group)
        return int(self._group[1][offset])

    def _order(self, group: int) -> NDArray[np.int64]:
        first = group * self.size
        numbers = np.arange(first, min(first + self.size, self.total))
        scenes, rows, cols = np.array([self.place_of(int(n)) for n in numbers], np.int64).T
        along = np.lexsort((_z_curve(rows, cols), scenes))
        start = np.random.default_rng((self.seed, group)).integers(len(numbers))
        strands = np.array_split(np.roll(numbers[along], start), _STRANDS)
        turns = np.concatenate([np.arange(len(strand)) for strand in strands])
        return np.concatenate(strands)[np.argsort(turns, kind="stable")]


def _z_curve(rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions (n,) along a Z-order curve: the bits of row and column alternate (Morton 1966)."""
    found = np.zeros_like(rows)
    for bit in range(24):
        found |= (rows >> bit & 1) << (2 * bit + 1) | (cols >> bit & 1) << (2 * bit)
    return found
