"""Intervals of shares and areas that hold where few errors are sampled.

A share in one stratum has an exact interval. For a sum over strata, what each sample leaves unknown
is a Dirichlet distribution of its counts, and the limit lies where one more event, in the stratum
where it moves the limit most, would put it. In one stratum this is the interval of Clopper and
Pearson; of rare events in strata of equal weight, the exact interval of a Poisson count.

Reference:
    Clopper and Pearson (1934), Biometrika 26:404-413, for one stratum; Fay and Feuer (1997),
    Statistics in Medicine 16:791-801, for the one event added to a weighted sum of Poisson counts,
    here of multinomial ones; Ghosh and Meeden (1997), Bayesian Methods for Finite Population
    Sampling, for the part of a stratum that is not sampled. `benchmarks/area_coverage.py` measures
    the coverage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Strata of at most so many times the sample are small: the binomial interval is too wide there.
SMALL_STRATUM = 100
#: Columns of the counts of a ratio.
GOOD, BAD, REST = 0, 1, 2
# Gamma distributions of less skewness are normal to six digits.
_NO_SKEW = 1e-3
_HALVINGS = 40


def share_interval(
    successes: float, sampled: float, population: int | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Exact interval of the share of successes in one stratum.

    Args:
        successes: Sampled units that are some; no whole number where units weigh differently.
        sampled: Units that are sampled.
        population: Units of the stratum; where these are few the interval is hypergeometric, else
            that of Clopper and Pearson.
        confidence: Least probability that such an interval contains the share.
    """
    tail = (1 - confidence) / 2
    whole = float(successes).is_integer() and float(sampled).is_integer()
    if population is not None and whole and population <= SMALL_STRATUM * sampled:
        return _hypergeometric(int(successes), int(sampled), population, tail)
    failures = sampled - successes
    low = float(stats.beta.ppf(tail, successes, failures + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, failures)) if failures > 0 else 1.0
    return low, high


def _hypergeometric(
    successes: int, sampled: int, population: int, tail: float
) -> tuple[float, float]:
    """All shares of a finite population that the sample does not refute."""
    least, most = successes, population - (sampled - successes)

    def refuted_low(total: int) -> bool:
        return bool(stats.hypergeom.sf(successes - 1, population, total, sampled) <= tail)

    def refuted_high(total: int) -> bool:
        return bool(stats.hypergeom.cdf(successes, population, total, sampled) <= tail)

    low, beyond = least, most
    while low < beyond:  # the first total that is not too low
        middle = (low + beyond) // 2
        low, beyond = (middle + 1, beyond) if refuted_low(middle) else (low, middle)
    before, high = least, most
    while before < high:  # the last one that is not too high
        middle = (before + high + 1) // 2
        before, high = (before, middle - 1) if refuted_high(middle) else (middle, high)
    return low / population, high / population


def sum_interval(
    counts: Float,
    weights: Float,
    sampled: Float,
    *,
    can_fail: Bool | None = None,
    can_succeed: Bool | None = None,
    confidence: float = 0.95,
) -> tuple[Float, Float]:
    """Interval of the sum of weight × share of successes over strata.

    Args:
        counts: Sampled successes and failures (…, H, 2).
        weights: Of the strata (H,).
        sampled: Share of each stratum that is sampled (H,).
        can_fail: Strata that can hold failures (H,); default: all.
        can_succeed: Strata that can hold successes (H,); default: all.
        confidence: Of the interval.

    Returns:
        Lower and upper limit (…).
    """
    tail = (1 - confidence) / 2
    values = np.array([1.0, 0.0])
    limits = _Limits(counts, weights, sampled)
    low = limits.at(values, tail, BAD, can_fail)
    high = limits.at(values, 1 - tail, GOOD, can_succeed)
    known = weights * sampled / counts.sum(axis=-1)
    least = (known * counts[..., GOOD]).sum(axis=-1)
    most = weights.sum() - (known * counts[..., BAD]).sum(axis=-1)
    return np.clip(low, least, most), np.clip(high, least, most)


