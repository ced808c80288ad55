"""Division of a map by shards and workers: the same bytes, whoever makes which part."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import small_units
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, DataError, ModelError, OutputError, WorkerError
from terrafuse.prediction import (
    Beside,
    Lattice,
    Shard,
    UnitPlan,
    WorkerSettings,
    cog,
    plan_units,
    units,
)
from terrafuse.prediction.crew import Crew, Event
from terrafuse.prediction.job import MapJob
from terrafuse.prediction.sharing import cut_tasks, units_of
from terrafuse.prediction.workers import LocalCrew, Report
from terrafuse.writing import claimed

SCHEME = ClassScheme(("a", "b", "c"))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60_000), st.integers(1, 60_000), st.integers(64, 512), st.integers(1, 40),
    st.integers(1, 9),
)  # fmt: skip
def test_tasks_cover_every_unit_once_and_repeat_few_windows(
    height: int, width: int, crop: int, shards: int, workers: int
) -> None:
    plan = plan_units(Lattice(height, width, crop, crop // 4), 8)
    found = [units_of(plan, Shard(i, shards)) for i in range(1, shards + 1)]
    assert sorted(n for own in found for n in own) == list(range(len(plan)))
    tasks = [t for own in found for t in cut_tasks(plan, own, workers=workers, shards=shards)]
    assert sum(t.height * t.width for t in tasks) == height * width
    assert all(plan.unit_at(t.row, t.col).row == t.row for t in tasks)
    assert plan.windows(tasks) <= (1 + units.MOST_TWICE) * len(plan.lattice)


def test_work_is_cut_evenly_and_the_largest_comes_first() -> None:
    plan = UnitPlan(Lattice(40_000, 4000, 256, 32), 2048, 4096)
    tasks = cut_tasks(plan, range(len(plan)), workers=2)
    assert len(tasks) >= 2
    rows = [task.height for task in tasks]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] - rows[-1] <= 2 * 2048
    assert cut_tasks(plan, range(len(plan))) == plan.runs()
    assert cut_tasks(plan, [], workers=2) == []
    assert [len(units_of(plan, Shard(i, 2))) for i in (1, 2)] == [10, 10]


def test_a_scene_of_one_unit_is_not_cut() -> None:
    plan = plan_units(Lattice(2000, 2000, 256, 64), 8)
    assert cut_tasks(plan, {0}, workers=4) == plan.runs()
    assert units_of(plan, Shard(2, 2)) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/3", r"shard is '0/3'; allowed are 1/3 to 3/3"),
        ("4/3", r"shard is '4/3'; allowed are 1/3 to 3/3"),
        ("1/0", r"shard is '1/0'; allowed are 1/1, 1/2"),
        ("a/3", r"shard is 'a/3'; give its number and how many there are, such as 2/8"),
    ],
)
def test_shards_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Shard.parse(text)
    assert str(Shard.parse("2/8")) == "2/8"  # as the message says


def test_numbers_of_workers_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="workers is 0; allowed are numbers from 1"):
        WorkerSettings(0)
    with pytest.raises(ConfigError, match="devices is 0"):
        WorkerSettings(1, 0)
    with pytest.raises(ConfigError, match="unknown engine"):
        WorkerSettings(engine="dask")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs the engine 'ray'"):
        WorkerSettings(address="x:1")


def test_the_address_of_a_cluster_may_stand_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "a:1")
    assert WorkerSettings(engine="ray").cluster == "a:1"
    assert WorkerSettings(engine="ray", address="b:2").cluster == "b:2"
    assert WorkerSettings().cluster is None
    assert not WorkerSettings(engine="ray").is_alone
    monkeypatch.delenv("RAY_ADDRESS")
    assert WorkerSettings(engine="ray").cluster is None


def test_gpus_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"has 0 CUDA devices\. Leave out --devices; --workers"):
        WorkerSettings(2, devices=2).device_names(cpu)
    assert WorkerSettings(2).device_names(cpu) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match=r"the device is 'cpu'\. Leave out one of both"):
        WorkerSettings(2, devices=2).device_names(cpu)
    assert WorkerSettings(2).device_names(cpu) == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match=r"devices is 4, .* 3 CUDA devices\. Give at most 3"):
        WorkerSettings(2, devices=4).device_names(gpu)
    assert WorkerSettings(2, devices=3).device_names(gpu) == [f"cuda:{n}" for n in (0, 1, 2) * 2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "TILE", small_units.TILE)
    monkeypatch.setattr(cog, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


def maps(folder: Path) -> dict[str, bytes]:
    """Files of a map; of prediction.json what it says of the map."""
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    record = json.loads(found["prediction.json"])
    del record["profile"]
    return found | {"prediction.json": json.dumps(record).encode()}


def predict(folder: Path, segmenter: Any = None, **options: Any) -> Any:
    """Map a scene; without a network, its bands are the logits."""
    scene = small_units.scene_of()
    predictor = small_units.predictor_of(segmenter or small_units.Deadly(scene.modalities))
    return predictor.predict(scene, folder, scheme=SCHEME, **options)


@pytest.mark.usefixtures("small")
def test_shards_make_the_same_map_and_the_last_assembles(tmp_path: Path) -> None:
    predict(tmp_path / "whole")
    out = tmp_path / "map"
    made = [predict(out, shard=Shard(i, 3)) for i in (3, 1, 2)]
    assert [bool(m.files) for m in made] == [False, False, True]
    assert [m.waits_for > 0 for m in made] == [True, True, False]
    assert maps(out) == maps(tmp_path / "whole")
    assert not (out / "units").exists()
    before = (out / "prediction.json").read_bytes()
    (out / "item.json").write_text("{}")
    beside = Beside(("item.json", "preview.png"), lambda _: ())
    again = predict(out, shard=Shard(1, 3), beside=beside)
    assert again.beside == (out / "item.json",)  # a picture it does not have
    assert again.was_there
    assert again.class_map == out / "class_map.tif"
    assert (out / "prediction.json").read_bytes() == before


@pytest.mark.usefixtures("small")
def test_without_shard_all_that_is_left_is_done(tmp_path: Path) -> None:
    predict(tmp_path / "whole")
    predict(tmp_path / "map", shard=Shard(2, 3))
    assert predict(tmp_path / "map", resume=True).files
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_a_damaged_unit_of_another_shard_is_found_and_done_again(tmp_path: Path) -> None:
    predict(tmp_path / "whole")
    out = tmp_path / "map"
    predict(out, shard=Shard(1, 2))
    unit = out / "units" / "000000.confidence"
    unit.write_bytes(unit.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="unit 0 in .* is not as it was written"):
        assert predict(out, shard=Shard(2, 2)).waits_for == 1
    with pytest.warns(UserWarning, match="unit 0 in .* is not as it was written"):
        assert predict(out, shard=Shard(1, 2)).files
    assert maps(out) == maps(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_a_shard_of_another_map_is_refused(tmp_path: Path) -> None:
    scene = small_units.scene_of()
    predict(tmp_path, shard=Shard(1, 2))
    other = small_units.predictor_of(small_units.Deadly(scene.modalities), overlap=4)
    with pytest.raises(OutputError, match=r"differs in: windows\. .* delete '.*units' to begin"):
        other.predict(scene, tmp_path, scheme=SCHEME, shard=Shard(2, 2))
    shutil.rmtree(tmp_path / "units")  # as the message says
    assert other.predict(scene, tmp_path, scheme=SCHEME, shard=Shard(2, 2)).waits_for


@pytest.mark.usefixtures("small")
def test_shards_have_pixel_values_of_one_kind(tmp_path: Path) -> None:
    scheme = ClassScheme(SCHEME.names, codes=((1,), (2,), (3,)))
    scene = small_units.scene_of()
    predictor = small_units.predictor_of(small_units.Deadly(scene.modalities))
    predictor.predict(scene, tmp_path, scheme=scheme, shard=Shard(1, 2), values="code")
    with pytest.raises(OutputError, match=r"differs in: values\. "):
        predictor.predict(scene, tmp_path, scheme=scheme, shard=Shard(2, 2), values="index")


@pytest.mark.usefixtures("small")
def test_a_finished_map_of_others_or_without_its_files_is_not_there(tmp_path: Path) -> None:
    for number in (1, 2):
        predict(tmp_path, shard=Shard(number, 2))
    scene = small_units.scene_of()
    other = small_units.predictor_of(small_units.Deadly(scene.modalities), overlap=4)
    assert other.predict(scene, tmp_path, scheme=SCHEME, shard=Shard(1, 2)).waits_for
    shutil.rmtree(tmp_path / "units")
    (tmp_path / "confidence.tif").unlink()
    assert predict(tmp_path, shard=Shard(1, 2)).waits_for


@pytest.mark.usefixtures("small")
def test_a_shard_that_fails_leaves_the_units_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DataError("broken raster")

    predict(tmp_path, shard=Shard(1, 2))
    before = {path.name for path in (tmp_path / "units").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(MapJob, "commit", fail)
        with pytest.raises(DataError, match="broken raster"):
            predict(tmp_path, shard=Shard(2, 2))
    assert {path.name for path in (tmp_path / "units").iterdir()} == before
    assert predict(tmp_path, shard=Shard(2, 2)).files


def test_a_folder_is_here_by_what_it_says_of_the_map(tmp_path: Path) -> None:
    plan = UnitPlan(Lattice(64, 64, 32, 8), 64, 64)
    job = MapJob(tmp_path, plan, (), {"model": "a"})
    assert not job.is_here()
    job.begin()
    assert MapJob(tmp_path, plan, (), {"model": "a"}).is_here()
    assert not MapJob(tmp_path, plan, (), {"model": "b"}).is_here()


@pytest.mark.usefixtures("small")
def test_a_shard_that_a_full_disk_stopped_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terrafuse.prediction import products

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    predict(tmp_path / "whole")
    predict(tmp_path / "map", shard=Shard(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(products, "assemble", full)
        with pytest.raises(OutputError, match=r"No space left .*kept; then run it again$"):
            predict(tmp_path / "map", shard=Shard(2, 2))
    assert predict(tmp_path / "map", shard=Shard(2, 2)).files
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_what_cannot_be_sent_to_processes_is_named_and_one_process_maps_it(
    tmp_path: Path,
) -> None:
    segmenter = small_units.Deadly(small_units.scene_of().modalities)
    segmenter.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"^Deadly cannot be sent .*lambda.* --workers 1$"):
        predict(tmp_path / "map", segmenter, workers=WorkerSettings(2))
    assert predict(tmp_path / "map", segmenter, workers=WorkerSettings(1)).files


@pytest.mark.usefixtures("small")
def test_of_two_that_assemble_one_may_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finishes while the first one assembles, and removes the units."""
    from terrafuse.prediction import products

    predict(tmp_path / "whole")
    out = tmp_path / "map"
    predict(out, shard=Shard(1, 2))
    assemble = products.assemble

    def overtaken(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(products, "assemble", assemble)
        assert predict(out, shard=Shard(1, 2)).files
        assemble(*args, **kwargs)

    monkeypatch.setattr(products, "assemble", overtaken)
    assert predict(out, shard=Shard(2, 2)).was_there
    assert maps(out) == maps(tmp_path / "whole")
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_shards_share_a_folder_and_nothing_else_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with claimed(tmp_path, "predict", part="1/2"):
        for part, held in (("2/2", None), ("1/2", "predict --shard 1/2"), (None, "--shard 1/2")):
            queue = context.SimpleQueue()
            process = context.Process(target=_claim, args=(tmp_path, part, queue))
            process.start()
            found = queue.get()
            process.join()
            assert (held in found) if held else found == "", found
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, "predict"):
        queue = context.SimpleQueue()
        process = context.Process(target=_claim, args=(tmp_path, "1/2", queue))
        process.start()
        assert "is in use by terrafuse predict (process" in queue.get()
        process.join()


