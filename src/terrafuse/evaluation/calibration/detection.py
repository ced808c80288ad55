"""Whether a measure of uncertainty finds the errors: areas under ROC and precision-recall curves.

Errors are the positives, and the measure is their score. AUROC is the probability that an error is
more uncertain than a right pixel (equal ones count half): 0.5 finds nothing. AUPR is the average
precision, Σ (R_n − R_{n−1}) · P_n over the levels from the most uncertain on; the share of errors
finds nothing. Maps with more errors have a higher AUPR, so that only AUROC compares models.

Reference:
    Hendrycks, Gimpel: A Baseline for Detecting Misclassified and Out-of-Distribution Examples in
    Neural Networks. ICLR 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auroc(counts: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve; None without errors, or without right pixels.

    Args:
        counts: Right and wrong pixels by rising uncertainty, int64 (levels, 2).
    """
    right, wrong = counts.T.astype(np.float64)
    if not right.sum() or not wrong.sum():
        return None
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum() / (right.sum() * wrong.sum()))


def aupr(counts: NDArray[np.int64]) -> float | None:
    """Average precision; None without errors.

    Args:
        counts: As in `auroc`.
    """
    right, wrong = counts[::-1].T.astype(np.float64)
    found, shown = np.cumsum(wrong), np.cumsum(wrong + right)
    if not wrong.sum():
        return None
    precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
    return float((wrong * precision).sum() / wrong.sum())
