"""Evaluation of a segmenter on labelled scenes, optionally with all subsets of modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.errors import ConfigError, DataError, LabelError, ModelError, unknown_name
from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.calibration import calibration_report, class_set_report
from terrafuse.evaluation.cell_counts import CellCounts
from terrafuse.evaluation.comparison import Rule
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.counts import DETECTION, SceneCounts
from terrafuse.evaluation.evidence import TABLES, Cells, Evidence, cell_shape
from terrafuse.evaluation.further import FurtherScore
from terrafuse.evaluation.journal import Keeping, ScoreJournal
from terrafuse.evaluation.score_table import subset_report
from terrafuse.evaluation.scores import score
from terrafuse.evaluation.scoring import (
    Look,
    OnMap,
    SceneScorer,
    WindowCounter,
    file_state,
    score_by_workers,
    score_here,
)
from terrafuse.prediction import Calibration, ScenePredictor, Shard, WindowSettings, WorkerSettings
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX
from terrafuse.segmenter import Segmenter
from terrafuse.weights import digest_values

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

METRICS_FORMAT = 1


def modality_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """List all 2^N − 1 non-empty subsets, the full one first, each in the order of `names`."""
    return [
        subset for size in range(len(names), 0, -1) for subset in combinations(tuple(names), size)
    ]


def scored_classes(config: EvaluationConfig, scheme: ClassScheme) -> tuple[int, ...]:
    """Return the indices of classes that class means may cover: `mean_over`, else all.

    Raises:
        ConfigError: A name is not a class; the nearest one is given.
    """
    names = scheme.names if config.mean_over is None else config.mean_over
    for name in names:
        if name not in scheme.names:
            raise ConfigError(unknown_name("class in 'evaluation.mean_over'", name, scheme.names))
    return tuple(sorted({scheme.names.index(name) for name in names}))


def check_references(scenes: Sequence[Scene], config: EvaluationConfig) -> None:
    """Refuse scenes without the reference labels to compare maps with.

    Raises:
        LabelError: Names the first of them.
    """
    for scene in scenes:
        if not scene.has_reference(config.reference):
            raise LabelError(
                f"scene '{scene.id}' has no {config.reference} to compare with. Name a file under "
                f"'{config.reference}' in the manifest, or change evaluation.reference"
            )


def evaluate(
    segmenter: Segmenter,
    scenes: Sequence[Scene],
    scheme: ClassScheme,
    config: EvaluationConfig,
    windows: WindowSettings,
    *,
    device: torch.device | str = "auto",
    subsets: bool = False,
    boundary: bool = True,
    on_map: OnMap | None = None,
    look: Look | None = None,
    notes: dict[str, tuple[Any, ...]] | None = None,
    on_evidence: Callable[[Evidence], None] | None = None,
    keeping: Keeping | None = None,
    resume: bool = False,
    shard: Shard | None = None,
    workers: WorkerSettings | None = None,
    progress: Progress | None = None,
    calibration: Calibration | None = None,
    further: Sequence[FurtherScore] = (),
) -> dict[str, Any]:
    """Score a segmenter on scenes with labels.

    Every scene is mapped as by `ScenePredictor` and compared once, pixel by pixel, in one matrix
    over all scenes. Pixels with a reference class where no used modality has data cannot be
    mapped: they count as wrong, since holes do not improve a map, and their number is reported as
    `unmapped`.

    Args:
        scenes: Scenes of the split.
        config: Scoring rules.
        windows: As in `ScenePredictor`; so is `device`.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …
        subsets: Also score every smaller subset of the modalities.
        boundary: Also compare boundaries (costs more than everything else but the model).
        on_map: Called with each scene that is scored now, its labels and its class map, of all
            modalities. Of workers, a `SmallMapKeeper` gets only what it needs.
        look: Called before each scene is mapped, where it is mapped; with workers, it is sent to
            them.
        notes: Receives what `look` returned, by scene.
        on_evidence: Called at the end with the counts that the scores are sums of.
        keeping: Where counts of finished scenes are kept until all are there; needed by the next
            two.
        resume: True: go on with what is kept of the same scores.
        shard: Scenes to score here, beside runs that score the others.
        workers: Processes that score, each with a model; default: this one alone.
        progress: Called with (windows done, windows in all; of many scenes an estimate).
        calibration: Of the model's confidence; classes are the same with any.
        further: What else is scored, of the map of all modalities.

    Returns:
        The content of `metrics.json`; of a shard, while scenes of others are missing, their number
        alone, as `waits_for`. 0: another one has made the scores meanwhile.

    Raises:
        ConfigError: `mean_over` names a class that does not exist; or workers of another engine
            than this machine.
        DataError: There are no scenes.
        LabelError: A scene has no labels or other classes, or there is no pixel to score.
        ModelError: The model has another number of classes, or needs every modality.
        OutputError: Counts cannot be kept.
        WorkerError: Worker processes die; what is finished is kept.
    """
    check_references(scenes, config)
    _check(segmenter, scenes, scheme, subsets)
    rule = Rule(scheme.names, scored_classes(config, scheme), config.class_mean)
    workers = workers or WorkerSettings()
    if workers.engine != "local":
        raise ConfigError(
            f"scores cannot be made by the engine '{workers.engine}'. Use the engine 'local', and "
            "shards for several machines"
        )
    names = tuple(modality.name for modality in segmenter.modalities)
    scorer = SceneScorer(
        ScenePredictor(segmenter, windows, device=device, calibration=calibration),
        scenes,
        tuple(modality_subsets(names)) if subsets else (names,),
        config,
        config.boundary_tolerance_px if boundary else None,
        look,
        on_map,
        keeps=keeping is not None,
        further=tuple(further),
    )
    results = _Results(scorer, rule)
    journal = _journal(scorer, keeping, shard, scheme) if keeping else None
    if not _score(scorer, results, journal, resume, workers, progress):
        assert journal is not None
        return {"waits_for": 0 if journal.is_removed else len(scenes) - len(results)}
    if notes is not None:
        notes |= results.notes()
    metrics = results.metrics()
    evidence = results.evidence(metrics)
    blocks = find_blocks([evidence])
    metrics["calibration"] = calibration_report(evidence, blocks)
    metrics |= results.further(evidence, blocks)
    if on_evidence is not None:
        on_evidence(evidence)
    return metrics


def _score(
    scorer: SceneScorer,
    results: _Results,
    journal: ScoreJournal | None,
    resume: bool,
    workers: WorkerSettings,
    progress: Progress | None,
) -> bool:
    """Score what is missing; tell whether all scenes are done."""
    if journal is None:
        _run(scorer, range(len(scorer.scenes)), workers, progress, results.add)
        return True
    with journal:
        journal.begin(resume=resume)
        if resume or journal.shard:
            for number, counts in journal.found():
                results.add(number, counts)

        def take(number: int, counts: SceneCounts) -> None:
            results.add(number, counts)
            journal.add(number, counts, is_last=len(results) == len(scorer.scenes))

        own = range(len(scorer.scenes))
        if journal.shard:
            own = own[journal.shard.number - 1 :: journal.shard.of]
        missing = [number for number in own if number not in results]
        _run(scorer, missing, workers, progress, take)
    if journal.shard:  # others have scored as well meanwhile
        for number, counts in journal.found():
            if number not in results:
                results.add(number, counts)
    return len(results) == len(scorer.scenes)


def _run(
    scorer: SceneScorer,
    numbers: Sequence[int],
    workers: WorkerSettings,
    progress: Progress | None,
    take: Callable[[int, SceneCounts], None],
) -> None:
    count = WindowCounter(progress, scorer, numbers)
    if not workers.is_alone:
        score_by_workers(scorer, numbers, workers, count, take)
        return
    for number, counts in score_here(scorer, numbers, count):
        take(number, counts)


def _journal(
    scorer: SceneScorer, keeping: Keeping, shard: Shard | None, scheme: ClassScheme
) -> ScoreJournal:
    predictor = scorer.predictor

    def key() -> dict[str, Any]:
        return {
            "model": digest_values(predictor.segmenter.state_dict()),
            "windows": predictor.windows.to_dict(),
            "device": predictor.device.type,
            "modalities": [list(subset) for subset in scorer.subsets],
            "classes": scheme.to_dict(),
            "reference": scorer.config.reference,
            "boundary tolerance": scorer.tolerance_px,
            "calibration": predictor.calibration.to_dict(),
            "further scores": {own.name: own.key() for own in scorer.further},
        }

    return ScoreJournal(
        keeping,
        key,
        [scene.id for scene in scorer.scenes],
        lambda number: file_state(scorer.scenes[number]),
        scheme.num_classes,
        shard,
    )


@dataclass
class _Tally:
    """Counts of one subset of modalities."""

    confusion: ConfusionMatrix
    boundary: BoundaryScore | None

    @classmethod
    def empty(cls, num_classes: int, tolerance_px: float | None) -> _Tally:
        score = None if tolerance_px is None else BoundaryScore(num_classes, tolerance_px)
        return cls(ConfusionMatrix(num_classes), score)


class _Results:
    """Sums over the scenes that are done; they may come in any order."""

    def __init__(self, scorer: SceneScorer, rule: Rule) -> None:
        self._scorer, self._rule = scorer, rule
        self._tallies = {
            subset: _Tally.empty(len(rule.names), scorer.tolerance_px) for subset in scorer.subsets
        }
        self._rows: dict[int, dict[str, Any]] = {}
        self._found: dict[int, SceneCounts] = {}
        self._detection = np.zeros((len(scorer.subsets), *DETECTION), np.int64)

    def add(self, number: int, counts: SceneCounts) -> None:
        """Add a scene."""
        shape = cell_shape("confusion", len(self._rule.names))
        for place, tally in enumerate(self._tallies.values()):
            total = counts.tables["confusion"][place].total(shape)
            tally.confusion.counts += total
            if place == 0:
                self._rows[number] = _scene_row(self._rule, total)
            if tally.boundary:
                own = counts.tables["boundary"][place]
                tally.boundary.counts += own.total(tally.boundary.counts.shape)
            self._detection[place] += counts.detection[place]
        self._found[number] = replace(counts, detection=())  # large, beside a chip's counts

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def __len__(self) -> int:
        return len(self._found)

    def notes(self) -> dict[str, tuple[Any, ...]]:
        """Notes of the scenes that have some, in the order of the manifest."""
        ids = self._ids()
        return {ids[n]: own.notes for n, own in sorted(self._found.items()) if own.notes}

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        scorer, config, rule, ids = self._scorer, self._scorer.config, self._rule, self._ids()
        full = self._tallies[scorer.subsets[0]]
        _check_anything_scored(full, config)
        sizes = [own.pixel_size_m for _, own in sorted(self._found.items())]
        settings = {
            "scored_classes": [rule.names[k] for k in rule.mean_over],
            "ignore_index": IGNORE_INDEX,
            "reference": config.reference,
            **scorer.predictor.windows.to_dict(),
            "test_time_augmentation": False,
            "aggregation": "global",
            "class_mean": config.class_mean,
            "boundary_tolerance_px": scorer.tolerance_px,
            "boundary_tolerance_m": _tolerance_m(scorer.tolerance_px, sizes),
            "calibration": scorer.predictor.calibration.to_dict() or None,
        }
        return {
            "format": METRICS_FORMAT,
            "split": config.split,
            "scenes": len(ids),
            "pixels": full.confusion.pixels,
            "unmapped": full.confusion.unmapped,
            "classes": list(rule.names),
            "full": "+".join(scorer.subsets[0]),
            "settings": settings,
            "subsets": {
                "+".join(subset): _subset_row(rule, tally)
                for subset, tally in self._tallies.items()
            },
            "per_scene": {ids[number]: row for number, row in sorted(self._rows.items())},
        }

    def evidence(self, metrics: Mapping[str, Any]) -> Evidence:
        """The content of `evidence.npz`.

        Args:
            metrics: The scores.
        """
        found = [own for _, own in sorted(self._found.items())]
        cells = Cells.of([(own.scene.height, own.scene.width) for own in found])
        settings = metrics["settings"]
        copied = {
            key: settings[key]
            for key in (
                "scored_classes",
                "class_mean",
                "reference",
                *self._scorer.predictor.windows.to_dict(),
                "boundary_tolerance_px",
                "calibration",
            )
        }
        return Evidence(
            {"classes": metrics["classes"], "split": metrics["split"], **copied},
            tuple(own.scene for own in found),
            self._scorer.subsets,
            cells,
            {
                name: _table(
                    [
                        [own.tables[name][place] for own in found]
                        for place in range(len(self._tallies))
                    ],
                    np.bincount(cells.scene, minlength=len(found)),
                    prod(cell_shape(name, len(self._rule.names))),
                )
                for name in TABLES
                if name in found[0].tables
            },
            np.stack([own.correlation for own in found]),
            self._detection,
        )

    def further(self, evidence: Evidence, blocks: Blocks) -> dict[str, Any]:
        """Further scores of `metrics.json`, by their key."""
        found = [own for _, own in sorted(self._found.items())]
        reports = {
            score.name: score.report([own.further[score.name] for own in found])
            for score in self._scorer.further
        }
        if found[0].sets:
            reports["class_sets"] = class_set_report(
                evidence, blocks, [own.sets for own in found], self._scorer.predictor.calibration
            )
        return reports

    def _ids(self) -> list[str]:
        return [scene.id for scene in self._scorer.scenes]


def _subset_row(rule: Rule, tally: _Tally) -> dict[str, Any]:
    """A subset's part of `metrics.json`."""
    confusion = tally.confusion
    boundary_f1 = tally.boundary.f1() if tally.boundary else None
    counts = {"pixels": confusion.pixels, "unmapped": confusion.unmapped}
    scores = subset_report(
        confusion.counts, rule.names, rule.class_mean, boundary_f1, rule.mean_over
    )
    return scores | counts


