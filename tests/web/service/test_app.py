"""The service over HTTP: from a request to the bytes of `predict`, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rasterio

from made_runs import make_run
from made_service import (
    MadeService,
    act_at_window,
    made_service,
    make_worker,
    write_rasters,
    write_vrt,
)
from small_units import make_units_small
from terrafuse import api
from terrafuse.web.access.guard import SECURITY_HEADERS
from terrafuse.web.access.tokens import add_token, remove_token
from terrafuse.web.service.events import Watch

SIDE = 192  # 3 × 3 units of 64


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and `rasters`."""
    folder = tmp_path_factory.mktemp("service")
    make_run(folder)
    write_rasters(folder / "rasters", SIDE)
    write_rasters(folder / "rasters" / "small", 64)
    return folder


@pytest.fixture
def served(place: Path, tmp_path: Path) -> Iterator[MadeService]:
    with made_service(place / "run", tmp_path / "data", place / "rasters") as found:
        yield found


def rasters(folder: str = "") -> dict[str, str]:
    return {"s2": f"{folder}s2.tif", "s1": f"{folder}s1.tif"}


def expected_map(place: Path, out: Path) -> Path:
    api.open_model(place / "run").predict(
        out,
        rasters={name: place / "rasters" / file for name, file in rasters().items()},
        areas=True,
    )
    return out


def test_a_job_has_the_bytes_of_predict(served: MadeService, place: Path, tmp_path: Path) -> None:
    id = served.submit(
        rasters=rasters(), outputs=["preview", "areas", "polygons"], title="Wet places"
    )
    job = served.job(id)
    assert (job["state"], job["user"], job["title"]) == ("queued", "local", "Wet places")
    assert job["model"] == "run"
    assert "has no results yet" in served.error(
        served.client.get(f"/api/jobs/{id}/results/class_map.tif"), 409
    )
    assert served.worker.run_once()
    assert not served.worker.run_once()
    job = served.job(id)
    assert (job["state"], job["error"], job["done"], job["total"]) == ("done", None, 1, 1)
    sizes = {file["name"]: file["bytes"] for file in job["results"]}
    assert {"class_map.tif", "confidence.tif", "areas.csv", "preview.png"} < set(sizes)
    expected = expected_map(place, tmp_path / "map")
    for name in ("class_map.tif", "confidence.tif", "areas.csv", "preview.png"):
        answer = served.client.get(f"/api/jobs/{id}/results/{name}")
        assert answer.content == (expected / name).read_bytes(), name
        assert len(answer.content) == sizes[name]
    assert job["tilejson"] == f"/api/jobs/{id}/tilejson.json"
    assert "polygons.gpkg" in sizes


