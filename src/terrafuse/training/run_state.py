"""State of an unfinished run in its folder, and checks before starting or resuming it.

`config.yaml` settings · `start.json` statistics of the training splits · `painted.gpkg` and
`painted.json` the painted polygons that it learns from · `log.csv` · `best.pt` best weights so
far · `last.ckpt` everything needed to resume. The model itself
(`model.safetensors`, `model.json`) appears at the end, when `start.json`, `best.pt` and
`last.ckpt` are removed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.config import AugmentPlace, DataConfig, load_run_config
from terrafuse.config.base import STORED_CONFIG, Settings
from terrafuse.config.yaml_writing import to_yaml
from terrafuse.data import Manifest
from terrafuse.data.painted import PAINTED, PAINTED_JSON, Painted
from terrafuse.errors import (
    ConfigError,
    OutputError,
    TerrafuseError,
    WeightsError,
    WeightsMismatchError,
)
from terrafuse.locking import is_first_process as is_first_process
from terrafuse.modalities import BandStatistics
from terrafuse.training.optim import DECAY_RULE, STEP_RULE
from terrafuse.version import VERSION
from terrafuse.weights import MODEL_JSON, digest
from terrafuse.writing import is_trace, written_whole

CONFIG, START, LOG = STORED_CONFIG, "start.json", "log.csv"
KEPT, LAST = "best.pt", "last.ckpt"
CHECKPOINT_FORMAT = 1

#: Settings that do not affect what is learned; all others must not change when a run is resumed.
FREE_SETTINGS = frozenset(
    {
        "data.manifest",  # its content is compared instead: it may have moved
        "data.workers",
        "data.block_cache_mb",
        "training.accelerator",
        "training.devices",
        "training.nodes",
        "training.strategy",
        "training.backend",
        "training.loggers",
        "training.cache_features_mb",
        "training.save_every",
        "evaluation.split",
        "evaluation.boundary_tolerance_px",
    }
)


#: Settings that may change where the number of processes does, if their product with it stays.
_OF_STEP = ("data.batch_size", "training.accumulate")


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of the training splits, measured before the first step.

    Args:
        class_counts: Labelled pixels per class.
        manifest_sha256: Of the manifest they were measured with.
        is_before_rules: Whether the run was begun when nodata was judged band by band, whatever
            the manifest says.
    """

    statistics: dict[str, BandStatistics]
    class_counts: tuple[int, ...]
    manifest_sha256: str
    is_before_rules: bool = False


@dataclass(frozen=True)
class Position:
    """Position of an interrupted run.

    Args:
        step: Optimiser steps done.
        is_done: True: nothing remains but to save the model.
        world_size: Number of processes it ran on; None before the first checkpoint.
        decay_rule: Rule of weight decay it was begun with (`training.optim`).
        step_rule: Rule of the batches of a step it was begun with.
        step_samples: Samples of a step in all processes; None: not known.
        augment_on: Where its samples are augmented; None before the first checkpoint.
    """

    step: int = 0
    is_done: bool = False
    world_size: int | None = None
    decay_rule: int = DECAY_RULE
    step_rule: int = STEP_RULE
    step_samples: int | None = None
    augment_on: AugmentPlace | None = None


def check_startable(
    out: Path,
    config: Settings,
    *,
    resume: bool,
    processes: int = 1,
    read: Callable[[Path], Settings] = load_run_config,
) -> None:
    """Refuse a folder in which a run cannot be started or resumed.

    Args:
        resume: True: resume the run in the folder.
        processes: Of the run that is resumed; where they are others than before, batches may be
            as well, if a step keeps its samples.
        read: Reads the settings stored in the folder.

    Raises:
        OutputError: The folder is not empty without `resume`, or holds no run.
        ConfigError: The run in it has other settings.
    """
    if not out.exists() or all(map(is_trace, out.iterdir())):
        return
    if not resume:
        raise OutputError(
            f"'{out}' is not empty. Choose another folder with --out, continue the run in it "
            "with --resume, or remove it"
        )
    if not (out / CONFIG).exists():
        raise OutputError(
            f"'{out}' is not empty and holds no run to resume ('{CONFIG}' is missing). "
            "Choose another folder with --out"
        )
    _check_same_settings(read(out / CONFIG), config, out, processes)


def is_finished(out: Path, mark: str = MODEL_JSON) -> bool:
    """Tell whether the run in a folder has its last file: the model's description."""
    return (out / mark).exists()


