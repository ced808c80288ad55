"""Fitting of temperature and class sets on scenes with labels, in memory of one scene's labels.

Every subset of modalities is mapped twice: once for the temperature, and once with it, for what it
brings and for the threshold of class sets.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.config import EvaluationConfig
from terrafuse.data.streaming import expected_total
from terrafuse.errors import LabelError
from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.calibration.conformal import COLUMNS, choose_threshold, count_missed
from terrafuse.evaluation.calibration.reliability import expected_error, reliability_sums
from terrafuse.evaluation.calibration.temperature import TemperatureSums
from terrafuse.evaluation.error_pairs import error_pairs
from terrafuse.evaluation.evidence import (
    CONFIDENCE_EDGES,
    CONFIDENCE_STEP,
    LAGS,
    Cells,
    Evidence,
    ScoredScene,
)
from terrafuse.evaluation.identity import identify_scene
from terrafuse.evaluation.scoring import read_reference_labels
from terrafuse.prediction import Calibration, MapSettings, ScenePredictor, SubsetCalibration
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

# Averaged logits but for a number per pixel: the softmax of their logarithms is the same.
_SETTINGS = MapSettings(("probabilities_float32",))
_LEAST_PROBABILITY = np.finfo(np.float32).tiny

Subset = tuple[str, ...]


@dataclass(frozen=True)
class SetWish:
    """Wish for class sets.

    Args:
        coverage: Above 0, below 1.
        block_px: Side of the blocks; None: as the errors need it.
    """

    coverage: float
    block_px: int | None = None


def fit_calibration(
    predictor: ScenePredictor,
    scenes: Sequence[Scene],
    config: EvaluationConfig,
    subsets: Sequence[Subset],
    sets: SetWish | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Fit a temperature per subset of modalities, and a threshold of class sets if wished.

    Args:
        predictor: Without calibration.
        scenes: With labels.
        config: Which labels.
        subsets: Of the modalities; the full one first, which blocks are taken from.
        progress: Called with (windows done, windows in all; of many scenes an estimate).

    Returns:
        Per subset, joined by "+": "pixels", "temperature", "nll" and "ece" with "before" and
        "after", and "class_sets", None if not wished.

    Raises:
        LabelError: No labelled pixel has data.
        ScoresError: There are fewer blocks than the coverage needs.
    """
    walk = _Walk(predictor, scenes, config, subsets, progress)
    found: dict[str, dict[str, Any]] = {}
    blocks: Blocks | None = None
    for subset in subsets:
        fit, before = TemperatureSums(), _Reliability()
        for strip in walk.strips(subset):
            fit.add(np.log(np.maximum(strip.probabilities, _LEAST_PROBABILITY)), strip.labels)
            before.add(strip)
        if not fit.pixels:
            raise LabelError(
                f"no labelled pixel of split '{config.split}' has data in {' or '.join(subset)}: "
                "there is nothing to calibrate on. Choose another --split"
            )
        temperature = fit.best()
        after = _Reliability()
        cells = _CellCounts(scenes, with_errors=blocks is None) if sets else None
        for strip in walk.strips(subset, temperature):
            after.add(strip)
            if cells:
                cells.add(strip)
        if cells and sets:
            blocks = blocks or cells.blocks(sets.block_px, predictor.windows.crop_size)
        found["+".join(subset)] = {
            "pixels": fit.pixels,
            "temperature": temperature,
            "nll": {"before": fit.mean_nll(1.0), "after": fit.mean_nll(temperature)},
            "ece": {"before": before.error(), "after": after.error()},
            "class_sets": (
                choose_threshold(cells.missed_of(blocks), sets.coverage, blocks.side_px).to_dict()
                if cells and sets and blocks
                else None
            ),
        }
    return found


@dataclass(frozen=True)
class _LabelledRows:
    """Labelled pixels of some rows of a scene that have data.

    Args:
        scene: Position of the scene.
        row: First row.
        probabilities: Float32 (K, n).
        labels: Classes, uint8 (n,).
        place: Of the pixels in the rows, bool (rows, width).
        truth: Labels of the whole scene, uint8 (H, W).
    """

    scene: int
    row: int
    probabilities: NDArray[np.float32]
    labels: NDArray[np.uint8]
    place: NDArray[np.bool_]
    truth: NDArray[np.uint8]