def _scene_row(rule: Rule, counts: NDArray[np.int64]) -> dict[str, Any]:
    """A scene's row of `metrics.json`.

    Args:
        counts: As in `ConfusionMatrix`.
    """
    scores = score(counts, rule.class_mean, mean_over=rule.mean_over)
    return {
        "oa": scores.oa,
        "miou": scores.miou,
        "pixels": int(counts.sum()),
        "unmapped": int(counts[:, -1].sum()),
    }


def _table(
    found: Sequence[Sequence[CellCounts]], cells: NDArray[np.integer[Any]], columns: int
) -> scipy.sparse.csr_array:
    """A table of `Evidence`.

    Args:
        found: Counts of each scene, for each subset.
        cells: Number of cells of each scene.
        columns: Values of a cell.
    """
    ends = np.cumsum(np.tile(cells, len(found)))
    firsts = np.r_[0, ends][:-1].astype(np.int64) * columns
    flat = [own for subset in found for own in subset]
    places = np.concatenate(
        [own.places.astype(np.int64) + first for own, first in zip(flat, firsts, strict=True)]
    )
    counts = np.concatenate([own.counts.astype(np.int64) for own in flat])
    rows, indices = np.divmod(places, columns)
    starts = np.r_[0, np.cumsum(np.bincount(rows, minlength=ends[-1]))]
    shape = (int(ends[-1]), columns)
    return scipy.sparse.csr_array((counts, indices.astype(np.int32), starts), shape=shape)


