"""Samples augmented on the device: the same losses but for rounding, and a run that stays there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stopped_runs import stop_after
from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError, TrainingError
from terrafuse.samples import Batch
from terrafuse.training import fitting, run_state, train
from terrafuse.training.fitting import augment_place
from terrafuse.training.run_state import Position, read_position
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import read_state

Make = Callable[..., Any]
AUGMENT = {"scale": (0.5, 2.0), "speckle": 0.2, "shift_db": 1.0}

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, float]]:
    """Per batch, whether it came with numbers for its changes, and its loss."""
    found: list[tuple[bool, float]] = []
    move, step = SegmentationTask.transfer_batch_to_device, SegmentationTask.training_step
    numbered: list[bool] = []

    def moved(self: Any, batch: Batch, *args: Any) -> Batch:
        numbered.append(bool(batch.draws))
        return move(self, batch, *args)

    def stepped(self: Any, batch: Batch, batch_idx: int) -> Any:
        assert not batch.draws
        result = step(self, batch, batch_idx)
        found.append((numbered[-1], result["terms"]["total"]))
        return result

    monkeypatch.setattr(SegmentationTask, "transfer_batch_to_device", moved)
    monkeypatch.setattr(SegmentationTask, "training_step", stepped)
    return found


def use_a_gpu(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Let the training device be taken for one of this kind."""
    monkeypatch.setattr(fitting, "training_device", lambda _: torch.device(kind))


def test_losses_are_those_of_the_reader_and_resume_exactly(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[tuple[bool, float]],
) -> None:
    manifest = make_dataset()

    def run(place: str, out: str, *, stopped: bool = False) -> list[tuple[bool, float]]:
        config: RunConfig = make_config(manifest, data={"augment": AUGMENT, "augment_on": place})
        seen.clear()
        if stopped:
            stop_after(monkeypatch, 3)
            with pytest.raises(TrainingError, match="after step 3"):
                train(config, tmp_path / out)
        train(config, tmp_path / out, resume=stopped)
        return seen.copy()

    reader, device = run("reader", "reader"), run("device", "device")
    assert [numbered for numbered, _ in reader] == [False] * 8
    assert [numbered for numbered, _ in device] == [True] * 8
    assert [loss for _, loss in device] == pytest.approx([loss for _, loss in reader], rel=1e-4)
    assert run("device", "resumed", stopped=True) == device
    expected, found = (read_state(tmp_path / name) for name in ("device", "resumed"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_stays_where_it_was_begun(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[tuple[bool, float]],
) -> None:
    config: RunConfig = make_config(make_dataset())
    with monkeypatch.context() as patch:
        use_a_gpu(patch, "cuda")
        stop_after(patch, 3)
        with pytest.raises(TrainingError, match="after step 3"):
            train(config, tmp_path / "run")
    assert read_position(tmp_path / "run").augment_on == "device"
    other = config.model_copy(
        update={"data": config.data.model_copy(update={"augment_on": "reader"})}
    )
    with pytest.raises(ConfigError, match=r"data\.augment_on was 'auto', is 'reader'"):
        train(other, tmp_path / "run", resume=True)
    train(config, tmp_path / "run", resume=True)
    assert [numbered for numbered, _ in seen] == [True] * 8


def test_where_a_run_begins(
    tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: RunConfig = make_config(tmp_path / "dataset.yaml")
    data, training = config.data, config.training
    for kind, expected in (("cpu", "reader"), ("mps", "reader"), ("cuda", "device")):
        use_a_gpu(monkeypatch, kind)
        assert augment_place(data, training, Position()) == expected
        for place in ("reader", "device"):
            asked = data.model_copy(update={"augment_on": place})
            assert augment_place(asked, training, Position()) == place
            assert augment_place(data, training, Position(3, augment_on=place)) == place


def test_checkpoints_of_before_were_augmented_by_the_reader(tmp_path: Path) -> None:
    fields = run_state.position_fields(Position(3, world_size=1))
    del fields["augment_on"]
    torch.save({"terrafuse": fields}, tmp_path / "last.ckpt")
    assert read_position(tmp_path).augment_on == "reader"
