"""`train`: a run from its settings to its run folder."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terrafuse.config import AugmentPlace, DataConfig, RunConfig
from terrafuse.data import (
    Grid,
    Manifest,
    Scene,
    apply_normalization,
    class_counts,
    compute_statistics,
    open_dataset,
    typical_pixel_size_m,
)
from terrafuse.data.kept import open_keeper
from terrafuse.describe.memory import (
    build_again,
    check_prediction,
    check_small_batch,
    check_training,
    training_device,
)
from terrafuse.doctor import refuse_untrainable, told_of_missing
from terrafuse.errors import ConfigError
from terrafuse.evaluation import scored_classes
from terrafuse.methods import describe_run, tuned_state
from terrafuse.modalities import window_alignment
from terrafuse.progress import Display, Progress
from terrafuse.sampling import describe_augmentation, labelled_scenes, share_labels, training_loader
from terrafuse.segmenter import Segmenter
from terrafuse.stopping import when_stopped
from terrafuse.training import run_state, survey
from terrafuse.training.building import build_segmenter
from terrafuse.training.callbacks import HeadFirst, StepLog, StepProgress, WeightAverage
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.compiling import (
    CompiledSegment,
    check_compile,
    decide_compile,
    explaining_compilation,
)
from terrafuse.training.features import check_features
from terrafuse.training.fitting import augment_place, fit_task, open_log, run_training, to_fit
from terrafuse.training.log import RunLog
from terrafuse.training.losses import WeightedSum, check_losses, create_loss
from terrafuse.training.pictures import FIGURES, SamplePicture, save_curves
from terrafuse.training.processes import told_once
from terrafuse.training.quiet import quiet_lightning
from terrafuse.training.run_state import Position, SplitStatistics
from terrafuse.training.survey import KeptFacts, Measured, check_data, some_of
from terrafuse.training.task import LoaderFactory, SegmentationTask
from terrafuse.training.trainer import check_trainer
from terrafuse.training.validation import (
    Validation,
    check_monitor,
    check_scene_windows,
    check_selection,
    validation_scenes,
)
from terrafuse.weights import digest, load_strict, read_weights, save_model
from terrafuse.writing import claimed

#: Warnings about data that are shown one by one.
_MOST_WARNINGS = 5


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Train a model as the settings specify.

    Everything is checked before the first step, cheap checks first: settings, folder, manifest and
    rasters, the method, statistics and class counts of the training splits. Nothing is written
    before all checks have passed. Weights are selected by the score `training.monitor` on
    `training.validation_split`; without that split the last ones are kept.

    Args:
        config: The run.
        out: The run folder to make.
        resume: Go on where an interrupted run in `out` stopped, exactly as if it had not been;
            begins where there is none. A finished run is left as it is.
        fresh: Read the data again, whatever earlier runs have kept of it.
        progress: Show a progress bar, or lines where stderr is no terminal.

    Returns:
        `out`, with `model.safetensors`, `model.json`, `config.yaml`, `log.csv` and figures.

    Raises:
        ConfigError: Settings contradict each other, the data, or the run to resume.
        UnknownNameError: A method, loss, option or score does not exist.
        DataError: The data cannot be trained on.
        OutputError: `out` is not empty, cannot be written, or another process writes there.
        MissingDependencyError: A logger is not installed.
        TrainingError: The loss is not finite.
        StoppedError: Ctrl-C or SIGTERM stopped the run, which can then be resumed.
    """
    out = Path(out)
    data = config.data.model_copy(update={"manifest": config.data.manifest.resolve()})
    config = config.model_copy(update={"data": data})
    with when_stopped("continue with --resume"), told_once():
        processes = check_settings(config, meets=True)
        return _train(config, out, processes, resume=resume, fresh=fresh, progress=progress)


def _train(
    config: RunConfig, out: Path, processes: int, *, resume: bool, fresh: bool, progress: bool
) -> Path:
    with claimed(out, "train", takes_part=run_state.is_first_process()):
        if run_state.is_first_process():
            run_state.check_startable(out, config, resume=resume, processes=processes)
        if resume and run_state.is_finished(out):
            run_state.tidy(out)
            return out
        position = run_state.read_position(out) if resume else Position()
        prepare = partial(_prepare, config, out, position, processes, fresh)
        run_training(prepare, _fit, _finish, position=position, progress=progress)
    return out


