"""What the service's messages say to do, done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from made_runs import make_run
from made_service import MadeService, made_service, write_rasters, write_vrt
from range_server import serving
from terrafuse.describe import memory
from terrafuse.errors import ConfigError, OutputError
from terrafuse.locking import machine
from terrafuse.web.access.tokens import User
from terrafuse.web.refusals import Refusal
from terrafuse.web.service import checks
from terrafuse.web.service import serving as running
from terrafuse.web.service.database import VERSION, Database
from terrafuse.web.service.jobs import MOST_DEATHS, MOST_SILENCES, Queue
from terrafuse.web.service.messages import JobRequest
from terrafuse.web.service.models import ModelShelf
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.workers import Supervisor

RASTERS = {"s2": "s2.tif", "s1": "s1.tif"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and `rasters`."""
    folder = tmp_path_factory.mktemp("following")
    make_run(folder)
    write_rasters(folder / "rasters", 64)
    return folder


@pytest.fixture
def served(place: Path, tmp_path: Path) -> Iterator[MadeService]:
    with made_service(place / "run", tmp_path / "data", place / "rasters") as found:
        yield found


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    found = Queue(Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))
    yield found
    found.database.close()


def refused(served: MadeService, place: str, status: int = 422, **request: Any) -> str:
    """The message of a refused job, which has the fragment of the place that is named."""
    error = served.error(served.client.post("/api/jobs", json=request), status)
    assert place.partition(" | ")[2] in error, error
    return error


def add(queue: Queue, most: int = 9) -> str:
    row = queue.add(
        JobRequest(), user=User("ann"), model="m", rasters={}, max_queued=most, max_running=9
    )
    return str(row.id)


def test_too_many_jobs(queue: Queue) -> None:
    told = "web.service.jobs:_check_quota | Wait for one, or cancel one".partition(" | ")[2]
    first, second = add(queue), add(queue)
    with pytest.raises(Refusal, match=told):
        add(queue, 2)
    queue.cancel(second)
    add(queue, 2)
    for id in (first, None):  # one ends, and is resumed while the other waits
        claim = queue.claim("w", ["m"])
        assert claim is not None
        assert id in (claim.id, None)
        queue.fail(claim, "no")
        if id is not None:
            with pytest.raises(Refusal, match=told):
                queue.resume(first, max_queued=1)
    assert queue.resume(first, max_queued=1).state == "queued"


