"""Progress of long work and its display in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Called with (done, total) during long work.
Progress = Callable[[int, int], None]


class Display(AbstractContextManager["Display"]):
    """A progress bar with rate, time left and a note; silent if stderr is not a terminal.

    Args:
        enabled: False: always silent.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._title = ""
        if enabled and sys.stderr.isatty():
            self._bar = _create_bar()

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

    def stage(self, title: str) -> Progress:
        """Begin a new stage; return its progress callback (done, total)."""
        self._title = title
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=None, note="")
        return self.update

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a permanent line above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Set the text after the bar (loss, last score)."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, note=text)

    def title(self, text: str = "") -> None:
        """Set the text before the bar for a while; default: back to the stage's title."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text or self._title)


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
