"""The contract of every method, as checks for tests and `terrafuse check-method`."""

from terrafuse.contract.checks import (
    CHECKS,
    Check,
    CheckResult,
    ContractError,
    NotAsked,
    run_check,
    run_checks,
)
from terrafuse.contract.inputs import CLASSES, MODALITIES, Case, random_images, statistics_of

__all__ = [
    "CHECKS",
    "CLASSES",
    "MODALITIES",
    "Case",
    "Check",
    "CheckResult",
    "ContractError",
    "NotAsked",
    "random_images",
    "run_check",
    "run_checks",
    "statistics_of",
]
