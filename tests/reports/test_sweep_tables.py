"""Tables of a sweep whose rows were compared over the ground, or could not be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.comparison import Rule, RunCounts, compare_settings
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.reports.sweep_tables import JudgedRows, write_tables

COSTS = {
    "parameters": 1, "trainable": 1, "flops": 1, "crop_size": 64, "ms_per_megapixel": 1.0,
    "version": "1", "date": "d", "machine": "m", "split": "test",
}  # fmt: skip
ROWS = {"good": (0.8, 0.81), "twin": (0.8, 0.79), "bad": (0.6, 0.61)}


def counts_of(right: float, blocks: int) -> RunCounts:
    rng = np.random.default_rng(int(1000 * right))
    noise = rng.normal(0, 2, blocks)
    hit = 200 * right / (1 + right) + noise - noise.mean()  # so that this is the IoU
    tally = np.stack([hit, np.full(blocks, 100), np.full(blocks, 100)], axis=-1)
    return RunCounts(np.stack([tally, tally], axis=1), None)


def write(folder: Path, blocks: int = 40, missing: str = "") -> tuple[str, dict[str, Any]]:
    """Tables of three rows of two seeds."""
    jobs, found = [], {}
    for title, values in ROWS.items():
        for seed, value in enumerate(values):
            name = f"{title}-{seed}"
            jobs.append(
                SimpleNamespace(name=name, group="", title=title, seed=seed, row=("", title))
            )
            scores = {"miou": value, "mpa": value}
            found[name] = {"scores": scores, "iou": {"crop": value}, **COSTS}
    judged = JudgedRows(missing=missing)
    if not missing:
        runs = {title: [counts_of(v, blocks) for v in values] for title, values in ROWS.items()}
        rule = Rule(("crop", "wood"), (0, 1), "present")
        comparison = compare_settings(
            runs, ["miou", "mpa", "iou:crop"], rule, BlockBootstrap(blocks)
        )
        judged = JudgedRows(comparison, Blocks(np.arange(blocks, dtype=np.int32), 128, 9.0, "r"))
    results = write_tables(folder, jobs, found, {}, judged={"": judged})
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    return (folder / "table.md").read_text(), results


def test_rows_have_intervals_and_letters(tmp_path: Path) -> None:
    table, results = write(tmp_path)
    assert "mean of n seeds (95 % interval over other ground and seeds)" in table
    assert "mIoU: best is good; cannot be told from it: twin. By 40 blocks of 128 pixels" in table
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:1] == "|"]
    heads, cells = lines[0], {line[0]: line for line in lines[2:]}
    place = heads.index("letters")
    assert [cells[name][place] for name in ROWS] == ["a", "a", "b"]
    score = results["rows"][0]["scores"]["mIoU"]
    low, high = score["interval"]
    assert low < score["mean"] < high
    assert cells["good"][2] == f"80.5 ({low:.1f} to {high:.1f})"
    assert results["rows"][0]["not_told_from"] == ["twin"]
    with (tmp_path / "table.csv").open() as file:
        rows = {row["title"]: row for row in csv.DictReader(file)}
    assert float(rows["good"]["mIoU low %"]) == pytest.approx(low)
    assert float(rows["bad"]["IoU crop high %"]) > 60.5


def test_few_blocks_leave_the_tables_of_seeds(tmp_path: Path) -> None:
    table, results = write(tmp_path, blocks=5)
    assert "it is 5 blocks of 128 pixels, and fewer than 6 tell nothing" in table
    assert "of two seeds both values" in table
    assert "80.0, 81.0" in table
    assert "letters" not in table
    assert "interval" not in results["rows"][0]["scores"]["mIoU"]


def test_why_rows_are_not_compared_is_said(tmp_path: Path) -> None:
    table, results = write(tmp_path, missing="there is no 'x/evidence.npz'")
    assert "Rows are not compared over the ground: there is no 'x/evidence.npz'" in table
    assert results["comparisons"] == {"": {"missing": "there is no 'x/evidence.npz'"}}
    assert "80.0, 81.0" in table
