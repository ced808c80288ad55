"""Signals: the first ends in order, a second at once; workers leave them to their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import pytest

from children import end_of, fork, run, wait_for_ever
from terrafuse.locking import is_process_gone
from terrafuse.stopping import (
    SIGNALS,
    StopListener,
    Stopped,
    deferred,
    how_to_go_on,
    listening,
    shield_worker,
    starting_workers,
    when_stopped,
)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_leaves_in_order(number: signal.Signals) -> None:
    before = [signal.getsignal(s) for s in SIGNALS]
    tidied = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            wait_for_ever()
        finally:
            tidied.append(True)

    with pytest.raises(Stopped, match=f"stopped by {number.name}") as found, listening():
        work()
    assert tidied
    assert found.value.exit_code == 128 + number
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_second_one_ends_at_once() -> None:
    def work(tell: Callable[[], None]) -> None:
        def act(number: signal.Signals) -> None:
            tell()
            wait_for_ever()  # hangs

        StopListener(act).start()
        os.kill(os.getpid(), signal.SIGTERM)

    reading, writing = os.pipe()
    number = fork(lambda: work(lambda: os.write(writing, b".") and None))
    os.read(reading, 1)
    os.kill(number, signal.SIGINT)
    assert end_of(number) == -signal.SIGINT
    os.close(reading)
    os.close(writing)


def test_an_echo_of_the_first_is_no_second() -> None:
    """`timeout` signals its child, and then the group that its child is in."""

    def work() -> None:
        heard = []
        StopListener(heard.append).start()
        hear = signal.getsignal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, partial(_hear_again, hear, signal.SIGTERM, pauses))
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert sum(pauses) == pytest.approx(1.5)

    pauses: list[float] = []
    assert run(work) == 0


@pytest.mark.parametrize("again", SIGNALS)
def test_another_signal_ends_while_an_echo_of_sigterm_may_come(again: signal.Signals) -> None:
    def work() -> None:
        pauses: list[float] = []
        StopListener(lambda _: None).start()
        hear = signal.getsignal(signal.SIGTERM)
        later = partial(_hear_again, hear, again, pauses, from_pause=2)
        signal.signal(signal.SIGTERM, later)
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(work) == (0 if again == signal.SIGTERM else -again)


def _hear_again(
    hear: Any, again: int, pauses: list[float], number: int, frame: Any, from_pause: int = 1
) -> None:
    """Hear a signal, and another one in each pause from one on."""

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= from_pause:
            os.kill(os.getpid(), again)

    sleep = time.sleep
    try:
        time.sleep = pause
        hear(number, frame)
    finally:
        time.sleep = sleep


def test_lines_that_belong_together_come_first() -> None:
    done = []

    def work() -> None:
        with deferred():
            with deferred():
                os.kill(os.getpid(), signal.SIGTERM)
            done.append("both")
        done.append("never")

    with pytest.raises(Stopped), listening():
        work()
    assert done == ["both"]


def test_the_outermost_says_how_to_go_on() -> None:
    with pytest.raises(Stopped) as found, when_stopped("outer"), when_stopped("inner"):
        raise Stopped(signal.SIGTERM)
    assert how_to_go_on(found.value) == "outer"
    assert "same command again" in how_to_go_on(Stopped(signal.SIGINT))


def _wait(connection: Any) -> None:
    shield_worker()
    connection.send(os.getpid())
    wait_for_ever()


def _start(tell: Callable[[int], None]) -> multiprocessing.process.BaseProcess:
    here, there = multiprocessing.get_context("fork").Pipe()
    with starting_workers():
        worker = multiprocessing.get_context("fork").Process(target=_wait, args=(there,))
        worker.start()
    tell(here.recv())
    return worker


def test_workers_are_ended_by_their_parent_alone() -> None:
    reading, writing = os.pipe()

    def work() -> None:
        heard: list[signal.Signals] = []
        listener = StopListener(heard.append)
        worker = _start(lambda _: None)
        for expected in range(1, len(SIGNALS) + 1):
            listener.stop()
            listener.start()
            os.write(writing, b".")
            while len(heard) < expected:
                time.sleep(0.01)
        assert heard == list(SIGNALS)
        worker.join(0.1)
        assert worker.is_alive()
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == 0

    parent = fork(work, leads_group=True)
    for number in SIGNALS:
        os.read(reading, 1)
        os.killpg(parent, number)
    assert end_of(parent) == 0
    os.close(reading)
    os.close(writing)


def test_a_first_worker_of_another_interpreter_never_sees_them() -> None:
    """multiprocessing starts its resource tracker with it, which unblocks signals."""
    tell = "import os, signal; os._exit(100 + len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"

    def work() -> None:
        resource_tracker._resource_tracker._fd = None  # as in a process that has none
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        worker = multiprocessing.get_context("spawn").Process(target=exec, args=(tell,))
        with starting_workers("spawn"):
            worker.start()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        worker.join(60)
        assert worker.exitcode == 100 + len(SIGNALS)

    assert run(work) == 0


def test_workers_end_with_a_killed_parent() -> None:
    reading, writing = os.pipe()

    def work() -> None:
        _start(lambda number: os.write(writing, f"{number}".encode()) and None)
        wait_for_ever()

    parent = fork(work)
    worker = int(os.read(reading, 20))
    os.kill(parent, signal.SIGKILL)
    end_of(parent)
    until = time.monotonic() + 30
    while not is_process_gone(worker, ""):
        assert time.monotonic() < until, "an orphan goes on"
        time.sleep(0.01)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_ends_with_a_line(
    monkeypatch: pytest.MonkeyPatch,
    command_line: Callable[..., tuple[int, str, str]],
    number: signal.Signals,
    code: int,
) -> None:
    from terrafuse import api

    def stop(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        wait_for_ever()

    with monkeypatch.context() as patch:
        patch.setattr(api, "list_configs", stop)
        found, out, err = command_line("configs", "list")
    assert (found, out) == (code, "")
    assert err == (
        f"stopped by {number.name}: what there was before is unchanged; run the same command "
        "again\n"
    )
    assert command_line("configs", "list")[0] == 0  # as it says
