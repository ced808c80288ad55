"""Pieces that a whole run would not show."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terrafuse.config import TrainingConfig
from terrafuse.errors import ConfigError
from terrafuse.progress import Display
from terrafuse.training.run_folder import is_first_process
from terrafuse.training.train import train
from terrafuse.training.validation import check_monitor, is_validation_due


def due(**values: Any) -> list[int]:
    config = TrainingConfig(**values)
    return [step for step in range(1, config.steps + 1) if is_validation_due(step, config)]


def test_validations_are_due_at_their_interval_and_at_the_end() -> None:
    assert due(steps=10, validate_every=4) == [4, 8, 10]
    assert due(steps=3, validate_every=100) == [3]
    assert due(steps=100) == list(range(10, 101, 10))
    assert len(due(steps=25)) <= 10


def test_unknown_monitor_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'training.monitor' 'kapa'. Did you mean 'kappa'"):
        check_monitor(TrainingConfig(monitor="kapa"))


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_first_process_writes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


def test_bar_shows_rate_loss_and_score_on_a_terminal(
    tmp_path: Path,
    make_dataset: Callable[..., Path],
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    train(make_config(make_dataset()), tmp_path / "run")
    shown = capsys.readouterr().err
    assert "training" in shown
    assert "8/8" in shown
    assert "/s" in shown
    assert "loss" in shown
    assert "miou" in shown


def test_bar_is_silent_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Display(enabled=False) as display:
        display.stage("training")(1, 2)
        display.note("loss 1")
        display.title("validating")
    assert capsys.readouterr().err == ""
