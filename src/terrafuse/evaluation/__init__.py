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
from terrafuse.evaluation.scores import ClassScores, Scores, score, score_classes, subset_report

__all__ = [
    "BoundaryScore",
    "ClassScores",
    "ConfusionMatrix",
    "Scores",
    "check_references",
    "evaluate",
    "modality_subsets",
    "read_reference",
    "score",
    "score_classes",
    "scored_classes",
    "subset_report",
]
