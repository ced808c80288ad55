"""Work of several processes, each with a model and a reader of its own, such as one scene's map.

The parent hands out rectangles and never sees a pixel: a worker reads, runs its model and keeps
finished units on disk by itself. If it dies, others do what it had not finished.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from terrafuse.cores import computing_threads, usable_cores
from terrafuse.errors import WorkerError
from terrafuse.prediction.crew import Crew, Event, Order, prepare_worker, sendable, telling_warnings
from terrafuse.prediction.order import MapOrder
from terrafuse.prediction.profile import MapProfile
from terrafuse.prediction.sharing import WorkerSettings
from terrafuse.progress import Progress
from terrafuse.samples import Window
from terrafuse.stopping import deferred, shield_worker, starting_workers
from terrafuse.writing import clear_leftovers

#: Workers that may die one after the other, beside each of the first ones, without any finished
#: unit in between.
_MOST_DEATHS = 2
_TELL_SECONDS = 0.2
_JOIN_SECONDS = 10

T = TypeVar("T")


def map_by_workers(
    order: MapOrder,
    tasks: Sequence[Window],
    settings: WorkerSettings,
    profile: MapProfile,
    progress: Progress | None = None,
) -> None:
    """Map rectangles of a scene by workers.

    Args:
        order: The scene, model and map.
        tasks: Rectangles, in the order in which they are handed out.
        settings: How many workers, and where.
        profile: Receives what the workers took.
        progress: Called with (windows done, windows in all).

    Raises:
        WorkerError: Workers keep dying.
        TerrafuseError: A worker failed.
    """
    count = min(settings.total, len(tasks))
    if count < settings.total:
        units = len(order.writer.job.missing)
        warnings.warn(
            f"there is work for {count} of {settings.total} workers: units of scene "
            f"'{order.scene.id}' to map are {units}, and more rectangles of them would run too "
            "many windows twice",
            stacklevel=5,
        )
    profile.workers = count
    with _crew(order, settings, count) as crew:
        _MapForeman(crew, count, tasks, progress, order, profile).run()


def _crew(order: MapOrder, settings: WorkerSettings, count: int) -> Crew:
    if settings.engine == "ray":
        from terrafuse.prediction.ray_engine import RayCrew

        return RayCrew(order, settings, count)
    devices = settings.device_names(order.device)[:count]
    return LocalCrew(order, devices, _begin_mapping, order.writer.job.folder)


@dataclass
class Foreman(ABC, Generic[T]):
    """Who hands out tasks, and counts.

    Args:
        workers: Their number.
        tasks: In the order in which they are handed out.
        progress: Called with (windows done, windows in all).
    """

    crew: Crew
    workers: int
    tasks: Sequence[T]
    progress: Progress | None
    _busy: dict[int, T] = field(default_factory=dict, init=False)
    _counts: dict[int, int] = field(default_factory=dict, init=False)
    _told: set[tuple[str, type]] = field(default_factory=set, init=False)
    _done: int = field(default=0, init=False)
    _deaths: int = field(default=0, init=False)

    def run(self) -> None:
        """Have all tasks done."""
        self._waiting = list(self.tasks)
        self._total = sum(map(self._size, self.tasks))
        self._idle: set[int] = set()
        for worker in range(self.workers):
            self.crew.hire(worker)
        while self._waiting or self._busy:
            for event in self.crew.events():
                self._hear(event)
            for worker in sorted(self._idle)[: len(self._waiting)]:
                self._idle.remove(worker)
                self._busy[worker] = task = self._waiting.pop(0)
                self.crew.give(worker, task)

    @abstractmethod
    def _size(self, task: T) -> int:
        """Windows of a task."""

    @abstractmethod
    def _finish(self, task: T, value: Any) -> None:
        """Take what a worker reports of a task that is done."""

    @abstractmethod
    def _rest(self, task: T) -> list[T]:
        """What is left of the task of a worker that has died."""

    def _hear(self, event: Event) -> None:
        worker, value = event.worker, event.value
        if event.kind == "ready":
            self._idle.add(worker)
        elif event.kind == "count":
            self._counts[worker] = value
            self._tell()
        elif event.kind == "warning":
            self._warn(*value)
        elif event.kind == "result":
            task = self._busy.pop(worker)
            self._counts.pop(worker, None)
            self._finish(task, value)
            self._done += self._size(task)
            self._tell()
            self._idle.add(worker)
        elif event.kind == "failed":
            raise value
        else:
            self._replace(worker)

    def _replace(self, worker: int) -> None:
        """Give to others what a dead worker has not finished, and start another one."""
        self._idle.discard(worker)
        self._counts.pop(worker, None)
        task = self._busy.pop(worker, None)
        if task is not None:
            self._waiting[:0] = rest = self._rest(task)
            # The total stays what was begun with, however often parts of it are done.
            self._done += self._size(task) - sum(map(self._size, rest))
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS + self.workers:
            raise WorkerError(
                f"{self._deaths} workers died one after the other, most likely for lack of memory. "
                "Use fewer --workers, a smaller --batch-size or a smaller --crop-size"
            )
        if self._waiting:
            self.crew.hire(worker)

    def _warn(self, text: str, kind: type[Warning]) -> None:
        if (text, kind) not in self._told:
            self._told.add((text, kind))
            warnings.warn(text, kind, stacklevel=8)

    def _tell(self) -> None:
        if self.progress:
            self.progress(min(self._done + sum(self._counts.values()), self._total), self._total)


@dataclass
class _MapForeman(Foreman[Window]):
    """Who hands out rectangles of a scene."""

    order: MapOrder
    profile: MapProfile

    def _hear(self, event: Event) -> None:
        if event.kind == "units":
            self.order.writer.job.done |= event.value
            self._deaths = 0
        else:
            super()._hear(event)

    def _size(self, task: Window) -> int:
        return len(self.order.writer.job.plan.part(task))

    def _finish(self, task: Window, value: Any) -> None:
        del task
        self.profile.add(value)

    def _rest(self, task: Window) -> list[Window]:
        job = self.order.writer.job
        left = {n for n in job.missing if task.intersection(job.plan.window(n)) is not None}
        return job.plan.runs(left)


class LocalCrew(Crew):
    """Processes of this machine.

    Args:
        order: What to do.
        devices: Of each worker.
        begin: Called in each worker with the order and a way to report; returns what does a task.
            Must be at the top of a module.
        folder: Where workers that are ended may leave unfinished files.
    """

    def __init__(
        self, order: Order, devices: Sequence[str], begin: Begin, folder: Path | None = None
    ) -> None:
        self._devices = devices
        self._begin = begin
        self._folder = folder
        self._threads = max(1, min(usable_cores(), computing_threads()) // len(devices))
        # Forking would copy threads' locks and CUDA's state.
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._packed = order.packed()

    def hire(self, worker: int) -> None:
        """See `Crew`."""
        self._pipes[worker], theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._begin, self._devices[worker], self._threads),
            daemon=True,
        )
        with starting_workers("spawn"), deferred():
            process.start()
            self._processes[worker] = process
        theirs.close()

    def give(self, worker: int, task: Any) -> None:
        """See `Crew`."""
        with suppress(OSError):  # it has died, as `events` will say
            self._pipes[worker].send(task)

    def events(self) -> list[Event]:
        """See `Crew`."""
        numbers = {id(pipe): worker for worker, pipe in self._pipes.items()}
        return [
            event
            for pipe in wait(list(self._pipes.values()))
            if (event := self._receive(numbers[id(pipe)])) is not None
        ]

    def _receive(self, worker: int) -> Event | None:
        pipe = self._pipes[worker]
        try:
            kind, value = pipe.recv()
            if kind != "asks":
                return Event(worker, kind, value)
            pipe.send_bytes(self._packed)
        except (EOFError, OSError):
            pipe.close()
            del self._pipes[worker]
            self._processes.pop(worker).join(_JOIN_SECONDS)
            return Event(worker, "died")
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with deferred():
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.join(_JOIN_SECONDS)
                if process.is_alive():
                    process.kill()
                    process.join()
            if self._folder is not None:
                clear_leftovers(self._folder)


class Report:
    """A worker's way to its parent; several threads may use it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._told = 0.0

    def __call__(self, kind: str, value: Any = None) -> None:
        """Send what `Event` says."""
        with self._lock:
            self._pipe.send((kind, value))

    def count(self, done: int, _: int) -> None:
        """Tell how many windows are done, now and then."""
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self("count", done)

    def warn(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        """In the place of `warnings.showwarning`."""
        self("warning", (str(message), category))


#: See `LocalCrew`.
Begin = Callable[[Any, Report], Callable[[Any], None]]


def _begin_mapping(order: MapOrder, report: Report) -> Callable[[Window], None]:
    order.writer.job.on_commit = lambda number, has: report("units", {number: has})

    def do(task: Window) -> None:
        report("result", order.map_apart(task, report.count))

    return do


def _serve(pipe: Connection, begin: Begin, device: str, threads: int) -> None:
    """Do tasks until the parent ends this process."""
    shield_worker()
    report = Report(pipe)
    try:
        with telling_warnings(report.warn):
            report("asks")
            order = pipe.recv()
            prepare_worker(threads)  # now that the libraries of its model are imported
            do = begin(order.on(device), report)
            report("ready")
            while True:
                do(pipe.recv())
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent has ended
        os._exit(1)
    except Exception as error:
        report("failed", sendable(error))
