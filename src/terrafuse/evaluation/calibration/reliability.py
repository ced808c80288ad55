r"""Reliability of the confidence: how often the map is right where it says so.

Of pixels whose confidence (largest softmax probability) lies in bin b, n_b are scored, r_b of them
are right and their confidences add up to s_b; N is the sum of n_b.

| figure | formula |
|---|---|
| expected calibration error (ECE) | Σ_b \|r_b − s_b\| / N |
| maximum calibration error (MCE) | max over n_b > 0 of \|r_b − s_b\| / n_b |
| overconfidence | Σ_b (s_b − r_b) / N |
| confident errors | Σ over bins from a confidence of 0.9 of (n_b − r_b), of N or of all errors |

Pixels without data in the map have no confidence and are left out.

Reference:
    Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    AAAI 2015. Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.evidence import CONFIDENCE_EDGES, CONFIDENCE_STEP
from terrafuse.evaluation.scores import Floats, ratio

#: Numbers of equal bins that the ECE is given for; the first is the headline.
BINS = (20, 10, 5)
#: Errors of at least this confidence are confident ones; an edge of the bins.
CONFIDENT = 0.9
# Bins of evidence that are one of the 20 equal ones; the last is halved again and again there.
_EQUAL = 20


def reliability_sums(counts: NDArray[Any]) -> Floats:
    """Pixels, right ones and summed confidences, from the counts of evidence.

    Args:
        counts: (…, bins, 3), as in `Evidence.counts("reliability")`, or sums of them.

    Returns:
        Float64 (…, bins, 3).
    """
    scale = np.array([1.0, 1.0, CONFIDENCE_STEP])
    return np.asarray(counts * scale, np.float64)


def equal_bins(sums: Floats, bins: int = _EQUAL) -> Floats:
    """Merge the bins of evidence into equal ones.

    Args:
        sums: (…, bins of evidence, 3).
        bins: A divisor of 20.

    Returns:
        Float64 (…, bins, 3).
    """
    assert sums.shape[-2] == len(CONFIDENCE_EDGES), sums.shape
    assert _EQUAL % bins == 0, bins
    last = sums[..., _EQUAL - 1 :, :].sum(axis=-2, keepdims=True)
    fine = np.concatenate([sums[..., : _EQUAL - 1, :], last], axis=-2)
    parts = fine.reshape(*sums.shape[:-2], bins, _EQUAL // bins, 3)
    return np.asarray(parts.sum(axis=-2), np.float64)


def expected_error(sums: Floats, bins: int = _EQUAL) -> Floats:
    """ECE (…) of sums (…, bins of evidence, 3); NaN without pixels."""
    merged = equal_bins(sums, bins)
    gaps = np.abs(merged[..., 1] - merged[..., 2]).sum(axis=-1)
    return ratio(gaps, merged[..., 0].sum(axis=-1))


def maximum_error(sums: Floats, bins: int = _EQUAL) -> Floats:
    """MCE (…) of sums (…, bins of evidence, 3); NaN without pixels."""
    merged = equal_bins(sums, bins)
    gaps = ratio(np.abs(merged[..., 1] - merged[..., 2]), merged[..., 0])
    found = np.where(np.isnan(gaps), -np.inf, gaps).max(axis=-1)
    return np.where(np.isinf(found), np.nan, found)


def overconfidence(sums: Floats) -> Floats:
    """Mean confidence minus accuracy (…) of sums (…, bins, 3); NaN without pixels."""
    pixels, right, confidence = np.moveaxis(sums.sum(axis=-2), -1, 0)
    return ratio(confidence - right, pixels)


def confident_errors(sums: Floats) -> tuple[Floats, Floats]:
    """Share of pixels, and of errors, that are wrong with a confidence of `CONFIDENT` or more.

    Args:
        sums: (…, bins of evidence, 3).

    Returns:
        Two arrays (…); NaN without pixels, or errors.
    """
    wrong = sums[..., 0] - sums[..., 1]
    # Edges are multiples of 0.05 in floating point: the middle of the bin before is clear of them.
    sure = CONFIDENCE_EDGES > CONFIDENT - 0.025
    found = wrong[..., sure].sum(axis=-1)
    return ratio(found, sums[..., 0].sum(axis=-1)), ratio(found, wrong.sum(axis=-1))


def diagram(sums: Floats, bins: int = _EQUAL) -> dict[str, list[Any]]:
    """Points of a reliability diagram, a value per equal bin; None where there are no pixels.

    Args:
        sums: (bins of evidence, 3).
    """
    merged = equal_bins(sums, bins)
    accuracy, confidence = (ratio(merged[:, k], merged[:, 0]) for k in (1, 2))
    return {
        "confidence": plain(confidence),
        "accuracy": plain(accuracy),
        "pixels": [int(n) for n in merged[:, 0]],
    }


def plain(values: Floats) -> list[float | None]:
    """Plain numbers; None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
