"""Plan of a sweep: run files × methods × seeds, each run with its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from terrafuse.config import RunConfig, load_run_config
from terrafuse.config.base import NamedOptions, Settings, parse_settings, read_yaml
from terrafuse.config.options import check_options
from terrafuse.config.pretrain import PretrainConfig, PretrainTrainingConfig, without_labels
from terrafuse.data import load_manifest
from terrafuse.errors import ConfigError, ModelError, PluginError, UnknownNameError
from terrafuse.methods import find_method
from terrafuse.plugins import look_beside
from terrafuse.pretraining.pretrainer import NECK_OPTIONS

#: Hardware settings of training, which pre-training takes over.
_HARDWARE = ("accelerator", "devices", "nodes", "strategy", "precision")
_SEED = "training.seed"


class SweepPretraining(Settings):
    """Pre-training of a method's backbone, on the images of the training splits."""

    objective: NamedOptions
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings that differ from the run's: batch_size, augment …",
    )
    backbone: str | dict[str, str] | None = Field(None, description="Default: the method's.")
    backbone_options: dict[str, Any] | None = Field(
        None, description="Default: the method's, without neck options."
    )
    training: PretrainTrainingConfig = Field(default_factory=PretrainTrainingConfig)


class SweepMethod(Settings):
    """An entry of a methods file."""

    method: NamedOptions = Field(description="Replaces the method of each run file.")
    modalities: Literal["each"] | tuple[str, ...] | None = Field(
        None,
        description="Replaces data.modalities; 'each': one row for each modality alone.",
    )
    pretrain: SweepPretraining | None = Field(
        None, description="Runs first, and sets method.weights."
    )


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Args:
        group: Heading of its table.
        title: Title of its row.
        seed: Seed of training and pre-training.
        config: Complete settings of the run.
        pretrain: Settings of its pre-training; None without one.
        pretrain_folder: Folder of the pre-trained weights.
    """

    group: str
    title: str
    seed: int
    config: RunConfig
    folder: Path
    pretrain: PretrainConfig | None
    pretrain_folder: Path

    @property
    def name(self) -> str:
        """Name in messages."""
        return self.folder.name

    @property
    def row(self) -> tuple[str, str]:
        """Group and title."""
        return self.group, self.title


@dataclass(frozen=True)
class Candidates:
    """Candidate values of one setting; each row of a sweep uses the one that validates best.

    Args:
        values: Values as YAML text.
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Candidates:
        """Parse "key=value,value,…".

        Raises:
            ConfigError: There is no key, or there are fewer than two different values.
        """
        key, _, values = text.partition("=")
        found = tuple(dict.fromkeys(v.strip() for v in values.split(",") if v.strip()))
        if not key.strip() or len(found) < 2:
            raise ConfigError(
                f"'{text}' does not say what to choose from; write a key and two or more values, "
                "as in training.lr=3e-4,1e-3,3e-3"
            )
        return cls(key.strip(), found)


def read_methods(path: Path) -> dict[str, SweepMethod]:
    """Read a methods file: title → method.

    Raises:
        ConfigError: Missing or invalid file; unknown key (the nearest valid one is named).
        UnknownNameError: No such method, or no such option of it.
        PluginError: A method from outside the package cannot be imported, or is none.
    """
    methods = {}
    for title, values in read_yaml(path).items():
        where = f"{path}: '{title}'"
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must hold keys and values, with 'method' among them")
        entry = parse_settings(SweepMethod, values, where)
        name = entry.method.name
        look_beside(values, path.parent)
        try:
            check_options("method", name, find_method(name), entry.method.options)
        except UnknownNameError as error:
            raise UnknownNameError(f"{where}: {error}") from None
        except PluginError as error:
            raise PluginError(f"{where}: {error}") from error
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from None
        methods[str(title)] = entry
    return methods


