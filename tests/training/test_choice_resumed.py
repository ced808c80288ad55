"""What a resumed run must remember besides weights, and the settings that may not change."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from stopped_runs import stop_after
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.errors import ConfigError, TrainingError
from terrafuse.training import train
from terrafuse.training.log import read_log
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.run_state import check_startable
from terrafuse.training.task import SegmentationTask, step_seed
from terrafuse.training.validation import Validation
from terrafuse.weights import read_state

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than training."""
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    monkeypatch.setattr(sys.modules["terrafuse.training.train"], "save_curves", lambda *_: None)


def give_scores(monkeypatch: pytest.MonkeyPatch, by_step: Mapping[int, float | None]) -> None:
    """Let validation find these scores."""

    def score(self: Validation, segmenter: Any, trainer: Any, device: Any) -> dict[str, Any]:
        return {"miou": by_step[trainer.global_step]}

    monkeypatch.setattr(Validation, "_score", score)


def weights_by_step(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """The head's weights at each validation."""
    kept: dict[int, torch.Tensor] = {}
    original = Validation._is_better

    def judge(self: Validation, segmenter: Any, trainer: Any, module: Any) -> bool:
        kept[trainer.global_step] = segmenter.head[1].weight.detach().clone()
        return original(self, segmenter, trainer, module)

    monkeypatch.setattr(Validation, "_is_better", judge)
    return kept


@pytest.mark.parametrize(
    ("scores", "stop", "best"),
    [
        ({2: 0.9, 4: 0.3, 6: 0.5, 8: 0.4}, 4, 2),  # the best is before the interruption
        ({2: 0.9, 4: 0.3, 6: 0.5, 8: 0.4}, 5, 2),
        ({2: 0.2, 4: 0.3, 6: 0.5, 8: 0.4}, 4, 6),  # after it, and not the last
        ({2: 0.5, 4: 0.5, 6: 0.5, 8: 0.5}, 4, 2),  # of equal ones the first
        ({2: None, 4: None, 6: 0.1, 8: None}, 4, 6),
        ({2: None, 4: None, 6: None, 8: None}, 4, 8),  # nothing is known: the last
    ],
)
def test_a_resumed_run_keeps_the_best_of_both_parts(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch,
    scores: dict[int, float | None], stop: int, best: int,
) -> None:  # fmt: skip
    config = make_config(make_dataset(), training={"validate_every": 2})
    give_scores(monkeypatch, scores)
    kept = weights_by_step(monkeypatch)
    stop_after(monkeypatch, stop)
    with pytest.raises(TrainingError, match=f"after step {stop} of 8"):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    assert sorted(kept) == [2, 4, 6, 8]
    assert len({tuple(weight.flatten().tolist()) for weight in kept.values()}) == 4
    assert torch.equal(read_state(tmp_path / "run")["head.1.weight"], kept[best])


@pytest.mark.parametrize("stop", [None, 4, 6])
def test_patience_is_counted_over_both_parts(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch,
    stop: int | None,
) -> None:  # fmt: skip
    """The best at step 2, then three validations without gain: the run ends at step 8."""
    training = {"steps": 14, "validate_every": 2, "early_stop": 3}
    config = make_config(make_dataset(), training=training)
    give_scores(monkeypatch, {2: 0.9, 4: 0.3, 6: 0.5, 8: 0.4, 10: 0.4, 12: 0.4, 14: 0.4})
    kept = weights_by_step(monkeypatch)
    if stop is not None:
        stop_after(monkeypatch, stop)
        with pytest.raises(TrainingError, match=f"after step {stop} of 14"):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=stop is not None)
    validated = [row["step"] for row in read_log(tmp_path / "run" / "log.csv") if row["val_miou"]]
    assert validated == ["2", "4", "6", "8"]
    assert torch.equal(read_state(tmp_path / "run")["head.1.weight"], kept[2])


def test_a_gain_makes_patience_whole_again(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"steps": 12, "validate_every": 2, "early_stop": 2}
    config = make_config(make_dataset(), training=training)
    give_scores(monkeypatch, {2: 0.5, 4: 0.3, 6: 0.6, 8: 0.4, 10: 0.4, 12: 0.9})
    train(config, tmp_path / "run")
    validated = [row["step"] for row in read_log(tmp_path / "run" / "log.csv") if row["val_miou"]]
    assert validated == ["2", "4", "6", "8", "10"]


def test_every_step_is_seeded_by_run_batch_and_process(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    original = SegmentationTask.training_step

    def remember(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        seeds.append(torch.initial_seed())
        if batch_idx == 7:  # what another process would draw
            with monkeypatch.context() as patch:
                patch.setattr(SegmentationTask, "global_rank", 3)
                self.on_train_batch_start(batch, batch_idx)
            seeds.append(torch.initial_seed())
        return original(self, batch, batch_idx)

    config = make_config(make_dataset(), training={"seed": 11, "steps": 4, "accumulate": 2})
    monkeypatch.setattr(SegmentationTask, "training_step", remember)
    train(config, tmp_path / "run")
    assert seeds == [*(step_seed(11, batch, 0) for batch in range(8)), step_seed(11, 7, 3)]
    assert len(set(seeds)) == 9


#: What may differ when a run goes on: where files lie, which machine, how often it is saved, and
#: what it is judged by afterwards. Everything else changes what is learnt or chosen.
MAY_CHANGE = {
    "data.manifest",
    "data.workers",
    "data.block_cache_mb",
    "training.accelerator",
    "training.devices",
    "training.nodes",
    "training.strategy",
    "training.backend",
    "training.loggers",
    "training.cache_features_mb",
    "training.save_every",
    "evaluation.split",
    "evaluation.boundary_tolerance_px",
}


class _Other:
    """Settings with another value at one place."""

    def __init__(self, config: Any, key: str) -> None:
        self.values = config.model_dump(mode="json")
        *outer, last = key.split(".")
        inner = self.values
        for part in outer:
            inner = inner[part]
        assert inner[last] != "another"
        inner[last] = "another"

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return self.values


def keys_of(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        found += keys_of(value, f"{prefix}{key}.") if nested else [prefix + key]
    return found


def refused(config: Any, folder: Path) -> dict[str, bool]:
    """Per setting, whether a run with another value cannot be resumed."""
    folder.mkdir()
    (folder / "config.yaml").write_text("as stored")
    answers = {}
    for key in keys_of(config.model_dump(mode="json")):
        other: Any = _Other(config, key)
        said = ""
        try:
            check_startable(folder, config, resume=True, read=lambda _, other=other: other)
        except ConfigError as error:
            said = str(error)
        answers[key] = f" {key} was 'another', is " in said
        assert answers[key] == bool(said), said
    return answers


def test_every_setting_is_compared_but_those_that_do_not_matter(
    tmp_path: Path, make_config: Make
) -> None:
    answers = refused(make_config(tmp_path / "dataset.yaml"), tmp_path / "run")
    assert len(answers) > 60
    free = {key for key, is_refused in answers.items() if not is_refused}
    assert free == MAY_CHANGE - {"training.save_every"}  # pre-training has that


def test_every_setting_of_pretraining_is_compared_likewise(tmp_path: Path) -> None:
    values = {
        "data": {"manifest": "dataset.yaml"},
        "objective": {"name": "mae"},
        "backbone": "vit_tiny_patch16_224",
    }
    config = parse_settings(PretrainConfig, values, "pretrain.yaml")
    answers = refused(config, tmp_path / "run")
    free = {key for key, is_refused in answers.items() if not is_refused}
    assert free == MAY_CHANGE & set(answers)
    assert len(answers) > 30
