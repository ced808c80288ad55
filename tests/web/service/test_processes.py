"""The service as processes: kill -9, many clients, workers elsewhere. Slow, but for one."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from made_runs import make_run
from made_service import write_rasters
from postgres_server import postgres_server
from served_processes import Served, wait_for
from small_units import make_units_small
from terrafuse import api

SIDE, UNITS = 448, 49
JOBS = 2
FILES = ("class_map.tif", "confidence.tif", "areas.csv")
#: What is killed, and when: at the first claim, or when the job in hand has so many units.
MOMENTS = (
    ("worker", 0), ("server", 0), ("worker", 1), ("both", 3), ("server", 10),
    ("worker", 20), ("both", 30), ("server", 40), ("worker", 46), ("both", 49),
)  # fmt: skip
REQUEST = {"rasters": {"s2": "s2.tif", "s1": "s1.tif"}, "outputs": ["areas", "preview"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `rasters`, and their `map`."""
    folder = tmp_path_factory.mktemp("processes")
    run = make_run(folder)
    names = write_rasters(folder / "rasters", SIDE)
    with pytest.MonkeyPatch.context() as patch:
        make_units_small(put=patch.setattr)
        given = {name: folder / "rasters" / file for name, file in names.items()}
        api.open_model(run).predict(folder / "map", rasters=given, areas=True)
    return folder


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    return str(request.getfixturevalue("postgres_url"))


def check_map(served: Served, place: Path, id: str) -> None:
    folder = served.data / "jobs" / id
    for name in FILES:
        expected = (place / "map" / name).read_bytes()
        assert (folder / "results" / name).read_bytes() == expected, name
    assert {path.name for path in folder.iterdir()} == {"results", "log.txt"}


@pytest.mark.slow
def test_kill_9_at_ten_moments(place: Path, tmp_path: Path, url: str | None) -> None:
    with Served(place / "run", tmp_path / "data", place / "rasters", url) as served:
        ids = [served.ask("/api/jobs", REQUEST)["id"] for _ in range(JOBS)]
        killed = []
        for what, units in MOMENTS:

            def is_reached(units: int = units) -> str | None:
                rows = served.queue.page(user=None, state="running")
                return next((row.id for row in rows if row.done >= units), None)

            wait_for(lambda: is_reached() or set(served.states()) == {"done"}, f"{units} units")
            killed.append((what, units, is_reached()))
            served.kill(server=what != "worker", workers=what != "server")
        wait_for(lambda: set(served.states()) <= {"done", "failed"}, "the end of all jobs")
        sys.stdout.write(f"killed: {killed}\n")
        rows = [served.queue.get(id) for id in ids]
        assert [row and (row.state, row.error) for row in rows] == [("done", None)] * JOBS
        assert sum(row.attempts for row in rows if row) > JOBS
        assert sum(id is not None for *_, id in killed) == len(MOMENTS), killed
        for id in ids:
            check_map(served, place, id)


@pytest.mark.slow
def test_fifty_clients_while_two_jobs_run(place: Path, tmp_path: Path) -> None:
    words = ("--workers", "2")
    with Served(place / "run", tmp_path / "data", place / "rasters", words=words) as served:
        wait_for(lambda: served.queue.alive_workers() == 2, "two workers")
        ids = [served.ask("/api/jobs", REQUEST)["id"] for _ in range(4)]
        seconds = asyncio.run(_poll(served, ids, clients=50))
        assert served.states() == ["done"] * 4
        for id in ids:
            check_map(served, place, id)
        p50, p95 = np.percentile(seconds, [50, 95])
        sys.stdout.write(
            f"{len(seconds)} answers; median {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms\n"
        )


async def _poll(served: Served, ids: list[str], clients: int) -> list[float]:
    """Clients ask for their job twice a second, until it is done; seconds of the answers."""
    seconds: list[float] = []
    tls = ssl.create_default_context()  # once: 50 of them would hold up the answers that are timed

    async def one(number: int) -> None:
        base = f"http://127.0.0.1:{served.port}"
        async with httpx.AsyncClient(base_url=base, timeout=30, verify=tls) as client:
            while True:
                began = time.perf_counter()
                answer = await client.get(f"/api/jobs/{ids[number % len(ids)]}")
                seconds.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer.text
                if answer.json()["state"] == "done":
                    return
                assert answer.json()["state"] in ("queued", "running"), answer.text
                await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return seconds


@pytest.mark.slow
def test_workers_on_other_machines(place: Path, tmp_path: Path, postgres_url: str) -> None:
    words = ("--no-worker",)
    data, root = tmp_path / "data", place / "rasters"
    with Served(place / "run", data, root, postgres_url, words) as served:
        id = served.ask("/api/jobs", REQUEST)["id"]
        more = ("serve-worker", str(place / "run"), "--data", str(data))
        served.processes.insert(0, served.command(*more, host="elsewhere"))

        def has_units() -> bool:
            row = served.queue.get(id)
            return row is not None and row.done >= 5

        wait_for(has_units, "five units")
        row = served.queue.get(id)
        assert row is not None
        assert row.worker.startswith("elsewhere-")
        # That machine is gone: nobody there says anything any more.
        supervisor = served.processes.pop(0)
        supervisor.kill()
        supervisor.wait()
        served.kill(server=False, workers=True)
        served.processes.insert(0, served.command(*more, host="third"))
        wait_for(lambda: served.queue.get(id).state == "done", "the end")  # type: ignore[union-attr]
        row = served.queue.get(id)
        assert row is not None
        assert row.worker.startswith("third-")
        check_map(served, place, id)


@pytest.mark.slow
def test_sqlite_is_not_shared_between_machines(place: Path, tmp_path: Path) -> None:
    words = ("--no-worker",)
    with Served(place / "run", tmp_path / "data", place / "rasters", words=words) as served:
        more = ("serve-worker", str(place / "run"), "--data", str(served.data))
        assert served.command(*more, host="elsewhere").wait(240) == 2
        assert "SQLite is not safe between machines" in served.said()


@pytest.mark.slow
def test_a_stopped_service_goes_on(place: Path, tmp_path: Path) -> None:
    with Served(place / "run", tmp_path / "data", place / "rasters") as served:
        id = served.ask("/api/jobs", REQUEST)["id"]
        wait_for(lambda: any(r.done >= 3 for r in served.queue.page(user=None)), "three units")
        served.server.terminate()
        assert served.server.wait(120) == 143
        said = "web.service.serving: | jobs are kept, and go on when the service is started again"
        assert said.partition(" | ")[2] in served.said()
        assert served.states() == ["queued"]
        assert served.worker_numbers() == []
        served.start()
        wait_for(lambda: served.states() == ["done"], "the end")
        check_map(served, place, id)
