"""Workers as actors of a Ray cluster; extra `ray`.

Actors keep the model and take rectangles, never pixels. They read the rasters and write units by
themselves, so that both must lie on a disk that all nodes see under the same path.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from terrafuse.cores import usable_cores
from terrafuse.errors import ConfigError, OutputError, WorkerError
from terrafuse.extras import from_extra
from terrafuse.prediction.crew import Crew, Event, prepare_worker, sendable, telling_warnings
from terrafuse.prediction.order import MapOrder
from terrafuse.prediction.sharing import WorkerSettings
from terrafuse.samples import Window
from terrafuse.stopping import SIGNALS
from terrafuse.writing import clear_leftovers

_LOOK_SECONDS = 1.0
#: Imports of an actor on a busy machine with a slow disk take minutes.
_START_SECONDS = 600.0
#: Ray allows no less than 75 MB; what does not fit is written to disk.
_STORE_BYTES = 100_000_000


class RayCrew(Crew):
    """Actors, each with a model of its own.

    Args:
        order: What to map.
        settings: How many actors per device, and the cluster's address.
        count: Number of actors.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The cluster cannot be reached, or has too few CPUs or GPUs.
    """

    def __init__(self, order: MapOrder, settings: WorkerSettings, count: int) -> None:
        ray = import_ray()
        self._ray: Any = ray
        self._order = order
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            connect(
                ray,
                settings.cluster,
                cpus=max(count, usable_cores()),
                store_bytes=_STORE_BYTES + 2 * _bytes_of(order),
            )
        try:
            needs = {"CPU": 1.0, "GPU": 1 / settings.count if settings.devices else 0.0}
            _check_resources(self._ray.cluster_resources(), needs, count)
            device = "cuda" if settings.devices else str(order.device)
            self._actor: Any = self._ray.remote(
                num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=0, max_task_retries=0
            )(_Mapper)
            with order.on_cpu():
                self._packed = ray.put(order)
        except BaseException:
            self._leave()
            raise
        self._device = device
        self._threads = max(1, usable_cores() // count)
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        self._starting: set[int] = set()
        self._heard_at = time.monotonic()

    def hire(self, worker: int) -> None:
        """See `Crew`."""
        actor = self._actor.remote()
        self._actors[worker] = actor
        self._starting.add(worker)
        self._expect(worker, actor.begin.remote(self._packed, self._device, self._threads))

    def give(self, worker: int, task: Window) -> None:
        """See `Crew`."""
        self._expect(worker, self._actors[worker].map.remote(task))

    def events(self) -> list[Event]:
        """See `Crew`."""
        done: list[Any] = []
        while not done:
            done, _ = self._ray.wait(
                list(self._pending), num_returns=1, timeout=_LOOK_SECONDS, fetch_local=True
            )
            if not done:
                self._check_start()
        self._heard_at = time.monotonic()
        return [event for reference in done for event in self._heard(reference)]

    def _expect(self, worker: int, reference: Any) -> None:
        self._pending[reference] = worker

    def _check_start(self) -> None:
        """Refuse to wait for ever for actors that get no place: others may have all CPUs.

        Raises:
            WorkerError: None has started for long, and none works.
        """
        seconds = time.monotonic() - self._heard_at
        if seconds < _START_SECONDS or not set(self._pending.values()) <= self._starting:
            return
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        raise WorkerError(
            f"no worker of the Ray cluster has started for {seconds:.0f} s; of its "
            f"{has.get('CPU', 0):g} CPUs {free.get('CPU', 0):g} are free. End what else "
            "runs there, or give fewer --workers"
        )

    def _heard(self, reference: Any) -> list[Event]:
        worker = self._pending.pop(reference)
        self._starting.discard(worker)
        try:
            reports = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # not even begun: it lacks our code
            reason = str(error).strip().splitlines()[-1]
            raise WorkerError(
                f"a node of the Ray cluster cannot map: {reason}. Install the same packages on all "
                "nodes"
            ) from error
        except self._ray.exceptions.RayError:
            with suppress(Exception):
                self._ray.kill(self._actors.pop(worker))
            job = self._order.writer.job
            found = job.sound(job.missing)  # it may have finished units before it died
            return [Event(worker, "units", found)] * bool(found) + [Event(worker, "died")]
        return [Event(worker, kind, value) for kind, value in reports]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._leave()
        clear_leftovers(self._order.writer.job.folder)

    def _leave(self) -> None:
        if self._is_ours:
            self._ray.shutdown()


class _Mapper:
    """An actor: reports are collected and returned, as (kind, value)."""

    def __init__(self) -> None:
        self._order: MapOrder | None = None
        self._reports: list[tuple[str, Any]] = []

    def begin(self, order: MapOrder, device: str, threads: int) -> list[tuple[str, Any]]:
        """Load the model."""

        def start() -> None:
            prepare_worker(threads)
            self._order = order.on(device)
            job = self._order.writer.job
            if not job.is_here():
                raise OutputError(
                    f"a node of the Ray cluster ('{os.uname().nodename}') does not see "
                    f"'{job.folder}'. Choose an --out on a disk that all nodes share"
                )
            job.on_commit = lambda number, has: self._reports.append(("units", {number: has}))
            self._reports.append(("ready", None))

        return self._reporting(start)

    def map(self, task: Window) -> list[tuple[str, Any]]:
        """Map a rectangle."""

        def run() -> None:
            assert self._order is not None
            self._reports.append(("result", self._order.map_apart(task)))

        return self._reporting(run)

    def _reporting(self, run: Any) -> list[tuple[str, Any]]:
        self._reports = []
        with telling_warnings(self._warn):
            try:
                run()
            except Exception as error:
                self._reports.append(("failed", sendable(error)))
        return self._reports

    def _warn(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        self._reports.append(("warning", (str(message), category)))


def import_ray() -> Any:
    """Return the module.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    with from_extra("ray", "--engine ray"):
        import ray
    return ray


def connect(ray: Any, address: str | None, *, cpus: int, store_bytes: int = _STORE_BYTES) -> None:
    """Join the cluster that is asked for, or start one of this machine alone.

    Args:
        ray: The module.
        address: Of a running cluster; None: this machine alone.
        cpus: Of this machine, and
        store_bytes: what its object store holds, where it is alone.

    Raises:
        ConfigError: It cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    local: dict[str, Any] = {}
    if not address:
        local = {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": store_bytes,
        }
    try:
        with _own_signals():
            ray.init(
                address=address or "local", log_to_driver=False, logging_level="error", **local
            )
    except Exception as error:  # Ray raises it bare where its processes start too slowly
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the Ray cluster at '{address or 'this machine'}' cannot be used: {reason}. Give the "
            "--ray-address of a running one, or neither it nor RAY_ADDRESS for this machine alone"
        ) from error


def _bytes_of(order: MapOrder) -> int:
    """Bytes of the model, nearly all of what actors are sent."""
    return order.predictor.model.nbytes


def _check_resources(has: dict[str, float], needs: dict[str, float], count: int) -> None:
    for name, each in needs.items():
        if has.get(name, 0) < each * count:
            raise ConfigError(
                f"the Ray cluster has {has.get(name, 0):g} {name}s, and {count} workers need "
                f"{each * count:g}. Give fewer --workers, or add nodes"
            )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our signal handlers: Ray installs its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
