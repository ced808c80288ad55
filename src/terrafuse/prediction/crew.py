"""Workers of an engine: what they are given, what they report, and who hires them."""

from __future__ import annotations

import pickle
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from terrafuse.cores import limit_threads
from terrafuse.data.handles import limit_resources
from terrafuse.errors import TerrafuseError

_CACHE_MB = 64


class Order(Protocol):
    """What workers need for all tasks, with a model."""

    def packed(self) -> bytes:
        """The order for a process that this one starts."""

    def on(self, device: str) -> Self:
        """Return the same, on another device."""


@dataclass(frozen=True)
class Event:
    """What a worker reports.

    Args:
        worker: Its number.
        kind: "ready" for a rectangle; "count" of windows done in one; "units" that are finished,
            as number → whether they have data; "warning", its text and class; "result" of a
            task that is done, of a rectangle its profile; "failed" with an error; "died".
    """

    worker: int
    kind: Literal["ready", "count", "units", "warning", "result", "failed", "died"]
    value: Any = None


class Crew(AbstractContextManager["Crew"], ABC):
    """Workers of an engine."""

    @abstractmethod
    def hire(self, worker: int) -> None:
        """Start a worker, which reports when it is ready."""

    @abstractmethod
    def give(self, worker: int, task: Any) -> None:
        """Let a worker that is ready do a task, such as to map a rectangle."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Wait for reports; those of one worker are in order."""


def prepare_worker(threads: int) -> None:
    """Limit what this process takes beside other workers."""
    limit_threads(threads)
    limit_resources(cache_mb=_CACHE_MB)


@contextmanager
def telling_warnings(warn: Any) -> Iterator[None]:
    """Give warnings to a function instead of printing them; each as often as it occurs."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warn
        yield


def sendable(error: Exception) -> Exception:
    """An error for another process, with its traceback where it is none that a user causes."""
    if not isinstance(error, TerrafuseError | MemoryError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        copy(error)  # made anew as the other process will
        pickle.dumps(error)
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
