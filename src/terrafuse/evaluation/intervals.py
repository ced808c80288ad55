"""Confidence intervals of the mean of a few runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import sqrt

from scipy import stats

#: Fewer runs show their values: of two, Student's t is 12.7 deviations wide, and says nothing.
LEAST_RUNS = 3


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float:
    """Return half the width of the confidence interval of the mean, by Student's t.

    Args:
        values: Two or more independent draws from one normal distribution, which scores of runs
            that differ in the seed approximately are.
        confidence: Probability that such an interval contains the true mean.
    """
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / sqrt(len(values))


def known_half_interval(values: Sequence[float]) -> float | None:
    """`half_interval` of three runs or more; None of fewer."""
    return half_interval(values) if len(values) >= LEAST_RUNS else None


def describe_runs(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """Scores of runs as a cell of a table.

    Args:
        values: Any number of them.
        digits: After the point.
        sign: "+" writes that, too.

    Returns:
        Mean ± half of its interval of three or more, both values of two, "–" of none.
    """
    half = known_half_interval(values)
    if half is not None:
        return f"{statistics.mean(values):{sign}.{digits}f} ± {half:.{digits}f}"
    return ", ".join(f"{value:{sign}.{digits}f}" for value in values) or "–"
