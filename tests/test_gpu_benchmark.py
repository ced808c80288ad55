"""benchmarks/gpu.sh starts without a GPU, and names gaps that were worked out by hand."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def test_gaps_by_hand(gpu: Any) -> None:
    spans = [(0, 4, "a"), (1, 2, "b"), (9, 10, "d"), (5, 6, "c"), (6, 6.5, "e"), (8.0, 8.5, "f")]
    # Busy 0–4, 5–6.5, 8–8.5, 9–10: gaps of 1, 1.5 and 0.5.
    assert gpu.find_gaps(spans) == [(1.5, "e", "f"), (1, "a", "c"), (0.5, "f", "d")]
    assert gpu.find_gaps(spans[:2]) == []


def test_every_method_has_a_row(gpu: Any) -> None:
    from terrafuse.methods import METHODS

    rows = gpu.choose_rows(None, quick=False)
    assert len(rows) == len({row.method for row in rows})
    assert {row.method for row in rows} == set(METHODS)
    assert [row.method for row in gpu.choose_rows(["cmx"], quick=False)] == ["cmx"]


@pytest.mark.slow
def test_the_script_runs_on_a_processor(tmp_path: Path) -> None:
    result = subprocess.run(
        [BENCHMARKS / "gpu.sh", "--device", "cpu", "--quick", "--out", tmp_path],
        capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert re.search(r"device .+, date \d{4}-\d\d-\d\d, torch ", result.stdout)
    found = json.loads((tmp_path / "gpu.json").read_text())
    methods = {"early fusion, small", "late fusion, small"}
    for table in ("right", "predict", "train", "engine"):
        assert {line["method"] for line in found[table]} == methods, table
        assert not any("failed" in line for line in found[table]), found[table]
    assert all(line["same"] > 0.9 for line in found["right"])
    assert all(line["share"] > 0 for line in found["engine"])
    assert len(found["ceilings"]) == 4
    assert 1 <= len(found["gaps"]) <= 3
    assert all(line["after"] and line["before"] for line in found["gaps"])
    assert "left out" not in result.stdout
