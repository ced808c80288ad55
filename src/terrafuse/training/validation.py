"""Validation during training: score whole scenes, keep the best weights, stop early."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import FSDPStrategy

from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig, RunConfig, TrainingConfig
from terrafuse.data import Manifest, Scene
from terrafuse.errors import ConfigError, LabelError, TerrafuseError, unknown_name
from terrafuse.evaluation import (
    SCORES,
    ConfusionMatrix,
    cheap_scores,
    check_references,
    read_reference_labels,
    score_values,
    scored_classes,
)
from terrafuse.prediction import ScenePredictor, WindowSettings, check_windows
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX
from terrafuse.segmenter import Segmenter
from terrafuse.training.callbacks import (
    StepLog,
    StepProgress,
    WeightAverage,
    is_due,
    is_step_end,
)
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.run_state import save_weights
from terrafuse.training.task import SegmentationTask


def check_monitor(config: TrainingConfig) -> None:
    """Refuse a `monitor` score that validation does not compute.

    Raises:
        ConfigError: Names the nearest score.
    """
    # Scores that need more than counting, like boundary F1, are left to `terrafuse evaluate`.
    known = cheap_scores()
    if config.monitor not in known:
        raise ConfigError(unknown_name("score in 'training.monitor'", config.monitor, known))


def check_scene_windows(config: RunConfig) -> None:
    """Refuse windows of prediction or validation that do not suit the blending.

    Raises:
        ConfigError: Names the setting and the allowed values.
    """
    settings = {
        "prediction.overlap": config.predict_overlap,
        "training.validation_overlap": validation_overlap(config),
    }
    for key, overlap in settings.items():
        try:
            check_windows(config.predict_crop_size, overlap, config.prediction.blending)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None


def validation_scenes(config: RunConfig, manifest: Manifest) -> list[Scene]:
    """Select the scenes of the validation split that have labels, full or eroded.

    Their truth is that of the manifest, even where the split is also trained on and painted over.
    """
    split, reference = config.training.validation_split, config.evaluation.reference
    scenes = manifest.unpainted().scenes(split) if split in manifest.splits else []
    return [scene for scene in scenes if scene.has_labels or scene.has_reference(reference)]


def check_selection(
    config: RunConfig,
    manifest: Manifest,
    scenes: Sequence[Scene],
    progress: Progress | None = None,
    *,
    are_read: bool = False,
) -> None:
    """Refuse scenes that cannot select the weights; warn if the selection is biased.

    Args:
        scenes: Result of `validation_scenes`.
        progress: Called with (scenes read, total scenes).
        are_read: Whether their labels have been read, and hold pixels to compare.

    Raises:
        LabelError: All labels are ignored, or scenes lack the reference labels.
    """
    split = config.training.validation_split
    if not scenes:
        warnings.warn(
            f"'{manifest.path}' has no labelled scenes in split '{split}': the last weights are "
            f"kept, whatever their score. Set 'split: {split}' for some, or run 'terrafuse data "
            f"split'; splits are now {', '.join(manifest.splits) or 'none'}",
            stacklevel=5,
        )
        return
    check_references(scenes, config.evaluation)
    if not are_read and not _has_reference_pixels(scenes, config.evaluation, progress):
        raise LabelError(
            f"{config.evaluation.reference} of split '{split}' are all ignored, so no score can "
            "select the weights. Correct 'classes', 'void' or the labels' 'nodata' in the "
            "manifest, or leave the split out"
        )
    if split in ("test", config.evaluation.split):
        warnings.warn(
            f"weights are selected by their score on split '{split}', the one to be reported: that "
            "score will be too optimistic. Select on another split (training.validation_split), "
            "unless you follow a published protocol",
            stacklevel=5,
        )
    if split in config.data.train_splits:
        warnings.warn(
            f"weights are selected by their score on split '{split}', which is also trained on "
            "(data.train_splits): the score says nothing about other places. Select on another "
            "split",
            stacklevel=5,
        )


def validation_overlap(config: RunConfig) -> int:
    """Return the overlap of windows in validation, in scene pixels."""
    overlap = config.training.validation_overlap
    return config.predict_overlap if overlap is None else overlap


def is_validation_due(step: int, config: TrainingConfig) -> bool:
    """Tell whether validation is due after `step` optimiser steps, whatever the time."""
    return is_due(step, config.steps, config.validate_every)


def _has_reference_pixels(
    scenes: Sequence[Scene], config: EvaluationConfig, progress: Progress | None
) -> bool:
    """Tell whether any scene has a pixel to compare; all are read, to find label errors early."""
    found = False
    for number, scene in enumerate(scenes, start=1):
        found |= bool((read_reference_labels(scene, config) != IGNORE_INDEX).any())
        if progress:
            progress(number, len(scenes))
    return found


class Validation(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Callback that validates and keeps the best weights, or the last ones without scenes.

    The processes share the scenes and sum one confusion matrix.

    Args:
        scenes: Labelled scenes of the validation split.
        scheme: Classes of the labels.
        kept: File of the weights to keep.
        step_log: Log that receives the scores.
        progress: Display of the monitored score.
        average: Weight average to validate instead of the current weights.
        picture: Called in the first process after each validation.

    Attributes:
        last_step: Optimiser steps before the last validation; None before the first one.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        scheme: ClassScheme,
        config: RunConfig,
        kept: Path,
        *,
        step_log: StepLog,
        progress: StepProgress,
        average: WeightAverage | None = None,
        picture: SamplePicture | None = None,
    ) -> None:
        self.scenes = list(scenes)
        self.scheme = scheme
        self.config = config
        self.kept = kept
        self.step_log = step_log
        self.progress = progress
        self.average = average
        self.picture = picture
        self.best_score: float | None = None
        self.last_step: int | None = None
        self._seconds = 0.0  # of the run, at the end of the last validation
        self._without_gain = 0
        self._whole: Segmenter | None = None

    @property
    def is_exhausted(self) -> bool:
        """True if early stopping ends the run."""
        patience = self.config.training.early_stop
        return patience is not None and self._without_gain >= patience

    def setup(self, trainer: Trainer, module: SegmentationTask, stage: str) -> None:
        """Keep a whole copy of the model for validation if the weights will be sharded."""
        del stage
        if isinstance(trainer.strategy, FSDPStrategy):
            self._whole = deepcopy(module.segmenter).eval()

    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate if due."""
        del outputs, batch
        step = trainer.global_step
        if is_step_end(trainer, batch_idx) and self._is_due(trainer, step):
            segmenter = self._judged(trainer, module)
            if self._is_better(segmenter, trainer, module) and trainer.is_global_zero:
                save_weights(self.kept, segmenter)
            if self.scenes and trainer.is_global_zero and self.picture:
                self.picture(segmenter, step)
            self.last_step, self._seconds = step, self.step_log.seconds
            if self.is_exhausted:
                trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: SegmentationTask) -> None:
        """Wait for pictures that are being drawn."""
        del trainer, module
        if self.picture:
            self.picture.finish()

    def on_exception(
        self, trainer: Trainer, module: SegmentationTask, exception: BaseException
    ) -> None:
        """Wait for pictures; what the run fails by is told, whatever becomes of them."""
        del trainer, module, exception
        if self.picture:
            with suppress(TerrafuseError):
                self.picture.finish()

    def _is_due(self, trainer: Trainer, step: int) -> bool:
        """Tell whether steps or minutes make validation due, in all processes alike."""
        minutes = self.config.training.validate_minutes
        if is_validation_due(step, self.config.training) or minutes is None:
            return is_validation_due(step, self.config.training)
        late = self.step_log.seconds - self._seconds >= 60 * minutes
        if trainer.world_size == 1:
            return late
        return bool(trainer.strategy.broadcast(late))  # clocks differ: the first process' counts

    def _is_better(self, segmenter: Segmenter, trainer: Trainer, module: SegmentationTask) -> bool:
        if not self.scenes:
            return True
        self.progress.display.title("validating")
        scores = self._score(segmenter, trainer, module.device)
        self.progress.display.title()
        self.step_log.write(trainer, {f"val_{name}": value for name, value in scores.items()})
        kind = SCORES[self.config.training.monitor]
        value = scores[kind.name]
        best = self.best_score
        if value is not None:
            self.progress.score = f", {kind.name} {value:.4f}"
            if best is None or kind.is_better(value, best):
                self.best_score, self._without_gain = value, 0
                return True
        self._without_gain += 1
        return best is None  # as long as the score is undefined, the last weights are kept

    def _score(
        self, segmenter: Segmenter, trainer: Trainer, device: torch.device
    ) -> dict[str, float | None]:
        windows = WindowSettings.of_run(self.config, overlap=validation_overlap(self.config))
        predictor = ScenePredictor(segmenter, windows, device=device)
        evaluation = self.config.evaluation
        confusion = ConfusionMatrix(segmenter.num_classes)
        for scene in self.scenes[trainer.global_rank :: trainer.world_size]:
            confusion.update(read_reference_labels(scene, evaluation), predictor.class_map(scene))
        counts = torch.from_numpy(confusion.counts).to(device)
        matrix = trainer.strategy.reduce(counts, reduce_op="sum").cpu().numpy()
        if not matrix[:, : segmenter.num_classes].any():
            raise LabelError(
                f"no pixel of split '{self.config.training.validation_split}' can be scored: "
                f"{evaluation.reference} are all ignored, or the rasters have no data where they "
                "are. Correct 'classes', 'void' or 'nodata' in the manifest"
            )
        mean_over = scored_classes(evaluation, self.scheme)
        return score_values(
            matrix, evaluation.class_mean, mean_over=mean_over, names=cheap_scores()
        )

    def _judged(self, trainer: Trainer, module: SegmentationTask) -> Segmenter:
        """Return the model to validate, identical in all processes."""
        if self._whole is None:
            segmenter = self.average.model if self.average else module.segmenter
            if trainer.world_size > 1:
                # Running statistics differ until the next step; those of the first process count.
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
        """Return the state for `last.ckpt`."""
        return {
            "best_score": self.best_score,
            "without_gain": self._without_gain,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `last.ckpt`."""
        self.best_score = state_dict["best_score"]
        self._without_gain = state_dict["without_gain"]
        self._seconds = state_dict.get("seconds", 0.0)  # not in checkpoints of before
