"""Synergy of modalities: what each brings alone, as others could, and only beside others."""

from terrafuse.evaluation.synergy.alterations import (
    Alteration,
    AlteredScene,
    Averaged,
    Unpaired,
    alter_scenes,
)
from terrafuse.evaluation.synergy.games import (
    Parts,
    interactions,
    shapley_shares,
    split_shares,
)
from terrafuse.evaluation.synergy.report import (
    PARTS,
    StressTest,
    join_subsets,
    synergy_report,
)
from terrafuse.evaluation.synergy.stress import TESTS, PlannedTest, find_tests, plan_tests

__all__ = [
    "PARTS",
    "TESTS",
    "Alteration",
    "AlteredScene",
    "Averaged",
    "Parts",
    "PlannedTest",
    "StressTest",
    "Unpaired",
    "alter_scenes",
    "find_tests",
    "interactions",
    "join_subsets",
    "plan_tests",
    "shapley_shares",
    "split_shares",
    "synergy_report",
]