def test_jobs_that_have_failed(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    first = "web.service.jobs:Queue.expire | Resume it when the cause is known"
    second = "web.service.jobs:Queue._blame | Give smaller windows (crop_size)"
    id = add(queue)
    now = [1e6]
    monkeypatch.setattr(Queue, "_now", lambda *_: now[0])
    for _ in range(MOST_SILENCES):
        queue.claim("w", ["m"])
        now[0] += 31
        queue.expire()
    row = queue.get(id)
    assert row
    assert first.partition(" | ")[2] in row.error
    assert queue.resume(id, max_queued=9).state == "queued"
    for _ in range(MOST_DEATHS):
        queue.claim("w", ["m"])
        queue.bury("w", how="it exited with 1")
    row = queue.get(id)
    assert row
    assert second.partition(" | ")[2] in row.error


def test_smaller_windows_are_taken(served: MadeService) -> None:
    id = served.submit(rasters=RASTERS, crop_size=16)
    served.worker.run_once()
    record = served.client.get(f"/api/jobs/{id}/results/prediction.json").json()
    assert record["windows"]["crop_size"] == 16


@pytest.mark.slow
def test_windows_beyond_the_memory(served: MadeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 400_000_000)
    id = served.submit(rasters=RASTERS, crop_size=65536)
    served.worker.run_once()
    error = served.job(id)["error"]
    found = re.search(r'Try "crop_size": (\d+), "overlap": (\d+) \(about \d+ MB\)', error)
    assert found, error
    id = served.submit(rasters=RASTERS, crop_size=int(found[1]), overlap=int(found[2]))
    served.worker.run_once()
    assert served.job(id)["state"] == "done"


def test_jobs_that_there_are_not(served: MadeService) -> None:
    place = "web.service.jobs:find_row | GET /api/jobs lists those that there are"
    id = served.submit(rasters=RASTERS)
    error = served.error(served.client.get("/api/jobs/none"), 404)
    assert place.partition(" | ")[2] in error
    listed = served.client.get("/api/jobs").json()["jobs"]
    assert [job["id"] for job in listed] == [id]


def test_a_disk_without_space(served: MadeService, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "web.service.checks:Checker.check | Ask for fewer products, or delete jobs"
    monkeypatch.setattr(checks, "_SMALL_FILES_BYTES", 0)
    folders = type(served.service.folders)
    monkeypatch.setattr(folders, "free_bytes", property(lambda _: 64 * 64 * 5))
    served.submit(rasters=RASTERS, products=["class_map"])
    many = ["class_map", "confidence"]
    refused(served, place, 413, rasters=RASTERS, products=many)
    served.worker.run_once()
    (job,) = served.client.get("/api/jobs").json()["jobs"]
    assert served.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    served.submit(rasters=RASTERS, products=many)
    refused(served, place, 413, rasters=RASTERS, products=["class_map"])


def test_rasters_that_are_named_wrongly(served: MadeService, place: Path) -> None:
    refused(served, "web.service.checks:Checker._rasters | give either 'rasters'")
    refused(served, "web.service.checks:Checker._resolve | rasters; give 1 to", rasters={"s2": []})
    served.submit(rasters={"s2": ["s2.tif"], "s1": "s1.tif"})
    with made_service(
        place / "run", served.service.settings.data / "small", place / "rasters", max_pixels=1000
    ) as small:
        refused(
            small, "web.service.checks:Checker._check_scene | Cut it into parts", 413,
            rasters=RASTERS,
        )  # fmt: skip
        write_rasters(place / "rasters" / "part", 31)
        small.submit(rasters={"s2": "part/s2.tif", "s1": "part/s1.tif"}, crop_size=16)
    served.service.queue.tell_missing("run", supports=False)
    refused(
        served, "web.service.checks:Checker._check_scene | Give rasters of all",
        rasters={"s2": "s2.tif"},
    )  # fmt: skip
    served.submit(rasters=RASTERS)


def test_outputs_need_the_class_map(served: MadeService) -> None:
    place = (
        "web.service.checks:_check_settings | add 'class_map' to 'products', or leave 'outputs' "
        "empty"
    )
    wanted: dict[str, Any] = {"rasters": RASTERS, "products": ["confidence"]}
    refused(served, place, **wanted)
    served.submit(**wanted, outputs=[])
    served.submit(rasters=RASTERS, products=["confidence", "class_map"])


def test_a_stac_item_of_an_allowed_host(place: Path, tmp_path: Path) -> None:
    not_here = "web.service.checks:Checker._find | is no raster; give a STAC item as 'item'"
    rasters = place / "rasters"
    bands = ("blue", "green", "red", "nir")
    assets = {
        "s2": {"href": "s2.tif", "bands": [{"name": band} for band in bands]},
        "s1": {"href": "s1.tif", "bands": [{"name": "vv"}]},
    }
    item = {"type": "Feature", "stac_version": "1.1.0", "id": "T32", "assets": assets}
    (rasters / "item.json").write_text(json.dumps(item))
    assets["s1"]["href"] = "http://other.example/s1.tif"
    (rasters / "elsewhere.json").write_text(json.dumps(item))
    with (
        serving(rasters) as server,
        made_service(
            place / "run", tmp_path / "data", rasters, url_hosts=(server.address,)
        ) as served,
    ):
        refused(served, not_here, rasters={"s2": server.url("item.json")})
        error = refused(served, "", item=server.url("elsewhere.json"))
        assert "reads nothing from host 'other.example'; allowed: 127.0.0.1:" in error
        assert not any("s2.tif" in path for _, path, _ in server.requests), "nothing was opened"
        by_item = served.submit(item=server.url("item.json"))
        by_address = served.submit(rasters={n: server.url(f) for n, f in RASTERS.items()})
        asked = {path.rpartition("/")[2] for _, path, _ in server.requests}
        assert asked == {"item.json", "elsewhere.json", *RASTERS.values()}, "nothing beside them"
        by_path = served.submit(rasters=RASTERS)
        for _ in range(3):
            served.worker.run_once()
        found = [
            served.client.get(f"/api/jobs/{id}/results/class_map.tif").content
            for id in (by_item, by_address, by_path)
        ]
        assert [served.job(id)["error"] for id in (by_item, by_address, by_path)] == [None] * 3
        assert found[0] == found[1] == found[2]


def test_items_name_no_files_that_could_name_others(place: Path, tmp_path: Path) -> None:
    """A VRT on a host that is allowed, which names a file of this machine."""
    rasters, secret = place / "rasters", tmp_path / "secret"
    write_rasters(secret, 64)
    (rasters / "s1.vrt").write_bytes(write_vrt(secret / "s1.tif").read_bytes())
    bands = ("blue", "green", "red", "nir")
    assets = {
        "s2": {"href": "s2.tif", "bands": [{"name": band} for band in bands]},
        "s1": {"href": "s1.vrt", "bands": [{"name": "vv"}]},
    }
    item = {"type": "Feature", "stac_version": "1.1.0", "id": "T32", "assets": assets}
    (rasters / "vrt.json").write_text(json.dumps(item))
    with (
        serving(rasters) as server,
        made_service(
            place / "run", tmp_path / "data", rasters, url_hosts=(server.address,)
        ) as served,
    ):
        error = refused(served, "", item=server.url("vrt.json"))
        assert "s1.vrt' cannot be read, or is none of the formats that are taken" in error
        refused(served, "", rasters={**RASTERS, "s1": server.url("s1.vrt")})


def test_a_modality_without_name(served: MadeService) -> None:
    claim = "web.service.checks:Checker._rasters | Name it as the model does"
    refused(served, claim, rasters={"": "s2.tif"})
    served.submit(rasters=RASTERS)


def test_databases(tmp_path: Path) -> None:
    wrong = {
        "jobs.sqlite": "web.service.database:_engine | is no URL; give sqlite:///FILE or",
        "mysql://a@b/c": "web.service.database:_engine | is of kind '{…}'; give sqlite:///FILE or",
        "postgresql://a@127.0.0.1:9/b": (
            "web.service.database:Database.__init__ | Correct --database, or start it"
        ),
    }
    for url, place in wrong.items():
        with pytest.raises((ConfigError, OutputError)) as error:
            Database(url)
        assert place.rpartition("; ")[2].rpartition(" | ")[2] in str(error.value)
    later = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    later.set_fact("version", str(VERSION + 1))
    later.close()
    place = "web.service.database:Database._migrate | or give another --database"
    with pytest.raises(OutputError, match=place.partition(" | ")[2]):
        Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    Database(f"sqlite:///{tmp_path / 'other.sqlite'}").close()


def test_a_database_that_is_gone_for_a_while(
    served: MadeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "web.service.answers:_no_database | try again in a minute"

    def fail(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "page", fail)
        answer = served.client.get("/api/jobs")
        assert place.partition(" | ")[2] in served.error(answer, 503)
        assert answer.headers["retry-after"] == "60"
    assert served.client.get("/api/jobs").status_code == 200


def test_models(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one run folder or more"):
        ModelShelf([])
    named = "web.service.models:ModelShelf.__init__ | nothing to serve: give one run folder or more"
    twice = "web.service.models:ModelShelf.__init__ | Give one of them a name: NAME="
    odd = "web.service.models:_open | Give another one: NAME="
    run = str(place / "run")
    assert named
    with pytest.raises(ConfigError, match=twice.partition(" | ")[2]):
        ModelShelf([run, run])
    (tmp_path / "a run").symlink_to(run)
    assert list(ModelShelf([run, f"other={run}"]).models) == ["run", "other"]
    copied = tmp_path / "my run"
    copied.mkdir()
    (copied / "model.json").write_text((place / "run" / "model.json").read_text())
    with pytest.raises(ConfigError, match=odd.partition(" | ")[2]):
        ModelShelf([str(copied)])
    assert list(ModelShelf([f"mine={copied}"]).models) == ["mine"]


def test_workers_elsewhere(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = "web.service.serving:run_workers | Give both the same --database postgresql://"
    folder = "web.service.serving:run_workers | Give the same as to 'terrafuse serve'"
    settings = ServiceSettings(models=(str(place / "run"),), data=tmp_path / "data")
    with pytest.raises(OutputError, match=re.escape(folder.partition(" | ")[2])):
        running.run_workers(settings, print)
    (tmp_path / "data" / "jobs").mkdir()
    own = Database(settings.database_url)
    own.set_fact(running.SERVER_HOST, "elsewhere")
    with pytest.raises(ConfigError, match=re.escape(database.partition(" | ")[2])):
        running.run_workers(settings, print)
    own.set_fact(running.SERVER_HOST, machine().host)
    own.close()
    said: list[str] = []
    for_ever = SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(running, "threading", SimpleNamespace(Event=lambda: for_ever))
    running.run_workers(replace(settings, workers=0), said.append)
    assert said == [f"0 workers map for the service of {tmp_path / 'data'}; Ctrl-C ends them"]
    assert Supervisor(settings, Queue(own)).numbers == []


def test_a_root_is_a_folder(tmp_path: Path) -> None:
    place = "web.service.settings:ServiceSettings.__post_init__ | Name one whose rasters jobs may"
    (tmp_path / "file").touch()
    for root in ("gone", "file"):
        with pytest.raises(ConfigError, match=f"--root '.*{root}' is no folder") as told:
            ServiceSettings(models=("run",), data=tmp_path, roots=(tmp_path, tmp_path / root))
        assert place.partition(" | ")[2] in str(told.value)
    assert ServiceSettings(models=("run",), data=tmp_path, roots=(tmp_path,)).roots == (tmp_path,)


def test_folders_that_there_are_not(served: MadeService) -> None:
    for path, place in {
        "none": "web.service.files:list_folder | Begin with /api/files, which lists them",
        "../run": "web.service.files:_plain | Begin with /api/files, which lists them",
    }.items():
        answer = served.client.get("/api/files", params={"path": path})
        assert place.partition(" | ")[2] in served.error(answer, 404)
    assert served.client.get("/api/files").json()["rasters"]
