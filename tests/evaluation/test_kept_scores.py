"""Scores by workers, in shards, and gone on with: those of one run, whatever the cut."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from array_scene import ArrayScene, Identity
from children import run
from small_units import Deadly
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.data.polygons import RegionFile
from terrafuse.errors import ConfigError, OutputError, WorkerError
from terrafuse.evaluation import Evidence, Keeping, evaluate
from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.evidence import save_evidence
from terrafuse.evaluation.journal import ScoreJournal
from terrafuse.evaluation.objects import ObjectScores
from terrafuse.evaluation.regions import RegionScores
from terrafuse.evaluation.trimap import TrimapScores
from terrafuse.prediction import ScenePredictor, Shard, WindowSettings, WorkerSettings
from terrafuse.prediction.crew import Crew, Event
from terrafuse.prediction.workers import Report

SCHEME = ClassScheme(("water", "land"))
CONFIG = EvaluationConfig(split="any", boundary_tolerance_px=2)


def scenes_of() -> list[ArrayScene]:
    """Five unlike scenes: "b" lacks the first modality, "c" has no data, labels of "d" are few."""
    scenes = []
    for n, (id, height, width) in enumerate(
        [("a", 40, 50), ("b", 33, 20), ("c", 20, 25), ("d", 10, 70), ("e", 64, 33)]
    ):
        rng = np.random.default_rng(n)
        labels = (rng.random((height, width)) < 0.4).astype(np.uint8)
        if id == "d":
            labels[:, 9:] = 255
        images = {
            name: rng.normal(size=(2, height, width)) + np.stack([labels == k for k in range(2)])
            for name in ("s1", "s2")
        }
        missing = {"b": {"s1"}, "c": {"s1", "s2"}}.get(id, set())
        scene = ArrayScene(
            images, labels=labels, labels_eroded=labels, scheme=SCHEME, missing=frozenset(missing),
            id=id,
        )  # fmt: skip
        scenes.append(scene)
    return scenes


def score(
    keeping: Keeping | None = None,
    scenes: list[ArrayScene] | None = None,
    model: Any = None,
    crop_size: int = 32,
    config: EvaluationConfig = CONFIG,
    subsets: bool = True,
    **how: Any,
) -> Any:
    scenes = scenes or scenes_of()
    windows = WindowSettings(crop_size=crop_size, overlap=8, batch_size=3)
    segmenter = model or Identity(scenes[0].modalities, 2)
    return evaluate(
        segmenter, scenes, SCHEME, config, windows, device="cpu", subsets=subsets,
        keeping=keeping, **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> Any:
    metrics = score()
    assert len(metrics["subsets"]) == 3
    assert metrics["per_scene"]["c"]["unmapped"] == 500
    assert list(metrics["per_scene"]) == ["a", "b", "c", "d", "e"]
    return metrics


def test_boundaries_are_those_of_each_subset(expected: Any) -> None:
    model = Identity(scenes_of()[0].modalities, 2)
    predictor = ScenePredictor(model, WindowSettings(32, 8, batch_size=3), device="cpu")
    found = {}
    for subset, without in (("s1+s2", set()), ("s1", {"s2"}), ("s2", {"s1"})):
        own = BoundaryScore(2, 2)
        for scene in scenes_of():
            own.update(scene.references["labels"], predictor.class_map(scene, without=without))
        found[subset] = own.f1().tolist()
    for subset, rows in ((name, one["per_class"]) for name, one in expected["subsets"].items()):
        assert [rows[name]["boundary_f1"] for name in SCHEME.names] == found[subset]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scene is on disk as soon as it is done."""
    monkeypatch.setattr("terrafuse.evaluation.journal._SECONDS", 0)


