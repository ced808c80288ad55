"""Reliability, selective risk and detection of errors: by hand, and by other libraries."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_calibration_error

from small_evidence import evidence_of
from terrafuse.errors import ScoresError
from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.calibration import (
    area_under_risk,
    aupr,
    auroc,
    calibration_report,
    class_set_report,
    confident_errors,
    equal_bins,
    expected_error,
    maximum_error,
    overconfidence,
    reliability_sums,
    risk_curve,
    selective_risk,
)
from terrafuse.evaluation.cell_counts import CellCounts
from terrafuse.evaluation.evidence import CONFIDENCE_EDGES, CONFIDENCE_STEP, LEVELS
from terrafuse.prediction import Calibration, SubsetCalibration

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def sums_of(confidence: Floats, right: Bools) -> Floats:
    counts = np.zeros((len(CONFIDENCE_EDGES), 3), np.int64)
    bins = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1
    steps = np.round(confidence / CONFIDENCE_STEP)
    np.add.at(counts, bins, np.stack([np.ones(len(right)), right, steps], axis=1).astype(np.int64))
    return reliability_sums(counts)


def drawn(seed: int = 0, pixels: int = 3000) -> tuple[Floats, Bools]:
    """Confidences that are too high, most of them near 1."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, pixels) ** 0.3
    return confidence, rng.random(pixels) < confidence**2


def test_by_hand() -> None:
    # Bins of 0.05: two pixels in [0.6, 0.65), one in [0.9, 0.95), three in [0.95, 1].
    confidence = np.array([0.61, 0.63, 0.92, 0.96, 0.98, 1.0])
    right = np.array([1, 0, 0, 1, 1, 1], bool)
    sums = sums_of(confidence, right)
    gaps = abs(1 - 1.24), abs(0 - 0.92), abs(3 - 2.94)
    assert float(expected_error(sums)) == pytest.approx(sum(gaps) / 6)
    # Of 5 bins, [0.8, 1] holds four pixels with a sum of 3.86, of which three are right.
    assert float(expected_error(sums, 5)) == pytest.approx((0.24 + 0.86) / 6)
    assert float(maximum_error(sums)) == pytest.approx(0.92)
    assert float(overconfidence(sums)) == pytest.approx((5.1 - 4) / 6)
    of_pixels, of_errors = confident_errors(sums)
    assert (float(of_pixels), float(of_errors)) == (pytest.approx(1 / 6), 0.5)
    merged = equal_bins(sums)
    assert merged[12].tolist() == pytest.approx([2, 1, 1.24])
    assert merged[19].tolist() == pytest.approx([3, 3, 2.94])


def test_selective_risk_by_hand() -> None:
    # From the most confident: 10 pixels without error, 10 with 2, 20 with 10.
    sums = np.array([[20.0, 10, 0], [10, 8, 0], [10, 10, 0]])
    assert float(selective_risk(sums, 1.0)) == 12 / 40
    assert float(selective_risk(sums, 0.5)) == 2 / 20
    assert float(selective_risk(sums, 0.25)) == 0
    assert float(selective_risk(sums, 0.375)) == pytest.approx(1 / 15)  # half of the second bin
    assert float(selective_risk(sums, 0.75)) == pytest.approx((2 + 5) / 30)
    coverage, risk = risk_curve(sums)
    assert coverage.tolist() == [0.25, 0.5, 1]
    assert risk.tolist() == [0, 0.1, 0.3]
    steps = (np.arange(400_000) + 0.5) / 400_000
    errors = np.interp(steps * 40, [0, 10, 20, 40], [0, 0, 2, 12])
    assert float(area_under_risk(sums)) == pytest.approx((errors / (steps * 40)).mean(), rel=1e-6)


def test_bins_give_the_risk_of_sorted_pixels() -> None:
    """Fine bins near 1 keep what one bin of 0.05 would lose."""
    rng = np.random.default_rng(1)
    confidence = 1 - 10.0 ** -rng.uniform(0.3, 4, 20_000)
    right = rng.random(20_000) < confidence
    sums, errors = sums_of(confidence, right), ~right[np.argsort(-confidence)]
    for coverage in (0.95, 0.9, 0.8, 0.5):
        exact = errors[: round(coverage * 20_000)].mean()
        assert float(selective_risk(sums, coverage)) == pytest.approx(exact, abs=8e-4)
    exact = (np.cumsum(errors) / np.arange(1, 20_001)).mean()
    assert float(area_under_risk(sums)) == pytest.approx(exact, abs=8e-4)


