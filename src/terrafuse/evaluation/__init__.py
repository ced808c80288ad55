"""Judge maps: confusion matrix, scores, boundaries, and every subset of modalities."""

from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.evaluate import evaluate, modality_subsets
from terrafuse.evaluation.scores import ClassScores, Scores, score, score_classes, subset_report

__all__ = [
    "BoundaryScore",
    "ClassScores",
    "ConfusionMatrix",
    "Scores",
    "evaluate",
    "modality_subsets",
    "score",
    "score_classes",
    "subset_report",
]
