"""Selective risk: errors of a map that leaves out what it is least sure of.

Pixels are accepted from the most confident on. At coverage c, the share of pixels accepted, the
risk is the share of errors among them; AURC is its mean over c from 0 to 1. Pixels of one bin of
confidence are taken as equally likely to be wrong, so that errors grow linearly within a bin: bins
become narrow towards a confidence of 1, where most pixels of a good model lie.

Reference:
    Geifman, El-Yaniv: Selective Classification for Deep Neural Networks. NeurIPS 2017. AURC:
    Geifman, Uziel, El-Yaniv: Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers.
    ICLR 2019.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Coverages that risks are given for.
COVERAGES = (0.95, 0.9, 0.8)


def selective_risk(sums: Floats, coverage: float) -> Floats:
    """Risk at a coverage.

    Args:
        sums: Pixels and right ones per bin, by rising confidence (…, bins, 2 or more).
        coverage: Above 0, at most 1.

    Returns:
        Float64 (…); NaN without pixels.
    """
    pixels, errors = _accepted(sums)
    wanted = coverage * pixels[..., -1:]
    # The bin in which the wanted number is reached; rounding must not lead beyond the last.
    place = np.minimum((pixels < wanted).sum(axis=-1, keepdims=True), pixels.shape[-1] - 1)
    before = np.maximum(place - 1, 0)
    n0, n1, e0, e1 = (
        np.take_along_axis(values, at, axis=-1)[..., 0]
        for values in (pixels, errors)
        for at in (before, place)
    )
    wanted = wanted[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(n1 > n0, (wanted - n0) / (n1 - n0), 1.0)
        return np.asarray((e0 + part * (e1 - e0)) / wanted, np.float64)


def area_under_risk(sums: Floats) -> Floats:
    """AURC (…) of sums (…, bins, 2 or more); NaN without pixels."""
    pixels, errors = _accepted(sums)
    n0, n1, e0, e1 = pixels[..., :-1], pixels[..., 1:], errors[..., :-1], errors[..., 1:]
    grown = n1 - n0
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(grown > 0, (e1 - e0) / grown, 0.0)
        # ∫ E(n) / n dn with E linear from n0 to n1; from 0 on it is the rate times the width.
        curved = np.where((n0 > 0) & (grown > 0), (e0 - rate * n0) * np.log(n1 / n0), 0.0)
        return np.asarray((curved + rate * grown).sum(axis=-1) / pixels[..., -1], np.float64)


def risk_curve(sums: Floats) -> tuple[Floats, Floats]:
    """Coverage and risk at the end of each bin that has pixels, the most confident first.

    Args:
        sums: (bins, 2 or more).
    """
    pixels, errors = _accepted(sums)
    changes = np.flatnonzero(np.diff(pixels) > 0) + 1
    if not changes.size:
        return np.zeros(0), np.zeros(0)
    return pixels[changes] / pixels[-1], errors[changes] / pixels[changes]


def _accepted(sums: Floats) -> tuple[Floats, Floats]:
    """Accepted pixels and errors among them after each bin from the most confident; 0 first."""
    found = []
    for values in (sums[..., 0], sums[..., 0] - sums[..., 1]):
        added = np.cumsum(values[..., ::-1], axis=-1)
        found.append(np.concatenate([np.zeros((*added.shape[:-1], 1)), added], axis=-1))
    return found[0], found[1]
