"""Training steps as Lightning modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, islice
from typing import Any, cast

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from terrafuse.backbones.synced_norm import share_batches, sync_batch_norms
from terrafuse.config import AugmentPlace, LearningConfig, TrainingConfig
from terrafuse.errors import TrainingError
from terrafuse.samples import Batch
from terrafuse.sampling import change_batch
from terrafuse.segmenter import Segmenter, SensorModel
from terrafuse.training.compiling import CompiledSegment
from terrafuse.training.features import FeatureCache, feature_budget
from terrafuse.training.losses import WeightedSum
from terrafuse.training.optim import (
    DECAY_RULE,
    STEP_RULE,
    create_optimizer,
    create_schedule,
    parameter_groups,
)

#: (rank, world size) → batches of this process, from the step at which training starts or resumes.
LoaderFactory = Callable[[int, int], Iterable[Any]]


class LearningTask(lightning.LightningModule):  # type: ignore[misc]  # is not typed for us
    """Base of training tasks; every random draw of a step depends on (seed, batch, rank) only.

    A subclass keeps its model under its own name, and implements `model`, `terms` and `views`.

    Args:
        config: Optimiser, schedule, seed.
        loader: Creates the batches once rank and world size are known.
        decay_rule: Rule of weight decay that the run was begun with.
        step_rule: Rule of the batches of a step that the run was begun with.
        augment_on: Where the loader lets samples be augmented.
    """

    def __init__(
        self,
        model: SensorModel,
        config: LearningConfig,
        loader: LoaderFactory,
        decay_rule: int = DECAY_RULE,
        step_rule: int = STEP_RULE,
        augment_on: AugmentPlace = "reader",
    ) -> None:
        super().__init__()
        self.config, self.augment_on = config, augment_on
        self.decay_rule, self.step_rule = decay_rule, step_rule
        self._loader = loader
        # Before a strategy replaces the tensors by flat shards, which have lost their shapes.
        self._groups = parameter_groups(model, config, rule=decay_rule)
        self._tell_former_rule(model)
        for backbone in model.backbones():
            backbone.gradient_checkpointing = config.gradient_checkpointing

    @property
    def model(self) -> SensorModel:
        """Model to train."""
        raise NotImplementedError

    def terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss terms of a batch by name, and their sum as "total"."""
        raise NotImplementedError

    def views(self, batch: Any) -> tuple[Batch, ...]:
        """Return the views in a batch, as sample batches."""
        raise NotImplementedError

    def train_dataloader(self) -> Batches:
        """Return the batches of this process."""
        batches = self._loader(self.global_rank, self.trainer.world_size)
        return Batches(batches, self.config.steps * self.config.accumulate)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count batches as if all had been of today's size, where fewer or more make a step."""
        done = checkpoint["terrafuse"]["step"] * self.config.accumulate
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, done))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step's random draws (dropout, drop path), so that a resumed run repeats them."""
        del batch
        torch.manual_seed(step_seed(self.config.seed, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return the loss of a batch, and its terms for the log.

        Raises:
            TrainingError: The loss is not finite.
        """
        terms = self.terms(batch)
        values = {name: term.item() for name, term in terms.items()}
        if not np.isfinite(values["total"]):
            raise TrainingError(self._not_finite(values, batch, batch_idx))
        return {"loss": terms["total"], "terms": values}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimiser, and its schedule per optimiser step."""
        optimizer = create_optimizer(dict(self.model.named_parameters()), self._groups, self.config)
        scheduler = create_schedule(optimizer, self.config)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all parameters, even if they are sharded."""
        if gradient_clip_val is not None and isinstance(self.trainer.strategy, FSDPStrategy):
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _tell_former_rule(self, model: SensorModel) -> None:
        if self.decay_rule == DECAY_RULE:
            return
        now, then = (
            {name: g.weight_decay for g in groups for name in g.names}
            for groups in (parameter_groups(model, self.config), self._groups)
        )
        changed = [name for name in now if now[name] != then[name]]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            warnings.warn(
                f"the run was begun when {changed[0]}{more} is decayed; it goes on so. Runs begun "
                "now leave that out ('terrafuse describe --parameters')",
                stacklevel=5,
            )

    def _not_finite(self, values: dict[str, float], batch: Any, batch_idx: int) -> str:
        step = batch_idx // self.config.accumulate + 1
        terms = ", ".join(f"{name} {value:g}" for name, value in values.items() if name != "total")
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        scenes = ", ".join(sorted(set(self.views(batch)[0].scene_ids))[:4])
        half = " or 32-true precision" if self.config.precision != "32-true" else ""
        return (
            f"the loss is {values['total']:g} at step {step} ({terms}; learning rate {rate:.3g}, "
            f"scenes {scenes}). Try a lower training.lr, more warmup_steps{half}; if it happens at "
            "the first step, look for extreme pixel values with 'terrafuse data stats'"
        )


class SegmentationTask(LearningTask):
    """Supervised training of a segmenter.

    Args:
        config: Optimiser, schedule, seed.
        loader: Creates the batches once rank and world size are known.
        decay_rule: Rule of weight decay that the run was begun with.
        step_rule: Rule of the batches of a step that the run was begun with.
        augment_on: Where the loader lets samples be augmented.

    Attributes:
        compiled: Form of the segmenter that batches are trained with, if it is compiled.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        loss: WeightedSum,
        config: TrainingConfig,
        loader: LoaderFactory,
        decay_rule: int = DECAY_RULE,
        step_rule: int = STEP_RULE,
        augment_on: AugmentPlace = "reader",
    ) -> None:
        super().__init__(segmenter, config, loader, decay_rule, step_rule, augment_on)
        self.segmenter, self.settings = segmenter, config
        self.features: FeatureCache | None = None
        self.compiled: CompiledSegment | None = None
        self.loss = loss
        self._syncs, self._shares_norms = config.sync_batchnorm, False
        self.aux_weight = config.aux_weight
        if config.backbone_lr_factor == 0:
            for backbone in segmenter.backbones():
                for parameter in chain.from_iterable(backbone.layer_groups()):
                    parameter.requires_grad_(False)
        self.train()  # the newly frozen parts stay in evaluation mode

    @property
    def model(self) -> SensorModel:
        """The segmenter."""
        return self.segmenter

    def train_dataloader(self) -> Batches:
        """Return the batches of this process; where several make a step, with their factors."""
        batches = super().train_dataloader()
        processes, accumulate = self.trainer.world_size, self.config.accumulate
        if processes * accumulate == 1:
            return batches
        if self.step_rule == 1:
            if self.trainer.is_global_zero:
                warnings.warn(
                    "the run was begun when all batches of a step counted alike, however many "
                    "labelled pixels they have; it goes on so",
                    stacklevel=2,
                )
            return batches

        def total_of(values: Tensor) -> Tensor:
            there = values.to(self.device if self.device.type == "cuda" else "cpu")
            return cast("Tensor", self.trainer.strategy.reduce(there, reduce_op="sum")).cpu()

        steps = StepBatches(
            batches.batches, accumulate, self.loss.denominators, total_of, processes=processes
        )
        return Batches(steps, batches.total)

    def setup(self, stage: str) -> None:
        """Begin to keep features; let batch norms see all processes, once these are known."""
        del stage
        if self.settings.cache_features:
            budget = feature_budget(self.settings.cache_features_mb)
            self.features = FeatureCache(self.segmenter, budget)
        if self.trainer.world_size == 1 or not self._syncs or self.step_rule == 1:
            return
        self._shares_norms = True
        unknown = ", ".join(sorted(sync_batch_norms(self.segmenter)))
        if unknown and self.trainer.is_global_zero:
            warnings.warn(
                f"batch norms of class {unknown} are not known: each process normalises its own "
                "batches there",
                stacklevel=2,
            )

    def teardown(self, stage: str) -> None:
        """Forget features."""
        del stage
        if self.features:
            self.features.close()
            self.features = None

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the batch to the device of this process, and change it there."""
        del dataloader_idx
        return bring(batch, device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of a batch, and its terms."""
        assert batch.labels is not None
        if self._shares_norms:
            share_batches(self.segmenter, shares=self._has_same_modalities(batch))
        with (
            self.features.training() if self.features else nullcontext(),
            self.compiled.training(batch) if self.compiled else nullcontext(),
        ):
            output = self.segmenter(batch.images, batch.valid)
        if self.features:
            self.features.check_used(self.segmenter)
        terms: dict[str, Tensor] = self.loss(output, batch.labels, self.aux_weight, batch.factors)
        return terms

    def views(self, batch: Batch) -> tuple[Batch, ...]:
        """Return the batch as its only view."""
        return (batch,)

    def _has_same_modalities(self, batch: Batch) -> bool:
        """Tell whether the batches of all processes lack the same modalities."""
        present = torch.stack([mask.any() for mask in batch.valid.values()]).float()
        found = self.trainer.strategy.reduce(present, reduce_op="mean")
        return bool(((found == 0) | (found == 1)).all())


class Batches:
    """Remaining batches of a run, with the length of the whole training.

    Lightning continues counting at the interruption, so it must not be given the shorter length.

    Args:
        batches: Remaining batches.
        total: Number of batches in the whole training.
    """

    def __init__(self, batches: Iterable[Any], total: int) -> None:
        self.batches = batches
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class StepBatches:
    """Batches with factors on their losses, so that a step has the gradient of one large batch.

    A loss that divides by d (its `denominator`) is multiplied by d · n / D, where D is the sum of d
    over the n batches of the step, in all processes: the mean of the n products is the loss of one
    batch of all samples. The batches of a process wait in main memory until the last one is read.

    Args:
        batches: Of this process, from the first one of a step on.
        accumulate: Batches of a step in each process.
        denominators: Labels (N, H, W) → float64 (number of losses,).
        total_of: Sums a tensor over the processes.
        processes: How many there are.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        accumulate: int,
        denominators: Callable[[Tensor], Tensor],
        total_of: Callable[[Tensor], Tensor] = lambda values: values,
        *,
        processes: int = 1,
    ) -> None:
        self.batches, self.accumulate, self.processes = batches, accumulate, processes
        self.denominators, self.total_of = denominators, total_of

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.batches)
        while step := list(islice(batches, self.accumulate)):
            own = torch.stack([self._of(batch) for batch in step])  # (n, number of losses)
            total = self.total_of(own.sum(dim=0))
            # Without a labelled pixel each loss is 0, whatever its factor.
            factors = own * len(step) * self.processes / torch.where(total > 0, total, 1.0)
            for batch, own_factors in zip(step, factors, strict=True):
                yield replace(batch, factors=own_factors.float())

    def _of(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return self.denominators(batch.labels)


def bring(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device, where integers become float32 and samples are augmented."""
    if device.type not in ("cpu", "cuda"):  # which may have no such integers
        batch = batch.physical()
    return change_batch(batch.to(device))


def step_seed(seed: int, batch_idx: int, rank: int) -> int:
    """Return the seed of the random draws of one batch in one process."""
    return int(np.random.SeedSequence((seed, batch_idx, rank)).generate_state(1, np.uint64)[0])
