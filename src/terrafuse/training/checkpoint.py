"""`last.ckpt`: everything needed to resume, saved periodically and when a run is stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from terrafuse.errors import TrainingError
from terrafuse.stopping import StopListener
from terrafuse.training.callbacks import is_step_end
from terrafuse.training.run_state import Position, position_fields
from terrafuse.training.task import LearningTask
from terrafuse.writing import written_whole


class LastCheckpoint(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Callback that saves `last.ckpt` when due, and when Ctrl-C, SIGTERM or SIGUSR1 stops a run.

    The first signal lets the step end, saves and stops; a second one stops at once. Must be the
    last callback: the state of the others then includes the step.

    Args:
        is_due: Tells whether to save after a number of optimiser steps.
        is_exhausted: Tells whether the run ends early.
        samples: Of a step, in each process.
    """

    def __init__(
        self,
        path: Path,
        is_due: Callable[[int], bool],
        is_exhausted: Callable[[], bool] = lambda: False,
        *,
        samples: int,
    ) -> None:
        self.path, self.samples = path, samples
        self.is_due, self.is_exhausted = is_due, is_exhausted
        self.stopped_by: signal.Signals | None = None
        self._listener = StopListener(self._request_stop)

    def listen(self) -> None:
        """Install the signal handlers; only possible in the main thread."""
        self._listener.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LearningTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due or requested by a signal."""
        del outputs, batch
        if not is_step_end(trainer, batch_idx):
            return
        stop = self.stopped_by is not None
        if trainer.world_size > 1:
            # A single process may have received the signal.
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            if stop and self.stopped_by is None:
                self.stopped_by = signal.SIGTERM
        if stop or self.is_due(trainer.global_step):
            self._save(trainer, module)
        if stop:
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: Trainer, module: LearningTask, checkpoint: dict[str, Any]
    ) -> None:
        """Add facts that can be read from the checkpoint without loading it into a model."""
        step = trainer.global_step
        position = Position(
            step=step,
            is_done=self.is_exhausted() or step >= module.config.steps,
            world_size=trainer.world_size,
            decay_rule=module.decay_rule,
            step_rule=module.step_rule,
            step_samples=self.samples * trainer.world_size,
            augment_on=module.augment_on,
        )
        checkpoint["terrafuse"] = position_fields(position)

    def on_train_end(self, trainer: Trainer, module: LearningTask) -> None:
        """Restore the signal handlers."""
        del trainer, module
        self._listener.stop()

    def on_exception(
        self, trainer: Trainer, module: LearningTask, exception: BaseException
    ) -> None:
        """Restore the signal handlers."""
        del trainer, module, exception
        self._listener.stop()

    def _save(self, trainer: Trainer, module: LearningTask) -> None:
        _check_finite(module, trainer.global_step)
        partial = self.path.with_name(self.path.name + ".partial")
        if not trainer.is_global_zero:
            trainer.save_checkpoint(partial)  # takes part; only the first process writes
            return
        with written_whole(self.path) as (partial,):
            trainer.save_checkpoint(partial)

    def _request_stop(self, number: int, frame: FrameType | None = None) -> None:
        del frame
        self.stopped_by = signal.Signals(number)


def _check_finite(module: LearningTask, step: int) -> None:
    """Refuse to replace a sound checkpoint by one with weights that are not finite."""
    parameters = [p for p in module.parameters() if p.requires_grad and p.numel()]
    found = [p.detach().isfinite().all() for p in parameters]  # none in a process without a shard
    if found and not all(torch.stack(found)):
        raise TrainingError(
            f"weights are not finite after step {step}: a gradient overflowed. Try a lower "
            "training.lr, training.gradient_clip, or 32-true precision"
        )
