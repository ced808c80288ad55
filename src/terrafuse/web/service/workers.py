"""The supervisor of worker processes: it starts them, and others in place of those that die."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from terrafuse.errors import TerrafuseError
from terrafuse.locking import is_process_gone, machine
from terrafuse.web.service.jobs import Queue
from terrafuse.web.service.models import ModelShelf
from terrafuse.web.service.settings import ServiceSettings

_LOG = logging.getLogger("terrafuse.serve")
_LOOK_SECONDS = 0.2
_ORDER_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE, _GOOD_LIFE = 0.5, 60.0, 120.0
_ENDING_SECONDS = 10.0
#: What a worker is started by.
WORKER = (sys.executable, "-m", "terrafuse.web.service.working")


@dataclass
class _Place:
    """A place for a worker, which may be empty for a while."""

    process: subprocess.Popen[str] | None = None
    worker: str = ""
    began: float = 0.0
    pause: float = _FIRST_PAUSE
    not_before: float = field(default=0.0)


class Supervisor:
    """Keeps as many workers as the settings say."""

    def __init__(self, settings: ServiceSettings, queue: Queue) -> None:
        self._settings, self._queue = settings, queue
        self._places = [_Place() for _ in range(settings.workers)]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._shelf: ModelShelf | None = None

    @property
    def numbers(self) -> list[int]:
        """Numbers of the worker processes."""
        return [place.process.pid for place in self._places if place.process is not None]

    def start(self, keep_order: Callable[[], None]) -> None:
        """Start the workers, and look after them in a thread.

        Args:
            keep_order: Called every few seconds.
        """
        self._bury_old()
        self._thread = threading.Thread(target=self._look, args=(keep_order,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the workers; what they have in hand is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        processes = [place.process for place in self._places if place.process is not None]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        until = time.monotonic() + _ENDING_SECONDS
        for process in processes:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for place in self._places:
            if place.process is not None:
                _try(partial(self._queue.bury, place.worker, how=None))
                place.process = None

    def _look(self, keep_order: Callable[[], None]) -> None:
        ordered = 0.0
        while not self._stop.is_set():
            for place in self._places:
                self._look_at(place)
            if time.monotonic() - ordered > _ORDER_SECONDS:
                _try(keep_order)
                ordered = time.monotonic()
            self._stop.wait(_LOOK_SECONDS)

    def _look_at(self, place: _Place) -> None:
        if place.process is not None:
            code = place.process.poll()
            if code is None:
                return
            lived = time.monotonic() - place.began
            _LOG.error("worker %s died after %.0f s: %s", place.worker, lived, _how(code))
            if not _try(lambda: self._queue.bury(place.worker, how=_how(code))):
                return  # told again when the database answers
            if place.process.stdin is not None:
                place.process.stdin.close()
            place.process = None
            place.pause = (
                _FIRST_PAUSE if lived > _GOOD_LIFE else min(2 * place.pause, _LONGEST_PAUSE)
            )
            place.not_before = time.monotonic() + place.pause
        if time.monotonic() >= place.not_before:
            self._fill(place)

    def _fill(self, place: _Place) -> None:
        settings = self._settings
        self._shelf = self._shelf or ModelShelf(settings.models)
        place.worker = f"{machine().host}-{os.getpid()}-{secrets.token_hex(3)}"
        place.began = time.monotonic()
        place.process = subprocess.Popen(  # noqa: S603 - our own module
            WORKER,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent
        )
        # By a pipe, as the database's address may hold a password, which `ps` would show.
        told = {
            "id": place.worker,
            "models": dict(self._shelf.places),
            "data": str(settings.data.absolute()),
            "database": settings.database_url,
            "device": settings.device,
            "lease_seconds": settings.lease_seconds,
            "url_hosts": list(settings.url_hosts),
        }
        assert place.process.stdin is not None
        try:
            place.process.stdin.write(json.dumps(told) + "\n")
            place.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is found dead

    def _bury_old(self) -> None:
        """Free the jobs of this machine's workers that ended with an earlier server."""
        for row in self._queue.workers():
            is_here = row.boot == machine().boot and row.host == machine().host
            if is_here and is_process_gone(row.pid, row.started):
                self._queue.bury(row.id, how=None)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"it exited with {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"it was killed by {name}"


def _try(call: Callable[[], object]) -> bool:
    try:
        call()
    except (SQLAlchemyError, TerrafuseError, OSError) as error:
        _LOG.warning("not now: %s", type(error).__name__)
        return False
    return True
