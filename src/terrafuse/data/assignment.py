"""Distribute things over splits so that every class has its share in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_ROUNDS = 10


def assign_units(
    counts: NDArray[np.int64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Distribute units over splits so that each split has its share of everything counted.

    Args:
        counts: What each unit holds, (units, kinds): pixels per class, for example.
        shares: Per split, summing to 1.
        seed: Decides among equals.

    Returns:
        Split index per unit (units,); every split gets at least one.
    """
    rng = np.random.default_rng(seed)
    totals = counts.sum(axis=0)
    held = counts[:, totals > 0] / totals[totals > 0]
    wanted = np.array(shares)[:, None]
    filled = np.zeros((len(shares), held.shape[1]))
    chosen = np.full(len(held), -1)

    def cost_of_adding(unit: int) -> NDArray[np.float64]:
        # How the squared distance to the shares changes, per split.
        change: NDArray[np.float64] = held[unit] * (held[unit] + 2 * (filled - wanted)) / wanted
        return np.asarray(change.sum(axis=1))

    order = rng.permutation(len(held))
    order = order[np.argsort(-held[order].max(axis=1), kind="stable")]
    for round_ in range(_MOST_ROUNDS):
        moved = False
        for unit in order if round_ == 0 else rng.permutation(len(held)):
            before = chosen[unit]
            if before >= 0:
                filled[before] -= held[unit]
            cost = cost_of_adding(unit)
            best = int(cost.argmin())
            if before >= 0 and not cost[best] < cost[before] - 1e-12:
                best = int(before)
            filled[best] += held[unit]
            chosen[unit] = best
            moved |= best != before
        if not moved:
            break
    _fill_empty(chosen, held, len(shares))
    return chosen


def _fill_empty(chosen: NDArray[np.int64], held: NDArray[np.float64], splits: int) -> None:
    """Give each split without a unit the smallest one of those that have several."""
    for split in range(splits):
        if not (chosen == split).any():
            crowded = np.flatnonzero(np.bincount(chosen, minlength=splits)[chosen] > 1)
            chosen[crowded[held[crowded].sum(axis=1).argmin()]] = split