class Maps:
    """Takes down the ids of maps, and what is asked of them."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def __call__(self, scene: Any, labels: Any, class_map: Any) -> None:
        assert labels.shape == class_map.shape == (scene.grid.height, scene.grid.width)
        self.seen[scene.id] = class_map


class SmallMaps(Maps):
    """The same, of which only the sum is needed."""

    @staticmethod
    def shrink(scene: Any, class_map: Any) -> int:
        del scene
        return int(class_map.astype(int).sum())

    def keep(self, scene_id: str, small: int) -> None:
        self.seen[scene_id] = small


# Workers


class InlineCrew(Crew):
    """Workers in this process, with a packed order each; some die when they are given a scene."""

    #: Positions of scenes, each of which kills one worker.
    deadly: ClassVar[list[int]] = []

    def __init__(self, order: Any, devices: Any, begin: Any, folder: Any = None) -> None:
        self.order, self.devices, self.begin = order, devices, begin
        self.queue: list[Event] = []
        self.work: dict[int, Callable[[int], None]] = {}

    def hire(self, worker: int) -> None:
        order = pickle.loads(self.order.packed()).on(self.devices[worker])
        self.work[worker] = self.begin(order, InlineReport(self.queue, worker))
        self.queue.append(Event(worker, "ready"))

    def give(self, worker: int, task: Any) -> None:
        if task in self.deadly:
            self.deadly.remove(task)
            self.queue.append(Event(worker, "died"))
        else:
            self.work[worker](task)

    def events(self) -> list[Event]:
        found, self.queue[:] = self.queue[::-1], []  # the last worker is heard first
        return found

    def __exit__(self, *_: Any) -> None:
        pass


class InlineReport(Report):
    def __init__(self, queue: list[Event], worker: int) -> None:
        self.queue, self.worker, self._told = queue, worker, 0.0

    def __call__(self, kind: Any, value: Any = None) -> None:
        if kind == "count":  # reaches the parent long before the result
            return
        self.queue.append(Event(self.worker, kind, value))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> type[InlineCrew]:
    monkeypatch.setattr("terrafuse.evaluation.scoring.LocalCrew", InlineCrew)
    monkeypatch.setattr(InlineCrew, "deadly", [])
    return InlineCrew


@pytest.mark.parametrize("keeper", [Maps, SmallMaps])
def test_scores_of_workers(keeper: type[Maps], inline: type[InlineCrew], expected: Any) -> None:
    whole, maps = Maps(), keeper()
    score(on_map=whole)
    inline.deadly[:] = [1, 1, 3]
    counts: list[tuple[int, int]] = []
    metrics = score(workers=WorkerSettings(2), on_map=maps, progress=lambda *c: counts.append(c))
    assert metrics == expected
    assert list(metrics["per_scene"]) == list(expected["per_scene"])
    assert set(maps.seen) == set("abcde")
    for id, found in maps.seen.items():
        full = whole.seen[id]
        assert np.array_equal(found, full if keeper is Maps else full.astype(int).sum())
    assert counts[-1][0] == counts[-1][1] == sum(w for w in (4, 2, 1, 3, 6)) * 3


def test_deaths_between_finished_scenes_are_borne(inline: type[InlineCrew], expected: Any) -> None:
    inline.deadly[:] = range(5)  # of two workers; so many in a row would be the end
    assert score(workers=WorkerSettings(2)) == expected
    assert not inline.deadly


def test_more_workers_than_scenes(inline: type[InlineCrew], expected: Any) -> None:
    with pytest.warns(UserWarning, match="5 of 7 workers have something to do: there are 5 scenes"):
        assert score(workers=WorkerSettings(7)) == expected


def test_a_scene_that_kills_its_workers_is_named(
    inline: type[InlineCrew], tmp_path: Path, expected: Any
) -> None:
    inline.deadly[:] = [2, 2, 2]
    keeping = Keeping(tmp_path / "scored")
    told = r"3 workers died of scene 'c'.* divide the scene"
    with pytest.raises(WorkerError, match=told):
        score(keeping, workers=WorkerSettings(2))
    # What it kept counts; in one process, or with the scene divided, nothing is given up.
    maps = Maps()
    assert score(keeping, resume=True, on_map=maps) == expected
    assert 0 < len(maps.seen) < 5
    assert "c" in maps.seen


def test_other_engines_are_refused(expected: Any) -> None:
    with pytest.raises(ConfigError, match=r"engine 'ray'.* Use the engine 'local', and shards"):
        score(workers=WorkerSettings(2, engine="ray"))
    assert score(workers=WorkerSettings(1, engine="local")) == expected


@pytest.mark.slow
def test_scores_of_processes_one_of_which_is_killed(tmp_path: Path, expected: Any) -> None:
    (tmp_path / "1.life").touch()
    maps = SmallMaps()
    model = Deadly(scenes_of()[0].modalities, tmp_path)
    metrics = score(model=model, workers=WorkerSettings(2), on_map=maps)
    assert not (tmp_path / "1.life").exists()
    assert metrics == expected
    assert set(maps.seen) == set("abcde")


# Shards


def test_evidence_and_further_scores_are_those_of_one_run_whatever_the_cut(
    inline: type[InlineCrew], tmp_path: Path, at_once: None
) -> None:
    """The file byte by byte, of workers that die, in shards and gone on with."""
    corners = [[500_000 + 10 * x, 5_000_000 - 10 * y] for x, y in ((0, 0), (9, 0), (9, 9), (0, 9))]
    region = {
        "type": "Feature", "properties": {"name": "north"},
        "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
    }  # fmt: skip
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    regions = {"type": "FeatureCollection", "crs": crs, "features": [region]}
    (tmp_path / "r.geojson").write_text(json.dumps(regions))
    further = [
        ObjectScores.of(["land"], SCHEME, 2),
        TrimapScores((1, 3), 2),
        RegionScores(RegionFile(str(tmp_path / "r.geojson"), "name"), SCHEME.names),
    ]
    file = tmp_path / "evidence.npz"

    def made(*args: Any, **how: Any) -> tuple[Any, bytes]:
        found: list[Evidence] = []
        metrics = score(*args, on_evidence=found.append, further=further, **how)
        (own,) = found
        save_evidence(file, own)
        return metrics, file.read_bytes()

    whole = made()
    assert whole[0]["regions"]["per_region"]["north"]["pixels"] == 5 * 81
    assert whole[0]["objects"]["per_class"]["land"]["objects"] > 20
    inline.deadly[:] = [1, 3]
    assert made(workers=WorkerSettings(2)) == whole
    keeping = Keeping(tmp_path / "scored")
    with pytest.raises(KeyboardInterrupt):
        made(keeping, on_map=stop_at("d"))
    assert made(keeping, resume=True, workers=WorkerSettings(2)) == whole
    keeping = Keeping(tmp_path / "shards")
    assert score(keeping, shard=Shard(2, 2), further=further) == {"waits_for": 3}
    assert made(keeping, shard=Shard(1, 2)) == whole


def test_shards_in_any_order_make_the_scores(tmp_path: Path, expected: Any) -> None:
    keeping = Keeping(tmp_path / "scored")
    for order in permutations((1, 2, 3)):
        maps = [Maps(), Maps(), Maps()]
        made = [
            score(keeping, shard=Shard(n, 3), on_map=own)
            for n, own in zip(order, maps, strict=True)
        ]
        assert [set(own.seen) for own in maps] == [
            {1: {"a", "d"}, 2: {"b", "e"}, 3: {"c"}}[n] for n in order
        ]
        left = {1: 3, 2: 3, 3: 4}[order[0]]
        assert made[0] == {"waits_for": left}
        assert made[1] == {"waits_for": {1: 2, 2: 2, 3: 1}[order[2]]}
        assert made[2] == expected
        # Once more, nothing is left to do; then others may remove what was kept.
        assert score(keeping, shard=Shard(1, 3), on_map=(again := Maps())) == expected
        assert not again.seen
        keeping.remove()
        assert not keeping.folder.exists()


def test_a_shard_that_was_stopped_goes_on_by_itself(
    tmp_path: Path, at_once: None, expected: Any
) -> None:
    keeping = Keeping(tmp_path / "scored")
    with pytest.raises(KeyboardInterrupt):
        score(keeping, shard=Shard(1, 2), on_map=stop_at("c"))
    maps = Maps()
    assert score(keeping, shard=Shard(1, 2), on_map=maps) == {"waits_for": 2}
    assert set(maps.seen) == {"c", "e"}
    # How many there are may change: what is done is done.
    maps = Maps()
    assert score(keeping, shard=Shard(2, 3), on_map=maps) == {"waits_for": 1}
    assert set(maps.seen) == {"b"}
    assert score(keeping, resume=True) == expected


def test_shards_of_unlike_scores_are_not_mixed(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "scored")
    assert score(keeping, shard=Shard(1, 2)) == {"waits_for": 2}
    assert score(keeping, shard=Shard(2, 2), crop_size=24) == {"waits_for": 3}
    with pytest.warns(UserWarning, match="1-of-2.jsonl' is of scores with other windows"):
        made = score(keeping, shard=Shard(1, 2), crop_size=24)
    assert made == score(crop_size=24)
    # What replaced the scores of before is there to be gone on with.
    assert score(keeping, resume=True, crop_size=24, on_map=(maps := Maps())) == made
    assert not maps.seen


def test_the_shard_that_is_late_learns_that_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Keeping(tmp_path / "scored")
    score(keeping, shard=Shard(1, 2))
    real, calls = ScoreJournal.found, []

    def found(journal: ScoreJournal) -> Any:
        calls.append(1)
        if len(calls) == 2:  # between its own end and its look at the others
            keeping.remove()
        return real(journal)

    monkeypatch.setattr(ScoreJournal, "found", found)
    assert score(keeping, shard=Shard(1, 2)) == {"waits_for": 0}


# Stopped and killed


def stop_at(id: str) -> Callable[..., None]:
    def stop(scene: Any, *_: Any) -> None:
        if scene.id == id:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("seconds", [0, 3600])
def test_scores_that_were_stopped_go_on(
    seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Any
) -> None:
    monkeypatch.setattr("terrafuse.evaluation.journal._SECONDS", seconds)
    keeping = Keeping(tmp_path / "run" / "scored")
    with pytest.raises(KeyboardInterrupt):
        score(keeping, on_map=stop_at("c"))
    maps = Maps()
    assert score(keeping, resume=True, on_map=maps) == expected
    assert set(maps.seen) == {"c", "d", "e"}
    anew = Maps()
    with pytest.warns(UserWarning, match="unfinished scores, which are begun anew; --resume would"):
        assert score(keeping, on_map=anew) == expected
    assert set(anew.seen) == set("abcde")
    assert score(keeping, resume=True) == expected
    keeping.remove()
    assert not keeping.folder.exists()


def test_what_is_never_stopped_leaves_nothing(tmp_path: Path, expected: Any) -> None:
    keeping = Keeping(tmp_path / "scored")
    assert score(keeping) == expected
    assert not keeping.folder.exists()


def test_killed_it_goes_on(tmp_path: Path, at_once: None, expected: Any) -> None:
    keeping = Keeping(tmp_path / "scored")

    def kill(scene: Any, *_: Any) -> None:
        if scene.id == "d":
            os.kill(os.getpid(), signal.SIGKILL)

    assert run(lambda: score(keeping, on_map=kill)) == -signal.SIGKILL
    maps = Maps()
    assert score(keeping, resume=True, on_map=maps) == expected
    assert set(maps.seen) == {"d", "e"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-20],  # torn
        lambda text: text[:-3] + "x" + text[-2:],
        lambda text: text[: text.rindex("\n\n")] + "\n\xff",
    ],
)
def test_a_line_that_is_not_as_it_was_written_is_done_again(
    harm: Callable[[str], str], tmp_path: Path, at_once: None, expected: Any
) -> None:
    keeping = Keeping(tmp_path / "scored")
    with pytest.raises(KeyboardInterrupt):
        score(keeping, on_map=stop_at("d"))
    (file,) = keeping.files()
    file.write_text(harm(file.read_text()), encoding="latin-1")
    for seen in ({"c", "d"}, {"d", "e"}):  # what is added after it is sound
        maps = Maps()
        last = stop_at("d" if seen == {"c", "d"} else "none")

        def look(scene: Any, *rest: Any, maps: Maps = maps, last: Any = last) -> None:
            maps(scene, *rest)
            last(scene)

        with pytest.raises(KeyboardInterrupt) if "c" in seen else nullcontext():
            assert score(keeping, resume=True, on_map=look) == expected
        assert set(maps.seen) == seen


@pytest.mark.parametrize(
    ("how", "differing"),
    [
        ({"crop_size": 24}, "windows"),
        ({"boundary": False}, "boundary tolerance"),
        ({"other": True}, "model"),
        ({"facts": {"manifest": 2}}, "manifest"),
        ({"subsets": False}, "modalities"),
        ({"config": CONFIG.model_copy(update={"reference": "labels_eroded"})}, "reference"),
    ],
)
def test_other_scores_are_begun_anew(
    how: dict[str, Any], differing: str, tmp_path: Path, at_once: None
) -> None:
    facts = {"manifest": 1}
    keeping = Keeping(tmp_path / "scored", lambda: facts)
    with pytest.raises(KeyboardInterrupt):
        score(keeping, on_map=stop_at("e"))
    model = Identity(scenes_of()[0].modalities, 2)
    if how.pop("other", False):
        model.norm.weight.data += 1
    facts |= how.pop("facts", {})
    maps = Maps()
    with pytest.warns(UserWarning, match=rf"is of scores with other {differing}; its scenes are"):
        found = score(keeping, model=model, resume=True, on_map=maps, **how)
    assert set(maps.seen) == set("abcde")
    assert found == score(model=model, **how)


def test_scenes_that_have_changed_are_scored_again(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = dict.fromkeys("abcde", 1)
    keeping = Keeping(tmp_path / "scored", described=described.__getitem__)
    with pytest.raises(KeyboardInterrupt):
        score(keeping, on_map=stop_at("e"))
    described["b"] = 2
    scenes = scenes_of()
    monkeypatch.setattr(scenes[3], "states_as_named", lambda: [("d.tif", 1, 2)])
    maps = Maps()
    score(keeping, scenes, resume=True, on_map=maps)
    assert set(maps.seen) == {"b", "d", "e"}


def note_name(_: Any, scene: Any) -> list[str]:
    return [] if scene.id == "d" else [scene.id.upper()]


def test_notes_are_kept_and_in_the_order_of_the_scenes(
    inline: type[InlineCrew], tmp_path: Path, at_once: None
) -> None:
    keeping = Keeping(tmp_path / "scored")
    with pytest.raises(KeyboardInterrupt):
        score(keeping, look=note_name, on_map=stop_at("b"))
    notes: dict[str, Any] = {}
    found = score(keeping, look=note_name, notes=notes, resume=True, workers=WorkerSettings(2))
    assert list(found["per_scene"]) == list("abcde")
    assert list(notes.items()) == [(id, (id.upper(),)) for id in "abce"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_of_somebody_else_is_left_alone(kind: str, tmp_path: Path, expected: Any) -> None:
    keeping = Keeping(tmp_path / "scored")
    if kind == "folder":
        keeping.folder.mkdir()
    own = keeping.folder / "own.txt" if kind == "folder" else keeping.folder
    own.write_text("mine")
    with pytest.raises(OutputError, match=r"is no such folder\. Move it"):
        score(keeping, resume=True)
    assert own.read_text() == "mine"
    keeping.folder.rename(tmp_path / "other")
    assert score(keeping, resume=True) == expected


def test_a_disk_that_fails_is_told(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch, expected: Any
) -> None:
    keeping = Keeping(tmp_path / "scored")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("terrafuse.evaluation.journal.os.fsync", fail)
        with pytest.raises(OutputError, match=r"1-of-1.jsonl' cannot be written"):
            score(keeping)
    assert score(keeping, resume=True) == expected
