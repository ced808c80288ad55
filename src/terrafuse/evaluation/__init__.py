"""Evaluation of maps: confusion matrix, scores, boundaries, every subset of modalities; areas."""

from terrafuse.evaluation.area_estimates import (
    ANY_CLASS,
    AreaEstimates,
    ClassEstimate,
    Estimate,
    LabelledPixels,
    Strata,
    estimate_areas,
)
from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.evaluate import (
    check_references,
    evaluate,
    modality_subsets,
    scored_classes,
)
from terrafuse.evaluation.evidence import EVIDENCE, Evidence, read_evidence
from terrafuse.evaluation.exact_intervals import ratio_interval, share_interval, sum_interval
from terrafuse.evaluation.intervals import describe_runs, half_interval, known_half_interval
from terrafuse.evaluation.journal import SCORED, Keeping
from terrafuse.evaluation.places import Place, find_places
from terrafuse.evaluation.sample_design import (
    ALLOCATIONS,
    Allocation,
    allocate,
    expected_accuracies,
    expected_standard_error,
    planned_size,
)
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
    "ALLOCATIONS",
    "ANY_CLASS",
    "EVIDENCE",
    "HEADLINE",
    "SCORED",
    "SCORES",
    "Allocation",
    "AreaEstimates",
    "BoundaryScore",
    "ClassEstimate",
    "ClassScores",
    "ConfusionMatrix",
    "Estimate",
    "Evidence",
    "Judged",
    "Keeping",
    "LabelledPixels",
    "OnMap",
    "Place",
    "ScoreKind",
    "Scores",
    "Strata",
    "allocate",
    "cheap_scores",
    "check_references",
    "describe_runs",
    "estimate_areas",
    "evaluate",
    "expected_accuracies",
    "expected_standard_error",
    "file_state",
    "find_places",
    "half_interval",
    "headline_first",
    "known_half_interval",
    "modality_subsets",
    "planned_size",
    "ratio_interval",
    "read_evidence",
    "read_reference_labels",
    "score",
    "score_classes",
    "score_values",
    "scored_classes",
    "share_interval",
    "subset_report",
    "sum_interval",
]
