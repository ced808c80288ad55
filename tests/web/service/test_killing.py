"""kill -9 of a worker at chosen moments: another one goes on, and the map has the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import children
from made_runs import make_run
from made_service import MadeService, made_service, make_worker, write_rasters
from small_units import make_units_small
from terrafuse import api
from terrafuse.web.service.folders import Folders
from terrafuse.web.service.jobs import Queue

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SIDE = 192  # 9 units
RASTERS = {"s2": "s2.tif", "s1": "s1.tif"}
FILES = ("class_map.tif", "confidence.tif", "areas.csv", "preview.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run, `rasters`, and their `map`; units are small."""
    folder = tmp_path_factory.mktemp("killing")
    run = make_run(folder)
    write_rasters(folder / "rasters", SIDE)
    with pytest.MonkeyPatch.context() as patch:
        make_units_small(put=patch.setattr)
        given = {name: folder / "rasters" / file for name, file in RASTERS.items()}
        api.open_model(run).predict(folder / "map", rasters=given, areas=True)
        yield folder


@pytest.fixture
def served(place: Path, tmp_path: Path) -> Iterator[MadeService]:
    with made_service(place / "run", tmp_path / "data", place / "rasters") as found:
        yield found


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_results_are_given() -> None:
    Folders.give = die  # type: ignore[method-assign, assignment]


def after_the_results_were_given() -> None:
    Queue.finish = die  # type: ignore[method-assign]


def at_file(number: int) -> Callable[[], None]:
    return lambda: children.kill_at_rename(number)


def work_and_die(served: MadeService, name: str, moment: Callable[[], None]) -> int:
    """Let a worker process do the next job, with its end in it; its exit code."""
    for database in (served.service.database, served.worker.database):
        database.close()  # the process gets none of these connections

    def work() -> None:
        worker = make_worker(served.service, name)
        worker.enrol()
        moment()
        worker.run_once()

    code = children.run(work)
    failed = served.service.queue.bury(name, how=None if code == 0 else f"signal {-code}")
    assert not failed
    return code


def check_map(served: MadeService, place: Path, id: str) -> None:
    job = served.job(id)
    assert (job["state"], job["error"]) == ("done", None)
    assert (job["done"], job["total"]) == (9, 9)
    folder = served.service.folders.job(id)
    for name in FILES:
        expected = (place / "map" / name).read_bytes()
        assert (folder / "results" / name).read_bytes() == expected, name
    assert {path.name for path in folder.iterdir()} == {"results", "log.txt"}
    assert not list((folder / "results").glob(".*.partial"))


@pytest.mark.parametrize(
    "moments",
    [
        (at_file(8), before_the_results_are_given, after_the_results_were_given),
        pytest.param(  # never three in a row without a new unit
            (
                *map(at_file, (1, 9, 2, 14, 3, 9, 5, 11, 6, 12)),
                before_the_results_are_given,
                after_the_results_were_given,
            ),
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_another_worker_goes_on(
    served: MadeService, place: Path, moments: tuple[Callable[[], None], ...]
) -> None:
    id = served.submit(rasters=RASTERS, outputs=["areas", "preview"])
    done = []
    for number, moment in enumerate(moments):
        assert work_and_die(served, f"w{number}", moment) == -signal.SIGKILL
        done.append(served.job(id)["done"])
        assert served.job(id)["state"] == "queued"
    served.worker.run_once()
    check_map(served, place, id)
    assert served.job(id)["attempts"] == len(moments) + 1
    assert done == sorted(done)
    sys.stdout.write(f"units that were known of at each end: {done}\n")
