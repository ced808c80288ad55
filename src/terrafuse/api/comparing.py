"""Verb `compare`: is one setting better than another, on the same ground and over seeds?"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrafuse.errors import ConfigError, ScoresError, cut, unknown_name
from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.comparison import (
    LEVEL,
    PER_CLASS,
    POWER,
    Comparison,
    Rule,
    RunCounts,
    compare_settings,
)
from terrafuse.evaluation.comparison.checking import check_same_ground
from terrafuse.evaluation.evidence import EVIDENCE, Evidence, TableName, read_evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.reports.sweep_tables import RESULTS
from terrafuse.weights import MODEL_JSON, run_folder

#: How runs become settings: those that differ in the seed alone, or each is one.
BY_SETTINGS, ALONE = "settings", "alone"

#: Title of its row, if it is a sweep's, and folder of a run.
Row = tuple[str | None, Path]


@dataclass(frozen=True)
class Setting:
    """Runs that differ in the seed alone.

    Args:
        runs: Their folders.
    """

    name: str
    runs: tuple[Path, ...]


@dataclass(frozen=True)
class Judgement:
    """Settings side by side, with what the comparison stands on.

    Args:
        split: Split that was scored.
        notes: What a reader must know beside the numbers.
    """

    settings: tuple[Setting, ...]
    comparison: Comparison
    blocks: Blocks
    split: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None where nothing can be told."""
        found = self.comparison
        return {
            "split": self.split,
            "level": LEVEL,
            "power": POWER,
            "paired_seeds": found.paired,
            "blocks": {
                "count": self.blocks.count,
                "side_px": self.blocks.side_px,
                "reason": self.blocks.reason,
                "correlation_px": self.blocks.correlation_px,
                "widening": self.blocks.widening,
            },
            "settings": [
                {
                    "name": setting.name,
                    "runs": [str(run) for run in setting.runs],
                    "scores": {
                        column: interval.to_dict()
                        for column, interval in found.values[setting.name].items()
                    },
                }
                for setting in self.settings
            ],
            "comparisons": [effect.to_dict() for effect in found.effects],
            "notes": list(self.notes),
        }


