"""Judge maps: confusion matrix, scores, boundaries, and every subset of modalities."""

from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.evaluate import (
    check_references,
    evaluate,
    modality_subsets,
    read_reference,
    scored_classes,
)
from terrafuse.evaluation.intervals import half_interval
from terrafuse.evaluation.published import (
    average_windows,
    resize_bytes,
    sum_exponentials,
    sum_probabilities,
)
from terrafuse.evaluation.scores import ClassScores, Scores, score, score_classes, subset_report

__all__ = [
    "BoundaryScore",
    "ClassScores",
    "ConfusionMatrix",
    "Scores",
    "average_windows",
    "check_references",
    "evaluate",
    "half_interval",
    "modality_subsets",
    "read_reference",
    "resize_bytes",
    "score",
    "score_classes",
    "scored_classes",
    "subset_report",
    "sum_exponentials",
    "sum_probabilities",
]
