"""`last.ckpt`: everything needed to go on, saved in time when a run is stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from terrafuse.errors import TrainingError
from terrafuse.training.callbacks import is_step_end
from terrafuse.training.run_state import Position, position_fields
from terrafuse.training.task import LearningTask
from terrafuse.writing import written_whole

# Job schedulers announce the end of a job by SIGTERM or, where asked to, by SIGUSR1.
_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if name in signal.Signals.__members__
)


class LastCheckpoint(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Saves where it is due, and when Ctrl-C, SIGTERM or SIGUSR1 asks the run to stop.

    The first signal lets the step end, saves and stops; a second one stops at once. Must be the
    last callback: what others keep has then taken in the step.

    Args:
        path: The checkpoint.
        is_due: Whether to save after so many optimiser steps.
        is_exhausted: Whether the run is done early.
    """

    def __init__(
        self,
        path: Path,
        is_due: Callable[[int], bool],
        is_exhausted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.is_due, self.is_exhausted = is_due, is_exhausted
        self.stopped_by: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def listen(self) -> None:
        """Take signals over; only a main thread can.

        To be called before the reading processes begin, which inherit it: Ctrl-C in a terminal
        reaches them too, and they must go on until the step has ended.
        """
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._request_stop) for s in _SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, module: LearningTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due or asked for."""
        del outputs, batch
        if not is_step_end(trainer, batch_idx):
            return
        stop = self.stopped_by is not None
        if trainer.world_size > 1:
            # One process alone may have got the signal.
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
        """Add what can be known of a checkpoint without loading it into a model."""
        step = trainer.global_step
        position = Position(
            step=step,
            is_done=self.is_exhausted() or step >= module.config.steps,
            world_size=trainer.world_size,
        )
        checkpoint["terrafuse"] = position_fields(position)

    def on_train_end(self, trainer: Trainer, module: LearningTask) -> None:
        """Give signals back."""
        del trainer, module
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, module: LearningTask, exception: BaseException
    ) -> None:
        """Give signals back."""
        del trainer, module, exception
        self._restore_handlers()

    def _save(self, trainer: Trainer, module: LearningTask) -> None:
        _check_finite(module, trainer.global_step)
        partial = self.path.with_name(self.path.name + ".partial")
        if not trainer.is_global_zero:
            trainer.save_checkpoint(partial)  # takes part; the first process writes
            return
        with written_whole(self.path) as (partial,):
            trainer.save_checkpoint(partial)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            return
        self.stopped_by = signal.Signals(number)
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._handlers = {}


def _check_finite(module: LearningTask, step: int) -> None:
    """A poisoned checkpoint would take the place of a sound one."""
    parameters = [p for p in module.parameters() if p.requires_grad and p.numel()]
    if not all(torch.stack([p.detach().isfinite().all() for p in parameters])):
        raise TrainingError(
            f"weights are not finite after step {step}: a gradient overflowed. Try a lower "
            "training.lr, training.gradient_clip, or 32-true precision"
        )