def ratio_interval(
    counts: Float,
    weights: Float,
    sampled: Float,
    *,
    can_fail: Bool | None = None,
    can_succeed: Bool | None = None,
    confidence: float = 0.95,
) -> tuple[Float, Float]:
    """Interval of the area of what is good as a share of what is good or bad.

    A ratio R is at most r where the sum of (1 - r) good - r bad is at most 0, so that its limits
    are those r for which a limit of that sum is 0 (Fieller 1954).

    Args:
        counts: Sampled units that are good, bad, and neither (…, H, 3).
        weights: Of the strata (H,).
        sampled: Share of each stratum that is sampled (H,).
        can_fail: Strata that can hold bad ones (H,); default: all.
        can_succeed: Strata that can hold good ones (H,); default: all.
        confidence: Of the interval.

    Returns:
        Lower and upper limit (…).
    """
    tail = (1 - confidence) / 2
    limits = _Limits(counts, weights, sampled)

    def crossing(level: float, event: int, possible: Bool | None) -> Float:
        below, above = np.zeros(counts.shape[:-2]), np.ones(counts.shape[:-2])
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            values = np.stack([1 - middle, -middle, np.zeros_like(middle)], axis=-1)
            is_above = limits.at(values[..., None, :], level, event, possible) > 0
            below, above = np.where(is_above, middle, below), np.where(is_above, above, middle)
        return np.where(event == BAD, below, above)

    low = crossing(tail, BAD, can_fail)
    high = crossing(1 - tail, GOOD, can_succeed)
    nothing_good = counts[..., GOOD].sum(axis=-1) == 0
    nothing_bad = counts[..., BAD].sum(axis=-1) == 0
    return np.where(nothing_good, 0.0, low), np.where(nothing_bad, 1.0, high)


class _Limits:
    """Limits of sums over the strata of a sample.

    Args:
        counts: Of categories (…, H, C).
        weights: Of the strata (H,).
        sampled: Share of each that is sampled (H,).
    """

    def __init__(self, counts: Float, weights: Float, sampled: Float) -> None:
        self._counts, self._weights, self._sampled = counts, weights, sampled
        self._shares = counts / counts.sum(axis=-1, keepdims=True)

    def at(self, values: Float, level: float, event: int, possible: Bool | None) -> Float:
        """Quantile of the sum, one event added where it moves the quantile most (…).

        Args:
            values: Of each category (C,) or (…, 1, C).
            level: Of the quantile; below one half the added event lowers it, above it raises it.
            event: Category of the event.
            possible: Strata that can hold it (H,); None: all.
        """
        more = np.zeros(self._counts.shape[-1])
        more[event] = 1.0
        plain = self._moments(self._counts, values)
        added = self._moments(self._counts + more, values)
        total = plain.sum(axis=-1, keepdims=True)
        quantiles = _quantile(total - plain + added, level)
        if possible is not None:
            without = _quantile(total, level)
            quantiles = np.where(possible, quantiles, without)
        extreme = np.min if level < 0.5 else np.max
        return np.asarray(extreme(quantiles, axis=-1), np.float64)

    def _moments(self, counts: Float, values: Float) -> Float:
        """Mean, variance and third central moment of each stratum's part of the sum (3, …, H).

        Shares are Dirichlet, by these counts, in the part of a stratum that is not sampled.
        """
        size = counts.sum(axis=-1)
        first, second, third = ((counts * values**power).sum(axis=-1) for power in (1, 2, 3))
        mean = first / size
        raw2 = (first**2 + second) / (size * (size + 1))
        raw3 = (first**3 + 3 * first * second + 2 * third) / (size * (size + 1) * (size + 2))
        variance = np.maximum(raw2 - mean**2, 0)
        skewed = raw3 - 3 * mean * raw2 + 2 * mean**3
        left = 1 - self._sampled
        seen = (self._shares * values).sum(axis=-1)
        return np.stack(
            [
                self._weights * (self._sampled * seen + left * mean),
                self._weights**2 * left * variance,
                self._weights**3 * left * (1 - self._sampled / 2) * skewed,
            ]
        )


def _quantile(moments: Float, level: float) -> Float:
    """Quantile of the gamma distribution, shifted or mirrored, of these three moments."""
    mean, variance, third = moments
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(variance > 0, third / (variance * deviation), 0.0)
    skewed = np.abs(skewness) > _NO_SKEW
    shape = 4 / np.where(skewed, skewness, 1.0) ** 2
    rising = special.gammaincinv(shape, np.where(skewness > 0, level, 1 - level))
    standard = np.sign(skewness) * (rising - shape) / np.sqrt(shape)
    normal = float(special.ndtri(level))
    return np.asarray(mean + deviation * np.where(skewed, standard, normal), np.float64)