@dataclass(frozen=True)
class _Run:
    """All checked parts of a run."""

    config: RunConfig
    out: Path
    position: Position
    manifest: Manifest
    train_scenes: list[Scene]
    val_scenes: list[Scene]
    facts: SplitStatistics
    segmenter: Segmenter
    loss: WeightedSum
    compiles: bool
    kept: KeptFacts
    display: Display

    @property
    def augment_on(self) -> AugmentPlace:
        """Where samples are augmented."""
        return augment_place(self.config.data, self.config.training, self.position)


def check_settings(config: RunConfig, *, meets: bool = False) -> int:
    """Refuse training settings that are wrong whatever the data.

    Args:
        meets: Whether the processes of a run meet now, where a launcher has started all of them.

    Returns:
        Number of processes of the run.

    Raises:
        ConfigError: Values exclude each other, or a score or device does not exist.
        UnknownNameError: A loss or one of its options does not exist.
        MissingDependencyError: A logger is not installed.
    """
    training = config.training
    check_losses(training.losses)
    check_monitor(training)
    check_scene_windows(config)
    with quiet_lightning():
        processes = check_trainer(training, meets=meets)
    check_compile(config, processes)
    return processes


def _prepare(
    config: RunConfig, out: Path, position: Position, processes: int, fresh: bool, display: Display
) -> _Run:
    manifest = open_dataset(run_state.painted_as_begun(config.data, out))
    check_crop_size(config.data, manifest)
    scored_classes(config.evaluation, manifest.scheme)  # refuses unknown class names
    # From an earlier part of the run, or from the first process, which then has checked the data.
    facts = run_state.read_split_statistics(out, config.data.manifest)
    manifest = run_state.as_begun(manifest, facts, out)
    segmenter = build_segmenter(config, manifest)
    check_features(config, segmenter)
    keeper = open_keeper(manifest, fresh=fresh)
    if keeper.notice and run_state.is_first_process():
        display.say(keeper.notice)
    kept = KeptFacts(keeper, config, manifest)
    opened = {} if facts is not None else _check_data(kept, segmenter, display)
    check_small_batch(segmenter, config)
    check_training(segmenter, config.training, config.data, build=partial(build_again, segmenter))
    labelled = labelled_scenes(manifest, config.data.train_splits)
    train_scenes = share_labels(
        labelled,
        config.data,
        manifest.scheme,
        display.stage("choosing labels"),
    )
    val_scenes = validation_scenes(config, manifest)
    # Loss options are checked with placeholder counts: measuring the real ones may take long.
    ones = torch.ones(manifest.scheme.num_classes, dtype=torch.int64)
    create_loss(config.training.losses, manifest.scheme, ones)
    measured = kept.load_measured()
    is_new = facts is None
    if facts is None:
        measured = _measure(kept, measured, train_scenes, val_scenes, opened, display)
        facts = _split_statistics(measured, config, manifest)
        _check_validation(config, segmenter, measured.sizes)
    segmenter.set_statistics(facts.statistics)
    pixel_size = _pixel_size(train_scenes, display) if measured is None else measured.pixel_size
    if pixel_size is not None:
        segmenter.set_pixel_size(pixel_size)
    counts = torch.tensor(facts.class_counts)
    loss = create_loss(config.training.losses, manifest.scheme, counts)
    compiles, reason = decide_compile(config, processes, training_device(config.training))
    if run_state.is_first_process():
        for backbone in segmenter.backbones():
            if backbone.pretrained and backbone.pretrained.note:
                display.say(f"{backbone.pretrained.source}: {backbone.pretrained.note}")
        for line in describe_augmentation(config.data.augment, segmenter.modalities):
            display.say(f"augmentation, {line}")
        if reason:
            display.say(f"training.compile: {reason}")
        for line in _tell_painted(config.data, manifest, labelled, is_new=is_new):
            display.say(line)
        run_state.begin(out, config, facts, manifest.painted)
    return _Run(
        config, out, position, manifest, train_scenes, val_scenes, facts, segmenter, loss, compiles,
        kept, display,
    )  # fmt: skip


