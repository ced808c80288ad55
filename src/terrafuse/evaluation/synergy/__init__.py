"""Synergy of modalities: what each brings alone, as others could, and only beside others."""

from terrafuse.evaluation.synergy.games import (
    Parts,
    interactions,
    shapley_shares,
    split_shares,
)
from terrafuse.evaluation.synergy.report import PARTS, StressTest, synergy_report

__all__ = [
    "PARTS",
    "Parts",
    "StressTest",
    "interactions",
    "shapley_shares",
    "split_shares",
    "synergy_report",
]
