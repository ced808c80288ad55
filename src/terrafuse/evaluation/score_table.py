"""Table of all scores over classes, one entry each.

`metrics.json`, the command line, reports, `training.monitor`, sweeps and docs/reference/scores.md
read this table. A new score is one entry:

    ScoreKind(
        name="worst_iou", label="worst IoU", title="IoU of the worst class",
        formula="min of IoU", undefined="no class is defined",
        compute=lambda judged: judged.worst(judged.classes.iou),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.scores import (
    ClassMean,
    ClassScores,
    Floats,
    Scores,
    score,
    score_classes,
)

#: Tables that compare many runs, with columns for a few scores only.
Summary = Literal["sweep", "label_efficiency"]
SUMMARIES: frozenset[Summary] = frozenset(("sweep", "label_efficiency"))
#: The score that reports, figures and progress lines name first.
HEADLINE = "miou"


@dataclass(frozen=True)
class Judged:
    """A confusion matrix and its derived scores, the input of every `ScoreKind`.

    Args:
        matrix: Int64 (K, K) or (K, K + 1), rows = reference.
        overall: Scores over classes, of `terrafuse.evaluation.scores`.
        averaged: Classes that a mean covers, bool (K,).
    """

    matrix: NDArray[np.int64]
    overall: Scores
    classes: ClassScores
    averaged: NDArray[np.bool_]

    def worst(self, values: Floats) -> float | None:
        """Return the smallest defined value (K,) of the averaged classes; None if there is none."""
        defined = values[self.averaged & ~np.isnan(values)]
        return float(defined.min()) if defined.size else None


@dataclass(frozen=True)
class ScoreKind:
    """A score over all classes.

    Args:
        name: Key in `metrics.json`, and value of `training.monitor`.
        label: Column heading; with the unit if it is not shown in %.
        formula: As in docs/reference/scores.md.
        undefined: Condition under which it is None.
        compute: Returns the score, or None if it is undefined.
        low: Smallest possible value.
        high: Largest possible value; scores of at most 1 are shown in %.
        higher_is_better: Direction in which weights are chosen and best values marked.
        is_cheap: True: the confusion matrix is sufficient. Other scores are only computed by
            `terrafuse evaluate`, not in validation.
        summaries: Tables of many runs that have a column for it.
    """

    name: str
    label: str
    title: str
    formula: str
    undefined: str
    compute: Callable[[Judged], float | None]
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    is_cheap: bool = True
    summaries: frozenset[Summary] = SUMMARIES

    @property
    def in_percent(self) -> bool:
        """True if tables show it in %."""
        return self.high <= 1

    @property
    def range(self) -> str:
        """Possible values, as documented."""
        return f"{self.low:g} to {self.high:g}" if self.high < inf else f"from {self.low:g}"

    @property
    def best(self) -> Literal["max", "min"]:
        """Best of several values: the largest or the smallest."""
        return "max" if self.higher_is_better else "min"

    def text(self, value: float | None, decimals: int = 1) -> str:
        """Format a value for tables; "–" if undefined."""
        if value is None:
            return "–"
        return f"{100 * value:.{decimals}f}" if self.in_percent else f"{value:.4g}"

    def is_better(self, value: float, than: float) -> bool:
        """Tell whether a value is strictly better than another."""
        return value > than if self.higher_is_better else value < than


_NONE: frozenset[Summary] = frozenset()

#: All scores by name, in the order of `metrics.json`.
SCORES: dict[str, ScoreKind] = {
    kind.name: kind
    for kind in (
        ScoreKind(
            name="oa",
            label="OA",
            title="overall accuracy",
            formula="Σ TP / N",
            undefined="N = 0",
            compute=lambda judged: judged.overall.oa,
            summaries=frozenset(("label_efficiency",)),
        ),
        ScoreKind(
            name="mpa",
            label="mPA",
            title="mean pixel accuracy",
            formula="mean of recall",
            undefined="no class in the reference",
            compute=lambda judged: judged.overall.mpa,
        ),
        ScoreKind(
            name="miou",
            label="mIoU",
            title="mean intersection over union",
            formula="mean of IoU",
            undefined="no class is defined",
            compute=lambda judged: judged.overall.miou,
        ),
        ScoreKind(
            name="mf1",
            label="mF1",
            title="mean F1 (Dice)",
            formula="mean of F1",
            undefined="no class is defined",
            compute=lambda judged: judged.overall.mf1,
            summaries=_NONE,
        ),
        ScoreKind(
            name="kappa",
            label="kappa",
            title="Cohen's kappa",
            formula="(OA − p) / (1 − p), p = Σ n · m / N²",
            undefined="p = 1 or N = 0",
            compute=lambda judged: judged.overall.kappa,
            low=-1.0,
            summaries=_NONE,
        ),
        ScoreKind(
            name="fwiou",
            label="FWIoU",
            title="IoU weighted by frequency",
            formula="Σ n / N · IoU",
            undefined="N = 0",
            compute=lambda judged: judged.overall.fwiou,
            summaries=_NONE,
        ),
        ScoreKind(
            name="boundary_f1",
            label="boundary F1",
            title="mean F1 of the boundaries",
            formula="mean of boundary F1",
            undefined="no boundary of any class in either",
            compute=lambda judged: judged.overall.boundary_f1,
            is_cheap=False,
            summaries=_NONE,
        ),
    )
}


def headline_first() -> list[ScoreKind]:
    """List all scores, the headline score first."""
    return sorted(SCORES.values(), key=lambda kind: kind.name != HEADLINE)


def cheap_scores() -> list[str]:
    """List the names of the scores that validation computes."""
    return [kind.name for kind in SCORES.values() if kind.is_cheap]


def score_values(
    matrix: NDArray[np.int64],
    class_mean: ClassMean = "present",
    boundary_f1: Floats | None = None,
    mean_over: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Compute scores by name, in the order of the table.

    Args:
        matrix: Int64 (K, K) or (K, K + 1), rows = reference.
        class_mean: Classes in a mean: those in reference or map ("present"), or in "reference".
        boundary_f1: Per class (K,), if boundaries were compared.
        mean_over: Indices of classes that a mean may cover; default: all.
        names: Names of the scores to compute; default: all.
    """
    averaged = np.full(len(matrix), mean_over is None)
    averaged[list(mean_over or ())] = True
    if class_mean == "reference":
        averaged &= matrix.sum(axis=1) > 0
    judged = Judged(
        matrix,
        score(matrix, class_mean, boundary_f1, mean_over),
        score_classes(matrix, boundary_f1),
        averaged,
    )
    wanted = SCORES if names is None else names
    return {name: SCORES[name].compute(judged) for name in wanted}


