"""One pass over a data set before training: its check, statistics, label counts and crop index.

Each scene is opened once and each of its windows decoded once. What is found is kept with the data
(`data.kept`), from where the steps of the preparation take it; they measure by themselves what is
not there. So the pass only saves time: where it meets a fault, or scenes that the check reads by
other rules, it gives up, and the steps find the fault in their own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrafuse.config import RunConfig
from terrafuse.data import Grid, Manifest, Scene, class_counts, typical_pixel_size_m
from terrafuse.data.band_names import BandNotice
from terrafuse.data.kept import Keeper
from terrafuse.data.statistics import StatisticsPass
from terrafuse.doctor import Finding, check_manifest
from terrafuse.errors import DataError
from terrafuse.evaluation.scoring import read_reference_labels
from terrafuse.modalities import BandStatistics
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX
from terrafuse.sampling import training_indexing
from terrafuse.sampling.crop_index import CropIndex
from terrafuse.sampling.crops import KeptIndexes

#: Of more scenes so many are opened before anything is measured: opening 20,000 takes minutes.
MOST_CHECKED = 1000
_T = TypeVar("_T")
Notices = Mapping[str, BandNotice]


@dataclass(frozen=True)
class Measured:
    """What was measured in the scenes of training and validation.

    Args:
        statistics: Per modality, as measured: before `data.normalization` changes them.
        class_counts: Labelled pixels per class of the training scenes.
        pixel_size: In metres; None where no scene has any.
        sizes: Height and width of each validation scene.
        notices: Notices of bands per scene, those of validation first.
    """

    statistics: dict[str, BandStatistics]
    class_counts: tuple[int, ...]
    pixel_size: float | None
    sizes: tuple[tuple[int, int], ...]
    notices: tuple[Notices, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "statistics": {name: s.to_dict() for name, s in self.statistics.items()},
            "class_counts": list(self.class_counts),
            "pixel_size": self.pixel_size,
            "sizes": [list(size) for size in self.sizes],
            "notices": [
                [number, name, *vars(notice).values()]
                for number, notices in enumerate(self.notices)
                for name, notice in notices.items()
            ],
            "scenes": len(self.notices),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measured:
        """Inverse of `to_dict`."""
        notices: list[dict[str, BandNotice]] = [{} for _ in range(values["scenes"])]
        for number, name, *about in values["notices"]:
            notices[number][name] = BandNotice(*about)
        return cls(
            {k: BandStatistics.from_dict(v) for k, v in values["statistics"].items()},
            tuple(values["class_counts"]),
            values["pixel_size"],
            tuple((height, width) for height, width in values["sizes"]),
            tuple(notices),
        )


@dataclass(frozen=True)
class KeptFacts:
    """What is kept of a data set for runs with these settings.

    Args:
        keeper: What is kept of the data set.
        config: The run.
        manifest: Its data set.
    """

    keeper: Keeper
    config: RunConfig
    manifest: Manifest

    def load_findings(self) -> list[Finding] | None:
        """Return the findings of the check before training, or None."""
        found = self.keeper.load("check", *self._splits(), MOST_CHECKED)
        return None if found is None else [Finding.from_dict(v) for v in found["findings"]]

    def save_findings(self, findings: Sequence[Finding]) -> None:
        """Keep them."""
        values = {"findings": [finding.to_dict() for finding in findings]}
        self.keeper.save("check", *self._splits(), MOST_CHECKED, values=values)

    @property
    def may_keep(self) -> bool:
        """Whether opening the scenes once more says nothing that the user should hear each time."""
        findings = self.load_findings()
        return findings is not None and not _has_unusual(findings)

    def load_measured(self) -> Measured | None:
        """Return what was measured, or None."""
        found = self.keeper.load("measured", *self._splits(), *self._labels())
        return None if found is None else Measured.from_dict(found)

    def save_measured(self, measured: Measured) -> None:
        """Keep it."""
        values = measured.to_dict()
        self.keeper.save("measured", *self._splits(), *self._labels(), values=values)

    @property
    def indexes(self) -> KeptIndexes:
        """Crop indexes of the training scenes."""
        return KeptIndexes(self.keeper, (self.config.data.train_splits, *self._labels()))

    def _splits(self) -> tuple[object, ...]:
        return tuple(self.config.data.train_splits), self.config.training.validation_split

    def _labels(self) -> tuple[object, ...]:
        data = self.config.data
        seed = None if data.label_share == 1 else data.label_seed
        return data.label_share, seed, self.config.evaluation.reference


def some_of(items: Sequence[_T]) -> Sequence[_T]:
    """Return `MOST_CHECKED` of many items at most, spread evenly."""
    return items[:: len(items) // MOST_CHECKED + 1]


def check_data(
    facts: KeptFacts, *, require_all: bool, progress: Progress
) -> tuple[list[Finding], dict[str, Scene]]:
    """Check the data before training, measuring in the same pass what training needs.

    Args:
        require_all: Whether crops need data of every modality.

    Returns:
        The findings, and the scenes that were opened, by id.
    """
    known = facts.load_findings()
    if known is not None:
        return known, {}
    survey = _Survey(facts, require_all) if _may_survey(facts) else None
    findings = check_manifest(
        facts.manifest,
        deep=False,
        train_splits=facts.config.data.train_splits,
        validation_split=facts.config.training.validation_split,
        most=MOST_CHECKED,
        progress=progress,
        each=survey.add if survey else None,
    )
    facts.save_findings(findings)
    if survey is not None and not _has_unusual(findings):
        survey.finish()
    return findings, survey.scenes if survey else {}


def _may_survey(facts: KeptFacts) -> bool:
    """Tell whether the check reads scenes as training does, in the order of training."""
    data = facts.config.data
    is_plain = all(rule.rescale is None for rule in facts.manifest.rules.values())
    if not is_plain or data.label_share != 1 or facts.load_measured() is not None:
        return False
    places = [data.train_splits.index(e.split) for e in _train_entries(facts)]
    return places == sorted(places)


def _train_entries(facts: KeptFacts) -> list[Any]:
    wanted = facts.config.data.train_splits
    return [
        e for e in facts.manifest.entries if e.split in wanted and facts.manifest.is_labelled(e)
    ]


def _has_unusual(findings: Sequence[Finding]) -> bool:
    """Tell whether something would be said again by those who open the scenes after the check."""
    return any(f.severity == "error" or f.code == "reading" for f in findings)


@dataclass
class _Survey:
    """The pass itself.

    Scenes are added in the order of the manifest. Those between that are not checked are opened
    here.

    Args:
        scenes: Scenes opened, by id.
    """

    facts: KeptFacts
    require_all: bool
    scenes: dict[str, Scene] = field(default_factory=dict)

    def __post_init__(self) -> None:
        facts, config = self.facts, self.facts.config
        modalities = list(facts.manifest.modalities.values())
        self._train = {entry.id: n for n, entry in enumerate(_train_entries(facts))}
        split, reference = config.training.validation_split, config.evaluation.reference
        self._val = {
            entry.id
            for entry in facts.manifest.entries
            if entry.split == split and (entry.labels or getattr(entry, reference))
        }
        self._todo = [e.id for e in facts.manifest.entries if e.id in {*self._train, *self._val}]
        self._next = 0
        self._failed = not self._train
        self._statistics = StatisticsPass(modalities)
        self._indexing = training_indexing(
            config.data, modalities, max(1, len(self._train)), require_all=self.require_all
        )
        self._indexes: list[CropIndex] = []
        self._counts: NDArray[np.int64] = np.zeros(facts.manifest.scheme.num_classes, np.int64)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._grids: dict[str, Grid] = {}
        self._has_reference = False

    def add(self, scene: Scene) -> None:
        """Measure a scene that is open, after those before it."""
        if scene.id not in self._train and scene.id not in self._val:
            return
        self._failed |= bool(scene.astray)  # whoever opens it for training warns of it
        try:
            self._catch_up(scene.id)
            if not self._failed:
                self._measure(scene)
                self._next += 1
        except DataError:
            self._failed = True

    def finish(self) -> None:
        """Measure the rest, and keep all that was found; nothing where a fault was met."""
        try:
            self._catch_up(None)
            if self._failed:
                return
            measured = Measured(
                self._statistics.result(list(self._train)),
                tuple(self._counts.tolist()),
                self._pixel_size(),
                tuple(self._sizes[id] for id in self._todo if id in self._val),
                tuple(self.scenes[id].band_notices for id in self._in_order()),
            )
        except DataError:
            return
        if self._val and not self._has_reference:
            return
        self.facts.save_measured(measured)
        self.facts.indexes.save(self._indexing, self._indexes)

    def _in_order(self) -> list[str]:
        return [*(id for id in self._todo if id in self._val), *self._train]

    def _catch_up(self, until: str | None) -> None:
        while not self._failed and self._next < len(self._todo):
            id = self._todo[self._next]
            if id == until:
                return
            scene = self.facts.manifest.only(id).scene(id, tell=_Silent())
            scene.remember_windows()
            try:
                self._measure(scene)
            finally:
                scene.close()
            self._next += 1

    def _measure(self, scene: Scene) -> None:
        self.scenes[scene.id] = scene
        if scene.id in self._val:
            self._sizes[scene.id] = scene.grid.height, scene.grid.width
            labels = read_reference_labels(scene, self.facts.config.evaluation)
            self._has_reference |= bool((labels != IGNORE_INDEX).any())
        number = self._train.get(scene.id)
        if number is None:
            return
        self._grids[scene.id] = scene.grid
        self._counts += class_counts([scene], self.facts.manifest.scheme)
        # Window by window in turn, so that both find what was decoded last.
        for _ in zip_longest(self._statistics.read(scene), self._index(number, scene)):
            pass

    def _index(self, number: int, scene: Scene) -> Iterator[None]:
        """Index training scene `number`, pausing after each window."""
        index = yield from self._indexing.steps(number, scene)
        self._indexes.append(index)

    def _pixel_size(self) -> float | None:
        return typical_pixel_size_m(some_of([self._grids[id] for id in self._train]))


class _Silent:
    def __call__(self, scene: Scene) -> None:
        """Leave the warnings to whoever opens the scene for training."""
