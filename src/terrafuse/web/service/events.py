"""Server-sent events: how far a job is, to as many pages as look.

One task asks the database about all jobs that somebody looks at. An event has the job's revision as
its number: who comes back with `Last-Event-ID` hears of the job if it has changed since.

Reference: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from terrafuse.web.service.jobs import JobRow, Queue, to_message
from terrafuse.web.service.messages import ENDED

_LOG = logging.getLogger("terrafuse.serve")
_LOOK_SECONDS = 0.3
#: Proxies end connections on which nothing is said for a minute.
HEARTBEAT_SECONDS = 15.0


class Watch:
    """Revisions of the jobs that somebody looks at."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, id: str, revision: int, seconds: float) -> None:
        """Wait until a job is at another revision, or is deleted; or for so long."""
        changed = asyncio.Event()
        self._waiting[id].add(changed)
        if self._seen.setdefault(id, revision) != revision:
            changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            await asyncio.wait_for(changed.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting[id].discard(changed)
            if not self._waiting[id]:
                del self._waiting[id]
                self._seen.pop(id, None)

    def stop(self) -> None:
        """Let all who wait go on."""
        if self._task is not None:
            self._task.cancel()
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(_LOOK_SECONDS)
            ids = list(self._waiting)
            try:
                found = await run_in_threadpool(self._queue.revisions, ids)
            except SQLAlchemyError as error:
                _LOG.warning("the database does not answer: %s", type(error).__name__)
                continue
            for id in ids:
                if found.get(id) != self._seen.get(id):
                    self._seen[id] = found.get(id, -1)
                    for event in self._waiting.get(id, ()):
                        event.set()


async def job_events(
    watch: Watch,
    read: Callable[[], JobRow | None],
    id: str,
    last: int | None,
    is_over: Callable[[], bool],
) -> AsyncGenerator[str, None]:
    """Yield the events of a job: its state now, each change, and an end.

    Args:
        read: Reads the job; None: it was deleted.
        last: Revision that is known already.
        is_over: Whether to end before the job does; who is let in comes back then.
    """
    known = -1 if last is None else last
    yield "retry: 2000\n\n"
    while not is_over():
        row = await run_in_threadpool(read)
        if row is None:
            yield "event: end\ndata: deleted\n\n"
            return
        if row.revision != known:
            known = row.revision
            yield f"id: {known}\ndata: {to_message(row).model_dump_json()}\n\n"
        if row.state in ENDED:
            yield f"id: {known}\nevent: end\ndata: {row.state}\n\n"
            return
        await watch.wait(id, known, HEARTBEAT_SECONDS)
        yield ": still there\n\n"
