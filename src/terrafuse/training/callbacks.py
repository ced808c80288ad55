"""Callbacks of training: head-first training, weight averaging, `log.csv`, progress."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from math import ceil
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from terrafuse.config import LearningConfig
from terrafuse.progress import Display
from terrafuse.segmenter import Segmenter
from terrafuse.training.log import RunLog
from terrafuse.training.optim import learning_rate_factor
from terrafuse.training.task import LearningTask, SegmentationTask

#: Largest number of training lines in a log.
_MOST_LINES = 1000


def is_step_end(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether an optimiser step follows this batch."""
    return bool((batch_idx + 1) % trainer.accumulate_grad_batches == 0)


def is_due(step: int, steps: int, every: int | None) -> bool:
    """Tell whether periodic work, also done at the end, is due.

    Args:
        step: Optimiser steps done.
        steps: Total number of optimiser steps.
        every: Steps between; None: ten times over the run.
    """
    return step % (every or ceil(steps / 10)) == 0 or step == steps


class HeadFirst(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Callback that freezes the backbones during the first steps.

    A random head's gradients distort pretrained features more than they improve them (Kumar et
    al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022). Frozen means: no gradient, no decay, no drop path, no running statistics; these steps
    cost as much as with a frozen backbone. Parameters that tuning added are frozen as well.

    Args:
        steps: Optimiser steps before the backbones are trained.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._waiting: list[nn.Parameter] = []

    def on_train_start(self, trainer: Trainer, module: SegmentationTask) -> None:
        """Freeze the backbones, unless a resumed run is past the first steps."""
        if trainer.global_step >= self.steps:
            return
        for backbone in module.segmenter.backbones():
            layers = chain.from_iterable(backbone.layer_groups())
            added = (p for name, p in backbone.named_parameters() if name in backbone.added)
            self._waiting += [p for p in (*layers, *added) if p.requires_grad]
        self._let_learn(module, learns=False)

    def on_train_batch_start(
        self, trainer: Trainer, module: SegmentationTask, batch: Any, batch_idx: int
    ) -> None:
        """Unfreeze before the first batch of the first step that trains the backbones."""
        del batch, batch_idx
        if self._waiting and trainer.global_step >= self.steps:
            self._let_learn(module, learns=True)
            self._waiting.clear()

    def _let_learn(self, module: SegmentationTask, *, learns: bool) -> None:
        for parameter in self._waiting:
            parameter.requires_grad_(learns)
        module.train()  # frozen parts are in evaluation mode


class WeightAverage(Callback):  # type: ignore[misc]
    """Exponential moving average of the weights, validated and saved in their place.

    After step n: average ← d · average + (1 − d) · weights with d = min(decay, n / (n + 9)), so
    that a short run forgets its initial values. Buffers are copied: normalisation statistics must
    stay exact, and running statistics are averages already.

    Lightning's own callback also averages buffers, and swaps weights for validation.

    Args:
        decay: Limit of d in a long run.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.model: Segmenter
        self._updates = 0

    def setup(self, trainer: Trainer, module: SegmentationTask, stage: str) -> None:
        """Initialise the average with the initial weights."""
        del trainer, stage
        self.model = deepcopy(module.segmenter).requires_grad_(False).eval()

    def on_fit_start(self, trainer: Trainer, module: SegmentationTask) -> None:
        """Move the average to the device of the weights."""
        del trainer
        self.model.to(module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, module: SegmentationTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after each optimiser step."""
        del outputs, batch
        if not is_step_end(trainer, batch_idx):
            return
        self._updates += 1
        share = 1 - min(self.decay, self._updates / (self._updates + 9))
        current = module.segmenter
        for average, weight in zip(self.model.parameters(), current.parameters(), strict=True):
            average.lerp_(weight, share)
        for copy, buffer in zip(self.model.buffers(), current.buffers(), strict=True):
            copy.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `last.ckpt`."""
        return {"updates": self._updates, "model": self.model.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `last.ckpt`."""
        self._updates = state_dict["updates"]
        self.model.load_state_dict(state_dict["model"])


class StepLog(Callback):  # type: ignore[misc]
    """Callback that writes `log.csv` and the chosen loggers.

    A training line holds the means over the steps since the previous line, in all processes; there
    are at most a thousand of them.

    Args:
        run_log: Log file; None in every process but the first.
        config: Number of steps, and learning rate schedule.
        names_one: True: a single loss term has its own column beside "loss".
    """

    def __init__(
        self, run_log: RunLog | None, config: LearningConfig, *, names_one: bool = False
    ) -> None:
        self.run_log = run_log  # Lightning sets `log` of callbacks
        self.names_one = names_one
        self.config = config
        self.every = ceil(config.steps / _MOST_LINES)
        self._sums: dict[str, float] = defaultdict(float)
        self._batches = 0
        self._seconds_before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent in training and validation so far, over all parts of a resumed run."""
        return self._seconds_before + time.monotonic() - self._start

    def on_train_start(self, trainer: Trainer, module: LearningTask) -> None:
        """Start the clock."""
        del trainer, module
        self._start = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LearningTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch; write a line if one is due."""
        del module, batch
        for name, value in outputs["terms"].items():
            self._sums[name] += value
        self._batches += 1
        step = trainer.global_step
        if not is_step_end(trainer, batch_idx) or (step % self.every and step < self.config.steps):
            return
        means = {f"loss_{name}": value for name, value in self._means(trainer).items()}
        rate = self.config.lr * learning_rate_factor(step - 1, self.config)
        row = {"lr": rate, "loss": means.pop("loss_total")}
        self.write(trainer, row | means if self.names_one or len(means) > 1 else row)
        self._sums.clear()
        self._batches = 0

    def _means(self, trainer: Trainer) -> dict[str, float]:
        """Return the means of the terms since the last line, over the processes."""
        own = {name: total / self._batches for name, total in self._sums.items()}
        if trainer.world_size == 1:
            return own
        found: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, own)
        return {name: sum(means.get(name, 0.0) for means in found) / len(found) for name in own}

    def write(self, trainer: Trainer, values: Mapping[str, float | None]) -> None:
        """Write a line of the log.

        Args:
            trainer: Provides step and loggers.
            values: Values by column; None is left empty.
        """
        if self.run_log is None:
            return
        self.run_log.add({"step": trainer.global_step, "seconds": self.seconds, **values})
        known = {name: value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(known, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `last.ckpt`."""
        return {"sums": dict(self._sums), "batches": self._batches, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `last.ckpt`."""
        self._sums = defaultdict(float, state_dict["sums"])
        self._batches = state_dict["batches"]
        self._seconds_before = state_dict["seconds"]


class StepProgress(Callback):  # type: ignore[misc]
    """Callback that advances the progress bar and shows the loss.

    Args:
        steps: Total number of optimiser steps.
    """

    def __init__(self, display: Display, steps: int) -> None:
        self.display = display
        self.steps = steps
        self.score = ""

    def on_train_start(self, trainer: Trainer, module: LearningTask) -> None:
        """Show the bar at the current step."""
        del module
        self.display.stage("training")(trainer.global_step, self.steps)

    def on_train_batch_end(
        self, trainer: Trainer, module: LearningTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        del module, batch
        if is_step_end(trainer, batch_idx):
            self.display.update(trainer.global_step, self.steps)
            self.display.note(f"loss {outputs['terms']['total']:.4f}{self.score}")

    def on_train_end(self, trainer: Trainer, module: LearningTask) -> None:
        """Tell of features that were kept."""
        del trainer
        features = getattr(module, "features", None)
        if features:
            self.display.say(features.told)
