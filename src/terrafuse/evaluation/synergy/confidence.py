"""Confidence of maps from fewer modalities: does it fall as much as the accuracy?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.evidence import CONFIDENCE_EDGES, CONFIDENCE_STEP, Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.synergy.games import Floats

#: Errors at this confidence or more are confident ones.
CONFIDENT = 0.9
#: Shares of pixels that are kept, the most confident ones first.
COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)
#: Equal bins of the expected calibration error, as wide as the widest that are stored.
BINS = 20
_NAMES = ("accuracy", "confidence", "ece", "confident_errors")


def confidence_rows(
    evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap
) -> list[dict[str, Any]]:
    """How sure each subset of modalities is, and how right, the full one first.

    Returns:
        Per subset "accuracy" and mean "confidence" of mapped pixels, "ece" (expected calibration
        error, 20 bins), "confident_errors" (share of pixels that are wrong at a confidence of 0.9
        or more) as intervals; "fall" of accuracy and of confidence from the full subset, and
        "not_noticed", how much more the accuracy falls; "abstention": coverage → accuracy of the
        pixels with the highest confidence; "reliability": per bin the share of pixels, mean
        confidence and accuracy. Empty where no confidence was counted.
    """
    if "reliability" not in evidence.tables:
        return []
    rows, full = [], None
    for number, subset in enumerate(evidence.subsets):
        drawn = _drawn(evidence, blocks, bootstrap, number)
        values = measures(drawn)
        full = values if full is None else full
        rows.append(
            {
                "subset": list(subset),
                **{name: _interval(bootstrap, values[name]) for name in _NAMES},
                "fall": _fall(full, values, bootstrap),
                "abstention": abstention(drawn[0]),
                "reliability": _bins(drawn[0]),
            }
        )
    return rows


def fall(
    before: Evidence, after: Evidence, blocks: Blocks, bootstrap: BlockBootstrap
) -> dict[str, Any] | None:
    """Fall of accuracy and confidence from one map to another one, see `confidence_rows`.

    Returns:
        None where no confidence was counted.
    """
    if not all("reliability" in own.tables for own in (before, after)):
        return None
    one, two = (measures(_drawn(own, blocks, bootstrap, 0)) for own in (before, after))
    return _fall(one, two, bootstrap)


def _fall(
    before: Mapping[str, Floats], after: Mapping[str, Floats], bootstrap: BlockBootstrap
) -> dict[str, Any]:
    falls = {name: before[name] - after[name] for name in ("accuracy", "confidence")}
    falls["not_noticed"] = falls["accuracy"] - falls["confidence"]
    return {name: _interval(bootstrap, own) for name, own in falls.items()}


def _drawn(evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap, subset: int) -> Floats:
    """Counts (1 + R, bins, 3), of all blocks and of each draw."""
    counts = evidence.counts("reliability", blocks.of_cell, subset)
    whole = counts.sum(axis=0, keepdims=True).astype(np.float64)
    return np.concatenate([whole, bootstrap.sums(counts)])


def measures(counts: Floats) -> dict[str, Floats]:
    """Accuracy, confidence, ece and confident errors (R,) of counts (R, bins, 3)."""
    pixels, right, steps = np.moveaxis(counts, -1, 0)
    sure = steps * CONFIDENCE_STEP
    total = pixels.sum(axis=1)
    total = np.where(total > 0, total, np.nan)
    bins = _equal_bins(right - sure)
    confident = CONFIDENCE_EDGES > CONFIDENT - 1e-9
    return {
        "accuracy": right.sum(axis=1) / total,
        "confidence": sure.sum(axis=1) / total,
        "ece": np.abs(bins).sum(axis=1) / total,
        "confident_errors": (pixels - right)[:, confident].sum(axis=1) / total,
    }


def abstention(counts: Floats) -> dict[str, float | None]:
    """Accuracy of the most confident pixels, by the share of pixels that they are.

    Args:
        counts: (bins, 3). Within a bin pixels are taken as equally good.
    """
    pixels, right = counts[::-1, 0], counts[::-1, 1]
    total = pixels.sum()
    if not total:
        return {f"{coverage:g}": None for coverage in COVERAGES}
    at = np.r_[0.0, pixels.cumsum()] / total
    hits = np.r_[0.0, right.cumsum()] / total
    return {
        f"{coverage:g}": float(np.interp(coverage, at, hits)) / coverage for coverage in COVERAGES
    }


def _equal_bins(values: Floats) -> Floats:
    """Sum the stored bins (…, bins), whose last ones are finer, to equal ones."""
    last = BINS - 1
    return np.concatenate([values[..., :last], values[..., last:].sum(-1, keepdims=True)], axis=-1)


def _bins(counts: Floats) -> list[dict[str, float]]:
    """Reliability per equal bin with pixels."""
    pixels, right, steps = (_equal_bins(part) for part in counts.T)
    return [
        {
            "share": float(pixels[k] / pixels.sum()),
            "confidence": float(steps[k] * CONFIDENCE_STEP / pixels[k]),
            "accuracy": float(right[k] / pixels[k]),
        }
        for k in np.flatnonzero(pixels)
    ]


def _interval(bootstrap: BlockBootstrap, values: Floats) -> Mapping[str, float | None]:
    return bootstrap.interval(float(values[0]), values[1:]).to_dict()
