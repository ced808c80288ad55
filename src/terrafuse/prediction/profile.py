"""Where the time of a map goes: what each stage works and waits, and what the model alone would need.

Reading, the model and writing run in a thread each. What limits a map is the stage that the others
wait for; beside a model that is never waited for, the engine costs nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_MEGA = 1e6


@dataclass
class MapProfile:
    """Counts and seconds of the threads of one process; those of several are added.

    Args:
        windows: Windows on which the model was run, repeated ones included.
        model_pixels: Scene pixels in them.
        seconds: Stage → seconds: "read", "model", "write" at work; "for reader", "for writer" that
            the model has waited, "writer idle" and "reader idle" likewise.
        bytes_read: From files, those of programs and libraries included; None where unknown.
        peak_bytes: Largest memory of a process, since it began; None where unknown.
        processes: Number of processes.
    """

    windows: int = 0
    model_pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_read: int | None = None
    peak_bytes: int | None = None
    processes: int = 1

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what is done inside to a stage; every stage is of one thread."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(stage, time.perf_counter() - start)

    @contextmanager
    def model(self, windows: int, pixels: int, device: torch.device) -> Iterator[None]:
        """Add a pass of the model.

        Args:
            windows: Of the batch.
            pixels: Scene pixels of all of them.
            device: An accelerator is waited for: the pass ends when its result is there, as the
                next step needs it.
        """
        with self.timed("model"):
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        self.windows += windows
        self.model_pixels += pixels

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count bytes read and memory of this process."""
        before = _bytes_read()
        try:
            yield
        finally:
            after = _bytes_read()
            if before is not None and after is not None:
                self.bytes_read = (self.bytes_read or 0) + after - before
            self.peak_bytes = _peak_bytes()

    def add(self, other: MapProfile) -> None:
        """Add that of another process."""
        self.windows += other.windows
        self.model_pixels += other.model_pixels
        for stage, seconds in other.seconds.items():
            self._add(stage, seconds)
        if other.bytes_read is not None:
            self.bytes_read = (self.bytes_read or 0) + other.bytes_read
        self.peak_bytes = max(self.peak_bytes or 0, other.peak_bytes or 0) or None
        self.processes += other.processes

    def to_dict(self, scene_pixels: int, seconds: float) -> dict[str, Any]:
        """Numbers for `prediction.json` and `--profile`.

        Args:
            scene_pixels: Mapped in this time.
            seconds: Of the clock.
        """
        model = self.seconds.get("model", 0.0)
        busy = seconds * max(1, self.processes)
        return {
            "seconds": round(seconds, 3),
            "scene_mpix_per_s": _rate(scene_pixels, seconds),
            "model_mpix_per_s": _rate(self.model_pixels, model),
            # Both count the pixels that windows share as often as the model sees them.
            "share_of_model": round(model / busy, 3) if busy else None,
            "windows_run": self.windows,
            "pixels_run_per_scene_pixel": round(self.model_pixels / max(1, scene_pixels), 3),
            "stage_seconds": {name: round(s, 3) for name, s in sorted(self.seconds.items())},
            "bytes_read": self.bytes_read,
            "peak_bytes": self.peak_bytes,
            "processes": self.processes,
        }

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def describe_profile(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of a table, to be printed, from what `MapProfile.to_dict` returned."""
    share = found["share_of_model"]
    rows = {
        "scene": _text(found["scene_mpix_per_s"], "Mpixel/s"),
        "model alone": _text(found["model_mpix_per_s"], "Mpixel/s of windows"),
        "overlap": f"{found['pixels_run_per_scene_pixel']:g} window pixels per scene pixel",
        "time in the model": "–"
        if share is None
        else f"{share:.1%} (1 = the engine costs nothing)",
    }
    rows |= {name: f"{value:.1f} s" for name, value in found["stage_seconds"].items()}
    rows |= {
        "read from files": _megabytes(found["bytes_read"]),
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
