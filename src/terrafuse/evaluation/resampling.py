"""Intervals of statistics of sums over blocks, by the bootstrap.

Reference:
    Efron, Tibshirani: An Introduction to the Bootstrap. Chapman & Hall 1993. Blocks of dependent
    data: Lahiri: Resampling Methods for Dependent Data. Springer 2003.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: More blocks than so many are first summed in so many groups at random: that changes the expected
#: variance of no sum, and the work no longer grows with the ground.
MOST_GROUPS = 2048
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A value and what it may be.

    Args:
        value: Of the data as they are.
        low: Lower end; NaN where there are too few blocks to tell. `high` likewise.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values; None for NaN."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(x) else float(x) for name, x in values.items()}


@dataclass(frozen=True)
class BlockBootstrap:
    """Draws of blocks with replacement; the same draws for all counts, so that differences pair.

    Args:
        blocks: Number of blocks, G.
        draws: R.
        seed: Of the draws.
    """

    blocks: int
    draws: int = DRAWS
    seed: int = 0

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Group of each block (G,)."""
        numbers = np.arange(self.blocks)
        if self.blocks <= MOST_GROUPS:
            return numbers
        return np.random.default_rng(self.seed).permutation(numbers) % MOST_GROUPS

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How often each group is drawn, (R, groups)."""
        number = min(self.blocks, MOST_GROUPS)
        rng = np.random.default_rng([self.seed, 1])
        return rng.multinomial(number, np.full(number, 1 / number), self.draws).astype(np.float64)

    def sums(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Sum counts (G, …) over the blocks of each draw: (R, …)."""
        flat = counts.reshape(len(counts), -1).astype(np.float64)
        if self.blocks > MOST_GROUPS:
            grouped = np.zeros((MOST_GROUPS, flat.shape[1]))
            np.add.at(grouped, self.groups, flat)
            flat = grouped
        return (self.weights @ flat).reshape(self.draws, *counts.shape[1:])

    def interval(
        self, value: float, drawn: NDArray[np.float64], confidence: float = 0.95
    ) -> Interval:
        """Interval of a statistic.

        Args:
            value: Of all blocks.
            drawn: Of the sums of each draw (R,); NaN where it is not defined.
            confidence: Probability with which such intervals hold the true value.
        """
        known = drawn[~np.isnan(drawn)]
        if self.blocks < 2 or not known.size:
            return Interval(value, np.nan, np.nan)
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high))
