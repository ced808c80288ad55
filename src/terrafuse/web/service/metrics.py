"""Metrics in Prometheus' text format.

Reference: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from terrafuse.version import VERSION
from terrafuse.web.service.jobs import SECONDS, UNITS, Queue

#: Upper bounds in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


class Durations:
    """How long answers took, by route and status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._sums: dict[tuple[str, int], float] = {}

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        with self._lock:
            counts = self._counts.setdefault((route, status), [0] * (len(_BUCKETS) + 1))
            counts[bisect_left(_BUCKETS, seconds)] += 1
            self._sums[route, status] = self._sums.get((route, status), 0.0) + seconds

    def lines(self) -> Iterable[str]:
        """A histogram."""
        name = "terrafuse_request_seconds"
        with self._lock:
            found = {key: list(counts) for key, counts in self._counts.items()}
            sums = dict(self._sums)
        for (route, status), counts in sorted(found.items()):
            labels = {"route": route, "status": str(status)}
            before = 0
            for bound, count in zip((*map(str, _BUCKETS), "+Inf"), counts, strict=True):
                before += count
                yield _line(f"{name}_bucket", before, {**labels, "le": bound})
            yield _line(f"{name}_sum", sums[route, status], labels)
            yield _line(f"{name}_count", before, labels)


class Timing:
    """Middleware that measures how long answers take to begin, by route."""

    def __init__(self, app: ASGIApp, durations: Durations) -> None:
        self.app, self.durations = app, durations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        began = time.perf_counter()

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                name = getattr(scope.get("route"), "path", "other")
                self.durations.add(name, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, send_timed if scope["type"] == "http" else send)


def describe_metrics(queue: Queue, durations: Durations, free_bytes: int) -> str:
    """All metrics, one per line, each kind with its help and type."""
    counts = queue.counts()
    waiting = sum(n for state, _, n in counts if state == "queued")
    groups: list[tuple[str, str, str, Iterable[str]]] = [
        (
            "terrafuse_jobs",
            "gauge",
            "Jobs that are kept, by state and model.",
            [
                _line("terrafuse_jobs", n, {"state": state, "model": model})
                for state, model, n in sorted(counts)
            ],
        ),
        _single("terrafuse_queue_length", "gauge", "Jobs that wait.", waiting),
        _single("terrafuse_workers", "gauge", "Workers heard of.", queue.alive_workers()),
        _single("terrafuse_units_total", "counter", "Work units done.", queue.counter(UNITS)),
        _single(
            "terrafuse_mapping_seconds_total",
            "counter",
            "Seconds that workers spent on jobs that are done.",
            queue.counter(SECONDS),
        ),
        _single("terrafuse_disk_free_bytes", "gauge", "Disk that is left.", free_bytes),
        (
            "terrafuse_request_seconds",
            "histogram",
            "Seconds from a request to the beginning of its answer.",
            durations.lines(),
        ),
        (
            "terrafuse_info",
            "gauge",
            "The version.",
            [_line("terrafuse_info", 1, {"version": VERSION})],
        ),
    ]
    lines = []
    for name, kind, text, samples in groups:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _single(name: str, kind: str, text: str, value: float) -> tuple[str, str, str, list[str]]:
    return name, kind, text, [_line(name, value)]


def _line(name: str, value: float, labels: Mapping[str, str] | None = None) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in (labels or {}).items())
    number = int(value) if value == int(value) else value
    return f"{name}{{{inner}}} {number}" if inner else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
