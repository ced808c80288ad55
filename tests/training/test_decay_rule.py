"""A resumed run keeps the rule of weight decay that it was begun with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from terrafuse.errors import StoppedError
from terrafuse.methods import METHODS
from terrafuse.training import train
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.run_state import Position
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import read_state

Make = Callable[..., Any]
TRAIN = sys.modules["terrafuse.training.train"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than training."""
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    monkeypatch.setattr(TRAIN, "save_curves", lambda *_: None)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch, tiny_method: None) -> None:
    """Method "scaled": a parameter that was decayed before, and is not now."""
    tiny: Any = METHODS["tiny"]

    class Scaled(tiny):
        def __init__(self, modalities: Any, num_classes: int, *, dropout: float = 0.5) -> None:
            super().__init__(modalities, num_classes, dropout=dropout)
            self.logit_scale = torch.nn.Parameter(torch.ones(1, 1, 1, 1))

        def segment(self, inputs: Any) -> Any:
            output = super().segment(inputs)
            output.logits = output.logits * self.logit_scale
            return output

    monkeypatch.setitem(METHODS, "scaled", Scaled)  # type: ignore[arg-type]


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SegmentationTask.on_train_batch_start

    def start(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        if batch_idx == number:
            self.trainer.callbacks[-1]._request_stop(signal.SIGINT, None)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", start)


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
def test_a_run_goes_on_as_it_was_begun(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    scaled: None,
) -> None:
    training = {"weight_decay": 0.5, "lr": 0.1}
    config = make_config(make_dataset(), method={"name": "scaled"}, training=training)
    train(config, tmp_path / "now")
    told = "begun when logit_scale is decayed; it goes on so"
    with monkeypatch.context() as before:
        before.setattr(TRAIN, "Position", partial(Position, decay_rule=1))
        with pytest.warns(UserWarning, match=told):
            train(config, tmp_path / "straight")
        stop_at(3, before)
        with pytest.raises(StoppedError), pytest.warns(UserWarning, match=told):
            train(config, tmp_path / "run")
    # A checkpoint of before does not name its rule.
    path = tmp_path / "run" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["terrafuse"].pop("decay_rule") == 1
    torch.save(content, path)
    with pytest.warns(UserWarning, match=told):
        train(config, tmp_path / "run", resume=True)
    expected, found, now = (read_state(tmp_path / name) for name in ("straight", "run", "now"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(now["logit_scale"], found["logit_scale"])


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
def test_a_checkpoint_names_its_rule(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(3, monkeypatch)
    with pytest.raises(StoppedError):
        train(make_config(make_dataset()), tmp_path / "run")
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert content["terrafuse"]["decay_rule"] == 2