def plan_sweep(
    configs: Sequence[Path],
    out: Path,
    *,
    methods: Path | None = None,
    seeds: int = 3,
    overrides: Mapping[str, str] | None = None,
    candidate: tuple[str, str] | None = None,
) -> list[SweepRun]:
    """Plan all runs of a sweep, in the order of its tables.

    Args:
        methods: Methods file, each entry of which replaces the run files' own method.
        seeds: Number of seeds, which are 0, 1 …
        overrides: Dotted keys → YAML values that replace those of every run.
        candidate: One more such key and value, which also becomes part of folder names.

    Raises:
        ConfigError: Settings are invalid, or two runs have the same folder.
        UnknownNameError: A method or one of its options does not exist.
    """
    overrides = dict(overrides or {})
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; a sweep needs one or more")
    if _SEED in overrides:
        raise ConfigError(f"'{_SEED}' cannot be set: a sweep has the seeds 0, 1 … (--seeds)")
    suffix = ""
    if candidate is not None:
        key, value = candidate
        _check_candidate(key, overrides)
        overrides[key] = value
        suffix = f"-{_slug(value)}"
    entries = read_methods(methods) if methods else None
    jobs = []
    for path in configs:
        for title, config, pretraining in _rows(path, entries, overrides):
            name = _slug(path.stem if entries is None else f"{path.stem}-{title}")
            for seed in range(seeds):
                training = config.training.model_copy(update={"seed": seed})
                seeded = config.model_copy(update={"training": training})
                before = _pretraining(title, seeded, pretraining) if pretraining else None
                group = "" if entries is None else path.stem
                jobs.append(
                    SweepRun(
                        group,
                        title,
                        seed,
                        seeded,
                        out / f"{name}{suffix}-{seed}",
                        before,
                        # Pre-training does not depend on the candidate value of training.
                        out / f"{name}-{seed}-pretrain",
                    )
                )
    _check_names(jobs)
    return jobs


def _check_candidate(key: str, overrides: Mapping[str, str]) -> None:
    if not key.startswith("training.") or key == _SEED:
        raise ConfigError(
            f"'{key}' cannot be chosen by validation; only settings of training can, except the "
            "seed (training.lr, training.weight_decay …). Compare others as rows of their own"
        )
    if key in overrides:
        raise ConfigError(f"'{key}' is both set and to be chosen; leave out one of them")


def _rows(
    path: Path, entries: Mapping[str, SweepMethod] | None, overrides: Mapping[str, str]
) -> Iterator[tuple[str, RunConfig, SweepPretraining | None]]:
    """Yield the titles with their settings, for one run file."""
    if entries is None:
        yield path.stem, load_run_config(path, overrides), None
        return
    for title, entry in entries.items():
        method = {"method": json.dumps(entry.method.model_dump(mode="json"))}
        config = load_run_config(path, {**method, **overrides})
        if entry.modalities is None:
            yield title, config, entry.pretrain
        elif entry.modalities == "each":
            for name in config.data.modalities or load_manifest(config.data.manifest).modalities:
                yield f"{name} {title}", _with_modalities(config, (name,)), entry.pretrain
        else:
            yield title, _with_modalities(config, entry.modalities), entry.pretrain


def _with_modalities(config: RunConfig, names: tuple[str, ...]) -> RunConfig:
    data = config.data.model_copy(update={"modalities": names})
    return config.model_copy(update={"data": data})


def _pretraining(title: str, run: RunConfig, before: SweepPretraining) -> PretrainConfig:
    """Return the settings that pre-train a run's backbone on the run's images."""
    options = run.method.options
    if "backbone" not in options and before.backbone is None:
        raise ConfigError(
            f"'{title}': name the backbone to pre-train, under 'pretrain' or 'method'"
        )
    hardware = {key: getattr(run.training, key) for key in _HARDWARE}
    given = before.training.model_dump(exclude_unset=True)
    body = before.backbone_options
    if body is None:
        own = options.get("backbone_options") or {}
        body = {key: value for key, value in own.items() if key not in NECK_OPTIONS}
    values = {
        "data": without_labels(run.data).model_dump() | before.data,
        "objective": before.objective.model_dump(),
        "backbone": before.backbone or options["backbone"],
        "backbone_options": body,
        "training": hardware | {"seed": run.training.seed} | given,
    }
    return parse_settings(PretrainConfig, values, f"'{title}', pretrain")


def _check_names(jobs: Sequence[SweepRun]) -> None:
    seen: dict[Path, SweepRun] = {}
    for job in jobs:
        other = seen.setdefault(job.folder, job)
        if other is not job:
            raise ConfigError(
                f"two runs would share folder '{job.folder}': '{other.title}' and '{job.title}'. "
                "Run files and titles must differ by more than case, spaces and punctuation"
            )


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_").lower()
