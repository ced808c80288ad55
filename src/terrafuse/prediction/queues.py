"""Stages of mapping in threads of their own, a little ahead of the model or behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

# Items read before they are requested, and those that wait to be written.
_READ_AHEAD = 2
_WRITE_BEHIND = 2

_T = TypeVar("_T")
_END: Any = object()


def read_ahead(items: Iterable[_T]) -> Generator[_T, None, None]:
    """Yield items of an iterable that a thread advances a little; its errors are raised here."""
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="terrafuse-read")
    try:
        pending = deque(pool.submit(next, source, _END) for _ in range(_READ_AHEAD))
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def write_behind(write: Callable[[_T], None]) -> Iterator[Callable[[_T], None]]:
    """Give a function that has items written by a thread, in their order.

    All are written at the end of the block. An error of `write` is raised by a later call or at
    that end, and nothing is written after it.

    Args:
        write: Writes one item.
    """
    pending: deque[Future[None]] = deque()
    failed = False

    def write_next(item: _T) -> None:
        nonlocal failed
        if failed:
            return
        try:
            write(item)
        except BaseException:
            failed = True
            raise

    def put(item: _T) -> None:
        while len(pending) >= _WRITE_BEHIND or (pending and pending[0].done()):
            pending.popleft().result()
        pending.append(pool.submit(write_next, item))

    pool = ThreadPoolExecutor(1, thread_name_prefix="terrafuse-write")
    try:
        yield put
        for future in pending:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