def test_the_lock_of_a_killed_shard_does_not_stay(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_with, args=(tmp_path,))
    process.start()
    process.join()
    assert [p.name for p in tmp_path.iterdir()] == [".1-of-2.shard.terrafuse.lock"]
    with claimed(tmp_path, "predict"):
        pass
    assert list(tmp_path.iterdir()) == []


def _claim(folder: Path, part: str | None, queue: Any) -> None:
    try:
        with claimed(folder, "predict", part=part):
            queue.put("")
    except OutputError as error:
        queue.put(str(error))


def _die_with(folder: Path) -> None:
    with claimed(folder, "predict", part="1/2"):
        os.kill(os.getpid(), signal.SIGKILL)


class InlineCrew(Crew):
    """Workers in this process; some die when they have told of the first unit of a rectangle."""

    #: How many still die so.
    deadly: ClassVar[int] = 0
    #: Raised by a worker when it is given a rectangle.
    error: ClassVar[Exception | None] = None
    #: What each warns of as it begins.
    warning: ClassVar[str] = ""
    heard: ClassVar[list[Event]] = []

    def __init__(self, order: Any, devices: Any, begin: Any, folder: Any = None) -> None:
        self.order, self.devices, self.begin = order, devices, begin
        self.queue: list[Event] = []
        self.work: dict[int, Callable[[Any], None]] = {}

    def hire(self, worker: int) -> None:
        order = pickle.loads(self.order.packed()).on(self.devices[worker])
        self.work[worker] = self.begin(order, InlineReport(self.queue, worker))
        if self.warning:
            self.queue.append(Event(worker, "warning", (self.warning, UserWarning)))
        self.queue.append(Event(worker, "ready"))

    def give(self, worker: int, task: Any) -> None:
        if self.error:
            self.queue.append(Event(worker, "failed", self.error))
            return
        before = len(self.queue)
        self.work[worker](task)
        if self.deadly:
            type(self).deadly -= 1
            self.queue[before + 1 :] = [Event(worker, "died")]

    def events(self) -> list[Event]:
        found, self.queue[:] = self.queue[:], []
        self.heard.extend(found)
        return found

    def __exit__(self, *_: Any) -> None:
        pass