def subset_report(
    matrix: NDArray[np.int64],
    names: Sequence[str],
    class_mean: ClassMean = "present",
    boundary_f1: Floats | None = None,
    mean_over: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return scores, scores per class and matrix as plain values, as in `metrics.json`.

    Args:
        matrix: Int64 (K, K) or (K, K + 1), rows = reference.
        names: Names of the K classes.
        class_mean: Classes in a mean: those in reference or map ("present"), or in "reference".
        boundary_f1: Per class (K,), if boundaries were compared.
        mean_over: Indices of classes that a mean may cover; default: all.
    """
    classes = score_classes(matrix, boundary_f1)
    ratios = {
        key: _plain(getattr(classes, key))
        for key in ("iou", "f1", "recall", "precision")
    }  # fmt: skip
    ratios["boundary_f1"] = [None] * len(names) if boundary_f1 is None else _plain(boundary_f1)
    per_class = {
        name: {key: values[i] for key, values in ratios.items()}
        | {"pixels": int(classes.pixels[i]), "predicted": int(classes.predicted[i])}
        for i, name in enumerate(names)
    }
    return {
        "scores": score_values(matrix, class_mean, boundary_f1, mean_over),
        "averaged": score(matrix, class_mean, boundary_f1, mean_over).averaged,
        "per_class": per_class,
        "matrix": matrix[:, : len(matrix)].tolist(),
    }


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
