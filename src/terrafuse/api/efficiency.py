"""Label efficiency of a run: its settings trained again on shares of the labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.api.runs import load, train
from terrafuse.config import RunConfig, load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import open_dataset
from terrafuse.data.painted import PAINTED, painted_path
from terrafuse.errors import ConfigError, StoppedError
from terrafuse.locking import is_first_process
from terrafuse.progress import Display
from terrafuse.reports.efficiency_table import write_results
from terrafuse.sampling import LabelUnits, label_units, labelled_scenes
from terrafuse.stopping import when_stopped
from terrafuse.version import VERSION
from terrafuse.weights import digest, read_run_info
from terrafuse.writing import claimed

#: Default shares of the labels.
LABEL_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
#: Folder of all results inside the run folder.
FOLDER = "label_efficiency"
_FORMAT = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Subject:
    """A run whose settings are trained again."""

    folder: Path
    config: RunConfig

    @property
    def out(self) -> Path:
        return self.folder / FOLDER


@dataclass(frozen=True)
class _Wanted:
    """Requested points of every run: shares of the labels × seeds, scored on a split."""

    shares: tuple[float, ...]
    seeds: int
    split: str
    device: str
    progress: bool
    say: Say


def label_efficiency(
    run: str | Path,
    *,
    shares: Sequence[float] = LABEL_SHARES,
    seeds: int = 3,
    against: str | Path | None = None,
    split: str | None = None,
    device: str = "auto",
    progress: bool = True,
    say: Say | None = None,
) -> dict[str, Any]:
    """Score a run's settings trained on shares of the labels.

    Each share is trained with each seed, which also selects the labels: steps and test area are the
    same, only `data.label_share`, `data.label_seed` and `training.seed` differ. Every training is a
    run folder in `RUN/label_efficiency/runs`; finished ones stay, an interrupted one is resumed.
    `results.json`, `table.md` and `curve.png` are rewritten after each.

    Args:
        run: The run folder.
        shares: Parts of the labelled training pixels, above 0, at most 1.
        seeds: How many; they follow those of the run.
        against: Another run on the same data, whose curve is wanted beside; what it lacks is
            trained too.
        split: Where to score; default: `evaluation.split` of the run.
        device: Where to score, as in `Run.predict`. Training takes the run's accelerator, and one
            device of it.
        progress: Show a progress bar, or lines where stderr is no terminal.
        say: Called with a line about each training.

    Returns:
        Name of the run → content of its `results.json`.

    Raises:
        ConfigError: Shares or seeds are not allowed, or the two runs cannot be compared.
        WeightsError: A folder is not a run folder.
        DataError: The data cannot be trained on.
        OutputError: The folder cannot be written, or another process writes there.
        StoppedError: Ctrl-C or SIGTERM stopped a training; the same call goes on.
    """
    subjects = {name: _subject(path) for name, path in _names(run, against).items()}
    first, *others = subjects.values()
    wanted = _Wanted(
        _check_shares(shares), _check_seeds(seeds), split or first.config.evaluation.split,
        device, progress, say or (lambda _: None),
    )  # fmt: skip
    for other in others:
        _check_comparable(first, other)
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(when_stopped("the same command goes on; finished trainings are kept"))
        for subject in subjects.values():
            verb = "evaluate --label-efficiency"
            stack.enter_context(claimed(subject.out, verb, takes_part=is_first_process()))
        # The other run first, so that the run's own files show both as early as possible.
        for name, subject in reversed(subjects.items()):
            results = {name: _measure(name, subject, wanted, results), **results}
    return results


def _measure(
    name: str, subject: _Subject, wanted: _Wanted, others: dict[str, Any]
) -> dict[str, Any]:
    """Measure all points of one run; its files also show those of `others`."""
    manifest = open_dataset(subject.config.data)
    with Display(wanted.progress) as display:
        scenes = labelled_scenes(manifest, subject.config.data.train_splits)
        units = label_units(scenes, manifest.scheme, display.stage("counting labels"))
    if not len(units.places):
        raise ConfigError(f"the training scenes of '{manifest.path}' have no labels to share")
    result: dict[str, Any] = {
        "format": _FORMAT,
        "terrafuse_version": VERSION,
        "method": subject.config.method.name,
        "modalities": list(manifest.modalities),
        "steps": subject.config.training.steps,
        "split": wanted.split,
        "units": {"by": units.by, "side_px": units.side, "number": len(units.places)},
        "points": [],
    }
    order = [(share, n) for n in range(wanted.seeds) for share in wanted.shares]
    for number, (share, n) in enumerate(order, start=1):
        wanted.say(
            f"{name}, {number} of {len(order)}: {100 * share:g} % of the labels, seed "
            f"{subject.config.training.seed + n}"
        )
        point = _measure_point(subject, share, n, units, manifest.scheme.names, wanted)
        result["points"].append(point)
        write_results(subject.out, {name: result, **others})
    return result


def _measure_point(
    subject: _Subject,
    share: float,
    number: int,
    units: LabelUnits,
    classes: Sequence[str],
    wanted: _Wanted,
) -> dict[str, Any]:
    config = _on_share(subject.config, share, number)
    folder = subject.out / "runs" / f"{100 * share:g}-{config.training.seed}"
    try:
        train(config, folder, resume=True, progress=wanted.progress)
    except StoppedError as error:
        raise StoppedError(error.event, "the same command goes on") from None
    metrics = _stored_metrics(folder, wanted.split)
    if metrics is None:
        with Display(wanted.progress) as display:
            stage = display.stage("evaluating")
            metrics = load(folder).evaluate(
                split=wanted.split, device=wanted.device, progress=stage
            )
    kept = units.keep(share, config.data.label_seed)
    subset = metrics["subsets"][metrics["full"]]
    return {
        "share": share,
        "seed": config.training.seed,
        "label_seed": config.data.label_seed,
        "pixels": kept.pixels,
        "kept_share": kept.share,
        "units": len(kept.units),
        "scenes": kept.scenes,
        "missing_classes": [classes[value] for value in kept.missing],
        "scores": subset["scores"],
        "iou": {name: row["iou"] for name, row in subset["per_class"].items()},
        "folder": str(folder.relative_to(subject.out)),
    }


def _on_share(config: RunConfig, share: float, number: int) -> RunConfig:
    """Return the settings for a share of the labels, on one device, with the `number`-th seeds."""
    seeds = {"seed": config.training.seed + number, "devices": 1, "nodes": 1, "strategy": "auto"}
    labels = {"label_share": share, "label_seed": config.data.label_seed + number}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=labels),
            "training": config.training.model_copy(update=seeds),
        }
    )


def _stored_metrics(folder: Path, split: str) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    if not path.exists():
        return None
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return metrics if metrics["split"] == split else None


def _subject(folder: Path) -> _Subject:
    read_run_info(folder)  # refuses folders without a finished run
    config = load_run_config(folder / STORED_CONFIG)
    data, copy = config.data, folder / PAINTED
    if copy.exists():  # its own labels, whatever was painted since
        data = data.model_copy(update={"painted": copy.resolve()})
    elif data.painted == "auto" and painted_path(data.manifest).exists():
        data = data.model_copy(update={"painted": "ignore"})
    return _Subject(folder, config.model_copy(update={"data": data}))


def _names(run: str | Path, against: str | Path | None) -> dict[str, Path]:
    """Return the run folders by distinct names."""
    if against is None:
        return {Path(run).resolve().name: Path(run)}
    folders = [Path(run), Path(against)]
    if folders[0].resolve() == folders[1].resolve():
        raise ConfigError(f"'{against}' is the run itself; give another one to compare with")
    names = [folder.resolve().name for folder in folders]
    if names[0] == names[1]:
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def _check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(
            f"shares of the labels are {list(shares)}; give values above 0, at most 1"
        )
    return tuple(sorted(set(shares)))


def _check_seeds(seeds: int) -> int:
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; at least one is needed")
    return seeds


def _check_comparable(first: _Subject, other: _Subject) -> None:
    """Refuse runs that would be trained on different labels or scored by different rules.

    Raises:
        ConfigError: Names the differing settings.
    """
    differing = []
    ours, theirs = first.config, other.config
    if digest(ours.data.manifest) != digest(theirs.data.manifest):
        differing.append("data.manifest")
    for key in ("data.train_splits", "data.label_seed", "training.seed"):
        section, _, name = key.partition(".")
        if getattr(getattr(ours, section), name) != getattr(getattr(theirs, section), name):
            differing.append(key)
    if ours.evaluation != theirs.evaluation:
        differing.append("evaluation")
    if differing:
        raise ConfigError(
            f"'{first.folder}' and '{other.folder}' cannot be compared: {', '.join(differing)} "
            "must be the same. Train one of them again with the settings of the other"
        )
