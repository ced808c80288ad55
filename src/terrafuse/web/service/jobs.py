"""The queue: jobs, and who may have which when.

Every change is one transaction that names the state it expects, so that two workers never have the
same job, and a worker that has lost its job changes nothing. An attempt is known by its number: it
is part of all that a worker says.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from terrafuse.errors import cut
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import sees
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.database import FACTS, JOBS, USERS, WORKERS, Database, now
from terrafuse.web.service.messages import ENDED, Job, JobRequest, ResultFile
from terrafuse.web.service.uploads import PREFIX

JobRow = Row[Any]
_ID_BYTES = 8
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}", re.ASCII)
#: What a worker hears when it says how far it is.
Answer = Literal["go on", "cancel", "lost"]
#: So often may a job's worker die, or fall silent, without a new unit in between.
MOST_DEATHS, MOST_SILENCES = 3, 10
_HELD = ("running", "cancelling")
_WAITING = ("queued", *_HELD)
#: Facts: whether a model maps without a modality, and counters that only grow.
_MISSING = "supports_missing:"
UNITS, SECONDS = "units_done", "mapping_seconds"


@dataclass(frozen=True)
class Claim:
    """A job that a worker has.

    Args:
        attempt: Which one it is of the job, from 1.
        rasters: Modality → paths or addresses, as they were resolved.
    """

    id: str
    model: str
    worker: str
    attempt: int
    request: JobRequest
    rasters: Mapping[str, Sequence[str]]


class Queue:
    """Jobs in a database.

    Args:
        lease_seconds: How long a worker may say nothing.
    """

    def __init__(self, database: Database, lease_seconds: float = 30.0) -> None:
        self.database = database
        self.lease_seconds = lease_seconds

    def add(
        self,
        request: JobRequest,
        *,
        user: User,
        model: str,
        rasters: Mapping[str, Sequence[str]],
        max_queued: int,
        max_running: int,
        need_bytes: int = 0,
        has_crs: bool = False,
    ) -> JobRow:
        """Add a job.

        Args:
            max_queued: Of the user, jobs that have not ended.
            max_running: Of the user, jobs that run.
            need_bytes: Of disk.

        Raises:
            Refusal: The user has as many jobs as may be.
        """
        id = secrets.token_hex(_ID_BYTES)
        with self.database.deciding() as db:
            _check_quota(db, user.name, max_queued)
            self._remember_user(db, user.name, max_running)
            db.execute(
                insert(JOBS).values(
                    id=id,
                    user=user.name,
                    model=model,
                    title=request.title,
                    state="queued",
                    priority=request.priority,
                    created=self._now(db),
                    request=request.model_dump_json(),
                    rasters=json.dumps({name: list(paths) for name, paths in rasters.items()}),
                    need_bytes=need_bytes,
                    has_crs=int(has_crs),
                )
            )
            return _row(db, id)

    def get(self, id: str) -> JobRow | None:
        """A job."""
        with self.database.reading() as db:
            return db.execute(select(JOBS).where(JOBS.c.id == id)).one_or_none()

    def revisions(self, ids: Sequence[str]) -> dict[str, int]:
        """Of these jobs, which revision each is at."""
        with self.database.reading() as db:
            found = db.execute(select(JOBS.c.id, JOBS.c.revision).where(JOBS.c.id.in_(ids)))
            return {row.id: row.revision for row in found}

    def page(
        self,
        *,
        user: str | None,
        state: str | None = None,
        model: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[JobRow]:
        """Jobs, newest first.

        Args:
            user: Whose; None: everybody's.
            before: Number of the job before which they were made.
        """
        query = select(JOBS).order_by(JOBS.c.seq.desc()).limit(limit)
        for column, value in ((JOBS.c.user, user), (JOBS.c.state, state), (JOBS.c.model, model)):
            if value is not None:
                query = query.where(column == value)
        if before is not None:
            query = query.where(JOBS.c.seq < before)
        with self.database.reading() as db:
            return list(db.execute(query))

    def cancel(self, id: str) -> JobRow:
        """Have a job stop: at once where it waits, after the window in hand where it runs.

        Raises:
            Refusal: It has ended.
        """
        with self.database.deciding() as db:
            row = _row(db, id)
            if row.state == "queued":
                _set(db, id, state="cancelled", ended=self._now(db))
            elif row.state == "running":
                _set(db, id, state="cancelling")
            elif row.state != "cancelling":
                raise Refusal(409, f"job {id} is {row.state}: there is nothing to cancel")
            return _row(db, id)

    def resume(self, id: str, *, max_queued: int) -> JobRow:
        """Put a job back that was cancelled or failed; what is kept of it is gone on with.

        Raises:
            Refusal: It is neither, or its user has as many jobs as may be.
        """
        with self.database.deciding() as db:
            row = _row(db, id)
            if row.state not in ("cancelled", "failed"):
                raise Refusal(
                    409, f"job {id} is {row.state}; only cancelled and failed jobs are resumed"
                )
            _check_quota(db, row.user, max_queued)
            _set(db, id, state="queued", ended=None, error=None, deaths=0, silences=0)
            return _row(db, id)

    def delete(self, id: str) -> None:
        """Forget a job.

        Raises:
            Refusal: It has not ended.
        """
        with self.database.deciding() as db:
            row = _row(db, id)
            if row.state not in ENDED:
                raise Refusal(409, f"job {id} is {row.state}; cancel it before it is deleted")
            db.execute(delete(JOBS).where(JOBS.c.id == id))

    def uploads_in_use(self) -> set[str]:
        """Identifiers of the uploads that jobs name which have not ended."""
        with self.database.reading() as db:
            found = db.scalars(select(JOBS.c.request).where(JOBS.c.state.in_(_WAITING)))
            requests = [JobRequest.model_validate_json(text) for text in found]
        names: set[str] = set()
        for request in requests:
            for given in request.rasters.values():
                names |= {given} if isinstance(given, str) else set(given)
        return {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}

    def ended_before(self, moment: float) -> list[str]:
        """Jobs that ended before a moment."""
        with self.database.reading() as db:
            rows = select(JOBS.c.id).where(JOBS.c.state.in_(ENDED), JOBS.c.ended < moment)
            return list(db.scalars(rows))

    def has_waiting(self, models: Sequence[str]) -> bool:
        """Whether a job of one of these models waits, without holding up who writes."""
        with self.database.reading() as db:
            query = select(JOBS.c.id).where(JOBS.c.state == "queued", JOBS.c.model.in_(models))
            return db.execute(query.limit(1)).one_or_none() is not None

    def claim(self, worker: str, models: Sequence[str]) -> Claim | None:
        """Give a worker the next job: of the highest priority, of the user whose turn it is.

        Users take turns: next is who got a worker the longest ago. Of a user, the oldest job.
        """
        with self.database.deciding() as db:
            found = db.execute(_next_job(models)).one_or_none()
            if found is None:
                return None
            moment = self._now(db)
            row = db.execute(
                update(JOBS)
                .where(JOBS.c.id == found.id, JOBS.c.state == "queued")
                .values(
                    state="running",
                    worker=worker,
                    lease=moment + self.lease_seconds,
                    started=func.coalesce(JOBS.c.started, moment),
                    attempts=JOBS.c.attempts + 1,
                    revision=JOBS.c.revision + 1,
                )
                .returning(JOBS)
            ).one_or_none()
            if row is None:
                return None
            last = select(func.max(USERS.c.turn)).scalar_subquery()
            db.execute(update(USERS).where(USERS.c.name == found.user).values(turn=last + 1))
            return Claim(
                row.id,
                row.model,
                worker,
                row.attempts,
                JobRequest.model_validate_json(row.request),
                json.loads(row.rasters),
            )

    def beat(self, claim: Claim, done: int, total: int | None) -> Answer:
        """Say that a worker is alive, and how far it is.

        Args:
            done: Units that are kept.
            total: None: not known, nor is `done`.
        """
        with self.database.writing() as db:
            moment = self._now(db)
            row = db.execute(
                select(JOBS.c.state, JOBS.c.done, JOBS.c.total).where(_is_held(claim))
            ).one_or_none()
            if row is None:
                return "lost"
            if total is None:  # not known any more: the units are joined already
                done, total = row.done, row.total
            values: dict[str, Any] = {"lease": moment + self.lease_seconds}
            if (row.done, row.total) != (done, total):
                values |= {"done": done, "total": total, "revision": JOBS.c.revision + 1}
            if done > row.done:
                values |= {"deaths": 0, "silences": 0}
                _grow(db, UNITS, done - row.done)
            changed = db.execute(update(JOBS).where(_is_held(claim)).values(**values))
            db.execute(update(WORKERS).where(WORKERS.c.id == claim.worker).values(seen=moment))
            if not changed.rowcount:
                return "lost"
            return "cancel" if row.state == "cancelling" else "go on"

    def is_held(self, claim: Claim) -> bool:
        """Whether a worker still has its job."""
        with self.database.reading() as db:
            return db.execute(select(JOBS.c.id).where(_is_held(claim))).one_or_none() is not None

    def finish(self, claim: Claim, results: Sequence[ResultFile], seconds: float) -> bool:
        """Say that a job is done; False: the worker had lost it."""
        files = json.dumps([file.model_dump() for file in results])
        return self._end(
            claim,
            "done",
            results=files,
            error=None,
            seconds=seconds,
            done=func.coalesce(JOBS.c.total, JOBS.c.done),
        )

    def fail(self, claim: Claim, message: str) -> bool:
        """Say that a job cannot be done; False: the worker had lost it."""
        return self._end(claim, "failed", error=message)

    def stopped(self, claim: Claim) -> bool:
        """Say that a job was cancelled; False: the worker had lost it."""
        return self._end(claim, "cancelled")

    def give_back(self, claim: Claim) -> None:
        """Let another worker have a job, by no fault of its own."""
        with self.database.deciding() as db:
            row = db.execute(select(JOBS.c.state).where(_is_held(claim))).one_or_none()
            if row is not None:
                _let_go(db, claim.id, row.state, self._now(db))

    def enrol(self, worker: str, models: Sequence[str], where: Mapping[str, Any]) -> None:
        """Have a worker be known.

        Args:
            where: "host", "boot", "pid" and "started" of its process.
        """
        with self.database.writing() as db:
            db.execute(delete(WORKERS).where(WORKERS.c.id == worker))
            values = {"id": worker, "models": json.dumps(list(models)), "seen": self._now(db)}
            db.execute(insert(WORKERS).values(**values, **where))

    def tell_missing(self, model: str, supports: bool) -> None:
        """Say whether a model maps without one of its modalities, which only its code tells."""
        self.database.set_fact(f"{_MISSING}{model}", str(int(supports)))

    def supports_missing(self, model: str) -> bool | None:
        """Whether it does; None: no worker has said so."""
        said = self.database.fact(f"{_MISSING}{model}")
        return None if said is None else said == "1"

    def is_alive(self, worker: str) -> None:
        """Say that a worker without a job is alive."""
        with self.database.writing() as db:
            db.execute(update(WORKERS).where(WORKERS.c.id == worker).values(seen=self._now(db)))

    def workers(self) -> list[JobRow]:
        """All workers that are known."""
        with self.database.reading() as db:
            return list(db.execute(select(WORKERS)))

    def alive_workers(self) -> int:
        """How many workers have been heard of within a lease."""
        with self.database.reading() as db:
            since = self._now(db) - self.lease_seconds
            query = select(func.count()).select_from(WORKERS).where(WORKERS.c.seen >= since)
            return db.scalar(query) or 0

    def bury(self, worker: str, *, how: str | None) -> list[str]:
        """Take the jobs of a worker that has ended, for others to go on with.

        Args:
            how: Its process ended, as it was seen to; None: it has ended in order, or nobody knows.

        Returns:
            The jobs that have failed by that.
        """
        with self.database.deciding() as db:
            held = select(JOBS).where(JOBS.c.worker == worker, JOBS.c.state.in_(_HELD))
            rows = list(db.execute(held))
            db.execute(delete(WORKERS).where(WORKERS.c.id == worker))
            moment = self._now(db)
            return [row.id for row in rows if self._blame(db, row, moment, how)]

    def expire(self) -> list[str]:
        """Take the jobs whose worker has not been heard of any more; as `bury`."""
        with self.database.deciding() as db:
            moment = self._now(db)
            # Of before the clock was set back: nobody would miss a silent worker until then.
            latest = moment + self.lease_seconds
            held = JOBS.c.state.in_(_HELD)
            db.execute(update(JOBS).where(held, JOBS.c.lease > latest).values(lease=latest))
            db.execute(update(WORKERS).where(WORKERS.c.seen > moment).values(seen=moment))
            late = select(JOBS).where(JOBS.c.state.in_(_HELD), JOBS.c.lease < moment)
            failed = []
            for row in list(db.execute(late)):
                silences = row.silences + 1
                if row.state == "running" and silences >= MOST_SILENCES:
                    message = (
                        f"its worker fell silent {silences} times without finishing a unit; the "
                        "service's log says more. Resume it when the cause is known"
                    )
                    _set(db, row.id, state="failed", error=message, ended=moment, worker=None)
                    failed.append(row.id)
                else:
                    _let_go(db, row.id, row.state, moment, silences=silences)
            old = moment - 20 * self.lease_seconds
            db.execute(delete(WORKERS).where(WORKERS.c.seen < old))
            return failed

    def counts(self) -> list[tuple[str, str, int]]:
        """Jobs by (state, model)."""
        with self.database.reading() as db:
            query = select(JOBS.c.state, JOBS.c.model, func.count()).group_by(
                JOBS.c.state, JOBS.c.model
            )
            return [(state, model, n) for state, model, n in db.execute(query)]

    def counter(self, name: str) -> float:
        """A counter that only grows."""
        return float(self.database.fact(name) or 0)

    def reserved_bytes(self) -> int:
        """Disk that jobs which have not ended may still need."""
        with self.database.reading() as db:
            query = select(func.sum(JOBS.c.need_bytes)).where(JOBS.c.state.in_(_WAITING))
            return int(db.scalar(query) or 0)

    def _end(self, claim: Claim, state: str, **values: Any) -> bool:
        with self.database.writing() as db:
            moment = self._now(db)
            changed = db.execute(
                update(JOBS)
                .where(_is_held(claim))
                .values(
                    state=state,
                    ended=moment,
                    lease=None,
                    revision=JOBS.c.revision + 1,
                    **values,
                )
            )
            if changed.rowcount and "seconds" in values:
                _grow(db, SECONDS, values["seconds"])
            return bool(changed.rowcount)

    def _blame(self, db: Connection, row: JobRow, moment: float, how: str | None) -> bool:
        deaths = row.deaths + (how is not None)
        if row.state == "running" and deaths >= MOST_DEATHS:
            message = (
                f"its worker process died {deaths} times without finishing a unit, at last: {how}. "
                "Give smaller windows (crop_size) if memory is short; the service's log says more"
            )
            _set(db, row.id, state="failed", error=message, ended=moment, worker=None)
            return True
        _let_go(db, row.id, row.state, moment, deaths=deaths)
        return False

    def _remember_user(self, db: Connection, name: str, max_running: int) -> None:
        dialect = sqlite if self.database.is_sqlite else postgresql
        added = dialect.insert(USERS).values(name=name, turn=0, max_running=max_running)
        db.execute(
            added.on_conflict_do_update(index_elements=["name"], set_={"max_running": max_running})
        )

    def _now(self, db: Connection) -> float:
        """The time: the database's where several machines use it."""
        if self.database.is_sqlite:
            return now()
        return float(db.scalar(text("SELECT extract(epoch FROM clock_timestamp())")))