def test_without_pixels_nothing_is_defined() -> None:
    nothing = sums_of(np.zeros(0), np.zeros(0, bool))
    for value in (
        expected_error(nothing), maximum_error(nothing), overconfidence(nothing),
        *confident_errors(nothing), selective_risk(nothing, 0.9), area_under_risk(nothing),
    ):  # fmt: skip
        assert np.isnan(value)
    assert auroc(np.zeros((3, 2), np.int64)) is None
    assert aupr(np.array([[3, 0], [1, 0]])) is None


def test_draws_are_computed_like_one() -> None:
    """Statistics of many draws at once are those of each."""
    many = np.stack([sums_of(*drawn(seed, 50)) for seed in range(5)])
    for compute in (
        expected_error, maximum_error, overconfidence, area_under_risk,
        lambda x: selective_risk(x, 0.8), lambda x: confident_errors(x)[1],
    ):  # fmt: skip
        np.testing.assert_allclose(compute(many), [compute(one) for one in many])


@pytest.mark.parametrize("bins", [20, 10, 5])
def test_torchmetrics_agrees(bins: int) -> None:
    """Of a binary problem, whose confidence is the probability of the positive class."""
    confidence, right = drawn()
    confidence = np.round(confidence, 6)
    for norm, own in (("l1", expected_error), ("max", maximum_error)):
        found = binary_calibration_error(
            torch.tensor(confidence), torch.tensor(right).long(), n_bins=bins, norm=norm
        )
        assert float(own(sums_of(confidence, right), bins)) == pytest.approx(float(found), abs=1e-6)


