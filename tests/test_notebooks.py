"""The notebooks of the documentation run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import notebooks
from notebooks import code_cells

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def _run(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, notebooks.__file__, str(path), str(folder)],
        env=env, capture_output=True, text=True,
    )  # fmt: skip


def test_there_is_one_for_analysts_and_one_for_researchers() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["new-fusion", "rasters-to-map"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean_and_plain(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    for source in code_cells(path):
        ast.parse(source)  # no magics: Python alone runs it


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    done = _run(path, tmp_path)
    assert done.returncode == 0, done.stderr
    if path.stem == "rasters-to-map":
        assert (tmp_path / "maps/test_1/class_map.tif").exists()
        assert "forest" in done.stdout
        assert "mIoU" in done.stdout
    else:
        assert "failed" not in done.stdout
        table = (tmp_path / "runs/compared/table.md").read_text()
        rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
        for title in ("late fusion", "fusion by certainty"):
            assert f"| {title} | 2 | " in rows[title]
            assert "±" not in rows[title]


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["text"]},
        {"cell_type": "code", "source": ["x = 1\n", "x"]},
        {"cell_type": "code", "source": ["print(x / 0)\n"]},
    ]
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    done = _run(path, tmp_path)
    assert done.returncode != 0
    assert 'File "broken.ipynb, cell 2", line 1' in done.stderr
    assert "ZeroDivisionError" in done.stderr
