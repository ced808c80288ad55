"""Class sets: what is counted, the threshold by hand, and that the coverage holds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from remedies import refused
from terrafuse.errors import ScoresError
from terrafuse.evaluation.calibration import (
    COLUMNS,
    THRESHOLDS,
    choose_threshold,
    count_missed,
)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max(axis=0))
    shares: NDArray[np.float32] = (weights / weights.sum(axis=0)).astype(np.float32)
    return shares


def test_counts_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    shares = softmax(rng.normal(0, 3, (4, 600)))
    labels = rng.integers(0, 4, 600).astype(np.uint8)
    cells = rng.integers(0, 5, 600)
    counts = count_missed(shares, labels, cells, 5)
    true, is_best = shares[labels, np.arange(600)], shares.argmax(axis=0) == labels
    for place in (0, 1, 17, 100, COLUMNS - 2):
        held = is_best | (true >= np.float32(THRESHOLDS[place]))
        expected = [int((~held & (cells == cell)).sum()) for cell in range(5)]
        assert counts[:, place].tolist() == expected
    assert counts[:, -1].tolist() == np.bincount(cells).tolist()
    assert not counts[:, -2].any()  # of the threshold 0 every class is in the set


def test_a_threshold_by_hand() -> None:
    """Nine blocks, of which one misses pixels at the first two thresholds."""
    counts = np.zeros((10, COLUMNS), np.int64)
    counts[:9, -1] = (100, 2, 2, 2, 2, 2, 2, 2, 2)
    counts[0, :2] = 90, 45
    # 1 / 10 is for the further block alone: with nine blocks no pixel may be missed.
    assert choose_threshold(counts, 0.9).threshold == THRESHOLDS[2]
    # Of 0.8, losses may add up to 1: 0.9 does, and each block counts once.
    rule = choose_threshold(counts, 0.8, 64)
    assert rule.threshold == THRESHOLDS[0]
    assert (rule.blocks, rule.block_px, rule.found) == (9, 64, pytest.approx(0.9))
    assert choose_threshold(counts, 0.86).threshold == THRESHOLDS[2]
    counts[0, :2] = 45, 10
    assert choose_threshold(counts, 0.86).threshold == THRESHOLDS[1]  # (0.1 + 1) / 10 ≤ 0.14


def test_too_few_blocks() -> None:
    counts = np.ones((7, COLUMNS), np.int64)
    counts[:, :-1] = 0
    with refused(
        "evaluation.calibration.conformal:choose_threshold | Ask for less (--conformal",
        ScoresError,
    ) as error:
        choose_threshold(counts, 0.9, 256)
    choose_threshold(counts, float(error.find(r"\(--conformal ([\d.]+)\)")))
    more = np.concatenate([counts, counts])  # of more ground, or of smaller blocks
    choose_threshold(more, 0.9)


def test_each_block_counts_once_however_many_pixels_it_has() -> None:
    """Nine blocks of a pixel that is missed above 0.25, and one of many that are never missed."""
    counts = np.zeros((10, COLUMNS), np.int64)
    counts[:9, :-1] = THRESHOLDS > 0.25
    counts[:, -1] = [*[1] * 9, 991]
    rule = choose_threshold(counts, 0.5)
    assert rule.threshold == 0.25
    assert rule.found == 1
    assert choose_threshold(counts[[0, *[9] * 9]], 0.5).threshold == 0.5


def test_the_coverage_of_a_further_block_holds() -> None:
    """Blocks with a difficulty of their own: pixels of one block succeed and fail together."""
    rng = np.random.default_rng(1)
    covered = {"blocks": [], "pixels": []}
    for _ in range(400):
        shift = rng.normal(0, 2.5, 21)
        logits = rng.normal(0, 1, (3, 21, 40))
        labels = rng.integers(0, 3, (21, 40))
        own = np.take_along_axis(logits, labels[None], axis=0)
        np.put_along_axis(logits, labels[None], own + 1 + shift[:, None], axis=0)
        counts = count_missed(
            softmax(logits.reshape(3, -1)), labels.ravel().astype(np.uint8),
            np.repeat(np.arange(21), 40), 21,
        )  # fmt: skip
        losses = counts[:, :-1] / counts[:, -1:]
        place = int(np.flatnonzero(choose_threshold(counts[:20], 0.8).threshold == THRESHOLDS)[0])
        covered["blocks"].append(1 - losses[20, place])
        # As if pixels were exchangeable: a quantile of all of them, without the further block.
        pooled = int(np.argmax(counts[:20, :-1].sum(axis=0) / counts[:20, -1].sum() <= 0.2))
        covered["pixels"].append(1 - losses[20, pooled])
    spread = np.std(covered["blocks"]) / 20
    assert np.mean(covered["blocks"]) > 0.8 - 2 * spread
    assert np.mean(covered["blocks"]) < 0.9  # and not by sets of all classes
    assert np.mean(covered["pixels"]) < np.mean(covered["blocks"])
