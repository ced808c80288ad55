"""Calibration of each subset of modalities, as it stands in `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.calibration.detection import aupr, auroc
from terrafuse.evaluation.calibration.reliability import (
    BINS,
    CONFIDENT,
    confident_errors,
    diagram,
    expected_error,
    maximum_error,
    overconfidence,
    plain,
    reliability_sums,
)
from terrafuse.evaluation.calibration.risk import (
    COVERAGES,
    area_under_risk,
    risk_curve,
    selective_risk,
)
from terrafuse.evaluation.evidence import CONFIDENCE_ROWS, MEASURES, Evidence
from terrafuse.evaluation.resampling import DRAWS, BlockBootstrap

Floats = NDArray[np.float64]

# By how many times the noise of resampling the lower end of the ECE's interval is moved.
_EXCESS = 3.0


def calibration_report(
    evidence: Evidence, blocks: Blocks, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Return how sure the map is and should be, per subset, with 95 % intervals over blocks.

    Args:
        evidence: With the table "reliability".
        blocks: Of its cells.

    Raises:
        ScoresError: The evidence has no such table.
    """
    bootstrap = BlockBootstrap(blocks.count, draws, seed, blocks.widening)
    return {
        "blocks": blocks.count,
        "block_px": blocks.side_px,
        "block_reason": blocks.reason,
        "every_rows": CONFIDENCE_ROWS,
        "confident_from": CONFIDENT,
        "subsets": {
            "+".join(subset): _of_subset(evidence, number, blocks, bootstrap)
            for number, subset in enumerate(evidence.subsets)
        },
    }


def _of_subset(
    evidence: Evidence, subset: int, blocks: Blocks, bootstrap: BlockBootstrap
) -> dict[str, Any]:
    counts = evidence.counts("reliability", blocks.of_cell, subset)
    drawn = reliability_sums(bootstrap.drawn(counts))
    sums = drawn[0]

    def interval(compute: Callable[[Floats], Floats], least: float = 0) -> dict[str, float | None]:
        return bootstrap.interval_of(compute(drawn)).within(least, 1).to_dict()

    pixels, right, confidence = sums.sum(axis=0)
    coverage, risk = risk_curve(sums)
    return {
        "pixels": int(pixels),
        "accuracy": float(right / pixels) if pixels else None,
        "mean_confidence": float(confidence / pixels) if pixels else None,
        "ece": {str(bins): _ece(drawn, bootstrap, bins) for bins in BINS},
        "mce": plain(maximum_error(sums)[None])[0],
        "overconfidence": interval(overconfidence, -1),
        "confident_errors": {
            "of_pixels": interval(lambda x: confident_errors(x)[0]),
            "of_errors": interval(lambda x: confident_errors(x)[1]),
        },
        "selective_risk": {
            f"{c:g}": interval(lambda x, c=c: selective_risk(x, c))  # type: ignore[misc]
            for c in COVERAGES
        },
        "aurc": interval(area_under_risk),
        "finds_errors": _finds_errors(evidence.detection[subset]),
        "diagram": diagram(sums),
        "risk_curve": {"coverage": plain(coverage), "risk": plain(risk)},
    }


def _ece(drawn: Floats, bootstrap: BlockBootstrap, bins: int) -> dict[str, float | None]:
    """ECE with its interval, of sums (1 + R, bins of evidence, 3).

    A sum of absolute values grows with noise, so that resampled ECEs are too high on average. The
    lower end is moved down by three times that excess, at most to 0: of maps without error of
    calibration the interval then holds nearly 0, and of others it is hardly wider. What it covers
    is simulated in the tests.

    Reference:
        Bröcker: Estimating reliability and resolution of probability forecasts through
        decomposition of the empirical score. Climate Dynamics 39 (2012).
    """
    values = expected_error(drawn, bins)
    found = bootstrap.interval_of(values)
    if np.isnan(found.low):
        return found.to_dict()
    excess = max(0.0, float(np.nanmean(values[1:])) - found.value)
    return replace(found, low=max(0.0, found.low - _EXCESS * excess)).to_dict()


def _finds_errors(counts: NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """Of each measure of uncertainty that was counted."""
    return {
        measure: {"auroc": auroc(own), "aupr": aupr(own)}
        for measure, own in zip(MEASURES, counts, strict=True)
        if own.any()
    }