def _tell_painted(
    data: DataConfig, manifest: Manifest, scenes: Sequence[Scene], *, is_new: bool
) -> Iterator[str]:
    """Say which painted polygons are learnt from."""
    if manifest.painted is not None:
        own = [scene for scene in scenes if scene.id in manifest.painted.layers]
        yield from manifest.painted.lines(sum(scene.painted_pixels for scene in own))
    if not is_new and (changed := run_state.tell_of_painting(data, manifest)):
        yield changed


def _pixel_size(scenes: Sequence[Scene], display: Display) -> float | None:
    """Return the typical pixel size of scenes, of some where there are many."""
    return typical_pixel_size_m(_grids(some_of(scenes), display.stage("opening rasters")))


def _grids(scenes: Sequence[Scene], progress: Progress) -> Iterator[Grid]:
    for done, scene in enumerate(scenes, start=1):
        yield scene.grid
        progress(done, len(scenes))


def check_crop_size(config: DataConfig, manifest: Manifest) -> None:
    """Refuse a crop size that splits pixels of a modality with another pixel size.

    Raises:
        ConfigError: Names a suitable size.
    """
    alignment = window_alignment(list(manifest.modalities.values()))
    if config.crop_size % alignment:
        near = max(1, round(config.crop_size / alignment)) * alignment
        raise ConfigError(
            f"data.crop_size is {config.crop_size}; the scales of the modalities need a "
            f"multiple of {alignment}, for instance {near}"
        )


def _check_data(kept: KeptFacts, segmenter: Segmenter, display: Display) -> dict[str, Scene]:
    """Refuse data that cannot be trained on; return the scenes opened, by id."""
    entries, path = kept.manifest.entries, kept.manifest.path
    if kept.load_findings() is not None:
        display.say(
            "nothing has changed since these data were last checked: what was found and measured "
            "then is used; --fresh reads them again"
        )
    findings, opened = check_data(
        kept,
        require_all=not segmenter.supports_missing,
        progress=display.stage("checking data"),
    )
    refuse_untrainable(findings)
    if len(entries) > survey.MOST_CHECKED:
        display.say(
            f"checked {survey.MOST_CHECKED:,} of {len(entries):,} scenes, spread evenly; a "
            "fault of another one ends the run when it is read. To check all: "
            f"'terrafuse data check {path}'"
        )
    doubts = [f for f in findings if f.severity == "warning" and f.code != "no-val"]
    for finding in doubts[:_MOST_WARNINGS]:
        warnings.warn(str(finding), stacklevel=4)
    if len(doubts) > _MOST_WARNINGS:
        warnings.warn(
            f"{len(doubts) - _MOST_WARNINGS} more warnings about the data; list them with "
            f"'terrafuse data check {path}'",
            stacklevel=4,
        )
    return opened


def _measure(
    kept: KeptFacts,
    measured: Measured | None,
    train: Sequence[Scene],
    val: Sequence[Scene],
    opened: Mapping[str, Scene],
    display: Display,
) -> Measured:
    """Measure what is not known of the data; warn of it as reading does."""
    config, manifest = kept.config, kept.manifest
    reading = display.stage("reading validation labels")
    check_selection(config, manifest, val, reading, are_read=measured is not None)
    for number, scene in enumerate([*val, *train] if measured else ()):
        if scene.id in opened:
            scene.adopt(opened[scene.id])
        elif measured and measured.notices:
            scene.tell_bands(measured.notices[number])
    if measured is None:
        measured = _measure_anew(manifest, train, val, display)
        if kept.may_keep and not any(scene.astray for scene in [*val, *train]):
            kept.save_measured(measured)
    if len(manifest.entries) > survey.MOST_CHECKED:  # what `_check_data` tells of fewer
        for index in np.flatnonzero(np.array(measured.class_counts) == 0):
            missing = told_of_missing(manifest.scheme.names[index], "the training splits")
            warnings.warn(f"{missing}; it cannot be learned", stacklevel=4)
    return measured


