"""Progress of long work: a bar on a terminal, lines of a log elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Called with (done, total) during long work.
Progress = Callable[[int, int], None]
#: Called with the title of each part of long work as it begins.
Stage = Callable[[str], object]


#: Seconds without a line that make the next one due, and the part of a stage's time that does.
_LINE_SECONDS, _LINE_SHARE = 10.0, 0.05


class Display(AbstractContextManager["Display"]):
    """A progress bar with rate, time left and a note; plain lines where stderr is no terminal.

    Args:
        enabled: False: always silent.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._bar: Bar | None = None
        self._lines: _Lines | None = None
        self._task: TaskID | None = None
        self._title = ""
        if enabled and sys.stderr.isatty():
            self._bar = _create_bar()
        elif enabled:
            self._lines = _Lines()

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._lines and error is None:
            self._lines.end()

    def stage(self, title: str) -> Progress:
        """Begin a new stage; return its progress callback (done, total)."""
        self._title = title
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=None, note="")
        if self._lines:
            self._lines.begin(title)
        return self.update

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        if self._lines:
            self._lines.update(done, total)

    def say(self, text: str) -> None:
        """Print a permanent line above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        if self._lines:
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Set the text after the bar (loss, last score)."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, note=text)
        if self._lines:
            self._lines.note = text

    def title(self, text: str = "") -> None:
        """Set the text before the bar for a while; default: back to the stage's title."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text or self._title)


class _Lines:
    """Progress as lines on stderr, for logs of queues and servers.

    The first comes after ten seconds, and later ones as the work goes on for longer, so that a day
    of training takes no more than some dozens. Work that is done sooner says nothing.
    """

    def __init__(self) -> None:
        self.note = ""
        self._title = ""
        self._start = self._told = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._now = self._total = 0
        self._is_told = False

    def begin(self, title: str) -> None:
        """A new stage; that before it is done."""
        self.end()
        self._title, self.note = title, ""
        self._start = self._told = time.monotonic()
        self._first = None
        self._now = self._total = 0

    def update(self, done: int, total: int) -> None:
        """Tell where the work is, where that is due."""
        now = time.monotonic()
        if self._first is None:
            self._first = done, now  # a resumed run has not done that now
        self._now, self._total = done, total
        if now - self._told < max(_LINE_SECONDS, _LINE_SHARE * (now - self._start)):
            return
        words = [f"{done} of {total}" + (f" ({done / total:.0%})" if total else "")]
        fresh, seconds = done - self._first[0], now - self._first[1]
        if fresh > 0 and seconds > 0:
            left = seconds / fresh * (total - done)
            words += [_rate(fresh / seconds), f"{_duration(left)} left"]
        self._tell(", ".join([*words, *([self.note] if self.note else [])]))
        self._told = now

    def end(self) -> None:
        """Tell that the stage is done, where anything was told of it."""
        if self._is_told:
            seconds = time.monotonic() - self._start
            self._tell(f"{self._now} of {self._total} after {_duration(seconds)}")
        self._is_told = False

    def _tell(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)
        self._is_told = True


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _create_bar() -> Bar:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
