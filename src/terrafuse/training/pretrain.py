"""`pretrain`: backbones trained on images without labels, and the folder that holds them."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from terrafuse.backbones import save_backbone
from terrafuse.config import AugmentPlace
from terrafuse.config.pretrain import PretrainConfig, load_pretrain_config
from terrafuse.data import Manifest, Scene, apply_normalization, compute_statistics, open_dataset
from terrafuse.describe.costs import shape_images
from terrafuse.describe.memory import check_training
from terrafuse.errors import ConfigError
from terrafuse.pretraining import Pretrainer, create_pretrainer
from terrafuse.progress import Display
from terrafuse.samples import Batch
from terrafuse.sampling import Views, describe_augmentation, views_loader
from terrafuse.segmenter import SensorModel
from terrafuse.stopping import when_stopped
from terrafuse.training import run_state
from terrafuse.training.callbacks import StepLog, StepProgress, is_due, is_step_end
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.fitting import augment_place, fit_task, open_log, run_training, to_fit
from terrafuse.training.optim import DECAY_RULE
from terrafuse.training.pictures import FIGURES, save_curves
from terrafuse.training.processes import told_once
from terrafuse.training.quiet import quiet_lightning
from terrafuse.training.run_state import Position, SplitStatistics
from terrafuse.training.task import LearningTask, LoaderFactory, bring
from terrafuse.training.train import check_crop_size
from terrafuse.training.trainer import check_trainer
from terrafuse.version import VERSION
from terrafuse.weights import digest, load_strict, read_weights
from terrafuse.writing import claimed, written_whole

#: Describes the content of a pre-training folder; written last.
PRETRAIN_JSON = "pretrain.json"


def pretrain(
    config: PretrainConfig, out: Path, *, resume: bool = False, progress: bool = True
) -> Path:
    """Pre-train backbones on images; no labels are read.

    Everything is checked before the first step: settings, folder, manifest, objective and
    backbones, statistics of the scenes. The last weights are kept.

    Args:
        config: The settings.
        out: The folder to make.
        resume: Go on where an interrupted run in `out` stopped, exactly as if it had not been;
            begins where there is none. A finished run is left as it is.
        progress: Show a progress bar, or lines where stderr is no terminal.

    Returns:
        `out`, with a file of weights per backbone, `pretrain.json`, `config.yaml`, `log.csv` and a
        figure.

    Raises:
        ConfigError: Settings contradict each other, the data, or the run to resume.
        UnknownNameError: The objective, a backbone or an option does not exist.
        DataError: There is nothing to train on.
        OutputError: `out` is not empty, cannot be written, or another process writes there.
        MissingDependencyError: A logger is not installed.
        TrainingError: The loss is not finite.
        StoppedError: Ctrl-C or SIGTERM stopped the run, which can then be resumed.
    """
    out = Path(out)
    data = config.data.model_copy(update={"manifest": config.data.manifest.resolve()})
    config = config.model_copy(update={"data": data})
    with when_stopped("continue with --resume"), told_once():
        processes = check_pretrain_settings(config, meets=True)
        return _pretrain(config, out, processes, resume=resume, progress=progress)


def _pretrain(
    config: PretrainConfig, out: Path, processes: int, *, resume: bool, progress: bool
) -> Path:
    with claimed(out, "pretrain", takes_part=run_state.is_first_process()):
        if run_state.is_first_process():
            run_state.check_startable(
                out, config, resume=resume, processes=processes, read=load_pretrain_config
            )
        if resume and run_state.is_finished(out, PRETRAIN_JSON):
            run_state.tidy(out)
            return out
        position = run_state.read_position(out) if resume else Position()
        prepare = partial(_prepare, config, out, position)
        run_training(prepare, _fit, _finish, position=position, progress=progress)
    return out


def check_pretrain_settings(config: PretrainConfig, *, meets: bool = False) -> int:
    """Refuse settings of a pre-training that are wrong whatever the data.

    Args:
        meets: Whether the processes of a run meet now, where a launcher has started all of them.

    Returns:
        Number of processes of the run.

    Raises:
        ConfigError: Devices do not exist, or settings exclude each other.
        MissingDependencyError: A logger is not installed.
    """
    with quiet_lightning():
        return check_trainer(config.training, meets=meets)


@dataclass(frozen=True)
class _Run:
    """All checked parts of a pre-training run."""

    config: PretrainConfig
    out: Path
    position: Position
    manifest: Manifest
    scenes: list[Scene]
    facts: SplitStatistics
    pretrainer: Pretrainer
    display: Display

    @property
    def augment_on(self) -> AugmentPlace:
        """Where samples are augmented."""
        return augment_place(self.config.data, self.config.training, self.position)


class PretrainingTask(LearningTask):
    """Training step of an objective, on the sum of its losses.

    Args:
        config: Optimiser, schedule, seed.
        loader: Creates the batches once rank and world size are known.
        decay_rule: Rule of weight decay that the run was begun with.
        augment_on: Where the loader lets samples be augmented.
    """

    def __init__(
        self,
        pretrainer: Pretrainer,
        config: PretrainConfig,
        loader: LoaderFactory,
        decay_rule: int = DECAY_RULE,
        augment_on: AugmentPlace = "reader",
    ) -> None:
        super().__init__(pretrainer, config.training, loader, decay_rule, augment_on=augment_on)
        self.pretrainer = pretrainer

    @property
    def model(self) -> SensorModel:
        """The objective and its backbones."""
        return self.pretrainer

    def transfer_batch_to_device(
        self, batch: tuple[Batch, ...], device: torch.device, dataloader_idx: int
    ) -> tuple[Batch, ...]:
        """Move all views to the device of this process, and change them there."""
        del dataloader_idx
        return tuple(bring(view, device) for view in batch)

    def terms(self, batch: tuple[Batch, ...]) -> dict[str, Tensor]:
        """Return the losses by name, and their sum."""
        losses: dict[str, Tensor] = self.pretrainer(batch)
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def views(self, batch: tuple[Batch, ...]) -> tuple[Batch, ...]:
        """Return the views."""
        return batch


class KeepLast(Callback):  # type: ignore[misc]  # Lightning is not typed for us
    """Callback that saves the whole weights at every checkpoint, even if a strategy shards them.

    Args:
        kept: File of the weights.
        config: Settings with the steps between checkpoints.
    """

    def __init__(self, kept: Path, config: PretrainConfig) -> None:
        self.kept = kept
        self.config = config

    def on_train_batch_end(
        self, trainer: Trainer, module: PretrainingTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the weights if due."""
        del module, outputs, batch
        if not (is_step_end(trainer, batch_idx) and _is_due(self.config, trainer.global_step)):
            return
        state = trainer.strategy.lightning_module_state_dict()  # all processes take part
        if trainer.is_global_zero:
            prefix = "pretrainer."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            run_state.save_state(self.kept, own)