def begin(
    out: Path, config: Settings, facts: SplitStatistics, painted: Painted | None = None
) -> None:
    """Create the run folder with settings, statistics and painted polygons.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    values = config.model_dump(mode="json")
    with written_whole(out / CONFIG) as (partial,):
        partial.write_text(to_yaml(values, flow_leaves=False), encoding="utf-8")
    if painted is not None and not (out / START).exists():
        with written_whole(out / PAINTED) as (partial,):
            partial.write_bytes(painted.content)
        about = {**painted.summary(), "digest": painted.digest, "classes": painted.counts()}
        with written_whole(out / PAINTED_JSON) as (partial,):
            partial.write_text(json.dumps(about, indent=2), encoding="utf-8")
    start = {
        "manifest_sha256": facts.manifest_sha256,
        "has_nodata_rule": not facts.is_before_rules,
        "class_counts": list(facts.class_counts),
        "statistics": {name: s.to_dict() for name, s in facts.statistics.items()},
    }
    with written_whole(out / START) as (partial,):
        partial.write_text(json.dumps(start), encoding="utf-8")


def read_split_statistics(out: Path, manifest: Path) -> SplitStatistics | None:
    """Read the statistics measured by an earlier part of the run, or by its first process.

    Raises:
        ConfigError: The manifest has changed since.
    """
    try:
        values = json.loads((out / START).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if values["manifest_sha256"] != digest(manifest):
        raise ConfigError(
            f"'{manifest}' has changed since the run in '{out}' was started, so it cannot be "
            "resumed. Restore the manifest, or start again in another folder"
        )
    statistics = {k: BandStatistics.from_dict(v) for k, v in values["statistics"].items()}
    return SplitStatistics(
        statistics,
        tuple(values["class_counts"]),
        values["manifest_sha256"],
        is_before_rules=not values.get("has_nodata_rule", False),
    )


def painted_as_begun(data: DataConfig, out: Path) -> DataConfig:
    """The settings, with the painted polygons with which an interrupted run was begun."""
    if not (out / START).exists():
        return data
    copy = out / PAINTED
    return data.model_copy(update={"painted": copy if copy.exists() else "ignore"})


def tell_of_painting(data: DataConfig, manifest: Manifest) -> str:
    """Say that polygons were painted since a run was begun; "" if not.

    Args:
        data: Its settings as given.
        manifest: Its data set with the polygons with which it was begun.
    """
    try:
        now = manifest.paint(data.painted, data.train_splits).painted
    except TerrafuseError as error:
        return f"painted: {error}. The run goes on with those with which it was begun"
    was = manifest.painted
    if (now and now.layers and now.digest) == (was and was.layers and was.digest):
        return ""
    return (
        "painted: polygons were changed since this run was begun; it goes on with those of then. "
        "A new run learns from those of now"
    )


def as_begun(manifest: Manifest, facts: SplitStatistics | None, out: Path) -> Manifest:
    """The manifest, read by the rules that held when an interrupted run was begun."""
    if facts is None or not facts.is_before_rules:
        return manifest
    warnings.warn(
        f"the run in '{out}' was begun when nodata was judged band by band; it goes on so "
        "(nodata_rule: each)",
        stacklevel=3,
    )
    return manifest.read_as_before()


def read_position(out: Path) -> Position:
    """Read the position of a run; step 0 without a checkpoint.

    Raises:
        WeightsMismatchError: The checkpoint was written by another version.
        WeightsError: The checkpoint is damaged.
    """
    path = out / LAST
    if not path.exists():
        return Position()
    remedy = f"Remove '{path.name}' to start the run from scratch"
    try:
        # Memory-mapped, since only a few numbers are needed.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(f"'{path}' is damaged: {reason}. {remedy}") from None
    own = content.get("terrafuse", {}) if isinstance(content, dict) else {}
    if own.get("format") != CHECKPOINT_FORMAT:
        raise WeightsMismatchError(
            f"'{path}' is a checkpoint of format {own.get('format', '(unknown)')}, written by "
            f"terrafuse {own.get('version', '(unknown)')}; this is terrafuse "
            f"{VERSION} with format {CHECKPOINT_FORMAT}. {remedy}"
        )
    # Checkpoints of before do not name the rules, which were the first.
    rules = {name: own.get(name, 1) for name in ("decay_rule", "step_rule")}
    return Position(
        own["step"], own["is_done"], own["world_size"],
        step_samples=own.get("step_samples"), augment_on=own.get("augment_on", "reader"), **rules,
    )  # fmt: skip


def position_fields(position: Position) -> dict[str, Any]:
    """Return the fields of a checkpoint that `read_position` reads."""
    return {"format": CHECKPOINT_FORMAT, "version": VERSION, **vars(position)}


def save_weights(path: Path, module: nn.Module) -> None:
    """Write the state of a module; the file appears whole or not at all.

    Raises:
        OutputError: The file cannot be written, or the disk is full.
    """
    save_state(path, module.state_dict())


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by name; the file appears whole or not at all.

    Raises:
        OutputError: The file cannot be written, or the disk is full.
    """
    state = {name: value.cpu() for name, value in state.items()}
    with written_whole(path) as (partial,):
        torch.save(state, partial)


def tidy(out: Path) -> None:
    """Remove the files that only an unfinished run needs."""
    for name in (KEPT, LAST, START):
        (out / name).unlink(missing_ok=True)


def _check_same_settings(stored: Settings, config: Settings, out: Path, processes: int) -> None:
    before, now = (_flat(c.model_dump(mode="json")) for c in (stored, config))
    changed = [
        key for key in sorted({*before, *now} - FREE_SETTINGS) if before.get(key) != now.get(key)
    ]
    differing = [f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed]
    if changed and set(changed) <= set(_OF_STEP):
        position = read_position(out)
        if position.world_size not in (None, processes):
            was, found = (prod(values[key] for key in _OF_STEP) for values in (before, now))
            wanted = position.step_samples or was * (position.world_size or 1)
            if found * processes != wanted:
                told = (
                    f"{'; '.join(differing)}; processes were {position.world_size}, are {processes}"
                )
                raise _other_step(wanted, found * processes, told, out)
            return
    if differing:
        raise ConfigError(
            f"the run in '{out}' has other settings and cannot be resumed: {'; '.join(differing)}. "
            f"Use its settings ('{out / CONFIG}'), or start again in another folder"
        )


def _other_step(wanted: int, found: int, told: str, out: Path) -> ConfigError:
    """The refusal of a step of other samples; how processes and batches share them may change."""
    return ConfigError(
        f"a step of the run in '{out}' has {wanted} samples, and now would have {found}: {told}. "
        f"Batch size × accumulate × processes must stay {wanted}; or start again in another folder"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
