"""`log.csv` survives columns that turn up late, resuming, and a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from terrafuse.errors import OutputError
from terrafuse.training.log import RunLog, read_log


def test_lines_and_late_columns(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.csv")
    log.add({"step": 1, "loss": 0.25})
    log.add({"step": 2, "loss": 1 / 3})
    log.add({"step": 2, "val_miou": None, "val_oa": 0.5})
    log.add({"step": 3, "loss": 2.0})
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,loss,val_miou,val_oa",
        "1,0.25,,",
        "2,0.333333,,",
        "2,,,0.5",
        "3,2,,",
    ]


def test_resuming_drops_later_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = RunLog(path)
    for step in range(1, 6):
        log.add({"step": step, "loss": float(step)})
    resumed = RunLog(path, last_step=3)
    resumed.add({"step": 4, "loss": 40.0})
    assert [(row["step"], row["loss"]) for row in read_log(path)] == [
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
        ("4", "40"),
    ]


def test_beginning_anew_removes_the_old_log(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    RunLog(path).add({"step": 1, "loss": 1.0})
    RunLog(path)
    assert read_log(path) == []


def test_a_line_cut_short_never_happened(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,lr,loss\n1,0.1,0.5\n2,0.1\n")
    assert [row["step"] for row in read_log(path)] == ["1"]


def test_unwritable_log_is_named(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run" / "log.csv")
    log.add({"step": 1, "loss": 1.0})
    log.path = tmp_path / "gone" / "log.csv"
    with pytest.raises(OutputError, match=r"log.csv' cannot be written.*continue with --resume"):
        log.add({"step": 2, "loss": 1.0})


def test_a_kill_while_all_lines_are_rewritten_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path / "log.csv")
    log.add({"step": 1, "loss": 0.25})

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("csv.DictWriter.writerows", kill)
    with pytest.raises(KeyboardInterrupt):
        log.add({"step": 1, "val_miou": 0.5})
    assert [row["loss"] for row in read_log(tmp_path / "log.csv")] == ["0.25"]