def _is_due(config: PretrainConfig, step: int) -> bool:
    return is_due(step, config.training.steps, config.training.save_every)


def _prepare(config: PretrainConfig, out: Path, position: Position, display: Display) -> _Run:
    facts = run_state.read_split_statistics(out, config.data.manifest)
    manifest = run_state.as_begun(open_dataset(config.data, is_labelled=False), facts, out)
    check_crop_size(config.data, manifest)
    modalities = list(manifest.modalities.values())
    torch.manual_seed(config.training.seed)
    pretrainer = create_pretrainer(config, modalities)
    check_training(
        pretrainer,
        config.training,
        config.data,
        build=lambda: create_pretrainer(config, modalities),
        loss=_loss_of_shapes,
        least=2 if pretrainer.needs_others else 1,
    )
    scenes = [scene for split in config.data.train_splits for scene in manifest.scenes(split)]
    if pretrainer.needs_all:
        scenes = _complete(scenes, config)
    if facts is None:
        measured = compute_statistics(
            scenes, modalities, progress=display.stage("measuring statistics")
        )
        statistics = apply_normalization(measured, manifest, config.data)
        facts = SplitStatistics(statistics, (), digest(manifest.path))
    pretrainer.set_statistics(facts.statistics)
    pretrainer.train()
    if run_state.is_first_process():
        for line in describe_augmentation(config.data.augment, modalities):
            display.say(f"augmentation, {line}")
        run_state.begin(out, config, facts)
    return _Run(config, out, position, manifest, scenes, facts, pretrainer, display)