class InlineReport(Report):
    def __init__(self, queue: list[Event], worker: int) -> None:
        self.queue, self.worker = queue, worker

    def __call__(self, kind: Any, value: Any = None) -> None:
        self.queue.append(Event(self.worker, kind, value))

    def count(self, done: int, _: int) -> None:
        """Every map is too small to be told of."""


@pytest.fixture
def inline(small: None, monkeypatch: pytest.MonkeyPatch) -> type[InlineCrew]:
    monkeypatch.setattr("terrafuse.prediction.workers.LocalCrew", InlineCrew)
    monkeypatch.setattr(InlineCrew, "deadly", 0)
    monkeypatch.setattr(InlineCrew, "error", None)
    monkeypatch.setattr(InlineCrew, "warning", "")
    monkeypatch.setattr(InlineCrew, "heard", [])
    return InlineCrew


def test_deaths_between_finished_units_are_borne_and_no_unit_is_done_twice(
    inline: type[InlineCrew], tmp_path: Path
) -> None:
    predict(tmp_path / "whole")
    inline.warning = "odd raster"
    inline.deadly = 5  # of two workers; as many without a unit in between would be the end
    counts: list[tuple[int, int]] = []
    with pytest.warns(UserWarning, match="odd raster") as told:
        made = predict(
            tmp_path / "map", workers=WorkerSettings(2), progress=lambda *c: counts.append(c)
        )
    assert inline.deadly == 0
    assert sum(str(own.message) == "odd raster" for own in told) == 1  # of seven workers
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
    done = [number for event in inline.heard if event.kind == "units" for number in event.value]
    assert sorted(done) == list(range(12))
    profiles = [event.value for event in inline.heard if event.kind == "result"]
    assert made.profile["windows_run"] == sum(own.windows for own in profiles) > 0
    assert counts[-1][0] == counts[-1][1]


