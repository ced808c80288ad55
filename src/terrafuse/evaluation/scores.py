"""Scores from a confusion matrix, per class and over classes.

With M the matrix (rows = reference), TP_c = M_cc, FN_c = row sum − M_cc, FP_c = column sum − M_cc,
n_c the row sum and N the sum of M (a further column of M holds unmapped pixels, which belong to
n_c and N and thus count as wrong):

| score | formula | undefined when |
|---|---|---|
| OA | Σ TP_c / N | N = 0 |
| recall_c; mPA = its mean over n_c > 0 | TP_c / n_c | n_c = 0 |
| precision_c | TP_c / (TP_c + FP_c) | never mapped |
| IoU_c; mIoU | TP_c / (TP_c + FP_c + FN_c) | in neither |
| F1_c; mF1 | 2 TP_c / (2 TP_c + FP_c + FN_c) | in neither |
| kappa | (OA − p) / (1 − p), p = Σ n_c · column_c / N² | p = 1 or N = 0 |
| FWIoU | Σ n_c / N · IoU_c over n_c > 0 | N = 0 |

An undefined score is None and is left out of means; it is never taken as 0 or 1. A mean covers the
classes that occur in reference or map (`present`), or those in the reference (`reference`), and of
these only those it is restricted to (`mean_over`). Classes left out of the means stay in the
matrix: a pixel wrongly mapped as one of them is still an error of its true class, and OA, kappa and
FWIoU cover all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ClassMean = Literal["present", "reference"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """Scores per class, float64 (K,) each; NaN = undefined.

    Args:
        iou: Intersection over union.
        f1: F1, also called Dice.
        recall: Recall, also called producer's accuracy.
        precision: Precision, also called user's accuracy.
        boundary_f1: F1 of the boundaries; None if they were not compared.
        pixels: Reference pixels, int64.
        predicted: Mapped pixels, int64.
    """

    iou: Floats
    f1: Floats
    recall: Floats
    precision: Floats
    boundary_f1: Floats | None
    pixels: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Scores over all classes; None = undefined.

    Args:
        oa: Overall accuracy.
        mpa: Mean pixel accuracy, the mean of recall.
        miou: Mean IoU.
        mf1: Mean F1.
        kappa: Cohen's kappa.
        fwiou: IoU weighted by reference pixels.
        boundary_f1: Mean F1 of the boundaries; None also if they were not compared.
        averaged: Number of classes in each mean.
    """

    oa: float | None
    mpa: float | None
    miou: float | None
    mf1: float | None
    kappa: float | None
    fwiou: float | None
    boundary_f1: float | None
    averaged: dict[str, int]


def score_classes(matrix: NDArray[np.int64], boundary_f1: Floats | None = None) -> ClassScores:
    """Compute the scores per class.

    Args:
        matrix: Int64 (K, K) or (K, K + 1), rows = reference.
        boundary_f1: Per class (K,), if boundaries were compared.
    """
    hit, pixels = np.diag(matrix), matrix.sum(axis=1)
    predicted = matrix.sum(axis=0)[: len(matrix)]
    return ClassScores(
        iou=ratio(hit, pixels + predicted - hit),
        f1=ratio(2 * hit, pixels + predicted),
        recall=ratio(hit, pixels),
        precision=ratio(hit, predicted),
        boundary_f1=boundary_f1,
        pixels=pixels,
        predicted=predicted,
    )


def score(
    matrix: NDArray[np.int64],
    class_mean: ClassMean = "present",
    boundary_f1: Floats | None = None,
    mean_over: Sequence[int] | None = None,
) -> Scores:
    """Compute the scores over all classes.

    Args:
        matrix: Int64 (K, K) or (K, K + 1), rows = reference.
        class_mean: Classes in a mean: those in reference or map ("present"), or in "reference".
        boundary_f1: Per class (K,), if boundaries were compared.
        mean_over: Indices of classes that a mean may cover; default: all.
    """
    classes = score_classes(matrix, boundary_f1)
    total = float(matrix.sum())
    # In float64: products of pixel counts overflow int64 at some 3 · 10⁹ pixels.
    pixels, predicted = classes.pixels.astype(float), classes.predicted.astype(float)
    in_reference = pixels > 0
    oa = float(np.trace(matrix)) / total if total else None
    chance = float((pixels * predicted).sum()) / total**2 if total else 1.0
    weighted = (pixels * classes.iou)[in_reference].sum()
    allowed = _chosen(mean_over, len(matrix))
    averaged = allowed & in_reference if class_mean == "reference" else allowed
    means = {
        "miou": _mean(classes.iou, averaged),
        "mpa": _mean(classes.recall, allowed),  # undefined where a class is not in the reference
        "mf1": _mean(classes.f1, averaged),
        "boundary_f1": (None, 0) if boundary_f1 is None else _mean(boundary_f1, averaged),
    }
    return Scores(
        oa=oa,
        kappa=None if oa is None or chance == 1 else (oa - chance) / (1 - chance),
        fwiou=float(weighted) / total if total else None,
        **{name: value for name, (value, _) in means.items()},
        averaged={name: count for name, (_, count) in means.items()},
    )


def _chosen(classes: Sequence[int] | None, num_classes: int) -> NDArray[np.bool_]:
    """Return the mask of the listed classes, bool (K,); all without a list."""
    chosen = np.full(num_classes, classes is None)
    chosen[list(classes or ())] = True
    return chosen


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole; of 0 / 0 NaN: undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = part / whole
    return found


def _mean(values: Floats, averaged: NDArray[np.bool_]) -> tuple[float | None, int]:
    """Return the mean of the defined values, and their number."""
    defined = values[averaged & ~np.isnan(values)]
    return (float(defined.mean()) if defined.size else None), int(defined.size)
