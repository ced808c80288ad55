"""A run on integers learns what one on the same values as floats does, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from stopped_runs import stop_after
from terrafuse.config import RunConfig
from terrafuse.errors import TrainingError
from terrafuse.training import train
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import read_state

Make = Callable[..., Any]
STILL = {"gain": 0.0, "offset": 0.0}

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def make_kinds(make_dataset: Make) -> Callable[[str], Path]:
    """Function that writes the data set with whole numbers, as integers or as floats."""

    def write(kind: str) -> Path:
        manifest: Path = make_dataset()
        for path in manifest.parent.glob("[ab]*.tif"):
            with rasterio.open(path) as dataset:
                values, profile = 3000 + 1000 * dataset.read(), dataset.profile
            values = values.clip(0, 65_535).round()
            values[:, 2:9, 30:] = 0
            dtype = "float32" if kind == "float" else "uint16" if path.name[0] == "a" else "int16"
            with rasterio.open(path, "w", **{**profile, "dtype": dtype, "nodata": 0}) as dataset:
                dataset.write(values.astype(dtype))
        return manifest

    return write


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Type of an image as it leaves the reader, and the loss, of every batch."""
    found: list[Any] = []
    move, step = SegmentationTask.transfer_batch_to_device, SegmentationTask.training_step

    def moved(self: Any, batch: Any, *args: Any) -> Any:
        found.append(batch.images["a"].dtype)
        return move(self, batch, *args)

    def stepped(self: Any, batch: Any, batch_idx: int) -> Any:
        assert batch.images["a"].dtype == torch.float32
        result = step(self, batch, batch_idx)
        found.append(result["terms"]["total"])
        return result

    monkeypatch.setattr(SegmentationTask, "transfer_batch_to_device", moved)
    monkeypatch.setattr(SegmentationTask, "training_step", stepped)
    return found


@pytest.mark.parametrize("training", [{}, {"accumulate": 2}])
def test_losses_and_weights_are_those_of_floats(
    tmp_path: Path,
    make_kinds: Callable[[str], Path],
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[Any],
    training: dict[str, Any],
) -> None:
    def run(kind: str, *, stopped: bool = False) -> tuple[list[Any], dict[str, Any]]:
        config: RunConfig = make_config(
            make_kinds(kind), data={"augment": STILL}, training=training | {"steps": 6}
        )
        out = tmp_path / f"{kind}{stopped}"
        seen.clear()
        if stopped:
            stop_after(monkeypatch, 3)
            with pytest.raises(TrainingError, match="after step 3"):
                train(config, out)
        train(config, out, resume=stopped)
        return seen.copy(), read_state(out)

    (floats, expected), (kept, found), (resumed, again) = (
        run("float"),
        run("integer"),
        run("integer", stopped=True),
    )
    assert floats[::2] == [torch.float32] * 6 * training.get("accumulate", 1)
    assert kept[::2] == [torch.uint16] * 6 * training.get("accumulate", 1)
    assert floats[1::2] == kept[1::2] == resumed[1::2]
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert torch.equal(again[name], value), name
    log = [
        (tmp_path / f"{run}/log.csv").read_text().splitlines()
        for run in ("floatFalse", "integerFalse")
    ]
    without_time = [[row.split(",", 2)[::2] for row in rows] for rows in log]
    assert without_time[0] == without_time[1]  # scores of validation among them
    assert np.isfinite(floats[1])