def to_message(row: JobRow) -> Job:
    """A job as the service answers it."""
    is_done = row.state == "done"
    files = [ResultFile(**file) for file in json.loads(row.results)]
    names = {file.name for file in files}
    has_tiles = row.has_crs and {"class_map.tif", "confidence.tif"} & names
    return Job(
        id=row.id,
        model=row.model,
        title=row.title,
        user=row.user,
        state=row.state,
        priority=row.priority,
        created=_date(row.created),
        started=row.started and _date(row.started),
        ended=row.ended and _date(row.ended),
        done=row.done,
        total=row.total,
        attempts=row.attempts,
        worker=row.worker if row.state in _HELD else None,
        error=row.error,
        request=JobRequest.model_validate_json(row.request),
        results=tuple(files) if is_done else (),
        view=f"/view/{row.id}/" if is_done and "class_map.tif" in names else None,
        tilejson=f"/api/jobs/{row.id}/tilejson.json" if is_done and has_tiles else None,
    )


def find_row(queue: Queue, id: str, user: User) -> JobRow:
    """A job of a user.

    Raises:
        Refusal: There is none.
    """
    row = queue.get(id) if _ID.fullmatch(id) else None
    if row is None or not sees(user, row.user):
        raise Refusal(404, f"there is no job '{cut(id)}'; GET /api/jobs lists those that there are")
    return row


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _row(db: Connection, id: str) -> JobRow:
    row = db.execute(select(JOBS).where(JOBS.c.id == id)).one_or_none()
    if row is None:
        raise Refusal(404, f"there is no job {id} any more")
    return row


