"""Evidence made of arrays, counted in the plainest way; fields of correlated errors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from terrafuse.evaluation import BoundaryScore
from terrafuse.evaluation.evidence import (
    CONFIDENCE_EDGES,
    CONFIDENCE_STEP,
    LAGS,
    LEVELS,
    MEASURES,
    Cells,
    Evidence,
    ScoredScene,
    to_table,
)

IGNORED = 255
NAMES = ("bare", "crop", "water", "wood", "town", "snow")


def evidence_of(
    labels: Sequence[NDArray[np.uint8]],
    maps: Sequence[Sequence[NDArray[np.uint8]]],
    confidence: Sequence[Sequence[NDArray[np.float32]]] | None = None,
    *,
    classes: int = 3,
    subsets: Sequence[tuple[str, ...]] = (("s1", "s2"), ("s1",), ("s2",)),
    scenes: Sequence[ScoredScene] | None = None,
    tolerance_px: float | None = None,
    rows_apart: int = 1,
    **facts: Any,
) -> Evidence:
    """Count maps of scenes.

    Args:
        labels: Of each scene, (H, W); 255 is ignored.
        maps: Of each subset and scene; 255 = no data.
        confidence: Of each subset and scene; default: there is no table of it.
        rows_apart: Confidence is looked at in every so many rows.
        facts: Replace those of default.
    """
    subsets = tuple(subsets)[: len(maps)]
    cells = Cells.of([own.shape for own in labels])
    confusion = np.zeros((len(maps), len(cells), classes, classes + 1), np.int64)
    boundary = np.zeros((len(maps), len(cells), classes, 4), np.int64)
    reliability = np.zeros((len(maps), len(cells), len(CONFIDENCE_EDGES), 3), np.int64)
    detection = np.zeros((len(maps), len(MEASURES), LEVELS, 2), np.int64)
    for s in range(len(maps)):
        for c in range(len(cells)):
            n, row, col, size = (
                int(getattr(cells, key)[c]) for key in ("scene", "row", "col", "size")
            )
            part = np.s_[row : row + size, col : col + size]
            truth, found = labels[n][part], maps[s][n][part]
            for true, mapped in zip(truth.ravel(), found.ravel(), strict=True):
                if true != IGNORED:
                    confusion[s, c, true, classes if mapped == IGNORED else mapped] += 1
            if tolerance_px is not None:
                score = BoundaryScore(classes, tolerance_px)
                score.update(truth, found)
                boundary[s, c] = score.counts
            if confidence is not None:
                looked_at = (np.arange(row, row + len(truth)) % rows_apart == 0)[:, None]
                known = (truth != IGNORED) & (found != IGNORED) & looked_at
                sure, right = confidence[s][n][part][known], (truth == found)[known]
                bins = np.searchsorted(CONFIDENCE_EDGES, sure, side="right") - 1
                steps = np.round(sure.astype(np.float64) / CONFIDENCE_STEP).astype(np.int64)
                for b, is_right, step in zip(bins, right, steps, strict=True):
                    reliability[s, c, b] += (1, is_right, step)
                levels = np.round((1 - sure) * (LEVELS - 1)).astype(int)
                np.add.at(detection[s, 0], (levels, (~right).astype(int)), 1)
    tables: dict[Any, Any] = {"confusion": _table(confusion)}
    tables |= {"boundary": _table(boundary)} if tolerance_px is not None else {}
    tables |= {"reliability": _table(reliability)} if confidence is not None else {}
    own_facts = {
        "classes": list(NAMES[:classes]), "scored_classes": list(NAMES[:classes]),
        "class_mean": "present", "split": "test", "reference": "labels", "crop_size": 64,
        "overlap": 0, "boundary_tolerance_px": tolerance_px, "method": "late_fusion", "seed": 0,
        "model": "0" * 16,
    }  # fmt: skip
    return Evidence(
        {**own_facts, **facts},
        tuple(scenes or (scored_scene(k, own) for k, own in enumerate(labels))),
        subsets,
        cells,
        tables,
        np.stack([error_pairs(t, m) for t, m in zip(labels, maps[0], strict=True)]),
        detection,
    )


def _table(counts: NDArray[np.int64]) -> Any:
    return to_table(counts.reshape(-1, *counts.shape[2:]))


def scored_scene(number: int, labels: NDArray[np.uint8], **values: Any) -> ScoredScene:
    """A scene without coordinates."""
    digest = hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    height, width = labels.shape
    return ScoredScene(f"scene {number}", height, width, digest, **values)


def error_pairs(labels: NDArray[np.uint8], found: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Int64 (lags, 3), as in `Evidence.correlation`."""
    known, wrong = labels != IGNORED, (labels != found) & (labels != IGNORED)
    counts = np.zeros((len(LAGS), 3), np.int64)
    for k, lag in enumerate(LAGS):
        for a, b in ((np.s_[:, :-lag], np.s_[:, lag:]), (np.s_[:-lag], np.s_[lag:])):
            both = known[a] & known[b]
            one, two = wrong[a] & both, wrong[b] & both
            counts[k] += (both.sum(), (one & two).sum(), one.sum() + two.sum())
    return counts


def correlated_field(
    rng: np.random.Generator, shape: tuple[int, int], length_px: float
) -> NDArray[np.float64]:
    """A Gaussian field of mean 0 and variance 1 that repeats nowhere.

    Args:
        length_px: Distance at which its correlation is 1/e: white noise smoothed by a Gaussian of
            standard deviation s has the correlation exp(-d² / 4 s²).
    """
    sigma = length_px / 2
    margin = int(4 * sigma) + 1
    noise = rng.standard_normal([side + 2 * margin for side in shape])
    smooth = scipy.ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=4)
    inner = smooth[margin : margin + shape[0], margin : margin + shape[1]]
    # Σ of the squared weights of the filter, which is the variance of what it returns.
    point = np.zeros([2 * margin + 1] * 2)
    point[margin, margin] = 1
    weights = scipy.ndimage.gaussian_filter(point, sigma, mode="wrap", truncate=4)
    return inner / np.sqrt((weights**2).sum())
