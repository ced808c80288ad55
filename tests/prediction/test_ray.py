"""Workers as actors of a Ray cluster: the same bytes, also when actors or nodes are lost."""

from __future__ import annotations

import json
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import small_units
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, OutputError, WorkerError
from terrafuse.prediction import WorkerSettings, cog, ray_engine, units
from terrafuse.stopping import SIGNALS

SCHEME = ClassScheme(("a", "b", "c"))


class TaskError(Exception):
    """In the place of Ray's error of a task that could not be begun."""


class LostError(Exception):
    """In the place of Ray's error of an actor that is gone."""


class StubRay:
    """What `RayCrew` calls of Ray, in this process; a reference is what it stands for."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=LostError)

    def __init__(self, cpus: float = 2, refused: str = "") -> None:
        self.cpus, self.refused = cpus, refused
        self.started_with: dict[str, Any] = {}
        self.ready = True
        self.failure: Exception = ConnectionError("Could not connect\nlong story")

    def is_initialized(self) -> bool:
        return bool(self.started_with)

    def init(self, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does, in its own way
        if options["address"] == self.refused:
            raise self.failure
        self.started_with = options

    def shutdown(self) -> None:
        self.started_with = {}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.0}

    def put(self, order: Any) -> Any:
        return pickle.dumps(order)

    def kill(self, actor: Any) -> None:
        del actor

    def remote(self, **_: Any) -> Callable[[type], Any]:
        def actor_of(kind: type) -> Any:
            return SimpleNamespace(remote=lambda: _Remote(kind()))

        return actor_of

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return (references[:1], references[1:]) if self.ready else ([], references)

    def get(self, reference: Any) -> Any:
        return reference()


class _Remote:
    def __init__(self, actor: Any) -> None:
        self.begin = SimpleNamespace(
            remote=lambda packed, *a: lambda: actor.begin(pickle.loads(packed), *a)
        )
        self.map = SimpleNamespace(remote=lambda *a: lambda: actor.map(*a))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "TILE", small_units.TILE)
    monkeypatch.setattr(cog, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def predict(folder: Path, segmenter: Any = None, **options: Any) -> Any:
    scene = small_units.scene_of()
    predictor = small_units.predictor_of(segmenter or small_units.Deadly(scene.modalities))
    return predictor.predict(scene, folder, scheme=SCHEME, **options)


def maps(folder: Path) -> dict[str, bytes]:
    """Files of a map; of prediction.json what it says of the map."""
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    record = json.loads(found["prediction.json"])
    del record["profile"]
    return found | {"prediction.json": json.dumps(record).encode()}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, small: None) -> StubRay:
    stub = StubRay()
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.setattr(ray_engine, "prepare_worker", lambda _: None)  # of this process
    return stub


def test_a_cluster_that_cannot_be_used(stub: StubRay, tmp_path: Path) -> None:
    stub.refused, stub.cpus = "far:6379", 2
    before = [signal.getsignal(number) for number in SIGNALS]
    crew = WorkerSettings(2, engine="ray", address="far:6379")
    with pytest.raises(
        ConfigError, match=r"'far:6379' cannot be used: Could not connect\. Give the --ray-address"
    ):
        predict(tmp_path / "map", workers=crew)
    stub.failure = Exception("The current node timed out during startup.")
    with pytest.raises(ConfigError, match=r"cannot be used: The current node timed out"):
        predict(tmp_path / "map", workers=crew)
    with pytest.raises(ConfigError, match=r"has 2 CPUs, and 3 workers need 3\. Give fewer --work"):
        predict(tmp_path / "map", workers=WorkerSettings(3, engine="ray"))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not stub.is_initialized()
    assert not (tmp_path / "map").exists()
    # as the messages say: fewer workers, a cluster that runs, or this machine alone
    assert predict(
        tmp_path / "a", workers=WorkerSettings(2, engine="ray", address="near:6379")
    ).files
    assert predict(tmp_path / "b", workers=WorkerSettings(2, engine="ray")).files
    assert maps(tmp_path / "a") == maps(tmp_path / "b")


def test_what_a_node_cannot_do_is_said(
    stub: StubRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = WorkerSettings(2, engine="ray")
    with monkeypatch.context() as patch:
        patch.setattr("terrafuse.prediction.job.MapJob.is_here", lambda _: False)
        with pytest.raises(
            OutputError, match=r"does not see '.*units'\. Choose an --out on a disk"
        ):
            predict(tmp_path / "map", workers=crew)

    def lacking(_: Any) -> None:
        raise TaskError("trace\nModuleNotFoundError: No module named 'terrafuse'")

    with monkeypatch.context() as patch:
        patch.setattr(stub, "get", lacking)
        with pytest.raises(
            WorkerError, match=r"cannot map: ModuleNotFoundError: .*'terrafuse'\. Install the same"
        ):
            predict(tmp_path / "map", workers=crew)
    assert not stub.is_initialized()
    assert predict(tmp_path / "map", workers=crew).files  # with both as the messages say


def test_actors_that_get_no_place_are_not_waited_for_for_ever(
    stub: StubRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.ready = False
    monkeypatch.setattr(ray_engine, "_START_SECONDS", 0)
    with pytest.raises(
        WorkerError, match=r"no worker .* started for \d+ s; of its 2 CPUs 0 are free\. End what"
    ):
        predict(tmp_path / "map", workers=WorkerSettings(2, engine="ray"))
    stub.ready = True  # as after other jobs have ended
    assert predict(tmp_path / "map", workers=WorkerSettings(2, engine="ray")).files


def test_a_lost_actor_costs_its_units_only(stub: StubRay, tmp_path: Path) -> None:
    """It is lost when its rectangle is finished, before it could say so."""
    predict(tmp_path / "whole")
    get, calls = stub.get, []

    def losing(reference: Any) -> Any:
        reports = get(reference)
        calls.append(reports)
        if len(calls) == 3:
            raise LostError
        return reports

    stub.get = losing  # type: ignore[method-assign]
    predict(tmp_path / "map", workers=WorkerSettings(2, engine="ray"))
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
    done = [n for reports in calls for kind, value in reports if kind == "units" for n in value]
    assert sorted(done) == sorted(set(done))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, small: None) -> Iterator[Any]:
    """The package; it is not connected to anything before or afterwards."""
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    small_units.show_actors_the_code(monkeypatch)
    yield ray
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_two_actors_make_the_same_map_although_one_is_killed(tmp_path: Path) -> None:
    scene = small_units.scene_of()
    predict(tmp_path / "whole")
    (tmp_path / "1.life").touch()
    deadly = small_units.Deadly(scene.modalities, tmp_path)
    before = [signal.getsignal(number) for number in SIGNALS]
    made = predict(tmp_path / "map", deadly, workers=WorkerSettings(2, engine="ray"))
    assert not (tmp_path / "1.life").exists()
    assert made.profile["workers"] == 2
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
    assert not (tmp_path / "map" / "units").exists()


@pytest.mark.slow
def test_a_node_that_is_removed_costs_its_units_only(ray: Any, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    scene = small_units.scene_of()
    network = small_units.network_of(scene)
    predict(tmp_path / "whole", network)
    one = {"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=one)
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        left = [node]

        def remove(*_: int) -> None:
            if left:
                cluster.remove_node(left.pop(), allow_graceful=False)

        crew = WorkerSettings(2, engine="ray", address=cluster.address)
        predict(tmp_path / "map", network, workers=crew, progress=remove)
        assert not left
    finally:
        cluster.shutdown()
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
