"""The queue by hand, in SQLite, and in PostgreSQL where it is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_server import postgres_server
from terrafuse.errors import ConfigError, OutputError
from terrafuse.web.access.tokens import User
from terrafuse.web.refusals import Refusal
from terrafuse.web.service import database as tables
from terrafuse.web.service import jobs
from terrafuse.web.service.database import Database
from terrafuse.web.service.jobs import (
    MOST_DEATHS,
    MOST_SILENCES,
    Claim,
    Queue,
    find_row,
    to_message,
)
from terrafuse.web.service.messages import JobRequest, ResultFile

MODELS = ["flood"]
WHERE = {"host": "here", "boot": "1", "pid": 1, "started": "1"}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "postgres":
        found = Database(request.getfixturevalue("postgres_url"))
        with found.writing() as db:
            for table in (tables.JOBS, tables.USERS, tables.WORKERS):
                db.execute(table.delete())
    else:
        found = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    yield found
    found.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(Queue, "_now", lambda self, db: found.now)
    return found


@pytest.fixture
def queue(database: Database, clock: Clock) -> Queue:
    del clock
    return Queue(database, lease_seconds=30)


def add(
    queue: Queue, user: str = "ann", *, priority: int = 0, most: int = 100, running: int = 100
) -> str:
    request = JobRequest(rasters={"s2": "a.tif"}, priority=priority)
    row = queue.add(
        request, user=User(user), model="flood", rasters={"s2": ["/data/a.tif"]},
        max_queued=most, max_running=running,
    )  # fmt: skip
    return str(row.id)


def claimed(queue: Queue, worker: str = "w") -> Claim:
    found = queue.claim(worker, MODELS)
    assert found is not None
    return found


def state(queue: Queue, id: str) -> str:
    row = queue.get(id)
    assert row is not None
    return str(row.state)


def test_there_is_no_job_of_an_id_that_a_database_cannot_hold(queue: Queue) -> None:
    for id in ("\0", "a" * 15 + "\0", "none"):
        with pytest.raises(Refusal, match="there is no job"):
            find_row(queue, id, User("ann"))


def test_a_job_passes_through_the_states(queue: Queue, clock: Clock) -> None:
    id = add(queue)
    clock.now += 5
    claim = claimed(queue)
    assert (claim.id, claim.attempt, claim.rasters) == (id, 1, {"s2": ["/data/a.tif"]})
    assert claim.request.rasters == {"s2": "a.tif"}
    assert queue.claim("other", MODELS) is None
    assert queue.beat(claim, 3, 8) == "go on"
    clock.now += 7
    assert queue.finish(claim, [ResultFile(name="class_map.tif", bytes=9, media_type="i")], 7.0)
    row = queue.get(id)
    assert row is not None
    job = to_message(row)
    assert (job.state, job.done, job.total, job.attempts) == ("done", 8, 8, 1)
    assert job.started
    assert job.ended
    assert (job.started - job.created).seconds == 5
    assert (job.ended - job.started).seconds == 7
    assert [file.name for file in job.results] == ["class_map.tif"]
    assert job.view == f"/view/{id}/"
    assert job.tilejson is None  # no CRS
    assert (queue.counter(jobs.UNITS) >= 3, queue.counter(jobs.SECONDS) >= 7) == (True, True)


def test_priority_then_turns_of_users_then_age(queue: Queue) -> None:
    a1, a2, a3 = add(queue), add(queue), add(queue)
    b1, b2 = add(queue, "bob"), add(queue, "bob")
    c1 = add(queue, "cy")
    late = add(queue, "ann", priority=1)
    order = [claimed(queue).id for _ in range(7)]
    # The urgent one first, which was Ann's turn; then each in turn.
    assert order == [late, b1, c1, a1, b2, a2, a3]
    assert queue.claim("w", MODELS) is None


def test_a_user_runs_no_more_jobs_than_allowed(queue: Queue) -> None:
    first, second = (add(queue, running=1) for _ in range(2))
    other = add(queue, "bob")
    claim = claimed(queue)
    assert (claim.id, claimed(queue).id) == (first, other)
    assert queue.claim("w", MODELS) is None, "Ann has one running"
    queue.stopped(claim)
    assert claimed(queue).id == second


def test_a_user_queues_no_more_jobs_than_allowed(queue: Queue) -> None:
    add(queue, most=2)
    claim = claimed(queue)
    ended = add(queue, most=2)
    with pytest.raises(Refusal, match="ann has 2 jobs that have not ended, and may have 2") as e:
        add(queue, most=2)
    assert e.value.status == 429
    add(queue, "bob", most=2)
    queue.cancel(ended)
    add(queue, most=2)
    with pytest.raises(Refusal, match="may have 2"):
        queue.resume(ended, max_queued=2)
    queue.fail(claim, "no")
    assert queue.resume(ended, max_queued=2).state == "queued"


def test_workers_get_jobs_of_their_models_only(queue: Queue) -> None:
    add(queue)
    assert not queue.has_waiting(["fire"])
    assert queue.claim("w", ["fire"]) is None
    assert queue.has_waiting(["fire", "flood"])
    assert queue.claim("w", ["fire", "flood"]) is not None


def test_no_two_workers_get_one_job(queue: Queue) -> None:
    ids = {add(queue, user) for user in ("ann", "bob", "cy") for _ in range(5)}
    got: list[str] = []
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            while (claim := queue.claim(name, MODELS)) is not None:
                got.append(claim.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(got) == sorted(ids)


def test_a_silent_worker_loses_its_job_and_changes_nothing(queue: Queue, clock: Clock) -> None:
    id = add(queue)
    old = claimed(queue, "old")
    clock.now += 29
    assert queue.beat(old, 1, 9) == "go on"
    clock.now += 29
    queue.expire()
    assert state(queue, id) == "running"
    clock.now += 2
    queue.expire()
    assert state(queue, id) == "queued"
    new = claimed(queue, "old")  # even of the same name
    assert new.attempt == 2
    assert queue.beat(old, 2, 9) == "lost"
    assert not queue.finish(old, [], 1.0)
    assert not queue.fail(old, "no")
    assert not queue.stopped(old)
    queue.give_back(old)
    assert state(queue, id) == "running"
    assert queue.beat(new, 2, 9) == "go on"


def test_a_clock_that_is_set_back_keeps_no_job(queue: Queue, clock: Clock) -> None:
    queue.enrol("w", MODELS, WHERE)
    id = add(queue)
    claim = claimed(queue)
    clock.now -= 86_400
    assert queue.expire() == []
    assert queue.beat(claim, 0, None) == "go on"
    clock.now += 29
    queue.expire()
    assert (state(queue, id), queue.alive_workers()) == ("running", 1)
    clock.now += 2
    queue.expire()
    assert (state(queue, id), queue.alive_workers()) == ("queued", 0)
    assert queue.beat(claim, 1, 2) == "lost"
    # A worker that falls silent before it has told the new time.
    silent = claimed(queue, "v")
    clock.now -= 86_400
    queue.expire()
    clock.now += 31
    queue.expire()
    assert state(queue, id) == "queued"
    assert queue.beat(silent, 1, 2) == "lost"


def test_a_job_that_kills_its_worker_three_times_fails(queue: Queue) -> None:
    id = add(queue)
    for number in range(MOST_DEATHS):
        assert state(queue, id) == "queued"
        claimed(queue, f"w{number}")
        failed = queue.bury(f"w{number}", how="it was killed by SIGKILL")
    assert failed == [id]
    row = queue.get(id)
    assert row is not None
    assert row.state == "failed"
    assert "died 3 times" in row.error
    assert "SIGKILL" in row.error
    again = queue.resume(id, max_queued=9)
    assert (again.deaths, again.error) == (0, None)


def test_deaths_count_only_without_a_new_unit(queue: Queue) -> None:
    id = add(queue)
    for number in range(3 * MOST_DEATHS):
        claim = claimed(queue, f"w{number}")
        if number % 2:
            assert queue.beat(claim, number, 99) == "go on"
        queue.bury(f"w{number}", how="it exited with 1")
    assert state(queue, id) == "queued"


def test_a_job_whose_workers_fall_silent_again_and_again_fails(queue: Queue, clock: Clock) -> None:
    id = add(queue)
    for _ in range(MOST_SILENCES - 1):
        claimed(queue)
        clock.now += 31
        assert queue.expire() == []
    claimed(queue)
    clock.now += 31
    assert queue.expire() == [id]
    assert state(queue, id) == "failed"


def test_cancelling(queue: Queue, clock: Clock) -> None:
    waiting, running, lost = add(queue), add(queue), add(queue)
    assert queue.cancel(waiting).state == "cancelled"
    claim = claimed(queue)
    assert claim.id == running
    assert queue.cancel(running).state == "cancelling"
    assert queue.cancel(running).state == "cancelling"
    assert queue.beat(claim, 1, 2) == "cancel"
    with pytest.raises(Refusal, match="is cancelling; cancel it before"):
        queue.delete(running)
    assert queue.stopped(claim)
    assert state(queue, running) == "cancelled"
    claimed(queue, "gone")
    queue.cancel(lost)
    clock.now += 31
    queue.expire()
    assert state(queue, lost) == "cancelled", "nobody is left to stop it"
    with pytest.raises(Refusal, match="there is nothing to cancel") as e:
        queue.cancel(lost)
    assert e.value.status == 409
    again = queue.resume(running, max_queued=9)
    assert (again.state, again.error, again.ended) == ("queued", None, None)
    assert claimed(queue).attempt == 2
    queue.delete(lost)
    assert queue.get(lost) is None


def test_a_job_is_given_back_without_blame(queue: Queue) -> None:
    id = add(queue)
    for _ in range(2 * MOST_DEATHS):
        queue.give_back(claimed(queue))
    assert state(queue, id) == "queued"
    claim = claimed(queue)
    queue.cancel(id)
    queue.give_back(claim)
    assert state(queue, id) == "cancelled"


def test_each_change_has_a_revision_of_its_own(queue: Queue) -> None:
    id = add(queue)
    seen = [queue.revisions([id])[id]]
    claim = claimed(queue)
    seen.append(queue.revisions([id])[id])
    for done in (0, 0, 1, 1, 2):
        queue.beat(claim, done, 2)
        seen.append(queue.revisions([id])[id])
    queue.finish(claim, [], 1.0)
    seen.append(queue.revisions([id, "none"])[id])
    assert seen == [1, 2, 3, 3, 4, 4, 5, 6]


def test_pages_newest_first(queue: Queue) -> None:
    ids = [add(queue, user) for user in ("ann", "bob", "ann", "ann")]
    queue.cancel(ids[2])
    rows = queue.page(user="ann", limit=2)
    assert [row.id for row in rows] == [ids[3], ids[2]]
    assert [row.id for row in queue.page(user="ann", before=rows[-1].seq)] == [ids[0]]
    assert [row.id for row in queue.page(user=None, state="queued")] == [ids[3], ids[1], ids[0]]
    assert queue.page(user=None, model="fire") == []


def test_workers_that_are_heard_of(queue: Queue, clock: Clock) -> None:
    queue.enrol("w1", MODELS, WHERE)
    queue.enrol("w2", MODELS, WHERE)
    clock.now += 31
    queue.is_alive("w2")
    assert queue.alive_workers() == 1
    queue.bury("w2", how=None)
    assert queue.alive_workers() == 0
    assert [row.id for row in queue.workers()] == ["w1"]


def test_the_database_is_opened_again_and_not_by_an_older_program(
    database: Database, queue: Queue
) -> None:
    id = add(queue)
    url = database.engine.url.render_as_string(hide_password=False)
    again = Database(url)
    assert Queue(again).get(id) is not None
    again.set_fact("version", str(tables.VERSION + 1))
    with pytest.raises(OutputError, match=f"of schema {tables.VERSION + 1}.*up to 1"):
        Database(url)
    again.set_fact("version", str(tables.VERSION))
    again.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("jobs.sqlite", "is no URL; give sqlite:///FILE or postgresql"),
        ("sqlite://", "needs a file"),
        ("mysql://a:secret@b/c", "is of kind 'mysql'"),
    ],
)
def test_urls_that_are_none(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Database(url)
    assert "secret" not in str(error.value)


def test_a_database_that_does_not_answer() -> None:
    with pytest.raises(OutputError, match=r"cannot be used: .*Correct --database") as error:
        Database("postgresql://me:secret@127.0.0.1:9/none")
    assert "secret" not in str(error.value)
