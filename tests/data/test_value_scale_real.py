"""The bench of values in another scale: mismatches are found, right scenes raise no alarm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shared import shared_data

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor"
sys.path.insert(0, str(BENCHMARK))
try:
    from real_scales import MISMATCHES, cases, false_alarms, find_sets, try_case
finally:
    sys.path.remove(str(BENCHMARK))

#: Quick ones; the others are for the slow test.
QUICK = ("terramesh s2", "slovenia")


def sets():
    return find_sets(shared_data("terramesh_s1_s2_dem").parent)


def alarms(items):
    return [
        (name, finding.reason)
        for item in items
        for name, finding in false_alarms(item)
        if finding.verdict != "ok"
    ]


def found(items, seeds):
    verdicts = [
        try_case(item, mismatch, seed)[0].verdict
        for mismatch, item in cases(items)
        for seed in seeds
    ]
    assert len(verdicts) >= 30
    return 1 - verdicts.count("ok") / len(verdicts)


def test_other_places_and_dates_raise_no_alarm() -> None:
    assert alarms([item for item in sets() if item.name.startswith(QUICK)]) == []


def test_most_mismatches_are_found() -> None:
    assert len(MISMATCHES) >= 25
    small = [item for item in sets() if not item.name.startswith(("ombria", "enmap"))]
    assert found(small, [0]) >= 0.95


@pytest.mark.slow
def test_no_alarm_over_all_real_sets() -> None:
    assert alarms(sets()) == []


@pytest.mark.slow
def test_mismatches_of_more_seeds() -> None:
    assert found(sets(), range(4)) >= 0.95
