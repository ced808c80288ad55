"""Scoring scene by scene, here or by several processes."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terrafuse.config import EvaluationConfig
from terrafuse.data.streaming import expected_total
from terrafuse.errors import WorkerError
from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.cell_counts import CERTAINTY, CellCounts, MapCounter, MapCounts
from terrafuse.evaluation.counts import SceneCounts
from terrafuse.evaluation.error_pairs import error_pairs
from terrafuse.evaluation.evidence import TableName
from terrafuse.evaluation.identity import identify_scene
from terrafuse.prediction import MapSettings, ScenePredictor, WorkerSettings
from terrafuse.prediction.workers import Foreman, LocalCrew, Report
from terrafuse.progress import Progress

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

#: Called with a scene, its labels and its class map, uint8 (H, W) each.
OnMap = Callable[["Scene", NDArray[np.uint8], NDArray[np.uint8]], None]
#: Called before a scene is mapped, where it is mapped; returns notes on it that JSON can hold.
Look = Callable[[ScenePredictor, "Scene"], Sequence[Any]]
#: Workers that may die of one scene.
_MOST_DEATHS_OF_ONE = 3


@runtime_checkable
class SmallMapKeeper(Protocol):
    """An `OnMap` that needs less than the whole map of another process."""

    def shrink(self, scene: Scene, class_map: NDArray[np.uint8]) -> Any:
        """What is needed of a map; called in the process that made it."""

    def keep(self, scene_id: str, small: Any) -> None:
        """Receive it; called in the process that asked for it."""

    def __call__(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> None:
        """Both at once."""


def read_reference_labels(scene: Scene, config: EvaluationConfig) -> NDArray[np.uint8]:
    """Read the labels that a map of the scene is compared with, uint8 (H, W); 255 = ignore.

    Raises:
        LabelError: The scene has no such labels, or they hold values outside the class scheme.
    """
    labels = scene.read_labels(scene.full_window, reference=config.reference)
    return labels[: scene.grid.height, : scene.grid.width]


def file_state(scene: Scene) -> str:
    """A digest that changes with the files of a scene; it is not opened for that."""
    states: object = "cannot be told"
    with suppress(OSError):  # reading the scene will say what the matter is
        states = scene.states_as_named()
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SceneScorer:
    """What maps scenes and compares them with labels; can be sent to another process.

    Args:
        subsets: Of the modalities; the full one first.
        tolerance_px: Of boundaries; None: they are not compared.
        on_map: Called with the map of all modalities.
        look: Called first.
        keeps: Whether counts are kept, so that the state of files matters.
    """

    predictor: ScenePredictor
    scenes: Sequence[Scene]
    subsets: tuple[tuple[str, ...], ...]
    config: EvaluationConfig
    tolerance_px: float | None
    look: Look | None = None
    on_map: OnMap | None = None
    keeps: bool = False

    def score(self, number: int, progress: Progress | None = None) -> SceneCounts:
        """Map a scene with every subset, and count.

        Args:
            progress: Called with (windows done in all maps of the scene, 0).

        Raises:
            TerrafuseError: As raised by `ScenePredictor.stream`.
            LabelError: There are no labels, or of other classes.
        """
        scene = self.scenes[number]
        state = file_state(scene) if self.keeps else ""
        notes = tuple(self.look(self.predictor, scene)) if self.look else ()
        labels = read_reference_labels(scene, self.config)
        windows = _Windows(progress)
        found: list[MapCounts] = []
        for subset in self.subsets:
            counts, class_map = self._map(scene, labels, subset, windows)
            found.append(counts)
            if subset == self.subsets[0]:
                correlation = error_pairs(labels, class_map)
                if self.on_map:
                    self.on_map(scene, labels, class_map)
            windows.next_map()
        return SceneCounts(
            scene=identify_scene(scene, labels),
            tables=_tables(found),
            detection=tuple(counts.detection for counts in found),
            correlation=correlation,
            windows=windows.before,
            pixel_size_m=scene.grid.pixel_size_m,
            notes=notes,
            state=state,
        )

    def _map(
        self, scene: Scene, labels: NDArray[np.uint8], subset: Sequence[str], windows: _Windows
    ) -> tuple[MapCounts, NDArray[np.uint8]]:
        """Map a scene from a subset of the modalities, and count while its strips are made."""
        counter = MapCounter(labels, self.predictor.segmenter.num_classes)
        strips = self.predictor.stream(
            scene,
            without=frozenset(self.subsets[0]) - frozenset(subset),
            settings=MapSettings(("class_map",)),
            progress=windows.count,
            sampled=CERTAINTY,
        )
        parts = []
        for strip in strips:
            counter.add(strip)
            parts.append(strip.layers["class_map"])
        class_map = np.concatenate(parts)
        boundary = None
        if self.tolerance_px is not None:
            boundary = BoundaryScore(self.predictor.segmenter.num_classes, self.tolerance_px)
        return counter.finish(class_map, boundary), class_map

    def on(self, device: str) -> SceneScorer:
        """Return the same, on another device."""
        return replace(self, predictor=self.predictor.on(device))

    def packed(self) -> bytes:
        """The scorer for a process that this one starts; maps are sent back by it.

        Raises:
            ModelError: The model holds what cannot be sent.
        """
        on_map = self.on_map
        if on_map is not None:
            on_map = _Sender(on_map.shrink if isinstance(on_map, SmallMapKeeper) else None)
        with self.predictor.on_cpu():
            return pickle.dumps(replace(self, on_map=on_map))


def _tables(found: Sequence[MapCounts]) -> dict[TableName, tuple[CellCounts, ...]]:
    """Counts per cell by table, of each subset."""
    tables: dict[TableName, tuple[CellCounts, ...]] = {
        "confusion": tuple(counts.confusion for counts in found),
        "reliability": tuple(counts.reliability for counts in found),
    }
    boundaries = tuple(counts.boundary for counts in found if counts.boundary is not None)
    return tables | ({"boundary": boundaries} if boundaries else {})


class WindowCounter:
    """Progress over all maps of all scenes, in windows; their number is an estimate."""

    def __init__(self, progress: Progress | None, scorer: SceneScorer, numbers: Sequence[int]):
        self._progress = progress
        self._numbers, self._scorer = numbers, scorer
        self._total: int | None = None
        self._before = 0

    def show(self, further: int, _: int = 0) -> None:
        """Tell that so many windows of unfinished scenes are done."""
        if self._progress:
            total = self.begin()
            self._progress(min(self._before + further, total), total)

    def finish(self, counts: SceneCounts) -> None:
        """Add those of a finished scene."""
        self._before += counts.windows

    def begin(self) -> int:
        """Count the windows of all maps, once; this opens the first scenes."""
        if self._total is None:
            scorer = self._scorer
            scenes = [scorer.scenes[number] for number in self._numbers]
            windows = expected_total(scenes, lambda s: len(scorer.predictor.lattice(s)))
            self._total = windows * len(scorer.subsets)
        return self._total


def score_here(
    scorer: SceneScorer, numbers: Sequence[int], count: WindowCounter
) -> Iterator[tuple[int, SceneCounts]]:
    """Score scenes one after the other in this process; yield positions and counts."""
    for number in numbers:
        counts = scorer.score(number, count.show)
        count.finish(counts)
        yield number, counts


def score_by_workers(
    scorer: SceneScorer,
    numbers: Sequence[int],
    settings: WorkerSettings,
    count: WindowCounter,
    take: Callable[[int, SceneCounts], None],
) -> None:
    """Score scenes by processes of this machine.

    Args:
        numbers: Positions of the scenes, in the order in which they are handed out.
        take: Called with the position and counts of each, in the order in which they are done.

    Raises:
        WorkerError: Workers keep dying.
        TerrafuseError: A worker failed.
    """
    workers = min(settings.total, len(numbers))
    if workers < settings.total:
        warnings.warn(
            f"{workers} of {settings.total} workers have something to do: there are "
            f"{len(numbers)} scenes to score",
            stacklevel=5,
        )
    if not workers:
        return
    count.begin()  # before workers do: what opening tells of scenes alike is told once
    devices = settings.device_names(scorer.predictor.device)[:workers]
    with LocalCrew(scorer, devices, begin_scoring) as crew:
        _ScoreForeman(crew, workers, numbers, None, scorer, count, take).run()


@dataclass
class _ScoreForeman(Foreman[int]):
    """Who hands out scenes."""

    scorer: SceneScorer
    count: WindowCounter
    take: Callable[[int, SceneCounts], None]
    _deaths_of: Counter[int] = field(default_factory=Counter, init=False)

    def _size(self, task: int) -> int:
        del task
        return 0  # it is `count` that counts

    def _finish(self, task: int, value: Any) -> None:
        counts, sent = value
        self._deaths = 0
        self.count.finish(counts)
        if sent is not None:
            _receive(self.scorer, task, sent)
        self.take(task, counts)

    def _rest(self, task: int) -> list[int]:
        self._deaths_of[task] += 1
        if self._deaths_of[task] >= _MOST_DEATHS_OF_ONE:
            raise WorkerError(
                f"{self._deaths_of[task]} workers died of scene '{self.scorer.scenes[task].id}', "
                "most likely for lack of memory. Use fewer --workers or a smaller --batch-size, "
                "or divide the scene into several in the manifest"
            )
        return [task]

    def _tell(self) -> None:
        self.count.show(sum(self._counts.values()))


def begin_scoring(scorer: SceneScorer, report: Report) -> Callable[[int], None]:
    """In a worker: return what scores a scene and reports the counts, and of its map what is asked.

    Args:
        scorer: With an `on_map` that takes it down.
    """

    def do(number: int) -> None:
        counts = scorer.score(number, report.count)
        sent = scorer.on_map.take() if isinstance(scorer.on_map, _Sender) else None
        report("result", (counts, sent))

    return do


class _Sender:
    """An `OnMap` in a worker: takes down what the parent needs of a map.

    Args:
        shrink: As in `SmallMapKeeper`; None: labels and map are needed whole.
    """

    def __init__(self, shrink: Callable[[Scene, NDArray[np.uint8]], Any] | None) -> None:
        self._shrink = shrink
        self._sent: Any = None

    def __call__(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> None:
        self._sent = self._shrink(scene, class_map) if self._shrink else (labels, class_map)

    def take(self) -> Any:
        sent, self._sent = self._sent, None
        return sent


def _receive(scorer: SceneScorer, number: int, sent: Any) -> None:
    scene, on_map = scorer.scenes[number], scorer.on_map
    assert on_map is not None
    if isinstance(on_map, SmallMapKeeper):
        on_map.keep(scene.id, sent)
    else:
        on_map(scene, *sent)


class _Windows:
    """Progress over the maps of one scene, summed from the progress within each."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.before = self._now = 0

    def count(self, done: int, _: int) -> None:
        self._now = self.before + done
        if self._progress:
            self._progress(self._now, 0)

    def next_map(self) -> None:
        self.before = self._now