def _next_job(models: Sequence[str]) -> Select[Any]:
    """Query of the job that is to be claimed next, as `Queue.claim` says."""
    others = JOBS.alias("others")
    running = (
        select(func.count())
        .where(others.c.state.in_(_HELD), others.c.user == JOBS.c.user)
        .correlate(JOBS)
        .scalar_subquery()
    )
    return (
        select(JOBS.c.id, JOBS.c.user)
        .select_from(JOBS.outerjoin(USERS, USERS.c.name == JOBS.c.user))
        .where(JOBS.c.state == "queued", JOBS.c.model.in_(models))
        .where(running < func.coalesce(USERS.c.max_running, 1))
        .order_by(JOBS.c.priority.desc(), func.coalesce(USERS.c.turn, 0), JOBS.c.seq)
        .limit(1)
    )


def _is_held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        JOBS.c.id == claim.id,
        JOBS.c.worker == claim.worker,
        JOBS.c.attempts == claim.attempt,
        JOBS.c.state.in_(_HELD),
    )


def _let_go(db: Connection, id: str, state: str, moment: float, **values: Any) -> None:
    """A held job waits again, or is cancelled if it was to be."""
    if state == "cancelling":
        _set(db, id, state="cancelled", ended=moment, lease=None, **values)
    else:
        _set(db, id, state="queued", worker=None, lease=None, **values)


def _set(db: Connection, id: str, **values: Any) -> None:
    values["revision"] = JOBS.c.revision + 1
    db.execute(update(JOBS).where(JOBS.c.id == id).values(**values))


def _check_quota(db: Connection, user: str, most: int) -> None:
    """Refuse a further job of a user who has as many as may be.

    Raises:
        Refusal: 429.
    """
    own = (JOBS.c.user == user, JOBS.c.state.in_(_WAITING))
    waiting = db.scalar(select(func.count()).select_from(JOBS).where(*own)) or 0
    if waiting >= most:
        raise Refusal(
            429,
            f"{user} has {waiting} jobs that have not ended, and may have {most}. Wait for one, "
            "or cancel one",
            {"Retry-After": "30"},
        )


def _grow(db: Connection, name: str, by: float) -> None:
    found = db.scalar(select(FACTS.c.value).where(FACTS.c.name == name))
    if found is None:
        db.execute(insert(FACTS).values(name=name, value=str(by)))
    else:
        value = str(float(found) + by)
        db.execute(update(FACTS).where(FACTS.c.name == name).values(value=value))
