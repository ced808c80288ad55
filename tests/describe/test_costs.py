"""The table of benchmarks/costs.py: its counts are the published ones where there are any."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from terrafuse.methods import METHODS

_PATH = Path(__file__).parents[2] / "benchmarks" / "costs.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("costs", _PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


COSTS = _load()
ROWS = list(COSTS.rows())


def test_every_published_method_has_a_row() -> None:
    baselines = {"single", "early_fusion", "late_fusion"}
    assert {row.method for row in ROWS} >= set(METHODS) - baselines - {"galileo"}
    assert len({row.title for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.published is not None], ids=lambda row: row.title
)
def test_counts_are_the_published(row: object) -> None:
    assert isinstance(row, COSTS.Row)
    total, learning = COSTS.counts(row.build())
    millions = ((learning if row.learning else total) + row.unused) / 1e6
    # Half of the last digit published, and what papers cut off instead of rounding.
    assert abs(millions - row.published) < 0.75 * 10**-row.digits


def test_a_line_has_a_cell_for_each_head() -> None:
    row = next(r for r in ROWS if r.title == "DFormer tiny")
    cells = COSTS.line(row, 64).strip("| ").split(" | ")
    assert cells[:6] == ["DFormer tiny", "3 + 1", "40", "6.00", "6.00", "6.0"]
    assert cells[-1] == "11.8 (480 × 640)"