def _loss_of_shapes(pretrainer: Pretrainer, crop_size: int, samples: int) -> Tensor:
    """Loss of a batch without values, as `PretrainingTask` computes it."""
    images = [shape_images(pretrainer, crop_size, samples) for _ in range(pretrainer.views)]
    views = [
        Batch(view, {m: x[:, 0].isfinite() for m, x in view.items()}, None, (), ())
        for view in images
    ]
    return torch.stack(list(pretrainer(views).values())).sum()


def _complete(scenes: Sequence[Scene], config: PretrainConfig) -> list[Scene]:
    """Select the scenes with rasters of every modality."""
    found = [scene for scene in scenes if not scene.missing]
    if not found:
        raise ConfigError(
            f"objective '{config.objective.name}' compares modalities, and no scene of "
            f"{', '.join(config.data.train_splits)} has all of them. Name fewer in "
            "data.modalities, or choose objective 'mae', which treats each separately"
        )
    return found


def _fit(run: _Run) -> signal.Signals | None:
    training = run.config.training
    last = LastCheckpoint(
        run.out / run_state.LAST,
        partial(_is_due, run.config),
        samples=run.config.data.batch_size * training.accumulate,
    )
    callbacks = [
        StepLog(open_log(run.out, run.position), training, names_one=True),
        StepProgress(run.display, training.steps),
        KeepLast(run.out / run_state.KEPT, run.config),
        last,
    ]
    loader, rule, place = _loader_factory(run, last), run.position.decay_rule, run.augment_on
    task = PretrainingTask(to_fit(run.pretrainer, training), run.config, loader, rule, place)
    return fit_task(task, callbacks, run.out, run.position, run.config.data)


def _loader_factory(run: _Run, last: LastCheckpoint) -> LoaderFactory:
    training, pretrainer = run.config.training, run.pretrainer
    loader = partial(
        views_loader,
        run.scenes,
        list(run.manifest.modalities.values()),
        run.facts.statistics,
        run.config.data,
        Views(pretrainer.views, pretrainer.view_area, pretrainer.needs_all),
        seed=training.seed,
        start_step=run.position.step,
        steps=training.steps,
        accumulate=training.accumulate,
        augment_on=run.augment_on,
    )

    def create(rank: int, world_size: int) -> Any:
        last.listen()
        progress = run.display.stage("looking for crops")
        return loader(rank=rank, world_size=world_size, progress=progress)

    return create


def _finish(run: _Run) -> None:
    """Save and describe each backbone, draw the curves, remove temporary files."""
    kept = run.out / run_state.KEPT
    load_strict(run.pretrainer, read_weights(kept), where=f"weights '{kept}'", own=True)
    learned = run.pretrainer.learned
    files = {name: f"{name}.safetensors" for name in learned}
    objective = run.config.objective.name
    save_curves(run.out / run_state.LOG, "", run.out / FIGURES)
    with written_whole(*(run.out / file for file in files.values()), run.out / PRETRAIN_JSON) as (
        *paths,
        description,
    ):
        for path, found in zip(paths, learned.values(), strict=True):
            save_backbone(path, found.backbone, found.name, found.options, found.images, objective)
        facts = {
            "weights": next(iter(files.values())) if len(files) == 1 else files,
            "objective": run.config.objective.model_dump(mode="json"),
            "backbone": run.config.backbone,
            "backbone_options": run.config.backbone_options,
            "steps": run.config.training.steps,
            "modalities": {m.name: list(m.bands) for m in run.pretrainer.modalities},
            "statistics": {name: s.to_dict() for name, s in run.facts.statistics.items()},
            "terrafuse_version": VERSION,
        }
        description.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    run_state.tidy(run.out)
