"""Signals that ask a program to stop: Ctrl-C, and those of `timeout`, schedulers and containers.

The first one lets the work end in order; a second one ends the process at once. Processes that
work for another one do not listen to these signals, which reach a whole group at once: their parent
saves what is done, and ends them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, NoReturn

#: Job schedulers announce the end of a job by SIGTERM or, on request, by SIGUSR1.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if name in signal.Signals.__members__
)
#: `timeout` signals its child and then the child's group: twice within an instant, or later on a
#: busy machine. SIGTERM is not sent by hand, so that its echo is waited for a little longer.
_ECHO_SECONDS, _ECHO_OF_SIGTERM_SECONDS = 0.3, 1.5
_LOOK_SECONDS = 1.0


class Stopped(BaseException):
    """A signal has asked this program to stop; not an error, and nothing handles it but the end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signal


def stop_here(number: signal.Signals) -> NoReturn:
    """Leave whatever is going on.

    Raises:
        Stopped: Always.
    """
    raise Stopped(number)


class StopListener:
    """Listener to signals that ask to stop.

    Args:
        act: Called in the main thread at the first signal.
    """

    def __init__(self, act: Callable[[signal.Signals], None]) -> None:
        self._act = act
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def start(self) -> None:
        """Install the signal handlers; only possible in the main thread."""
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {s: signal.signal(s, self._hear) for s in SIGNALS}

    def stop(self) -> None:
        """Restore the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:  # a forked process inherits the handlers
            return
        for one in self._before:
            signal.signal(one, signal.SIG_IGN)
        time.sleep(_ECHO_SECONDS)
        for one in self._before:
            if not one == number == signal.SIGTERM:
                signal.signal(one, signal.SIG_DFL)
        if number == signal.SIGTERM:
            time.sleep(_ECHO_OF_SIGTERM_SECONDS - _ECHO_SECONDS)
            signal.signal(number, signal.SIG_DFL)
        act = partial(self._act, signal.Signals(number))
        if _Deferral.depth:
            _Deferral.waiting = act
        else:
            act()


class _Deferral:
    """State of the main thread."""

    depth = 0
    waiting: Callable[[], None] | None = None


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait for the end of a few lines that belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Deferral.depth += 1
    try:
        yield
    finally:
        _Deferral.depth -= 1
        if not _Deferral.depth and _Deferral.waiting is not None:
            act, _Deferral.waiting = _Deferral.waiting, None
            act()


@contextmanager
def listening() -> Iterator[None]:
    """Turn the first signal into `Stopped`, for a whole program.

    Raises:
        Stopped: A signal arrived.
    """
    listener = StopListener(stop_here)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


@contextmanager
def when_stopped(hint: str) -> Iterator[None]:
    """Add to a signal that arrives in the block how to go on; the outermost block counts."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        stop.add_note(hint)
        raise


def how_to_go_on(stop: BaseException) -> str:
    """What to do after a signal."""
    notes: list[str] = getattr(stop, "__notes__", [])
    return notes[-1] if notes else "what there was before is unchanged; run the same command again"


@contextmanager
def starting_workers(method: str | None = None) -> Iterator[None]:
    """Start processes that never see the signals; in each, call `shield_worker`.

    Args:
        method: How they are started ("fork", "spawn", "forkserver"); default: multiprocessing's.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _not_for_workers())
    try:
        if (method or multiprocessing.get_start_method()) != "fork":
            # It starts with the first worker, and unblocks SIGINT and SIGTERM when it has started.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, _not_for_workers())
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_worker() -> None:
    """In a worker process: leave stopping to the parent, and end when it has ended.

    Must be called in the main thread. Where the sender of a signal cannot be known (macOS), SIGTERM
    still ends the worker, because its parent could not end it otherwise.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _not_for_workers())
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    number = os.getppid() if parent is None else parent.pid
    threading.Thread(target=_obey, args=(number,), daemon=True).start()


def _not_for_workers() -> set[signal.Signals]:
    knows_sender = hasattr(signal, "sigtimedwait")
    return {s for s in SIGNALS if knows_sender or s != signal.SIGTERM}


def _obey(parent: int | None) -> None:
    """End this process when its parent says so by SIGTERM, or has ended."""
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(_LOOK_SECONDS)
            continue
        found = signal.sigtimedwait({signal.SIGTERM}, _LOOK_SECONDS)
        if found is not None and found.si_pid == parent:
            os._exit(0)
    os._exit(1)
