"""Threads before and behind the model."""

from __future__ import annotations

import threading

import pytest

from terrafuse.prediction.queues import write_behind


def test_items_are_written_in_order_by_one_thread_and_all_at_the_end() -> None:
    written: list[int] = []
    threads = set()

    def write(item: int) -> None:
        threads.add(threading.current_thread().name)
        written.append(item)

    with write_behind(write) as put:
        for item in range(50):
            put(item)
    assert written == list(range(50))
    assert len(threads) == 1
    assert threads != {threading.current_thread().name}


def test_few_items_wait() -> None:
    going_on, started = threading.Event(), threading.Semaphore(0)
    put_so_far: list[int] = []

    def write(_: int) -> None:
        started.release()
        going_on.wait()

    def put_all() -> None:
        with write_behind(write) as put:
            for item in range(9):
                put(item)
                put_so_far.append(item)

    other = threading.Thread(target=put_all)
    other.start()
    started.acquire()
    while len(put_so_far) < 2:
        pass
    # The third waits until the first is written, however long that takes.
    assert put_so_far == [0, 1]
    going_on.set()
    other.join()
    assert put_so_far == list(range(9))


@pytest.mark.parametrize("last", [3, 9])
def test_nothing_is_written_after_an_error_which_is_raised(last: int) -> None:
    written: list[int] = []

    def write(item: int) -> None:
        if item == 2:
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full"), write_behind(write) as put:  # noqa: PT012
        for item in range(last):
            put(item)
    assert written == [0, 1]


def test_an_error_of_the_caller_ends_writing() -> None:
    written: list[int] = []
    going_on = threading.Event()

    def write(item: int) -> None:
        going_on.wait()
        written.append(item)

    with pytest.raises(ValueError, match="mine"), write_behind(write) as put:  # noqa: PT012
        put(0)
        put(1)
        going_on.set()
        raise ValueError("mine")
    assert written in ([0], [0, 1])  # what was being written is finished
