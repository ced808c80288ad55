"""Memory that ends during a run gives one message, and a folder that can go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from terrafuse.errors import NotEnoughMemoryError
from terrafuse.training import train
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import read_state

Make = Callable[..., Any]
TRAIN = sys.modules["terrafuse.training.train"]
SURVEY = sys.modules["terrafuse.training.survey"]
pytestmark = pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than training."""
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    monkeypatch.setattr(TRAIN, "save_curves", lambda *_: None)


def fail_at(number: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SegmentationTask.training_step

    def step(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        if batch_idx == number:
            raise error
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", step)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (0, MemoryError()),
        (5, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 41.00 GiB.")),
        (6, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")),
    ],
)
def test_a_run_without_memory_can_go_on(
    number: int,
    error: Exception,
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(make_dataset())
    train(config, tmp_path / "straight")
    with monkeypatch.context() as failing:
        fail_at(number, error, failing)
        with pytest.raises(
            NotEnoughMemoryError,
            match=r"^training needs more memory .*a data\.batch_size below 2 or a data\.crop_size "
            r"below 16; or free memory and go on with --resume \(the run is kept in '.*run'\)$",
        ):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()
    assert (tmp_path / "run" / "last.ckpt").exists() == (number >= 4)
    train(config, tmp_path / "run", resume=True)
    expected, found = (read_state(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_whole_scenes_that_do_not_fit_are_said(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 41.0 GiB for an array with shape (200000, 220000)")

    count = SURVEY.class_counts

    def fail_on_second(scenes: Any, *given: Any, **options: Any) -> Any:
        is_large = any(scene.id == "scene1" for scene in scenes)
        return fail() if is_large else count(scenes, *given, **options)

    manifest = make_dataset()
    for refusing in (fail, fail_on_second):
        for module in (TRAIN, SURVEY):
            monkeypatch.setattr(module, "class_counts", refusing)
        with pytest.raises(NotEnoughMemoryError, match=r"41\.0 GiB.*largest scenes out of the"):
            train(make_config(manifest), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    # As it says: without the largest scene, and with all of them where memory was freed.
    train(make_config(make_dataset(("train", "rest", "val"))), tmp_path / "fewer")
    for module in (TRAIN, SURVEY):
        monkeypatch.setattr(module, "class_counts", count)
    train(make_config(make_dataset()), tmp_path / "run")


@pytest.mark.parametrize("smaller", [{"batch_size": 1}, {"crop_size": 8}])
def test_smaller_crops_or_batches_in_another_folder(
    smaller: dict[str, int],
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest, original = make_dataset(), SegmentationTask.training_step

    def step(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        if batch.labels.numel() >= 2 * 16 * 16:
            raise MemoryError
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", step)
    with pytest.raises(NotEnoughMemoryError, match="Start in another folder with a data"):
        train(make_config(manifest), tmp_path / "run")
    train(make_config(manifest, data=smaller), tmp_path / "another")
    assert (tmp_path / "another" / "model.json").exists()


def test_too_large_a_run_is_refused_before_it_starts(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method is built again as shapes, so this one is known by its name."""
    monkeypatch.setattr("terrafuse.describe.memory.free_memory", lambda: 10**8)
    config = make_config(make_dataset(), data={"batch_size": 40_000})
    with pytest.raises(NotEnoughMemoryError, match=r"100 MB are free\. Try data\.batch_size \d+ "):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_windows_of_validation_are_checked_too(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrafuse.describe.memory.free_memory", lambda: 10**8)
    windows = {"batch_size": 40_000, "crop_size": 48, "overlap": 0}
    config = make_config(make_dataset(), prediction=windows)
    with pytest.raises(NotEnoughMemoryError, match=r"^mapping .* Try prediction\.batch_size \d+ "):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
