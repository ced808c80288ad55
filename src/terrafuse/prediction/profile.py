"""Where the time of a map goes: what each stage works and waits, and what the model alone needs.

Reading, the model and writing run in a thread each. What limits a map is the stage that the others
wait for; beside a model that is never waited for, the engine costs nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_MEGA = 1e6
_T = TypeVar("_T")
_END: Any = object()


@dataclass
class MapProfile:
    """Counts and seconds of the threads of one process; those of several are added.

    Args:
        workers: Models that run at the same time.
        scene_pixels: To be mapped.
        windows: On which the model was run, repeated ones included.
        model_pixels: Scene pixels in them.
        clock_seconds: From beginning to end.
        seconds: By stage: "reading", "model", "writing" and "assembling" at work, each in one
            thread; and "waiting for reading" and "waiting for writing", which the model's thread
            has.
        bytes_read: From files, be they in memory already; None where unknown.
        peak_bytes: Largest memory of a process, since it began; None where unknown.
        lacking: Windows of the scene that the model could not be run on, for lack of a modality.
        empty_units: Units that were known to have no data before anything was read.
    """

    workers: int = 1
    scene_pixels: int = 0
    windows: int = 0
    model_pixels: int = 0
    clock_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_read: int | None = None
    peak_bytes: int | None = None
    lacking: int = 0
    empty_units: int = 0
    _begun: float = 0.0
    _read_before: int | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of what is done inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(stage, time.perf_counter() - start)

    def timed_items(self, stage: str, items: Iterable[_T]) -> Iterator[_T]:
        """Yield items, adding the seconds that each takes to come to a stage."""
        source = iter(items)
        while True:
            with self.timed(stage):
                item = next(source, _END)
            if item is _END:
                return
            yield item

    @contextmanager
    def model(self, windows: int, pixels: int, wait: Callable[[], None]) -> Iterator[None]:
        """Add a pass of the model.

        Args:
            windows: Of the batch.
            pixels: Scene pixels of each.
            wait: Waits for an accelerator: what follows needs the result anyway.
        """
        with self.timed("model"):
            yield
            wait()
        self.windows += windows
        self.model_pixels += windows * pixels

    def begin(self, scene_pixels: int) -> None:
        """Count the clock and the bytes read from now on.

        Args:
            scene_pixels: That are going to be mapped.
        """
        self.scene_pixels += scene_pixels
        self._begun, self._read_before = time.perf_counter(), _bytes_read()

    def end(self) -> None:
        """Take the clock, the bytes read since `begin`, and the largest memory until now."""
        after = _bytes_read()
        self.clock_seconds = time.perf_counter() - self._begun
        if self._read_before is not None and after is not None:
            self.bytes_read = (self.bytes_read or 0) + after - self._read_before
            self._read_before = after
        self.peak_bytes = _peak_bytes()

    def add(self, other: MapProfile) -> None:
        """Add what another process did for this one, which keeps the clock."""
        self.windows += other.windows
        self.lacking += other.lacking
        self.model_pixels += other.model_pixels
        for stage, seconds in other.seconds.items():
            self._add(stage, seconds)
        if other.bytes_read is not None:
            self.bytes_read = (self.bytes_read or 0) + other.bytes_read
        self.peak_bytes = max(self.peak_bytes or 0, other.peak_bytes or 0) or None

    def to_dict(self) -> dict[str, Any]:
        """Numbers for `prediction.json` and `--profile`, as they are after `end`."""
        model = self.seconds.get("model", 0.0)
        busy = self.clock_seconds * self.workers
        return {
            "seconds": round(self.clock_seconds, 3),
            "scene_mpix_per_s": _rate(self.scene_pixels, self.clock_seconds),
            "model_mpix_per_s": _rate(self.model_pixels, model),
            "window_pixels_per_scene_pixel": round(
                self.model_pixels / max(1, self.scene_pixels), 3
            ),
            # Of model-only speed after overlap: pixels that windows share count on both sides.
            "share_of_model_speed": round(model / busy, 3) if busy else None,
            "windows_run": self.windows,
            "empty_units": self.empty_units,
            "stage_seconds": {name: round(s, 3) for name, s in sorted(self.seconds.items())},
            "bytes_read": self.bytes_read,
            "peak_bytes": self.peak_bytes,
            "workers": self.workers,
        }

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def describe_profile(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of a table, to be printed, from what `MapProfile.to_dict` returned."""
    share = found["share_of_model_speed"]
    rows = {
        "scene": _text(found["scene_mpix_per_s"], "Mpixel/s"),
        "model alone": _text(found["model_mpix_per_s"], "Mpixel/s of windows"),
        "overlap": f"{found['window_pixels_per_scene_pixel']:g} window pixels per scene pixel",
        "of model-only speed after overlap": "–" if share is None else f"{share:.1%}",
    }
    rows |= {name: f"{value:.1f} s" for name, value in found["stage_seconds"].items()}
    rows |= {
        "bytes from files": _megabytes(found["bytes_read"]),
        "largest memory": _megabytes(found["peak_bytes"]),
    }
    return [{"what": name, "figure": value} for name, value in rows.items()]


def _rate(pixels: int, seconds: float) -> float | None:
    return round(pixels / seconds / _MEGA, 3) if seconds else None


def _text(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:,.2f} {unit}"


def _megabytes(value: int | None) -> str:
    return "unknown here" if value is None else f"{value / _MEGA:,.0f} MB"


def _bytes_read() -> int | None:
    """Bytes that this process has read, from Linux; of files in memory too."""
    try:
        fields = Path("/proc/self/io").read_text(encoding="ascii").split()
        return int(fields[fields.index("rchar:") + 1])
    except (OSError, ValueError, IndexError):
        return None


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
