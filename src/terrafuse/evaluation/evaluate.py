"""Evaluation of a segmenter on labelled scenes, optionally with all subsets of modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.data.streaming import expected_total
from terrafuse.errors import ConfigError, DataError, LabelError, ModelError, unknown_name
from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.score_table import subset_report
from terrafuse.evaluation.scores import ClassMean, score
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX
from terrafuse.segmenter import Segmenter

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

METRICS_FORMAT = 1
#: Called with a scene, its labels and its class map, uint8 (H, W) each.
OnMap = Callable[["Scene", NDArray[np.uint8], NDArray[np.uint8]], None]


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


def read_reference_labels(scene: Scene, config: EvaluationConfig) -> NDArray[np.uint8]:
    """Read the labels that a map of the scene is compared with, uint8 (H, W); 255 = ignore.

    Raises:
        LabelError: The scene has no such labels, or they hold values outside the class scheme.
    """
    labels = scene.read_labels(scene.full_window, reference=config.reference)
    return labels[: scene.grid.height, : scene.grid.width]


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
    progress: Progress | None = None,
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
        on_map: Called with each scene, its labels and its class map, of all modalities.
        progress: Called with (windows done, windows in all; of many scenes an estimate).

    Returns:
        The content of `metrics.json`.

    Raises:
        ConfigError: `mean_over` names a class that does not exist.
        DataError: There are no scenes.
        LabelError: A scene has no labels or other classes, or there is no pixel to score.
        ModelError: The model has another number of classes, or needs every modality.
    """
    check_references(scenes, config)
    _check(segmenter, scenes, scheme, subsets)
    rule = _Rule(scheme.names, scored_classes(config, scheme), config.class_mean)
    predictor = ScenePredictor(segmenter, windows, device=device)
    names = tuple(modality.name for modality in segmenter.modalities)
    tolerance_px = config.boundary_tolerance_px if boundary else None
    tallies = {
        subset: _Tally.empty(scheme.num_classes, tolerance_px)
        for subset in (modality_subsets(names) if subsets else [names])
    }
    count = _Counter(progress, predictor, scenes, len(tallies))
    per_scene = {}
    for scene in scenes:
        labels = read_reference_labels(scene, config)
        for subset, tally in tallies.items():
            without = frozenset(names) - frozenset(subset)
            class_map = predictor.class_map(scene, without=without, progress=count.windows)
            matrix = tally.add(labels, class_map)
            if subset == names:
                per_scene[scene.id] = rule.scene_row(matrix)
                if on_map:
                    on_map(scene, labels, class_map)
            count.next_map()
    _check_anything_scored(tallies[names], config)
    settings = {
        "scored_classes": [scheme.names[k] for k in rule.mean_over],
        "ignore_index": IGNORE_INDEX,
        "reference": config.reference,
        **windows.to_dict(),
        "test_time_augmentation": False,
        "aggregation": "global",
        "class_mean": config.class_mean,
        "boundary_tolerance_px": tolerance_px,
        "boundary_tolerance_m": _tolerance_m(tolerance_px, scenes),
    }
    return {
        "format": METRICS_FORMAT,
        "split": config.split,
        "scenes": len(scenes),
        "pixels": tallies[names].confusion.pixels,
        "unmapped": tallies[names].confusion.unmapped,
        "classes": list(scheme.names),
        "full": "+".join(names),
        "settings": settings,
        "subsets": {"+".join(subset): rule.report(tally) for subset, tally in tallies.items()},
        "per_scene": per_scene,
    }


@dataclass
class _Tally:
    """Counts of one subset of modalities."""

    confusion: ConfusionMatrix
    boundary: BoundaryScore | None

    @classmethod
    def empty(cls, num_classes: int, tolerance_px: float | None) -> _Tally:
        score = None if tolerance_px is None else BoundaryScore(num_classes, tolerance_px)
        return cls(ConfusionMatrix(num_classes), score)

    def add(self, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> ConfusionMatrix:
        """Add a scene; return its own matrix."""
        matrix = ConfusionMatrix(self.confusion.num_classes)
        matrix.update(labels, class_map)
        self.confusion.merge(matrix)
        if self.boundary:
            self.boundary.update(labels, class_map)
        return matrix


@dataclass(frozen=True)
class _Rule:
    """Rule by which counts become scores: class names and classes in means."""

    names: tuple[str, ...]
    mean_over: tuple[int, ...]
    class_mean: ClassMean

    def report(self, tally: _Tally) -> dict[str, Any]:
        """Return a subset's part of `metrics.json`."""
        confusion = tally.confusion
        boundary_f1 = tally.boundary.f1() if tally.boundary else None
        counts = {"pixels": confusion.pixels, "unmapped": confusion.unmapped}
        scores = subset_report(
            confusion.counts, self.names, self.class_mean, boundary_f1, self.mean_over
        )
        return scores | counts

    def scene_row(self, matrix: ConfusionMatrix) -> dict[str, Any]:
        """Return a scene's row of `metrics.json`."""
        scores = score(matrix.counts, self.class_mean, mean_over=self.mean_over)
        return {
            "oa": scores.oa,
            "miou": scores.miou,
            "pixels": matrix.pixels,
            "unmapped": matrix.unmapped,
        }


class _Counter:
    """Progress over all maps, summed from the progress within each."""

    def __init__(
        self,
        progress: Progress | None,
        predictor: ScenePredictor,
        scenes: Sequence[Scene],
        maps_per_scene: int,
    ) -> None:
        self._progress = progress
        windows = expected_total(scenes, lambda scene: len(predictor.lattice(scene)))
        self._total = windows * maps_per_scene
        self._before = self._now = 0

    def windows(self, done: int, _: int) -> None:
        self._now = self._before + done
        if self._progress:
            self._progress(min(self._now, self._total), self._total)

    def next_map(self) -> None:
        self._before = self._now


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


def _tolerance_m(tolerance_px: float | None, scenes: Sequence[Scene]) -> float | None:
    """Return the boundary tolerance in metres, if it is the same in all scenes (to 0.1 %)."""
    sizes = [scene.grid.pixel_size_m for scene in scenes]
    known = [size for size in sizes if size is not None]
    if tolerance_px is None or len(known) < len(sizes) or max(known) > 1.001 * min(known):
        return None
    return tolerance_px * known[0]
