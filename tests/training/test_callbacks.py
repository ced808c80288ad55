"""Pieces that a whole run would not show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from pydantic import ValidationError

from terrafuse import api
from terrafuse.config import RunConfig, TrainingConfig
from terrafuse.config.base import parse_settings
from terrafuse.errors import ConfigError, LabelError
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.progress import Display
from terrafuse.training import validation
from terrafuse.training.callbacks import StepLog
from terrafuse.training.log import read_log
from terrafuse.training.run_state import is_first_process
from terrafuse.training.task import SegmentationTask
from terrafuse.training.train import train
from terrafuse.training.validation import (
    check_monitor,
    check_scene_windows,
    is_validation_due,
    validation_overlap,
)

Make = Callable[..., Any]


def test_the_clock_of_a_resumed_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = StepLog(None, TrainingConfig())
    now[0] += 7
    stored = first.state_dict()
    now[0] = 5.0  # the clock of another process
    resumed = StepLog(None, TrainingConfig())
    resumed.load_state_dict(stored)
    resumed.on_train_start(trainer=Any, module=Any)  # type: ignore[arg-type]
    now[0] += 2
    assert resumed.seconds == 9


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


def windows(prediction: dict[str, Any], validation_overlap: int | None = None) -> RunConfig:
    values = {
        "data": {"manifest": "dataset.yaml", "crop_size": 64},
        "method": {"name": "tiny"},
        "training": {"validation_overlap": validation_overlap},
        "prediction": prediction,
    }
    return parse_settings(RunConfig, values, "run.yaml")


def test_validation_has_the_overlap_of_prediction_unless_told() -> None:
    assert validation_overlap(windows({})) == 16
    assert validation_overlap(windows({"overlap": 20})) == 20
    assert validation_overlap(windows({"overlap": 20}, 0)) == 0


def test_windows_that_cannot_be_are_refused_by_the_name_of_the_setting() -> None:
    check_scene_windows(windows({"overlap": 63, "blending": "repeated"}, 40))
    with pytest.raises(ConfigError, match=r"^prediction.overlap: overlap is 40 with crop_size 64"):
        check_scene_windows(windows({"overlap": 40}))
    with pytest.raises(ConfigError, match=r"^training.validation_overlap: overlap is 64 .*to 63$"):
        check_scene_windows(windows({"blending": "uniform"}, 64))


def erode(manifest: Path, splits: tuple[str, ...]) -> None:
    """Give the scenes of some splits labels without their left half."""
    values = yaml.safe_load(manifest.read_text())
    for scene in values["scenes"]:
        if scene["split"] in splits:
            with rasterio.open(manifest.parent / scene["labels"]) as dataset:
                labels, profile = dataset.read(), dataset.profile
            labels[:, :, :24] = 7
            scene["labels_eroded"] = scene["labels"].replace("labels", "eroded")
            with rasterio.open(manifest.parent / scene["labels_eroded"], "w", **profile) as dataset:
                dataset.write(labels)
    manifest.write_text(yaml.safe_dump(values | {"void": [7]}, sort_keys=False))


def test_weights_are_chosen_by_the_rules_of_the_run(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split, labels, classes in means and windows are those of the settings, and are recorded."""
    manifest = make_dataset(("train", "choice", "test"))
    erode(manifest, ("choice", "test"))
    made: list[WindowSettings] = []

    def create(segmenter: Any, windows: WindowSettings, **options: Any) -> ScenePredictor:
        made.append(windows)
        return ScenePredictor(segmenter, windows, **options)

    monkeypatch.setattr(validation, "ScenePredictor", create)
    config = make_config(
        manifest,
        training={"validation_split": "choice", "validation_overlap": 12},
        evaluation={"reference": "labels_eroded", "mean_over": ["wet"]},
        prediction={"crop_size": 16, "overlap": 8, "blending": "uniform"},
    )
    out = train(config, tmp_path / "run")
    assert [(w.overlap, w.blending) for w in made] == [(12, "uniform")] * 2
    best = max(float(row["val_miou"]) for row in read_log(out / "log.csv") if row["val_miou"])
    run = api.load(out)
    metrics = run.evaluate(split="choice", device="cpu")
    (subset,) = metrics["subsets"].values()
    # The same weights on the same labels; another overlap moves few pixels.
    assert subset["scores"]["miou"] == pytest.approx(best, abs=0.02)
    assert subset["scores"]["miou"] == subset["per_class"]["wet"]["iou"]
    assert metrics["pixels"] == 48 * 24
    settings = {"reference": "labels_eroded", "blending": "uniform", "selected_on": "choice"}
    assert metrics["settings"] | settings == metrics["settings"]
    assert metrics["settings"]["scored_classes"] == ["wet"]


