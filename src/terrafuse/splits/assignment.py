"""Distribution of units over splits so that every class has its share in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_MOST_ROUNDS = 10
# Exchanging units pays off for few and large ones; with many, moving single ones meets the shares.
_MOST_EXCHANGED = 500
# A change must gain this much, so that rounding errors cannot cause endless exchanges.
_LEAST_GAIN = 1e-12
# Up to this many assignments, all are tried.
_MOST_WAYS = 20_000


def assign_units(
    counts: NDArray[np.int64], shares: Sequence[float], seed: int, *, draws: int = 1
) -> NDArray[np.int64]:
    """Assign units to splits so that each split has its share of everything counted.

    Args:
        counts: Counts per unit, (units, kinds): pixels per class, for example.
        shares: Per split, summing to 1.
        seed: Breaks ties.
        draws: Number of attempts, with seeds from `seed` on, of which the best is returned.

    Returns:
        Split index per unit (units,); every split gets at least one.
    """
    totals = counts.sum(axis=0)
    held = counts[:, totals > 0] / totals[totals > 0]
    wanted = np.array(shares)[:, None]
    if len(wanted) <= len(held) and len(wanted) ** len(held) <= _MOST_WAYS:
        return _best_of_all(held, wanted, seed)
    results = [_Assignment(held, wanted, seed + draw).search() for draw in range(draws)]
    return min(results, key=_Cost(held, wanted))


def _best_of_all(held: Float, wanted: Float, seed: int) -> NDArray[np.int64]:
    """Return the best of all assignments that leave no split empty."""
    splits, units = len(wanted), len(held)
    ways = np.indices((splits,) * units).reshape(units, -1).T  # (ways, units)
    given = ways[:, :, None] == np.arange(splits)  # (ways, units, splits)
    ways, given = ways[given.any(axis=1).all(axis=1)], given[given.any(axis=1).all(axis=1)]
    filled = np.einsum("wus,uk->wsk", given.astype(float), held)
    cost = ((filled - wanted) ** 2 / wanted).sum(axis=(1, 2))
    equals = np.flatnonzero(cost <= cost.min() + _LEAST_GAIN)
    best: NDArray[np.int64] = ways[np.random.default_rng(seed).choice(equals)]
    return best


class _Cost:
    """Squared deviation of the splits' contents from their shares, relative to the shares."""

    def __init__(self, held: Float, wanted: Float) -> None:
        self._held, self._wanted = held, wanted

    def __call__(self, chosen: NDArray[np.int64]) -> float:
        filled = np.zeros((len(self._wanted), self._held.shape[1]))
        np.add.at(filled, chosen, self._held)
        return float(((filled - self._wanted) ** 2 / self._wanted).sum())


class _Assignment:
    """One attempt: units assigned one by one, then moved and exchanged while that helps.

    Args:
        held: Part of each kind's total in each unit (units, kinds).
        wanted: Share per split (splits, 1).
        seed: Breaks ties.
    """

    def __init__(self, held: Float, wanted: Float, seed: int) -> None:
        self.held, self.wanted = held, wanted
        self.rng = np.random.default_rng(seed)
        self.filled = np.zeros((len(wanted), held.shape[1]))
        self.chosen = np.full(len(held), -1)

    def search(self) -> NDArray[np.int64]:
        """Search for the split index per unit."""
        order = self.rng.permutation(len(self.held))
        # Units with the largest part of a class first: they are the hardest to fit in.
        order = order[np.argsort(-self.held[order].max(axis=1), kind="stable")]
        self._move(order)
        for _ in range(_MOST_ROUNDS):
            moved = self._move(self.rng.permutation(len(self.held)))
            if len(self.held) <= _MOST_EXCHANGED:
                moved |= self._exchange()
            if not moved:
                break
        _fill_empty(self.chosen, self.held, len(self.wanted))
        return self.chosen

    def _move(self, order: NDArray[np.int64]) -> bool:
        """Move each unit to the split where it costs least; tell whether any moved."""
        moved = False
        for unit in order:
            before = int(self.chosen[unit])
            own = self.held[unit]
            if before >= 0:
                self.filled[before] -= own
            # Change of the squared deviation from the shares, per split.
            cost = (own * (own + 2 * (self.filled - self.wanted)) / self.wanted).sum(axis=1)
            best = int(cost.argmin())
            if before >= 0 and not cost[best] < cost[before] - _LEAST_GAIN:
                best = before
            self.filled[best] += own
            self.chosen[unit] = best
            moved |= best != before
        return moved

    def _exchange(self) -> bool:
        """Swap each unit with the one of another split that helps most; tell whether any was."""
        changed = False
        for unit in self.rng.permutation(len(self.held)):
            here = int(self.chosen[unit])
            there = self.chosen
            gained = self.held - self.held[unit]  # by the split of `unit`; lost by the other
            here_change = gained + 2 * (self.filled[here] - self.wanted[here])
            there_change = gained - 2 * (self.filled[there] - self.wanted[there])
            cost = (gained * here_change).sum(axis=1) / self.wanted[here]
            cost += (gained * there_change).sum(axis=1) / self.wanted[there, 0]
            cost[there == here] = 0
            best = int(cost.argmin())
            if cost[best] < -_LEAST_GAIN:
                other = int(there[best])
                self.filled[here] += gained[best]
                self.filled[other] -= gained[best]
                self.chosen[unit], self.chosen[best] = other, here
                changed = True
        return changed


def _fill_empty(chosen: NDArray[np.int64], held: Float, splits: int) -> None:
    """Give each empty split the smallest unit of the splits that have several."""
    for split in range(splits):
        if not (chosen == split).any():
            crowded = np.flatnonzero(np.bincount(chosen, minlength=splits)[chosen] > 1)
            chosen[crowded[held[crowded].sum(axis=1).argmin()]] = split
