"""Confidence intervals of the mean of a few runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import sqrt

from scipy import stats


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float:
    """Return half the width of the confidence interval of the mean, by Student's t.

    Args:
        values: Two or more independent draws from one normal distribution, which scores of runs
            that differ in the seed approximately are.
        confidence: Probability that such an interval contains the true mean.
    """
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / sqrt(len(values))