def test_parts_of_results(served: MadeService) -> None:
    id = served.submit(rasters=rasters("small/"), outputs=[])
    served.worker.run_once()
    address = f"/api/jobs/{id}/results/class_map.tif"
    whole = served.client.get(address).content
    part = served.client.get(address, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole[8:16])
    assert served.client.get(address, headers={"Range": "bytes=-4"}).content == whole[-4:]
    beyond = served.client.get(address, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416
    assert served.client.head(address).headers["content-length"] == str(len(whole))
    names = [file["name"] for file in served.job(id)["results"]]
    assert "preview.png" not in names
    for name in ("../log.txt", "..%2flog.txt", "%2e%2e/log.txt", "log.txt", "nothing.tif"):
        answer = served.client.get(f"/api/jobs/{id}/results/{name}")
        assert answer.status_code in (404, 405), name
        assert "error" in answer.json()


def test_nothing_of_the_server_is_told(served: MadeService, place: Path) -> None:
    id = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    texts = [
        served.client.get(address).text
        for address in (
            f"/api/jobs/{id}", f"/api/jobs/{id}/log", "/api/models", "/api/jobs", "/metrics",
            f"/api/jobs/{id}/results/item.json", f"/api/jobs/{id}/results/prediction.json",
        )
    ]  # fmt: skip
    assert "attempt 1 begins, by worker" in texts[1]
    assert "done in" in texts[1]
    for text in texts:
        assert str(place) not in text
        assert str(served.service.settings.data) not in text
        assert "model.safetensors" not in text


def test_a_failing_job_says_why_in_the_users_words(served: MadeService, place: Path) -> None:
    write_rasters(place / "rasters" / "gone", 64)
    id = served.submit(rasters=rasters("gone/"))
    (place / "rasters" / "gone" / "s1.tif").unlink()
    served.worker.run_once()
    job = served.job(id)
    assert job["state"] == "failed"
    assert "'gone/s1.tif'" in job["error"]
    assert str(place) not in job["error"]
    write_rasters(place / "rasters" / "gone", 64)
    assert served.client.post(f"/api/jobs/{id}/resume").json()["state"] == "queued"
    served.worker.run_once()
    assert (served.job(id)["state"], served.job(id)["attempts"]) == ("done", 2)


def test_cancelled_in_the_middle_and_resumed_with_kept_units(
    served: MadeService, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_units_small(put=monkeypatch.setattr)
    id = served.submit(rasters=rasters(), outputs=["areas", "preview"])
    with monkeypatch.context() as patch:
        act_at_window(patch.setattr, 60, lambda: served.client.post(f"/api/jobs/{id}/cancel"))
        served.worker.run_once()
    job = served.job(id)
    assert job["state"] == "cancelled"
    assert 0 < job["done"] < job["total"] == 9
    units = served.service.folders.job(id) / "work-1" / "units"
    kept = {path.name: path.read_bytes() for path in units.glob("0*.json")}
    assert len(kept) == job["done"]
    windows: list[int] = []
    with monkeypatch.context() as patch:
        act_at_window(patch.setattr, 1, lambda: windows.append(1))
        served.client.post(f"/api/jobs/{id}/resume")
        served.worker.run_once()
    job = served.job(id)
    assert (job["state"], job["done"], job["attempts"]) == ("done", 9, 2)
    expected = expected_map(place, tmp_path / "map")
    for name in ("class_map.tif", "confidence.tif", "areas.csv"):
        assert (served.service.folders.results(id) / name).read_bytes() == (
            expected / name
        ).read_bytes()


def test_a_worker_that_loses_its_job_leaves_it_to_the_other(
    served: MadeService, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one falls silent in the middle; the second one makes the map meanwhile."""
    make_units_small(put=monkeypatch.setattr)
    other = make_worker(served.service, "other")
    id = served.submit(rasters=rasters(), outputs=["areas"])

    def overtake() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("terrafuse.web.service.jobs.now", lambda: 9e9)
            served.service.keep_order()
            assert other.run_once()

    act_at_window(monkeypatch.setattr, 60, overtake)
    served.worker.run_once()
    other.database.close()
    job = served.job(id)
    assert (job["state"], job["attempts"]) == ("done", 2)
    log = served.client.get(f"/api/jobs/{id}/log").text
    assert "worker has lost the job" in log
    left = {path.name for path in served.service.folders.job(id).iterdir()}
    assert left == {"results", "log.txt"}
    expected = expected_map(place, tmp_path / "map")
    assert (served.service.folders.results(id) / "class_map.tif").read_bytes() == (
        expected / "class_map.tif"
    ).read_bytes()


def test_events_of_a_job_and_coming_back(served: MadeService) -> None:
    id = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    events = read_events(served, id)
    assert [event.get("event") for event in events] == [None, "end"]
    job = json.loads(events[0]["data"])
    assert (job["state"], job["id"]) == ("done", id)
    last = events[0]["id"]
    assert [e.get("event") for e in read_events(served, id, last)] == ["end"], "nothing new"
    earlier = str(int(last) - 1)
    assert [e["id"] for e in read_events(served, id, earlier)] == [last, last]
    assert len(read_events(served, id, "no number")) == 2
    assert "there is no job" in served.error(served.client.get("/api/jobs/0/events"), 404)


def read_events(served: MadeService, id: str, last: str | None = None) -> list[dict[str, str]]:
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = served.client.get(f"/api/jobs/{id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            events.append(fields)
    return events


def test_a_deleted_job_leaves_nothing(served: MadeService) -> None:
    id = served.submit(rasters=rasters("small/"))
    assert "cancel it before" in served.error(served.client.delete(f"/api/jobs/{id}"), 409)
    served.worker.run_once()
    assert served.service.folders.job(id).is_dir()
    assert served.client.delete(f"/api/jobs/{id}").status_code == 204
    assert list(served.service.folders.jobs.iterdir()) == []
    assert served.client.get(f"/api/jobs/{id}").status_code == 404


def test_results_that_have_gone_are_no_fault_of_the_service(
    served: MadeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    address = f"/api/jobs/{id}/results/class_map.tif"
    folder = served.service.folders.results(id)
    assert served.client.head(address).status_code == 200
    # Removed between the look for it and its first byte.
    original = served.service.finished

    def remove(id: str, user: Any) -> Path:
        found = original(id, user)
        (folder / "class_map.tif").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(served.service, "finished", remove)
    for headers in ({}, {"Range": "bytes=0-9"}):
        error = served.error(served.client.get(address, headers=headers), 404)
        assert (
            error
            == f"result 'class_map.tif' of job {id} is not there any more. Submit the job again"
        )
    assert served.client.get(address.replace("class_map", "confidence")).status_code == 200


def test_the_viewer_tells_no_path_of_the_server(served: MadeService, place: Path) -> None:
    write_rasters(place / "rasters" / "short", 64)
    id = served.submit(rasters=rasters("short/"), title="Wet places")
    served.worker.run_once()
    (place / "rasters" / "short" / "s1.tif").unlink()
    address = served.job(id)["view"]
    index = served.client.get(f"{address}index.json").json()
    assert index["title"] == "Wet places"
    (entry,) = index["views"]
    served.client.post(address + entry["make"])
    view = wait_for_view(served, address, entry)
    assert any("s1.tif" in note for note in view["notes"])
    shutil.rmtree(served.service.folders.results(id))
    texts = [json.dumps(view)]
    for path in ("pixel?row=1&col=1", "rasters/class_map.tif", "why?row=1&col=1"):
        answer = served.client.get(f"{address}v/{entry['id']}/{path}")
        assert answer.status_code in (400, 404), path
        texts.append(answer.text)
    again = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    shutil.rmtree(served.service.folders.results(again))
    texts.append(served.client.get(f"/view/{again}/index.json").text)
    assert "does not exist" in texts[-1]
    for text in texts:
        assert str(place) not in text
        assert str(served.service.settings.data) not in text
    assert "unknown scene" in served.error(served.client.get(f"{address}v/x/view.json"), 404)


def test_what_was_put_in_a_rasters_place_is_not_read(
    served: MadeService, place: Path, tmp_path: Path
) -> None:
    """A VRT or a link could name any file of the machine."""
    secret = tmp_path / "secret"
    write_rasters(secret, 64)
    folder = place / "rasters" / "swapped"
    vrt = write_vrt(secret / "s2.tif")
    for swap, said in (
        (lambda path: path.write_bytes(vrt.read_bytes()), "is none of the formats"),
        (lambda path: path.symlink_to(secret / "s2.tif"), "has become a link since"),
    ):
        write_rasters(folder, 64)
        id = served.submit(rasters=rasters("swapped/"))
        (folder / "s2.tif").unlink()
        swap(folder / "s2.tif")
        served.worker.run_once()
        job = served.job(id)
        assert job["state"] == "failed"
        assert said in job["error"]
        assert "'swapped/s2.tif'" in job["error"]
        (folder / "s2.tif").unlink()
    write_rasters(folder, 64)  # as the message says
    again = served.submit(rasters=rasters("swapped/"))
    served.worker.run_once()
    assert served.job(again)["state"] == "done"


def test_ended_jobs_are_removed_after_their_days(
    served: MadeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    waiting = served.submit(rasters=rasters("small/"))
    served.service.keep_order()
    assert served.job(old)["state"] == "done"
    monkeypatch.setattr("time.time", lambda: 9e9)
    served.service.keep_order()
    assert [job["id"] for job in served.client.get("/api/jobs").json()["jobs"]] == [waiting]


def test_pages_of_jobs(served: MadeService) -> None:
    ids = [served.submit(rasters=rasters("small/")) for _ in range(3)]
    assert "'query.model'" in served.error(served.client.get("/api/jobs?model=%00"), 422)
    first = served.client.get("/api/jobs?limit=2").json()
    assert [job["id"] for job in first["jobs"]] == [ids[2], ids[1]]
    rest = served.client.get(f"/api/jobs?limit=2&cursor={first['next']}").json()
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == ([ids[0]], None)
    served.client.post(f"/api/jobs/{ids[1]}/cancel")
    waiting = served.client.get("/api/jobs?state=queued&model=run").json()["jobs"]
    assert [job["id"] for job in waiting] == [ids[2], ids[0]]


def test_a_stream_of_events_ends_with_its_token(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens.json"
    secret, _ = add_token(tokens, "ann")
    waits = []

    async def wait(*_: object) -> None:
        waits.append(1)
        assert len(waits) < 4
        if len(waits) == 2:
            remove_token(tokens, "ann")

    monkeypatch.setattr(Watch, "wait", wait)
    with made_service(
        place / "run", tmp_path / "data", place / "rasters", token=secret, tokens=tokens
    ) as served:
        id = served.submit(rasters=rasters())
        told = served.client.get(f"/api/jobs/{id}/events").text
        assert told.count("still there") == 2, "it goes on for as long as the token is there"
        assert "event: end" not in told, "the job has not ended: a page comes back, and is refused"
        served.error(served.client.get(f"/api/jobs/{id}/events"), 401)


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({}, 422, "give either 'rasters'"),
        ({"rasters": {"s2": "s2.tif"}, "item": "http://a/b.json"}, 422, "give either 'rasters'"),
        ({"model": "rum"}, 422, "unknown model 'rum'. Did you mean 'run'?"),
        ({"rasters": {"s3": "s2.tif"}}, 422, "'s3'"),
        ({"rasters": {"s2": "no.tif"}}, 422, "'no.tif' is no file in the folders"),
        ({"rasters": {"s2": "../run/a.tif"}}, 422, "'[.][.]' and names"),
        ({"rasters": {"s2": "/etc/passwd"}}, 422, "'/etc/passwd' is no file in the folders"),
        ({"rasters": {"s2": "text.tif"}}, 422, "text.tif"),
        ({"rasters": {"s2": "item.json"}}, 422, "give a STAC item as 'item'"),
        ({"rasters": {"s2": "http://a.org/b.tif"}}, 422, "nothing from host 'a.org'; allowed: no"),
        ({"rasters": {"s2": "file:///etc/passwd"}}, 422, "is no address that this service reads"),
        ({"rasters": {"s2": "/vsicurl/http://a/b.tif"}}, 422, "is no address"),
        ({"item": "http://a.org/item.json"}, 422, "nothing from host 'a.org'"),
        ({"rasters": {"s2": []}}, 422, "modality 's2' has 0 rasters"),
        ({"rasters": {"s2": "upload:0"}}, 422, "no upload"),
        ({"rasters": {"s2": "s1.tif", "s1": "s1.tif"}}, 422, "s1.tif"),
        ({"products": ["class_mop"]}, 422, "unknown product 'class_mop'. Did you mean"),
        ({"products": ["confidence"]}, 422, "add 'class_map' to 'products'"),
        ({"products": ["class_map", "class_map"]}, 422, "each once"),
        ({"tta": ["flops"]}, 422, "flops"),
        ({"crop_size": 32, "overlap": 31}, 422, "overlap"),
        ({"convert": {"s2": "much"}}, 422, "convert"),
        ({"convert": {"s9": "2"}}, 422, "'convert' names 's9'"),
        ({"priority": 11}, 422, "'priority'.*less than or equal to 10, not 11"),
        ({"crop_size": 0}, 422, "'crop_size'"),
        ({"rasters": 5}, 422, "'rasters'"),
        ({"what": 1}, 422, "'what'"),
        ({"title": "a\0b"}, 422, "'title'"),
    ],
)
def test_what_is_refused_before_it_is_queued(
    served: MadeService, place: Path, request_: dict[str, Any], status: int, message: str
) -> None:
    (place / "rasters" / "text.tif").write_text("no raster")
    (place / "rasters" / "item.json").write_text("{}")
    whole = {"rasters": rasters("small/")} | request_
    if set(request_) <= {"item"}:
        del whole["rasters"]
    error = served.error(served.client.post("/api/jobs", json=whole), status)
    assert re.search(message, error), error
    assert str(place) not in error
    assert served.client.get("/api/jobs").json()["jobs"] == []
    assert list(served.service.folders.jobs.iterdir()) == []


def test_values_of_another_scale_are_refused_with_a_remedy_that_works(
    served: MadeService, place: Path
) -> None:
    folder = place / "rasters" / "scaled"
    write_rasters(folder, 64)
    with rasterio.open(folder / "s2.tif", "r+") as file:
        file.write(file.read() / 10_000)
    wanted: dict[str, Any] = {"rasters": rasters("scaled/")}
    error = served.error(served.client.post("/api/jobs", json=wanted), 422)
    found = re.search(r'"convert": (\{[^}]*\})', error)
    assert found, error
    assert '"trust_values": true' in error
    served.submit(**wanted, convert=json.loads(found[1]))
    served.submit(**wanted, trust_values=True)
    for _ in range(2):
        served.worker.run_once()
    jobs = served.client.get("/api/jobs").json()["jobs"]
    assert [job["state"] for job in jobs] == ["done", "done"]


def test_scenes_beyond_the_limits(place: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_pixels": 64 * 64 - 1}
    with made_service(place / "run", tmp_path, place / "rasters", **settings) as served:
        error = served.error(
            served.client.post("/api/jobs", json={"rasters": rasters("small/")}), 413
        )
        assert error.startswith("the scene has 64 × 64 pixels")


def test_a_full_disk_refuses_jobs(served: MadeService, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = type(served.service.folders)
    monkeypatch.setattr(folders, "free_bytes", property(lambda _: 40 << 20))
    served.submit(rasters=rasters("small/"))
    served.submit(rasters=rasters("small/"))
    error = served.error(served.client.post("/api/jobs", json={"rasters": rasters("small/")}), 413)
    assert re.match(r"this map may need 17 MB of disk, and the service has \d MB left", error)
    assert "only 42 MB of disk are left" in served.error(served.client.get("/ready"), 503)


def test_users_see_their_own_jobs_and_have_quotas(place: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    ann, _ = add_token(tokens, "ann", max_queued=1)
    bob, _ = add_token(tokens, "bob")
    with made_service(
        place / "run", tmp_path / "data", place / "rasters", token=ann, tokens=tokens
    ) as served:
        as_bob = {"Authorization": f"Bearer {bob}"}
        own = served.submit(rasters=rasters("small/"))
        error = served.error(
            served.client.post("/api/jobs", json={"rasters": rasters("small/")}), 429
        )
        assert error.startswith("ann has 1 jobs that have not ended, and may have 1")
        urgent = {"rasters": rasters("small/"), "priority": 1}
        assert "does not allow jobs before" in served.error(
            served.client.post("/api/jobs", json=urgent), 403
        )
        other = served.client.post(
            "/api/jobs", json={"rasters": rasters("small/")}, headers=as_bob
        ).json()
        assert other["user"] == "bob"
        for verb, rest in (("GET", ""), ("GET", "/log"), ("GET", "/events"), ("DELETE", ""),
                           ("POST", "/cancel"), ("POST", "/resume")):  # fmt: skip
            answer = served.client.request(verb, f"/api/jobs/{own}{rest}", headers=as_bob)
            assert f"there is no job '{own}'" in served.error(answer, 404)
        listed = served.client.get("/api/jobs", headers=as_bob).json()["jobs"]
        assert [job["id"] for job in listed] == [other["id"]]
        for address in ("/api/jobs", "/metrics", "/api/models", "/openapi.json", "/docs"):
            answer = served.client.get(address, headers={"Authorization": ""})
            assert answer.status_code == 401, address
        assert served.client.get("/health", headers={"Authorization": ""}).status_code == 200


def test_the_card_of_a_model(served: MadeService) -> None:
    (card,) = served.client.get("/api/models").json()
    assert served.client.get("/api/models/run").json() == card
    assert card["name"] == "run"
    assert [m["name"] for m in card["modalities"]] == ["s2", "s1"]
    assert card["modalities"][0]["bands"] == ["blue", "green", "red", "nir"]
    assert card["modalities"][1]["unit"] == "db"
    assert [c["name"] for c in card["classes"]] == ["bare", "wet"]
    assert card["supports_missing"] is None
    served.worker.tell_models()
    assert served.client.get("/api/models/run").json()["supports_missing"] is True
    assert "unknown model 'rum'" in served.error(served.client.get("/api/models/rum"), 404)


def test_how_the_service_is(served: MadeService) -> None:
    assert served.client.get("/health").json()["state"] == "ok"
    assert "no worker" in served.error(served.client.get("/ready"), 503)
    served.worker.enrol()
    ready = served.client.get("/ready")
    assert (ready.status_code, ready.json()["workers"]) == (200, 1)
    id = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    served.submit(rasters=rasters("small/"))
    lines = served.client.get("/metrics").text.splitlines()
    assert 'terrafuse_jobs{state="done",model="run"} 1' in lines
    assert "terrafuse_queue_length 1" in lines
    assert "terrafuse_workers 1" in lines
    assert "terrafuse_units_total 1" in lines
    count = 'terrafuse_request_seconds_count{route="/api/jobs",status="201"} 2'
    assert count in lines
    assert not any(id in line for line in lines)
    for line in lines:  # Prometheus' grammar
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)*\})? [-+.\de]+', line)


def test_documents_name_no_other_host(served: MadeService) -> None:
    page = served.client.get("/docs").text
    assert "POST /api/jobs" in page
    assert "://" not in page
    openapi = served.client.get("/openapi.json").json()
    assert openapi["paths"]["/api/jobs"]["post"]["responses"]["4XX"]
    assert "JobRequest" in json.dumps(openapi)


def test_addresses_that_there_are_not(served: MadeService) -> None:
    assert "nothing at '/api/job'" in served.error(served.client.get("/api/job"), 404)
    assert "does not take PUT" in served.error(served.client.put("/api/jobs"), 405)
    assert "there is no job 'x'" in served.error(served.client.get("/api/jobs/x"), 404)
    broken = served.client.post("/api/jobs", content=b"{", headers={"content-type": "text/json"})
    cut_off = served.client.post(
        "/api/jobs", content=b'{"model":', headers={"content-type": "application/json"}
    )
    assert cut_off.status_code == 422
    assert "the body is no JSON at character 9: Expecting value" in cut_off.json()["error"]
    assert "is not as /openapi.json says" in served.error(broken, 422)


def test_the_viewer_on_a_finished_map(served: MadeService, place: Path) -> None:
    id = served.submit(rasters=rasters("small/"), title="Wet places")
    assert "has no results yet" in served.error(served.client.get(f"/view/{id}/"), 409)
    served.worker.run_once()
    address = served.job(id)["view"]
    assert served.client.get(address.rstrip("/"), follow_redirects=False).status_code == 307
    assert "<html" in served.client.get(address).text
    index = served.client.get(f"{address}index.json").json()
    assert index["title"] == "Wet places"
    (entry,) = index["views"]
    assert served.client.post(address + entry["make"]).status_code == 200
    view = wait_for_view(served, address, entry)
    layers = {layer["id"]: layer for layer in view["layers"]}
    assert {"s2", "s1", "class_map", "confidence"} <= set(layers)
    raster = f"{address}v/{entry['id']}/{layers['class_map']['href']}"
    whole = served.client.get(f"/api/jobs/{id}/results/class_map.tif").content
    assert served.client.get(raster, headers={"Range": "bytes=0-99"}).content == whole[:100]
    assert str(place) not in json.dumps(view)
    assert "there is no job 'x'" in served.error(served.client.get("/view/x/index.json"), 404)
    # As safe as the rest, and nobody paints there.
    assert view["labelling"] is None
    for target in ("", "index.json", "none", "v/none/view.json"):
        answer = served.client.get(address + target)
        assert dict(SECURITY_HEADERS).items() <= dict(answer.headers).items(), target
        strange = served.client.get(address + target, headers={"Host": "evil.example"})
        assert "this server is not" in served.error(strange, 421)
    assert "unknown scene 'none'" in served.error(
        served.client.get(f"{address}v/none/view.json"), 404
    )
    for labels in ("paint/0/results/labels", f"v/{entry['id']}/labels", f"v/{entry['id']}/sample"):
        served.error(served.client.put(address + labels, json={}), 404)


def test_the_viewer_names_no_path_of_the_server(served: MadeService, place: Path) -> None:
    gone = place / "rasters" / "gone"
    write_rasters(gone, 8)
    id = served.submit(rasters=rasters("gone/"))
    served.worker.run_once()
    shutil.rmtree(gone)
    address = served.job(id)["view"]
    (entry,) = served.client.get(f"{address}index.json").json()["views"]
    served.client.post(address + entry["make"])
    (note,) = wait_for_view(served, address, entry)["notes"]
    assert note.startswith("the rasters of the scene cannot be opened: ")
    assert "'gone/s2.tif'" in note
    assert str(place) not in note


def wait_for_view(served: MadeService, address: str, entry: dict[str, Any]) -> dict[str, Any]:
    while True:
        state = served.client.get(address + entry["make"]).json()
        assert not state["error"], state
        if state["state"] == "ready":
            return dict(served.client.get(address + entry["href"]).json())


def test_the_page_of_jobs(served: MadeService) -> None:
    page = served.client.get("/").text
    assert "terrafuse jobs" in page
    for name in re.findall(r'(?:src|href)="(assets/[^"]+)"', page):
        assert served.client.get(f"/{name}").status_code == 200
    listed = served.client.get("/api/files").json()
    assert [raster["path"] for raster in listed["rasters"]][:2] == ["s1.tif", "s2.tif"]


def test_tiles_of_a_job(served: MadeService) -> None:
    id = served.submit(rasters=rasters("small/"))
    served.worker.run_once()
    found = served.client.get(served.job(id)["tilejson"]).json()
    assert found["tilejson"] == "3.0.0"
    assert id in found["tiles"][0]