@pytest.mark.slow  # its import takes five seconds
@pytest.mark.parametrize("bins", [20, 10, 5])
def test_netcal_agrees(bins: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        netcal = pytest.importorskip("netcal.metrics", reason="needs netcal, of the extra 'dev'")
    confidence, right = drawn(2)
    for kind, own in ((netcal.ECE, expected_error), (netcal.MCE, maximum_error)):
        found = kind(bins).measure(confidence, right.astype(int))
        assert float(own(sums_of(confidence, right), bins)) == pytest.approx(found, abs=1e-6)


def test_scikit_learn_agrees() -> None:
    """Areas under the curves of errors, with many ties."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, of 'dev'")
    for seed, levels in ((0, LEVELS), (1, 5), (2, 2)):
        rng = np.random.default_rng(seed)
        wrong = rng.random(400) < 0.2
        level = np.clip((rng.normal(wrong, 1) + 3) / 8 * levels, 0, levels - 1).astype(int)
        counts = np.zeros((levels, 2), np.int64)
        np.add.at(counts, (level, wrong.astype(int)), 1)
        assert auroc(counts) == pytest.approx(metrics.roc_auc_score(wrong, level))
        assert aupr(counts) == pytest.approx(metrics.average_precision_score(wrong, level))


def test_the_report_is_of_each_subset_and_its_intervals_are_over_blocks() -> None:
    rng = np.random.default_rng(4)
    labels = [rng.integers(0, 3, (128, 192)).astype(np.uint8) for _ in range(2)]
    # With s1 alone the confidence is the same, and twice as many pixels are wrong.
    maps, sure = [], []
    for share in (0.09, 0.2):
        own = []
        for truth in labels:
            wrong = rng.random(truth.shape) < share
            own.append(np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8))
        maps.append(own)
        sure.append([np.full(truth.shape, 0.91, np.float32) for truth in labels])
    evidence = evidence_of(labels, maps, sure)
    blocks = Blocks(np.arange(12, dtype=np.int32), 64, None, "a cell")
    report = calibration_report(evidence, blocks, draws=400)
    assert list(report["subsets"]) == ["s1+s2", "s1"]
    assert (report["blocks"], report["block_px"]) == (12, 64)
    full, alone = report["subsets"].values()
    wrong = [np.mean([(m != t).mean() for m, t in zip(own, labels, strict=True)]) for own in maps]
    assert full["accuracy"] == pytest.approx(1 - wrong[0])
    assert alone["overconfidence"]["value"] == pytest.approx(0.91 - (1 - wrong[1]), abs=1e-6)
    assert alone["ece"]["20"]["value"] == pytest.approx(alone["overconfidence"]["value"], abs=1e-6)
    assert alone["overconfidence"]["low"] > 0.08
    assert full["overconfidence"]["low"] < 0 < full["overconfidence"]["high"]
    assert alone["confident_errors"]["of_errors"]["value"] == 1
    # All pixels are equally sure: leaving some out is no help, and nothing finds the errors.
    assert full["selective_risk"]["0.8"]["value"] == pytest.approx(wrong[0])
    assert full["finds_errors"]["confidence"]["auroc"] == 0.5
    assert list(full["finds_errors"]) == ["confidence"]  # the others were not counted
    assert full["diagram"]["pixels"][18] == full["pixels"] == 2 * 128 * 192
    assert full["diagram"]["accuracy"][0] is None
    wide = calibration_report(evidence, replace(blocks, widening=4.0), draws=400)
    narrow, wide = (own["subsets"]["s1"]["overconfidence"] for own in (report, wide))
    assert wide["high"] - wide["low"] == pytest.approx(2 * (narrow["high"] - narrow["low"]))
    with pytest.raises(ScoresError, match="no table 'reliability'"):
        calibration_report(evidence_of(labels, maps), blocks)


def test_class_sets_are_counted_in_the_cells_of_their_scene() -> None:
    """Blocks count alike for what is promised, and by their pixels for the rest."""
    labels = [np.zeros((64, 64 * cells), np.uint8) for cells in (7, 1)]
    evidence = evidence_of(labels, [labels], subsets=[("s1",)])
    # Per cell pixels, covered ones, classes in their sets, and sets of one class.
    first = np.array([[10, 9 - k, 12 + k, 5] for k in range(7)])
    second = np.array([[90, 90, 180, 0]])
    found = [[CellCounts.of_table(own)] for own in (first, second)]
    calibration = Calibration("s1", {"s1": SubsetCalibration(1.0, 0.2, 0.9)})

    def report(blocks: Blocks) -> dict[str, Any]:
        found_sets = class_set_report(evidence, blocks, found, calibration)
        own: dict[str, Any] = found_sets["subsets"]["s1"]
        return own

    blocks = find_blocks([evidence])
    narrow = report(blocks)
    assert narrow["covered_per_block"]["value"] == pytest.approx((4.2 + 1) / 8)
    assert narrow["covered_pixels"]["value"] == (42 + 90) / 160
    assert narrow["mean_size"]["value"] == (105 + 180) / 160
    assert narrow["of_one_class"]["value"] == 35 / 160
    widened = report(replace(blocks, widening=4.0))
    narrow, wide = (own["covered_per_block"] for own in (narrow, widened))
    value = narrow["value"]
    assert value - wide["low"] == pytest.approx(2 * (value - narrow["low"]))
    assert narrow["high"] < wide["high"] == 1  # a share


def test_the_interval_of_the_error_of_calibration_covers_it() -> None:
    """Blocks have a miscalibration of their own; of sound maps noise is most of the ECE."""
    for mean, spread in ((0.05, 0.05), (0.0, 0.0)):
        rng = np.random.default_rng(5)
        covered, draws = 0, 60
        for _ in range(draws):
            counts = np.zeros((30, len(CONFIDENCE_EDGES), 3), np.int64)
            confidence = rng.uniform(0.5, 0.999, (30, 200))
            chance = confidence - mean - rng.normal(0, spread, (30, 1))
            right = rng.random((30, 200)) < chance
            bins = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1
            steps = np.round(confidence / CONFIDENCE_STEP)
            rows = np.stack([np.ones(bins.shape), right, steps], axis=-1).astype(np.int64)
            np.add.at(counts, (np.arange(30)[:, None], bins), rows)
            found = _interval(counts)
            covered += found["low"] <= max(mean, 0.001) <= found["high"]
        assert covered >= 0.83 * draws, (mean, covered)


def _interval(counts: NDArray[np.int64]) -> dict[str, float]:
    from terrafuse.evaluation.calibration.report import _ece
    from terrafuse.evaluation.resampling import BlockBootstrap

    bootstrap = BlockBootstrap(len(counts), 200)
    found = _ece(reliability_sums(bootstrap.drawn(counts)), bootstrap, 20)
    return {name: value for name, value in found.items() if value is not None}
