"""Forked processes of a test: they have all modules loaded, and may be killed."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def fork(work: Callable[[], Any], *, leads_group: bool = False) -> int:
    """Run a function in a forked process and return its number; it exits with 0, or 1 and a trace.

    Args:
        leads_group: The process is first in a group of its own, as under `timeout`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        if leads_group:
            os.setsid()
        _use_one_thread()
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_of(number: int) -> int:
    """Wait for a process; its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def run(work: Callable[[], Any], *, leads_group: bool = False) -> int:
    """`fork`, and `end_of`."""
    return end_of(fork(work, leads_group=leads_group))


@contextmanager
def running(work: Callable[[Callable[[], None]], Any]) -> Iterator[int]:
    """A forked process that has called the function it is given; it is killed at the end."""
    reading, writing = os.pipe()

    def tell() -> None:
        os.write(writing, b".")

    number = fork(lambda: work(tell))
    os.close(writing)
    try:
        assert os.read(reading, 1) == b".", "it ended before it was ready"
        yield number
    finally:
        os.close(reading)
        try:
            os.kill(number, signal.SIGKILL)
        finally:
            os.waitpid(number, 0)


def wait_for_ever() -> None:
    """Until a signal comes."""
    while True:
        signal.pause()


def kill_at_rename(number: int) -> None:
    """In this process: kill -9 just before a file is moved to its place for the n-th time."""
    replace, left = Path.replace, [number]

    def count(self: Path, target: Any) -> Path:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = count  # type: ignore[method-assign]


def _use_one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # threads do not survive forking
