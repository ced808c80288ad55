"""Evaluation of maps: confusion matrix, scores, boundaries, every subset of modalities."""

from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.evaluate import (
    check_references,
    evaluate,
    modality_subsets,
    scored_classes,
)
from terrafuse.evaluation.intervals import describe_runs, half_interval, known_half_interval
from terrafuse.evaluation.journal import SCORED, Keeping
from terrafuse.evaluation.score_table import (
    HEADLINE,
    SCORES,
    Judged,
    ScoreKind,
    cheap_scores,
    headline_first,
    score_values,
    subset_report,
)
from terrafuse.evaluation.scores import ClassScores, Scores, score, score_classes
from terrafuse.evaluation.scoring import OnMap, file_state, read_reference_labels

__all__ = [
    "HEADLINE",
    "SCORED",
    "SCORES",
    "BoundaryScore",
    "ClassScores",
    "ConfusionMatrix",
    "Judged",
    "Keeping",
    "OnMap",
    "ScoreKind",
    "Scores",
    "cheap_scores",
    "check_references",
    "describe_runs",
    "evaluate",
    "file_state",
    "half_interval",
    "headline_first",
    "known_half_interval",
    "modality_subsets",
    "read_reference_labels",
    "score",
    "score_classes",
    "score_values",
    "scored_classes",
    "subset_report",
]
