"""A resumed run learns exactly what an uninterrupted one does."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError, OutputError, TrainingError, WeightsError
from terrafuse.training import train
from terrafuse.training.callbacks import StepLog
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.log import read_log
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.task import SegmentationTask, step_seed
from terrafuse.training.validation import Validation
from terrafuse.weights import read_state

Make = Callable[..., Any]
Losses = list[tuple[int, float]]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than training."""
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    monkeypatch.setattr(sys.modules["terrafuse.training.train"], "save_curves", lambda *_: None)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    """(batch, loss) of every training step, in all digits."""
    seen: Losses = []
    original = SegmentationTask.training_step

    def remember(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        result = original(self, batch, batch_idx)
        seen.append((batch_idx, result["terms"]["total"]))
        return result

    monkeypatch.setattr(SegmentationTask, "training_step", remember)
    return seen


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Any], None]) -> None:
    """Call `act(task)` once, in training batch `number`."""
    original = SegmentationTask.on_train_batch_start
    waiting = [number]

    def start(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        if batch_idx in waiting:
            waiting.clear()
            act(self)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", start)


def press_ctrl_c(task: SegmentationTask) -> None:
    last = task.trainer.callbacks[-1]
    assert isinstance(last, LastCheckpoint)
    last._request_stop(signal.SIGINT, None)


def log_of(folder: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in read_log(folder / "log.csv")]


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
@pytest.mark.parametrize(
    ("training", "stop_at_batch"),
    [
        ({}, 3),  # at a validation
        ({}, 4),  # between two
        ({"ema_decay": 0.9, "accumulate": 2, "warmup_steps": 2}, 8),
        ({"optimizer": "sgd", "losses": [{"name": "focal"}, {"name": "dice"}]}, 5),
        ({"head_first_steps": 4}, 1),  # while the backbone waits
        ({"head_first_steps": 4, "ema_decay": 0.9, "accumulate": 2}, 8),  # and when it learns
    ],
)
def test_resumed_equals_uninterrupted(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
    training: dict[str, Any],
    stop_at_batch: int,
) -> None:
    # Of every third step, so that the means of a line may be of both parts.
    monkeypatch.setattr("terrafuse.training.callbacks._MOST_LINES", 3)
    config: RunConfig = make_config(
        make_dataset(), training=training, data={"augment": {"scale": (0.5, 2.0)}}
    )
    train(config, tmp_path / "straight")
    straight = losses.copy()
    losses.clear()
    at_batch(monkeypatch, stop_at_batch, press_ctrl_c)
    accumulate = config.training.accumulate
    done = stop_at_batch // accumulate + 1
    with pytest.raises(
        TrainingError, match=f"SIGINT after step {done} of 8; continue with --resume"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()
    assert len(losses) == done * accumulate
    train(config, tmp_path / "run", resume=True)
    assert losses == straight
    assert len(straight) == 8 * accumulate
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_minutes_make_validation_due_and_go_on_where_a_run_stopped(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
) -> None:
    now = [0.0]
    step, score = SegmentationTask.training_step, Validation._score

    def slow_step(self: SegmentationTask, *batch: Any) -> dict[str, Any]:
        now[0] += 30
        return step(self, *batch)

    def slow_score(self: Validation, *of: Any) -> dict[str, float | None]:
        now[0] += 40
        return score(self, *of)

    seconds = property(lambda self: self._seconds_before + now[0])
    monkeypatch.setattr(StepLog, "seconds", seconds)
    monkeypatch.setattr(SegmentationTask, "training_step", slow_step)
    monkeypatch.setattr(Validation, "_score", slow_score)
    config = make_config(make_dataset(), training={"validate_every": 3, "validate_minutes": 1})
    train(config, tmp_path / "straight")
    straight = losses.copy()
    scored = [row for row in read_log(tmp_path / "straight" / "log.csv") if row["val_miou"]]
    # By the minute at 2 and 5, by the step at 3 and 6, and at the end; the 40 s of a validation
    # do not count.
    assert [int(row["step"]) for row in scored] == [2, 3, 5, 6, 8]
    assert [float(row["seconds"]) for row in scored][:2] == [2 * 30 + 40, 3 * 30 + 2 * 40]
    losses.clear()
    now[0] = 0.0
    at_batch(monkeypatch, 2, press_ctrl_c)
    with pytest.raises(TrainingError, match="after step 3 of 8"):
        train(config, tmp_path / "run")
    now[0] = 0.0  # the clock of another process
    train(config, tmp_path / "run", resume=True)
    assert losses == straight
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_killed_after_a_validation_by_the_minute_goes_on_from_there(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
) -> None:
    def crash(task: SegmentationTask) -> None:
        raise RuntimeError("power cut")

    # Whatever the clock says, a minute is over at each step.
    monkeypatch.setattr(StepLog, "seconds", property(lambda self: next(ticks)))
    ticks = itertools.count(0.0, 60.0)
    config = make_config(make_dataset(), training={"validate_every": 8, "validate_minutes": 0.5})
    at_batch(monkeypatch, 3, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    assert [batch for batch, _ in losses] == [*range(8)]


def test_killed_run_goes_on_from_its_last_validation(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
) -> None:
    config = make_config(make_dataset())
    train(config, tmp_path / "straight")
    losses.clear()

    def crash(task: SegmentationTask) -> None:
        raise RuntimeError("power cut")

    at_batch(monkeypatch, 6, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "run")
    # Step 6 was logged but its weights are lost: it is done again, and logged once.
    train(config, tmp_path / "run", resume=True)
    assert [batch for batch, _ in losses] == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_run_killed_before_its_first_validation_begins_anew(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
) -> None:
    config = make_config(make_dataset())

    def crash(task: SegmentationTask) -> None:
        raise RuntimeError("power cut")

    at_batch(monkeypatch, 2, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "run")
    losses.clear()
    train(config, tmp_path / "run", resume=True)
    assert [batch for batch, _ in losses] == list(range(8))
    assert [int(row["step"]) for row in log_of(tmp_path / "run") if row["loss"]] == [*range(1, 9)]


def test_run_killed_while_the_model_is_saved_is_finished(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    losses: Losses,
) -> None:
    config = make_config(make_dataset())
    train(config, tmp_path / "straight")

    def crash(*args: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        # The package's `train` is the function, not this module.
        patch.setattr(sys.modules["terrafuse.training.train"], "save_model", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, tmp_path / "run")
    losses.clear()
    train(config, tmp_path / "run", resume=True)
    assert losses == []
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_stop_after_the_step(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only a main thread can listen to signals")
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    at_batch(monkeypatch, 2, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(TrainingError, match=f"stopped by {number.name} after step 3 of 8"):
        train(make_config(make_dataset()), tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").exists()
    assert {s: signal.getsignal(s) for s in before} == before


@pytest.fixture
def interrupted(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> tuple[RunConfig, Path]:
    """Settings and folder of a run stopped after 5 of 8 steps."""
    config = make_config(make_dataset())
    with monkeypatch.context() as patch:
        at_batch(patch, 4, press_ctrl_c)
        with pytest.raises(TrainingError, match="after step 5"):
            train(config, tmp_path / "run")
    return config, tmp_path / "run"


def test_resuming_a_finished_run_changes_nothing(
    interrupted: tuple[RunConfig, Path], losses: Losses
) -> None:
    config, out = interrupted
    train(config, out, resume=True)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    losses.clear()
    assert train(config, out, resume=True) == out
    assert losses == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == files


def test_other_settings_are_refused(interrupted: tuple[RunConfig, Path]) -> None:
    config, out = interrupted
    training = config.training.model_copy(update={"lr": 0.5, "loggers": (), "devices": 1})
    other = config.model_copy(update={"training": training})
    with pytest.raises(ConfigError, match=r"training.lr was 0.01, is 0.5. Use its settings"):
        train(other, out, resume=True)


def test_settings_that_do_not_matter_may_change(
    interrupted: tuple[RunConfig, Path], losses: Losses
) -> None:
    config, out = interrupted
    data = config.data.model_copy(update={"workers": 1, "block_cache_mb": 0})
    training = config.training.model_copy(update={"devices": 1})
    train(config.model_copy(update={"data": data, "training": training}), out, resume=True)
    assert [batch for batch, _ in losses] == [5, 6, 7]


def test_other_manifest_is_refused(interrupted: tuple[RunConfig, Path]) -> None:
    config, out = interrupted
    with config.data.manifest.open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ConfigError, match=r"dataset.yaml' has changed since the run"):
        train(config, out, resume=True)


def test_damaged_checkpoint_is_named(interrupted: tuple[RunConfig, Path]) -> None:
    config, out = interrupted
    content = (out / "last.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"last.ckpt' is damaged.*Remove 'last.ckpt' to start"):
        train(config, out, resume=True)


def test_checkpoint_of_another_version_is_refused(interrupted: tuple[RunConfig, Path]) -> None:
    config, out = interrupted
    content = torch.load(out / "last.ckpt", weights_only=True)
    content["terrafuse"] |= {"format": 99, "version": "9.0"}
    torch.save(content, out / "last.ckpt")
    with pytest.raises(WeightsError, match=r"format 99, written by terrafuse 9.0; this is"):
        train(config, out, resume=True)


def test_folder_without_a_run_cannot_be_resumed(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no run to resume"):
        train(make_config(make_dataset()), tmp_path / "run", resume=True)


def test_every_batch_and_process_draws_otherwise() -> None:
    seeds = {step_seed(s, b, r) for s in range(3) for b in range(50) for r in range(4)}
    assert len(seeds) == 3 * 50 * 4
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
