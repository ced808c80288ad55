"""Training that reports what each process saw and ended with.

python tests/helpers/spied_training.py FOLDER [--kill RANK | --fail RANK | --stop-after STEPS]

FOLDER has run.yaml in it. With an option, nothing is reported: after two steps the process of a
rank kills itself or meets an error, or all stop after some steps, as a user of the command sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from terrafuse.cli.app import app
from terrafuse.cli.failures import run_guarded
from terrafuse.config import load_run_config
from terrafuse.errors import DataError
from terrafuse.training import train
from terrafuse.training.task import SegmentationTask


def train_spied(folder: Path, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Train FOLDER/run.yaml into FOLDER/run, and write FOLDER/rankI.json in process I.

    Args:
        folder: Where the run file is.
        patch: How the task's methods are replaced; that of `monkeypatch` takes it back.
    """
    seen: list[Any] = []
    backbones: list[float] = []
    step, end = SegmentationTask.training_step, SegmentationTask.on_train_end

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        windows = zip(batch.scene_ids, batch.windows, strict=True)
        seen.append([[scene, window.row, window.col] for scene, window in windows])
        weights = next(self.segmenter.backbones()[0].parameters())
        backbones.append(weights.detach().sum().item())
        return step(self, batch, batch_idx)

    def on_train_end(self: Any) -> None:
        digest = hashlib.sha256()
        for value in self.segmenter.state_dict().values():
            digest.update(value.numpy().tobytes())
        report = {"digest": digest.hexdigest(), "seen": seen, "backbones": backbones}
        (folder / f"rank{self.global_rank}.json").write_text(json.dumps(report))
        end(self)

    patch(SegmentationTask, "training_step", training_step)
    patch(SegmentationTask, "on_train_end", on_train_end)
    train(load_run_config(folder / "run.yaml"), folder / "run", progress=False)


def train_troubled(folder: Path, option: str, number: int) -> None:
    """Train FOLDER/run.yaml into FOLDER/run as the command line does, and make trouble."""
    step = SegmentationTask.training_step
    after = number - 1 if option == "--stop-after" else 2

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == after and option == "--stop-after":
            self.trainer.callbacks[-1]._request_stop(signal.SIGTERM)
        elif batch_idx == after and self.global_rank == number:
            (folder / "killed").write_text(str(time.time()))
            if option == "--kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("this one fails")
        return step(self, batch, batch_idx)

    SegmentationTask.training_step = training_step  # type: ignore[method-assign]
    # Lightning starts the other processes with the arguments of this one, which must stay.
    words = ["train", str(folder / "run.yaml"), "--out", str(folder / "run")]
    sys.exit(run_guarded(lambda: app(words)))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train_troubled(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        train_spied(Path(sys.argv[1]))