def compare(
    runs: Sequence[str | Path] | str | Path,
    *,
    groups: str = BY_SETTINGS,
    against: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    evidence: str | None = None,
    block_size: int | None = None,
    pair_seeds: bool = False,
    seed: int = 0,
) -> Judgement:
    """Compare runs from the counts that `evaluate` left beside their scores; no model is run.

    Args:
        runs: Folders of runs and of sweeps.
        groups: "settings": runs that differ in `training.seed` alone are seeds of one setting;
            "alone": each is one; or "NAME=PATTERN,…" of names of run folders ("late=late-*").
        against: Name of a setting, or a folder of its runs: others are compared with it only.
            Default: each with each.
        metrics: Scores of `terrafuse.evaluation.SCORES`, "iou" of each class, "iou:CLASS". Default:
            mIoU, mPA, OA, boundary F1 where it was compared, and the IoU of each class.
        evidence: NAME of `metrics_NAME.json`: what was scored beside the run's own split.
        block_size: Side of blocks in pixels; default: as the errors need it.
        pair_seeds: Whether runs of the same seed belong together. Settings must have the same
            seeds.
        seed: Of the resampling.

    Raises:
        ScoresError: Runs were scored on other ground, classes or data, or keep no counts.
        ConfigError: There is one setting only; or no such score, class, setting or group.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    file = EVIDENCE + (f"_{_evidence_name(evidence)}" if evidence else "") + ".npz"
    rows = _rows_of([run_folder(run) for run in given])
    bare = _read_bare([run for _, run in rows], file)
    settings = _settings_of(rows, bare, groups)
    if len(settings) < 2:
        number, name = len(settings[0].runs), settings[0].name
        if number == 1:
            raise ConfigError(
                f"there is one run ('{name}') and nothing to compare it with. Give another one too"
            )
        raise ConfigError(
            f"all {number} runs are seeds of one setting ('{name}'), so that there is nothing to "
            f"compare. Give runs of another one, or --groups {ALONE} to compare them with each "
            "other"
        )
    chosen = None if against is None else _find(against, settings)
    return _judge(settings, bare, file, chosen, metrics, block_size, pair_seeds, seed)


def judge_rows(
    settings: Sequence[Setting], split: str, scores: Sequence[str], classes: Sequence[str]
) -> Judgement:
    """Compare the rows of a sweep, by what its runs kept.

    Args:
        split: That was scored.
        scores: Names of `SCORES`.
        classes: Names of those whose IoU is compared.

    Raises:
        ScoresError: A run keeps no counts, or those of another split; or as in `compare`.
    """
    file = f"{EVIDENCE}.npz"
    bare = _read_bare([run for setting in settings for run in setting.runs], file)
    for run, own in bare.items():
        if own.facts.get("split") != split:
            raise ScoresError(
                f"'{run / file}' is of split '{own.facts.get('split')}', the scores are of "
                f"'{split}'. Evaluate the run again (terrafuse evaluate {run} --split {split})"
            )
    metrics = [*scores, *(f"{PER_CLASS}:{name}" for name in classes)]
    return _judge(settings, bare, file, None, metrics, None, False, 0)


def _judge(
    settings: Sequence[Setting],
    bare: Mapping[Path, Evidence],
    file: str,
    against: str | None,
    metrics: Sequence[str] | None,
    block_size: int | None,
    pair_seeds: bool,
    seed: int,
) -> Judgement:
    first = next(iter(bare.values()))
    if pair_seeds:
        settings = [_by_seed(setting, bare) for setting in settings]
        _check_same_seeds(settings, bare)
    rule = Rule.of(first)
    columns, notes = _columns(rule, bare, metrics)
    blocks = find_blocks(list(bare.values()), block_size)
    bootstrap = BlockBootstrap(blocks.count, seed=seed, widening=blocks.widening)
    tables: list[TableName] = ["confusion"]
    if "boundary_f1" in columns:
        tables.append("boundary")
    counts = {
        setting.name: [
            RunCounts.of(read_evidence(run / file, tables), blocks, bootstrap)
            for run in setting.runs
        ]
        for setting in settings
    }
    comparison = compare_settings(
        counts, columns, rule, bootstrap, against=against, paired=pair_seeds
    )
    notes += _notes(settings, pair_seeds)
    return Judgement(
        tuple(settings), comparison, blocks, str(first.facts.get("split", "")), tuple(notes)
    )


def _read_bare(runs: Sequence[Path], file: str) -> dict[Path, Evidence]:
    """Read what runs were scored on, and refuse those that do not go together.

    Scenes and cells, which are the same, are kept once.
    """
    first = read_evidence(runs[0] / file, ())
    found = {runs[0]: first}
    for run in runs[1:]:
        own = read_evidence(run / file, ())
        check_same_ground({str(runs[0]): first, str(run): own})
        found[run] = replace(own, scenes=first.scenes, cells=first.cells)
    return found


def _columns(
    rule: Rule, bare: Mapping[Path, Evidence], metrics: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Scores to compare; boundaries only where all runs compared them alike."""
    tolerances = {own.facts.get("boundary_tolerance_px") for own in bare.values()}
    alike = len(tolerances) == 1 and None not in tolerances
    if not alike and metrics is not None and "boundary_f1" in metrics:
        values = " and ".join(sorted(str(value) for value in tolerances))
        raise ScoresError(
            f"boundaries were compared within {values} pixels. Evaluate the runs with one "
            "evaluation.boundary_tolerance_px (terrafuse evaluate RUN -s "
            "evaluation.boundary_tolerance_px=…), or leave out boundary_f1"
        )
    notes = []
    if len(tolerances) > 1 and metrics is None:
        notes.append(
            "boundary F1 is left out: runs have different evaluation.boundary_tolerance_px"
        )
    return rule.columns(metrics, alike), notes


def _notes(settings: Sequence[Setting], paired: bool) -> list[str]:
    single = [setting.name for setting in settings if len(setting.runs) == 1]
    if len(single) == len(settings):
        return [
            "each setting is one run: findings are of these trained models, and say nothing about "
            "other seeds"
        ]
    if single and not paired:
        return [
            f"{', '.join(single)}: one run; its seeds are taken to spread as those of what it is "
            "compared with"
        ]
    return []


# Which runs are given, and which of them belong together


def _rows_of(paths: Sequence[Path]) -> list[Row]:
    """Runs of folders, each once, with the titles of their rows."""
    seen: dict[Path, Row] = {}
    for path in paths:
        for title, run in _runs_in(path):
            seen.setdefault(run.resolve(), (title, run))
    return list(seen.values())


def _settings_of(rows: Sequence[Row], bare: Mapping[Path, Evidence], groups: str) -> list[Setting]:
    """Put runs together that are seeds of one setting; `groups` is as in `compare`."""
    if groups == ALONE:
        return [Setting(name, (run,)) for name, (_, run) in zip(_names(rows), rows, strict=True)]
    if groups == BY_SETTINGS:
        return _by_settings(rows, bare)
    return _by_patterns([run for _, run in rows], groups)


