"""Judging while learning: score whole validation scenes, keep the best weights, stop early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import FSDPStrategy

from terrafuse.config import RunConfig, TrainingConfig
from terrafuse.data import Scene
from terrafuse.errors import ConfigError, LabelError, unknown_name
from terrafuse.evaluation import ConfusionMatrix, score
from terrafuse.prediction import ScenePredictor
from terrafuse.segmenter import Segmenter
from terrafuse.training.callbacks import StepLog, StepProgress, WeightAverage, is_step_end
from terrafuse.training.run_folder import save_weights
from terrafuse.training.task import SegmentationTask

#: Scores of a validation; boundaries are compared by `terrafuse evaluate` only, they cost too much.
SCORES = ("oa", "mpa", "miou", "mf1", "kappa", "fwiou")

#: (segmenter, step) → a picture on disk.
Picture = Callable[[Segmenter, int], None]


def check_monitor(config: TrainingConfig) -> None:
    """Refuse a `monitor` that no validation computes.

    Raises:
        ConfigError: Names the nearest score.
    """
    if config.monitor not in SCORES:
        raise ConfigError(unknown_name("score in 'training.monitor'", config.monitor, SCORES))


def is_validation_due(step: int, config: TrainingConfig) -> bool:
    """Whether weights are judged and kept after `step` optimiser steps."""
    every = config.validate_every or ceil(config.steps / 10)
    return step % every == 0 or step == config.steps


class Validation(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Scores the validation scenes and keeps the best weights, or the last without scenes.

    The processes share the scenes and add up one matrix.

    Args:
        scenes: Labelled scenes of the validation split.
        config: The run.
        kept: File for the weights to keep.
        step_log: Takes the scores.
        progress: Shows them.
        average: Weights to be judged in place of the current ones.
        picture: Called in the first process after each validation.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        config: RunConfig,
        kept: Path,
        *,
        step_log: StepLog,
        progress: StepProgress,
        average: WeightAverage | None = None,
        picture: Picture | None = None,
    ) -> None:
        self.scenes = list(scenes)
        self.config = config
        self.kept = kept
        self.step_log = step_log
        self.progress = progress
        self.average = average
        self.picture = picture
        self.best_score: float | None = None
        self._without_gain = 0
        self._whole: Segmenter | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether early stopping ends the run."""
        patience = self.config.training.early_stop
        return patience is not None and self._without_gain >= patience

    def setup(self, trainer: Trainer, module: SegmentationTask, stage: str) -> None:
        """Where the weights will be sharded, keep a whole model to judge them in."""
        del stage
        if isinstance(trainer.strategy, FSDPStrategy):
            self._whole = deepcopy(module.segmenter).eval()

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate where it is due."""
        del outputs, batch
        step = trainer.global_step
        if is_step_end(trainer, batch_idx) and is_validation_due(step, self.config.training):
            segmenter = self._judged(trainer, module)
            if self._is_better(segmenter, trainer, module) and trainer.is_global_zero:
                save_weights(self.kept, segmenter)
            if self.scenes and trainer.is_global_zero and self.picture:
                self.picture(segmenter, step)
            if self.is_exhausted:
                trainer.should_stop = True

    def _is_better(self, segmenter: Segmenter, trainer: Trainer, module: SegmentationTask) -> bool:
        if not self.scenes:
            return True
        self.progress.display.title("validating")
        scores = self._score(segmenter, trainer, module.device)
        self.progress.display.title()
        self.step_log.write(trainer, {f"val_{name}": scores[name] for name in SCORES})
        value = scores[self.config.training.monitor]
        best = self.best_score
        if value is not None:
            self.progress.score = f", {self.config.training.monitor} {value:.4f}"
            if best is None or value > best:
                self.best_score, self._without_gain = value, 0
                return True
        self._without_gain += 1
        return best is None  # as long as the score is undefined, the last weights are kept

    def _score(
        self, segmenter: Segmenter, trainer: Trainer, device: torch.device
    ) -> dict[str, float | None]:
        predictor = ScenePredictor(
            segmenter,
            crop_size=self.config.predict_crop_size,
            overlap=self.config.predict_overlap,
            batch_size=self.config.predict_batch_size,
            device=device,
        )
        confusion = ConfusionMatrix(segmenter.num_classes)
        for scene in self.scenes[trainer.global_rank :: trainer.world_size]:
            labels = scene.read_labels(scene.full_window)[: scene.grid.height, : scene.grid.width]
            confusion.update(labels, predictor.class_map(scene))
        counts = torch.from_numpy(confusion.counts).to(device)
        matrix = trainer.strategy.reduce(counts, reduce_op="sum").cpu().numpy()
        if not matrix[:, : segmenter.num_classes].any():
            raise LabelError(
                "no pixel of split 'val' can be scored: labels are all ignored, or the rasters "
                "have no data where they are. Correct the manifest"
            )
        scores = score(matrix, self.config.evaluation.class_mean).to_dict()
        return {name: scores[name] for name in SCORES}

    def _judged(self, trainer: Trainer, module: SegmentationTask) -> Segmenter:
        """The weights to judge, the same in all processes."""
        if self._whole is None:
            segmenter = self.average.model if self.average else module.segmenter
            if trainer.world_size > 1:
                # Running statistics differ until the next step; those of the first are kept.
                for buffer in segmenter.buffers():
                    torch.distributed.broadcast(buffer, src=0)
            return segmenter
        # Complete in the first process only.
        state = trainer.strategy.broadcast(trainer.strategy.lightning_module_state_dict())
        prefix = "segmenter."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self._whole.load_state_dict(own)
        return self._whole

    def state_dict(self) -> dict[str, Any]:
        """For `last.ckpt`."""
        return {
            "best_score": self.best_score,
            "without_gain": self._without_gain,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From `last.ckpt`."""
        self.best_score = state_dict["best_score"]
        self._without_gain = state_dict["without_gain"]