def test_what_a_worker_fails_of_is_raised(inline: type[InlineCrew], tmp_path: Path) -> None:
    inline.error = DataError("broken raster")
    with pytest.raises(DataError, match=r"^broken raster$"):
        predict(tmp_path / "map", workers=WorkerSettings(2))
    assert not (tmp_path / "map").exists()


def test_only_workers_that_have_work_count(inline: type[InlineCrew], tmp_path: Path) -> None:
    scene = small_units.scene_of(60, 60)
    predictor = small_units.predictor_of(small_units.Deadly(scene.modalities))
    with pytest.warns(UserWarning, match="there is work for 1 of 3 workers"):
        made = predictor.predict(scene, tmp_path, scheme=SCHEME, workers=WorkerSettings(3))
    assert made.profile["workers"] == 1


def test_each_worker_has_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Process:
        def __init__(self, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
            started.append(args[2])

        def start(self) -> None:
            pass

        terminate, join, is_alive = start, lambda *_: None, lambda _: False

    crew = LocalCrew(SimpleNamespace(packed=bytes), ["cuda:0", "cuda:1"], print)  # type: ignore[arg-type]
    pipes = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process)
    monkeypatch.setattr(crew, "_context", pipes)
    with crew:
        for worker in (1, 0, 1):
            crew.hire(worker)
    assert started == ["cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it may have threads
@pytest.mark.parametrize(
    "start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
)  # a forked process has everything imported
def test_two_workers_make_the_same_map_although_one_is_killed(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context(start)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    scene = small_units.scene_of()
    predict(tmp_path / "whole", small_units.Deadly(scene.modalities))
    (tmp_path / "1.life").touch()
    deadly = small_units.Deadly(scene.modalities, tmp_path)
    counts: list[tuple[int, int]] = []
    made = predict(
        tmp_path / "map", deadly, workers=WorkerSettings(2), progress=lambda *c: counts.append(c)
    )
    assert not (tmp_path / "1.life").exists()
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
    assert made.profile["workers"] == 2
    assert counts[-1][0] == counts[-1][1]
    assert not (tmp_path / "map" / "units").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_workers_that_keep_dying_are_told_and_units_stay(tmp_path: Path) -> None:
    scene = small_units.scene_of()
    for number in range(100):
        (tmp_path / f"{number}.life").touch()
    deadly = small_units.Deadly(scene.modalities, tmp_path, after=0)
    with pytest.raises(WorkerError, match=r"4 workers died .* Use fewer --workers"):
        predict(tmp_path / "map", deadly, workers=WorkerSettings(2))
    assert predict(tmp_path / "map", deadly).files  # as the message says
