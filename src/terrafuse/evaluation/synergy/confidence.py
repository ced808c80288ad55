"""Confidence of maps from fewer modalities: does it fall as much as the accuracy?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.calibration.reliability import (
    confident_errors,
    equal_bins,
    expected_error,
    plain,
    reliability_sums,
)
from terrafuse.evaluation.calibration.risk import selective_risk
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.scores import Floats, ratio

#: Shares of pixels that are kept, the most confident ones first.
COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)
#: Figure → its values, of all blocks and of each draw, (1 + R,).
Measures = Mapping[str, Floats]


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
        values = _measures(drawn)
        full = full or values
        rows.append(
            {
                "subset": list(subset),
                **{
                    name: bootstrap.interval_of(own).within(0, 1).to_dict()
                    for name, own in values.items()
                },
                "fall": fall(full, values, bootstrap),
                "abstention": _abstention(drawn[0]),
                "reliability": _bins(drawn[0]),
            }
        )
    return rows


def measures(evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap) -> Measures | None:
    """Accuracy, confidence, ece and confident errors of the map with all modalities.

    Returns:
        None where no confidence was counted.
    """
    if "reliability" not in evidence.tables:
        return None
    return _measures(_drawn(evidence, blocks, bootstrap, 0))


def fall(before: Measures, after: Measures, bootstrap: BlockBootstrap) -> dict[str, Any]:
    """Fall of accuracy and confidence from one map to another one, see `confidence_rows`."""
    falls = {name: before[name] - after[name] for name in ("accuracy", "confidence")}
    falls["not_noticed"] = falls["accuracy"] - falls["confidence"]
    return {name: bootstrap.interval_of(own).to_dict() for name, own in falls.items()}


def _drawn(evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap, subset: int) -> Floats:
    """Sums (1 + R, bins of evidence, 3), of all blocks and of each draw."""
    return reliability_sums(bootstrap.drawn(evidence.counts("reliability", blocks.of_cell, subset)))


def _measures(sums: Floats) -> Measures:
    pixels, right, confidence = np.moveaxis(sums.sum(axis=-2), -1, 0)
    return {
        "accuracy": ratio(right, pixels),
        "confidence": ratio(confidence, pixels),
        "ece": expected_error(sums),
        "confident_errors": confident_errors(sums)[0],
    }


def _abstention(sums: Floats) -> dict[str, float | None]:
    """Accuracy of the most confident pixels, by the share of pixels that they are.

    Args:
        sums: (bins of evidence, 3).
    """
    found = np.array([1 - selective_risk(sums, coverage) for coverage in COVERAGES])
    return dict(zip((f"{coverage:g}" for coverage in COVERAGES), plain(found), strict=True))


def _bins(sums: Floats) -> list[dict[str, float]]:
    """Reliability per equal bin with pixels."""
    merged = equal_bins(sums)
    total = merged[:, 0].sum()
    return [
        {
            "share": float(pixels / total),
            "confidence": float(confidence / pixels),
            "accuracy": float(right / pixels),
        }
        for pixels, right, confidence in merged
        if pixels
    ]