def _check(
    segmenter: Segmenter, scenes: Sequence[Scene], scheme: ClassScheme, subsets: bool
) -> None:
    if not scenes:
        raise DataError("there are no scenes to evaluate on")
    if segmenter.num_classes != scheme.num_classes:
        raise ModelError(
            f"the model has {segmenter.num_classes} classes, but the class scheme has "
            f"{scheme.num_classes} ({', '.join(scheme.names)}); use the one used in training"
        )
    if subsets and not segmenter.supports_missing and len(segmenter.modalities) > 1:
        raise ModelError(
            f"{type(segmenter).__name__} needs every modality and cannot be scored on subsets of "
            "them. Leave subsets off, or use a method that supports missing modalities "
            "(terrafuse methods)"
        )
    for scene in scenes:
        assert scene.scheme is not None  # a scene with labels has one
        if scene.scheme.names != scheme.names:
            raise LabelError(
                f"labels of scene '{scene.id}' have the classes {', '.join(scene.scheme.names)}; "
                f"the model has {', '.join(scheme.names)}"
            )


def _check_anything_scored(tally: _Tally, config: EvaluationConfig) -> None:
    if tally.confusion.matrix.any():
        return
    if tally.confusion.unmapped:
        raise DataError(
            f"no pixel of split '{config.split}' can be scored: where there are labels, the "
            "rasters have no data. Check their extent and their nodata values"
        )
    raise LabelError(
        f"{config.reference} of split '{config.split}' are all ignored: there is nothing to score. "
        "Check 'classes' and 'void' in the manifest"
    )


def _tolerance_m(tolerance_px: float | None, sizes: Sequence[float | None]) -> float | None:
    """Return the boundary tolerance in metres, if it is the same in all scenes (to 0.1 %)."""
    known = [size for size in sizes if size is not None]
    if tolerance_px is None or len(known) < len(sizes) or max(known) > 1.001 * min(known):
        return None
    return tolerance_px * known[0]
