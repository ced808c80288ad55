"""Lightning's training loop, from a run's current position to its end or interruption."""

from __future__ import annotations

import copy
import gc
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from torch import nn

from terrafuse.config import DataConfig, LearningConfig
from terrafuse.errors import StoppedError, TerrafuseError
from terrafuse.memory import explaining_memory, keeping_freed_memory
from terrafuse.progress import Display
from terrafuse.training import run_state
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.log import RunLog
from terrafuse.training.quiet import fitting_threads, quiet_lightning
from terrafuse.training.run_state import Position
from terrafuse.training.task import LearningTask
from terrafuse.training.trainer import create_trainer

_R = TypeVar("_R")
_M = TypeVar("_M", bound=nn.Module)


def to_fit(model: _M, config: LearningConfig) -> _M:
    """Choose what to fit of a model that the kept weights are loaded into afterwards.

    Parameters of a model in shards stay flat, so that those of a copy are sharded.
    """
    return copy.deepcopy(model) if config.strategy.startswith("fsdp") else model


def run_training(
    prepare: Callable[[Display], _R],
    fit: Callable[[_R], signal.Signals | None],
    finish: Callable[[_R], None],
    *,
    position: Position,
    progress: bool,
) -> None:
    """Prepare a run, fit it if steps remain, and finish it in the first process.

    Args:
        prepare: Checks all that the run is made of, and returns it.
        fit: Learns; returns the signal that arrived during the last step, if one did.
        finish: Leaves what the run is for.
        position: Where the run stands.
        progress: Show a progress bar, or lines where stderr is no terminal.

    Raises:
        StoppedError: A signal arrived during the last step.
    """
    remedy = "Free memory, or leave the largest scenes out of the manifest"
    with (
        explaining_memory("training", remedy),
        quiet_lightning(),
        fitting_threads(),
        keeping_freed_memory(),
        Display(progress) as display,
    ):
        run = prepare(display)
        stopped_by = None if position.is_done else fit(run)
        if not position.is_done:
            gc.collect()  # Lightning's reference cycles keep the data-loading processes alive
        if run_state.is_first_process():
            finish(run)
    if stopped_by is not None:  # whoever trains more than one run begins no other
        raise StoppedError(
            f"training was stopped by {stopped_by.name} after its last step", "the run is finished"
        )


def open_log(out: Path, position: Position) -> RunLog | None:
    """Open the log of a run at its position; None in every process but the first."""
    if not run_state.is_first_process():
        return None
    return RunLog(out / run_state.LOG, last_step=position.step)


def fit_task(
    task: LearningTask, callbacks: list[Any], out: Path, position: Position, data: DataConfig
) -> signal.Signals | None:
    """Train the remaining steps of a task.

    Args:
        task: Model, loss and settings.
        callbacks: In the order in which they run; the last one is the `LastCheckpoint`.
        data: Settings to change where memory does not suffice.

    Returns:
        The signal that arrived during the last step, so that nothing but the model's files remains.

    Raises:
        TrainingError: The loss is not finite.
        NotEnoughMemoryError: Memory did not suffice; the run can be resumed.
        StoppedError: Ctrl-C or SIGTERM stopped the run, which can then be resumed.
    """
    last: LastCheckpoint = callbacks[-1]
    trainer = create_trainer(task.config, callbacks, out)
    _warn_of_other_samples(position, trainer, data.batch_size * task.config.accumulate)
    checkpoint = out / run_state.LAST if position.step else None
    remedy = (
        f"Start in another folder with a data.batch_size below {data.batch_size} or a "
        f"data.crop_size below {data.crop_size}; or free memory and go on with --resume (the run "
        f"is kept in '{out}')"
    )
    try:
        with explaining_memory("training", remedy):
            trainer.fit(task, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except TerrafuseError:
        raise
    except Exception as error:
        if last.stopped_by is None:
            raise
        # The signal took what the step needed, such as a process that reads.
        raise _stopped(last.stopped_by, run_state.read_position(out).step, task, out) from error
    if last.stopped_by is None:
        return None
    if trainer.global_step < task.config.steps:
        raise _stopped(last.stopped_by, trainer.global_step, task, out)
    return last.stopped_by


def _stopped(by: signal.Signals, step: int, task: LearningTask, out: Path) -> StoppedError:
    return StoppedError(
        f"training was stopped by {by.name} after step {step} of {task.config.steps}",
        f"continue with --resume (the run is kept in '{out}')",
    )


def _warn_of_other_samples(position: Position, trainer: Trainer, samples: int) -> None:
    """Warn where a step has other samples than before the interruption.

    Args:
        samples: Of a step, in each process.
    """
    before, now = position.world_size, trainer.world_size
    if (
        before in (None, now)
        or position.step_samples == samples * now
        or not trainer.is_global_zero
    ):
        return
    warnings.warn(
        f"the run is resumed with {now} processes instead of {before}: it sees other samples than "
        "without the interruption. With data.batch_size × training.accumulate × processes as "
        "before, it would see the same",
        stacklevel=6,
    )
