"""A run on a share of the training labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terrafuse.data import open_dataset
from terrafuse.errors import ConfigError
from terrafuse.samples import IGNORE_INDEX, Batch
from terrafuse.sampling import labelled_scenes, share_labels
from terrafuse.training import run_state, train
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import read_run_info, read_state

Make = Callable[..., Any]
SHARE = {"augment": {"flip": False, "rotate": False}, "label_share": 0.05, "label_seed": 3}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch learned from."""
    seen: list[Batch] = []
    original = SegmentationTask.training_step

    def remember(self: SegmentationTask, batch: Batch, batch_idx: int) -> Any:
        seen.append(batch)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", remember)
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    return seen


def test_only_kept_labels_are_learned_from(
    tmp_path: Path, make_dataset: Make, make_config: Make, batches: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    facts: list[run_state.SplitStatistics] = []
    original = run_state.begin
    monkeypatch.setattr(
        run_state,
        "begin",
        lambda out, config, found, *own: (facts.append(found), original(out, config, found, *own)),
    )
    config = make_config(make_dataset(), data=SHARE)
    train(config, tmp_path / "run")
    manifest = open_dataset(config.data)
    scenes = labelled_scenes(manifest, ("train",))
    shared = {s.id: s for s in share_labels(scenes, config.data, manifest.scheme)}
    kept = np.zeros(2, int)
    for scene in shared.values():
        kept += np.bincount(scene.read_labels(scene.full_window).ravel(), minlength=256)[:2]
    assert 0 < kept.sum() < 0.06 * 2 * 48 * 48
    assert facts[0].class_counts == tuple(kept)
    for batch in batches:
        assert batch.labels is not None
        for scene_id, window, labels in zip(
            batch.scene_ids, batch.windows, batch.labels, strict=True
        ):
            assert (labels.numpy() == shared[scene_id].read_labels(window)).all()
            assert (labels != IGNORE_INDEX).any()
    # Images are described by all training scenes.
    train(make_config(config.data.manifest), tmp_path / "all")
    few, everything = (read_run_info(tmp_path / name).statistics for name in ("run", "all"))
    assert few == everything


def test_an_interrupted_run_keeps_the_same_labels(
    tmp_path: Path, make_dataset: Make, make_config: Make, batches: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = make_config(make_dataset(), data=SHARE)
    train(config, tmp_path / "straight")
    original = SegmentationTask.on_train_batch_start

    def stop(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        if batch_idx == 6:
            raise RuntimeError("killed")
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_batch_start", stop)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "run")
    other = make_config(config.data.manifest, data={**SHARE, "label_share": 0.1})
    with pytest.raises(ConfigError, match=r"data\.label_share was 0\.05, is 0\.1"):
        train(other, tmp_path / "run", resume=True)
    train(config, tmp_path / "run", resume=True)
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
def test_what_is_no_share_is_refused(make_config: Make, share: float) -> None:
    with pytest.raises(ConfigError, match="label_share"):
        make_config(Path("x"), data={"label_share": share})