def test_choosing_on_the_reported_split_warns_and_is_recorded(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    config = make_config(make_dataset(("train", "test")), training={"validation_split": "test"})
    with pytest.warns(
        UserWarning, match="selected by their score on split 'test', the one"
    ) as seen:
        out = train(config, tmp_path / "run")
    assert sum("selected by" in str(warning.message) for warning in seen) == 1
    assert "val_miou" in read_log(out / "log.csv")[0]
    metrics = api.load(out).evaluate(device="cpu")
    assert metrics["settings"]["selected_on"] == "test"
    assert metrics["settings"]["reference"] == "labels"


def test_choosing_on_a_split_that_is_learned_from_warns(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    config = make_config(make_dataset(), data={"train_splits": ["train", "val"]})
    with pytest.warns(UserWarning, match="on split 'val', which is also trained on"):
        train(config, tmp_path / "run")


def test_without_a_choice_nothing_is_recorded(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    config = make_config(make_dataset(("train", "test")), training={"validation_split": "best"})
    with pytest.warns(UserWarning, match=r"in split 'best': the last .* now train, test"):
        out = train(config, tmp_path / "run")
    assert api.load(out).evaluate(device="cpu")["settings"]["selected_on"] is None


def test_validation_without_the_reference_is_refused_before_the_first_step(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    evaluation = {"reference": "labels_eroded", "mean_over": ["wett"]}
    manifest = make_dataset()
    with pytest.raises(ConfigError, match=r"'evaluation.mean_over' 'wett'. Did you mean 'wet'"):
        train(make_config(manifest, evaluation=evaluation), tmp_path / "run")
    config = make_config(manifest, evaluation={"reference": "labels_eroded"})
    with pytest.raises(LabelError, match="scene 'scene2' has no labels_eroded to compare with"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_first_process_writes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


def test_bar_shows_rate_loss_and_score_on_a_terminal(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
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


def test_a_line_stays_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Display() as display:
        display.stage("training")(1, 2)
        display.say("augmentation, s1: [none]")
    assert "augmentation, s1: [none]\n" in capsys.readouterr().err


def test_training_says_what_is_changed(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Display, "say", lambda _, text: said.append(text))
    augment = {"flip": "vertical", "rotate": False}
    config = make_config(make_dataset(), training={"steps": 1}, data={"augment": augment})
    train(config, tmp_path / "run")
    together, first, second = said
    assert together == "augmentation, together: vertical flips"
    assert first.startswith("augmentation, a: ")
    assert second.startswith("augmentation, b: ")


def test_bar_is_silent_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Display(enabled=False) as display:
        display.stage("training")(1, 2)
        display.note("loss 1")
        display.title("validating")
        display.say("a line")
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
def test_backbone_waits_for_the_head(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then neither weights nor running statistics of the backbone move."""
    seen: list[tuple[bool, bytes, bytes]] = []
    original = SegmentationTask.training_step

    def remember(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        (backbone,), head = self.segmenter.backbones(), self.segmenter.head
        values = [
            b"".join(value.numpy().tobytes() for value in part.state_dict().values())
            for part in (backbone, head)
        ]
        seen.append((backbone.body[1].training, *values))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", remember)
    training = {"steps": 5, "head_first_steps": 3, "accumulate": 2, "validate_every": 2}
    train(make_config(make_dataset(), training=training), tmp_path / "run", progress=False)
    assert [is_training for is_training, *_ in seen] == [False] * 6 + [True] * 4
    backbones = [backbone for _, backbone, _ in seen]
    assert len(set(backbones[:7])) == 1  # batch 6 is the first that teaches it
    assert len(set(backbones[6:])) == 4  # and each moves its statistics
    assert len({head for *_, head in seen}) == 5


def test_backbone_waits_for_fewer_steps_than_there_are() -> None:
    with pytest.raises(ValidationError, match=r"head_first_steps \(4\) must be fewer than steps"):
        TrainingConfig(steps=4, head_first_steps=4)