def _runs_in(path: Path) -> list[Row]:
    """Runs of a folder: itself, or those of a sweep with the titles of their rows."""
    if (path / MODEL_JSON).exists() or any(path.glob(f"{EVIDENCE}*.npz")):
        return [(None, path)]
    results = path / RESULTS
    if not results.exists():
        raise ScoresError(
            f"'{path}' is neither a run (it has no {MODEL_JSON}) nor a sweep (it has no {RESULTS})."
            " Give folders that 'terrafuse train' or 'terrafuse sweep' made"
        )
    try:
        runs = json.loads(results.read_text(encoding="utf-8"))["runs"]
        many = len({run["group"] for run in runs}) > 1
        found = [
            (f"{run['group']}: {run['title']}" if many else run["title"], path / run["name"])
            for run in runs
            if "scores" in run
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ScoresError(
            f"'{results}' is damaged ({cut(error)}). Run the sweep's command again"
        ) from None
    if not found:
        raise ScoresError(f"no run of the sweep in '{path}' is finished. Resume it")
    return found


def _names(rows: Iterable[Row]) -> list[str]:
    """Names of folders; whole paths where two are alike."""
    paths = [run for _, run in rows]
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _by_settings(rows: Sequence[Row], bare: Mapping[Path, Evidence]) -> list[Setting]:
    """Rows of sweeps, and runs whose settings are equal but for the seed."""
    groups: dict[str, list[Row]] = {}
    for title, run in rows:
        stored = bare[run].facts.get("settings")
        key = f"settings {stored}" if stored else f"run {run.resolve()}"
        groups.setdefault(key if title is None else f"row {title}", []).append((title, run))
    names = [own[0][0] or _common_name([run for _, run in own]) for own in groups.values()]
    return [
        Setting(name if names.count(name) == 1 else str(own[0][1]), tuple(run for _, run in own))
        for name, own in zip(names, groups.values(), strict=True)
    ]


def _common_name(runs: Sequence[Path]) -> str:
    """Name of the folders without what counts the seeds."""
    names = [run.resolve().name for run in runs]
    if len(names) == 1:
        return names[0]
    shared = names[0]
    for name in names[1:]:
        while not name.startswith(shared):
            shared = shared[:-1]
    return re.sub(r"[-_. ]*(seed)?[-_. ]*$", "", shared) or names[0]


def _by_patterns(runs: Sequence[Path], text: str) -> list[Setting]:
    patterns: dict[str, str] = {}
    for item in text.split(","):
        name, equals, pattern = item.partition("=")
        if not equals or not name.strip() or not pattern.strip():
            raise ConfigError(
                f"--groups '{cut(text)}' is neither '{BY_SETTINGS}' nor '{ALONE}' nor a list of "
                "NAME=PATTERN, as in late=late-*,early=early-*"
            )
        patterns[name.strip()] = pattern.strip()
    groups: dict[str, list[Path]] = {name: [] for name in patterns}
    for run in runs:
        folder = run.resolve().name
        fits = [name for name, own in patterns.items() if fnmatch.fnmatch(folder, own)]
        if len(fits) != 1:
            how = "no group" if not fits else f"the groups {' and '.join(fits)}"
            raise ConfigError(
                f"run '{folder}' fits {how} of --groups '{cut(text)}'. Give patterns of which "
                "each run fits one, or leave the run out"
            )
        groups[fits[0]].append(run)
    return [Setting(name, tuple(own)) for name, own in groups.items() if own]


def _find(against: str | Path, settings: Sequence[Setting]) -> str:
    names = [setting.name for setting in settings]
    if str(against) in names:
        return str(against)
    path = Path(against).resolve()
    for setting in settings:
        if path in [run.resolve() for run in setting.runs]:
            return setting.name
    raise ConfigError(unknown_name("setting to compare with", str(against), names))


def _by_seed(setting: Setting, bare: Mapping[Path, Evidence]) -> Setting:
    runs = sorted(setting.runs, key=lambda run: int(bare[run].facts.get("seed") or 0))
    return replace(setting, runs=tuple(runs))


def _check_same_seeds(settings: Sequence[Setting], bare: Mapping[Path, Evidence]) -> None:
    seeds = {s.name: [bare[run].facts.get("seed") for run in s.runs] for s in settings}
    first = settings[0].name
    for name, own in seeds.items():
        if own != seeds[first]:
            raise ConfigError(
                f"seeds cannot be paired: '{first}' has {_listed(seeds[first])}, '{name}' has "
                f"{_listed(own)}. Leave out --pair-seeds, or train the missing seeds"
            )


def _listed(seeds: Sequence[Any]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _evidence_name(text: str) -> str:
    """NAME of "NAME", "metrics_NAME.json" or "evidence_NAME.npz"."""
    stem = re.sub(r"\.(json|npz)$", "", text)
    return re.sub(rf"^(metrics|{EVIDENCE})_", "", stem)
