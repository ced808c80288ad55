"""Training that reports what each process saw and ended with.

python tests/helpers/spied_training.py FOLDER    (with run.yaml in it)
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from terrafuse.config import load_run_config
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


if __name__ == "__main__":
    train_spied(Path(sys.argv[1]))