class _Walk:
    """Maps of all scenes with a subset of modalities, as often as wanted."""

    def __init__(
        self,
        predictor: ScenePredictor,
        scenes: Sequence[Scene],
        config: EvaluationConfig,
        subsets: Sequence[Subset],
        progress: Progress | None,
    ) -> None:
        self._predictor, self._scenes, self._config = predictor, scenes, config
        self._full = subsets[0]
        self._progress = progress
        self._done = 0
        windows = expected_total(scenes, lambda scene: len(predictor.lattice(scene)))
        self._total = 2 * len(subsets) * windows

    def strips(
        self, subset: Subset, temperature: float = 1.0
    ) -> Generator[_LabelledRows, None, None]:
        """Yield the labelled pixels of all scenes, with probabilities at a temperature."""
        name = "+".join(self._full)
        calibration = Calibration(name, {name: SubsetCalibration(temperature)})
        predictor = self._predictor.calibrated(calibration)
        without = frozenset(self._full) - frozenset(subset)
        for number, scene in enumerate(self._scenes):
            if not any(m.name in subset and m.name not in scene.missing for m in scene.modalities):
                continue
            truth = read_reference_labels(scene, self._config)
            strips = predictor.stream(
                scene, without=without, settings=_SETTINGS, progress=self._count
            )
            for strip in strips:
                values = strip.layers["probabilities_float32"]
                own = truth[strip.row : strip.row + values.shape[1]]
                place = (own != IGNORE_INDEX) & ~np.isnan(values[0])
                yield _LabelledRows(number, strip.row, values[:, place], own[place], place, truth)
            self._done += len(predictor.lattice(scene))

    def _count(self, done: int, _: int) -> None:
        if self._progress:
            self._progress(min(self._done + done, self._total), self._total)


class _Reliability:
    """Confidences and how often they are right, over all pixels."""

    def __init__(self) -> None:
        self._counts = np.zeros((len(CONFIDENCE_EDGES), 3), np.int64)

    def add(self, strip: _LabelledRows) -> None:
        confidence = strip.probabilities.max(axis=0, initial=0).astype(np.float64)
        right = strip.probabilities.argmax(axis=0) == strip.labels
        bins = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1
        steps = np.round(confidence / CONFIDENCE_STEP)
        for column, weights in enumerate((None, right, steps)):
            added = np.bincount(bins, weights, minlength=len(self._counts))
            self._counts[:, column] += added.astype(np.int64)

    def error(self) -> float:
        """ECE of 20 bins."""
        return float(expected_error(reliability_sums(self._counts)))


@dataclass
class _CellCounts:
    """Pixels whose class a threshold leaves out, per cell; and how far errors reach."""

    scenes: Sequence[Scene]
    with_errors: bool

    def __post_init__(self) -> None:
        self._sizes = [(scene.grid.height, scene.grid.width) for scene in self.scenes]
        self._cells = Cells.of(self._sizes)
        self._starts = np.searchsorted(self._cells.scene, np.arange(len(self.scenes) + 1))
        self._missed = np.zeros((len(self._cells), COLUMNS), np.int64)
        self._pairs = np.zeros((len(self.scenes), len(LAGS), 3), np.int64)
        self._scored: dict[int, ScoredScene] = {}
        #: Of the scene at hand: its position, labels and map.
        self._now: tuple[int, NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def add(self, strip: _LabelledRows) -> None:
        height, width = self._sizes[strip.scene]
        first, last = self._starts[strip.scene], self._starts[strip.scene + 1]
        size = int(self._cells.size[first])
        rows, cols = np.nonzero(strip.place)
        cells = (rows + strip.row) // size * -(-width // size) + cols // size
        self._missed[first:last] += count_missed(
            strip.probabilities, strip.labels, cells, last - first
        )
        if not self.with_errors:
            return
        if self._now is None or self._now[0] != strip.scene:
            self._end_scene()
            unknown = np.full((height, width), IGNORE_INDEX, np.uint8)
            self._now = strip.scene, strip.truth, unknown
        found = self._now[2][strip.row : strip.row + len(strip.place)]
        found[strip.place] = strip.probabilities.argmax(axis=0)

    def _end_scene(self) -> None:
        if self._now is not None:
            number, labels, class_map = self._now
            self._pairs[number] = error_pairs(labels, class_map)
            self._scored[number] = identify_scene(self.scenes[number], labels)
            self._now = None

    def blocks(self, side_px: int | None, crop_size: int) -> Blocks:
        """Blocks as the errors need them."""
        self._end_scene()
        scored = tuple(
            self._scored.get(number) or ScoredScene(scene.id, *self._sizes[number], "")
            for number, scene in enumerate(self.scenes)
        )
        nothing = np.zeros((0, 0, 0, 2), np.int64)
        facts = {"crop_size": crop_size}
        return find_blocks(
            [Evidence(facts, scored, (), self._cells, {}, self._pairs, nothing)], side_px
        )

    def missed_of(self, blocks: Blocks) -> NDArray[np.int64]:
        """Counts per block (B, COLUMNS)."""
        found = np.zeros((blocks.count, COLUMNS), np.int64)
        np.add.at(found, blocks.of_cell, self._missed)
        return found
