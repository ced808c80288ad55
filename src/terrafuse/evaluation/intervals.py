"""How sure the mean of a few runs is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import sqrt

from scipy import stats


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of the confidence interval of the mean, by Student's t.

    Args:
        values: Two or more, drawn independently from one normal distribution, as scores of runs
            that differ by the seed nearly are.
        confidence: Probability with which such an interval holds the true mean.
    """
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / sqrt(len(values))