def _measure_anew(
    manifest: Manifest, train: Sequence[Scene], val: Sequence[Scene], display: Display
) -> Measured:
    modalities = list(manifest.modalities.values())
    statistics = compute_statistics(
        train, modalities, progress=display.stage("measuring statistics")
    )
    counts = class_counts(train, manifest.scheme, progress=display.stage("counting labels"))
    return Measured(
        statistics,
        tuple(counts.tolist()),
        _pixel_size(train, display),
        tuple((scene.grid.height, scene.grid.width) for scene in val),
        tuple(scene.band_notices for scene in [*val, *train]),
    )


def _split_statistics(measured: Measured, config: RunConfig, manifest: Manifest) -> SplitStatistics:
    statistics = apply_normalization(measured.statistics, manifest, config.data)
    return SplitStatistics(statistics, measured.class_counts, digest(manifest.path))


def _check_validation(
    config: RunConfig, segmenter: Segmenter, sizes: Sequence[tuple[int, int]]
) -> None:
    """Refuse windows of validation that clearly do not fit into memory."""
    check_prediction(
        segmenter,
        config.predict_crop_size,
        config.predict_batch_size,
        sizes,
        training_device(config.training),
        by_options=False,
    )


def _fit(run: _Run) -> signal.Signals | None:
    training = run.config.training
    callbacks = _create_callbacks(run, open_log(run.out, run.position))
    last: LastCheckpoint = callbacks[-1]
    loader = _loader_factory(run, before=last.listen)
    rules = run.position.decay_rule, run.position.step_rule
    segmenter = to_fit(run.segmenter, training)
    task = SegmentationTask(segmenter, run.loss, training, loader, *rules, run.augment_on)
    if run.compiles:
        task.compiled = CompiledSegment(segmenter, training_device(training))
    with explaining_compilation(run.config.method.name):
        return fit_task(task, callbacks, run.out, run.position, run.config.data)


def _create_callbacks(run: _Run, log: RunLog | None) -> list[Any]:
    config, training = run.config, run.config.training
    step_log = StepLog(log, training)
    step_progress = StepProgress(run.display, training.steps)
    average = WeightAverage(training.ema_decay) if training.ema_decay else None
    picture = SamplePicture(
        [scene for scene in run.val_scenes if scene.has_labels],
        config.data.crop_size,
        run.facts.statistics,
        run.manifest.scheme,
        run.out / FIGURES,
    )
    validation = Validation(
        run.val_scenes,
        run.manifest.scheme,
        config,
        run.out / run_state.KEPT,
        step_log=step_log,
        progress=step_progress,
        average=average,
        picture=picture,
    )
    last = LastCheckpoint(
        run.out / run_state.LAST,
        lambda step: step == validation.last_step,
        lambda: validation.is_exhausted,
        samples=config.data.batch_size * training.accumulate,
    )
    extra: list[Any] = [average] if average else []
    if training.head_first_steps:
        extra.append(HeadFirst(training.head_first_steps))
    return [*extra, step_log, validation, step_progress, last]


def _loader_factory(run: _Run, before: Callable[[], None]) -> LoaderFactory:
    training = run.config.training
    loader = partial(
        training_loader,
        run.train_scenes,
        list(run.manifest.modalities.values()),
        run.facts.statistics,
        run.config.data,
        seed=training.seed,
        start_step=run.position.step,
        steps=training.steps,
        accumulate=training.accumulate,
        augment_on=run.augment_on,
        require_all=not run.segmenter.supports_missing,
        kept=run.kept.indexes,
    )

    def create(rank: int, world_size: int) -> Any:
        before()
        progress = run.display.stage("looking for crops")
        return loader(rank=rank, world_size=world_size, progress=progress)

    return create


def _finish(run: _Run) -> None:
    """Save the kept weights as the model, draw the curves, remove temporary files."""
    kept = run.out / run_state.KEPT
    load_strict(run.segmenter, read_weights(kept), where=f"weights '{kept}'", own=True)
    info = describe_run(
        run.segmenter,
        scheme=run.manifest.scheme,
        statistics=run.facts.statistics,
        crop_size=run.config.predict_crop_size,
        overlap=run.config.predict_overlap,
        rules={name: rule.to_dict() for name, rule in run.manifest.rules.items()},
        grid=run.manifest.grid,
    )
    save_curves(run.out / run_state.LOG, run.config.training.monitor, run.out / FIGURES)
    save_model(run.out, tuned_state(run.segmenter), info)  # the mark of a finished run
    run_state.tidy(run.out)
