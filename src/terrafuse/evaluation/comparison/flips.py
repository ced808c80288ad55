"""p values by flipping signs of blocks.

If two settings are equally good, each block could as well have favoured the other one: the sign of
its part of the difference is a coin. Three seeds have four patterns of signs only, so that their
part is drawn beside it: normal, and all divided by how well the variance is known from so few, as
in Student's t. Differences are compared in standard errors, those of each flip being its own.

Reference:
    Sign flips: Winkler et al.: Permutation Inference for the General Linear Model. NeuroImage 92,
    2014. Small values by a distribution of the tail: Knijnenburg et al.: Fewer Permutations, More
    Accurate P-values. Bioinformatics 25, 2009.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats

from terrafuse.evaluation.comparison.spread import Spread, Variance
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.scores import Floats

FLIPS = 2000
#: Of fewer flips beyond the difference, p is that of Student's t, which does not end at 1 / FLIPS.
LEAST_BEYOND = 10
_FEW = 64
#: From the last on a variance is as good as known.
_FREEDOM = np.geomspace(1, 1e5, 51)


@lru_cache
def _log_widths() -> Floats:
    """Logarithms of √(ν / χ²) at equal steps of probability, of some ν, (FLIPS, ν)."""
    steps = (np.arange(FLIPS)[:, None] + 0.5) / FLIPS
    widths: Floats = np.log(_FREEDOM / stats.chi2.ppf(steps, _FREEDOM)) / 2
    return widths


class SignFlips:
    """The same flips for all comparisons of a table.

    Args:
        bootstrap: Of the same blocks.
    """

    def __init__(self, bootstrap: BlockBootstrap) -> None:
        rng = np.random.default_rng([bootstrap.seed, 3])
        size = (FLIPS, bootstrap.size)
        # Of few blocks, patterns that are the data themselves must be equal to them.
        kind = np.float64 if bootstrap.size <= _FEW else np.float32
        self._signs = (2 * rng.integers(0, 2, size, np.int8) - 1).astype(kind)
        self._normal = rng.standard_normal((FLIPS, 1))
        self._log_widths = rng.permutation(_log_widths())
        self._widening = bootstrap.widening

    def p(self, spread: Spread, variance: Variance) -> Floats:
        """Return how often no difference looks as large as this one, per column (M,)."""
        parts = spread.values + spread.influence  # (G, M), of mean D
        groups = len(parts)
        scale = np.abs(parts).max(axis=0, initial=0)
        scaled = (parts / np.where(scale > 0, scale, 1)).astype(self._signs.dtype)
        flipped = (self._signs @ scaled).astype(np.float64) * (scale / groups)
        # The variance of each flip is its own: the difference itself is no spread.
        squares = np.clip((parts**2).sum(axis=0) - groups * flipped**2, 0, None)
        ground = self._widening * squares / (groups * max(groups - 1, 1))
        drawn = np.sqrt(self._widening) * flipped + np.sqrt(variance.seeds) * self._normal
        drawn *= self._widths(variance.seed_freedom)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(spread.values) / np.sqrt(variance.total)
            of_flips = np.abs(drawn) / np.sqrt(ground + variance.seeds)
        # Differences that are equal but for rounding are not beyond each other.
        beyond = (np.nan_to_num(of_flips, nan=0.0) >= t * (1 - 1e-6)).sum(axis=0)
        tail = 2 * stats.t.sf(np.nan_to_num(t, nan=0.0), variance.freedom)
        found = np.where(beyond >= LEAST_BEYOND, (1 + beyond) / (1 + FLIPS), tail)
        p: Floats = np.where(
            np.isnan(spread.values), np.nan, np.where(spread.values == 0, 1.0, found)
        )
        return p

    def _widths(self, freedom: Floats) -> Floats:
        """Draws of √(ν / χ²) of so many degrees of freedom (M,), (FLIPS, M)."""
        places = np.interp(np.log(freedom), np.log(_FREEDOM), np.arange(len(_FREEDOM)))
        before = np.minimum(places.astype(np.int64), len(_FREEDOM) - 2)
        part = places - before
        own = self._log_widths
        widths: Floats = np.exp((1 - part) * own[:, before] + part * own[:, before + 1])
        return widths
