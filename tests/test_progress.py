"""Progress where stderr is no terminal: lines of a log, by a clock that the test sets."""

from __future__ import annotations

import pytest

from terrafuse import progress
from terrafuse.progress import Display


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_lines_with_rate_time_left_and_note(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as display:
        update = display.stage("training")
        for step in range(1, 101):
            clock.now += 4
            display.note(f"loss {1 / step:.2f}")
            update(step, 100)
        display.stage("looking")(1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 3 of 100 (3%), 4.0 s each, 6 min left, loss 0.33"
    assert lines[-1] == "training: 100 of 100 after 7 min"
    assert not any("looking" in line for line in lines)  # over before there was a line to tell
    # 12 s apart at first, 20 s after 400 s.
    assert 20 < len(lines) < 32
    assert "\r" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


def test_short_work_is_silent_and_long_work_tells_less_often(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as display:
        update = display.stage("reading")
        for scene in range(9):
            clock.now += 1
            update(scene + 1, 9)
    assert capsys.readouterr().err == ""
    with Display() as display:
        update = display.stage("training")
        for minute in range(24 * 60):
            clock.now += 60
            update(minute + 1, 24 * 60)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 120
    assert lines[-1] == "training: 1440 of 1440 after 24 h 0 min"


def test_a_resumed_run_counts_what_it_does_now(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as display:
        update = display.stage("training")
        update(900, 1000)
        clock.now += 20
        update(940, 1000)
    assert capsys.readouterr().err.splitlines()[0] == (
        "training: 940 of 1000 (94%), 2.0/s, 30 s left"
    )


def test_what_fails_is_not_said_to_be_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Display() as display:
            display.stage("mapping")(1, 9)
            clock.now += 50
            display.update(4, 9)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert capsys.readouterr().err.splitlines() == ["mapping: 4 of 9 (44%), 16.7 s each, 83 s left"]


def test_what_is_said_stays_and_what_is_silenced_is_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display() as display:
        display.say("random changes, s1: [none]")
    assert capsys.readouterr().err == "random changes, s1: [none]\n"
    with Display(enabled=False) as display:
        display.stage("x")(1, 2)
        display.say("nothing")
    assert capsys.readouterr().err == ""
