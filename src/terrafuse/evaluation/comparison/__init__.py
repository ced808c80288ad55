"""Is A better than B: settings with their seeds on the same ground, judged from their evidence."""

from terrafuse.evaluation.comparison.compare import (
    LEVEL,
    POWER,
    Comparison,
    Effect,
    compare_settings,
)
from terrafuse.evaluation.comparison.counts import (
    DEFAULT_SCORES,
    PER_CLASS,
    Rule,
    RunCounts,
    family_of,
    label_of,
)
from terrafuse.evaluation.comparison.holm import holm
from terrafuse.evaluation.comparison.letters import letters

__all__ = [
    "DEFAULT_SCORES",
    "LEVEL",
    "PER_CLASS",
    "POWER",
    "Comparison",
    "Effect",
    "Rule",
    "RunCounts",
    "compare_settings",
    "family_of",
    "holm",
    "label_of",
    "letters",
]
