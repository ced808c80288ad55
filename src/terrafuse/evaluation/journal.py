"""Scores that are being made: counts of finished scenes in the run folder, until all are there.

`scored/2-of-3.jsonl` is the journal of the second of three shards: a line says what is scored and
how, each further one holds the counts of a scene. A line begins with a digest of itself, so that
one that a killed process has torn is passed over. Lines are written at most once a second: scenes
that take longer are on disk as soon as they are done, and those of an instant cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from terrafuse.errors import OutputError, write_failure
from terrafuse.evaluation.counts import SceneCounts
from terrafuse.prediction import Shard
from terrafuse.stopping import deferred
from terrafuse.writing import is_own_folder, remove_files

#: Folder of unfinished scores, in the run folder.
SCORED = "scored"
_FORMAT = 2  # 2: counts are kept per cell
_NAME = re.compile(r"\d+-of-\d+\.jsonl", re.ASCII)
_SECONDS = 1.0
_DIGITS = 16


@dataclass(frozen=True)
class Keeping:
    """Where counts of finished scenes are kept, and what tells that they are still valid.

    Args:
        folder: Made when there is something to keep, and removed at the end.
        facts: What the scores depend on besides the model and the rules of scoring.
        described: What the manifest says of a scene, by its id.
    """

    folder: Path
    facts: Callable[[], Mapping[str, Any]] = dict
    described: Callable[[str], Any] = str

    def files(self) -> list[Path]:
        """What is kept."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            return []

    def remove(self) -> None:
        """Remove what is kept, and the folder if nothing else is in it."""
        remove_files(self.folder, self.files())


class ScoreJournal(AbstractContextManager["ScoreJournal"]):
    """Counts of finished scenes, on disk.

    Args:
        keeping: Where.
        key: What must be equal for counts to be of the same scores: name → value.
        scenes: Ids of all scenes.
        states: State of the files of a scene, by its position.
        num_classes: K.
        shard: Which of several runs this is.
    """

    def __init__(
        self,
        keeping: Keeping,
        key: Callable[[], Mapping[str, Any]],
        scenes: Sequence[str],
        states: Callable[[int], str],
        num_classes: int,
        shard: Shard | None = None,
    ) -> None:
        self.folder = keeping.folder
        self.shard = shard
        self._keeping = keeping
        self._own_key = key
        self._scenes = scenes
        self._states = states
        self._num_classes = num_classes
        own = shard or Shard(1, 1)
        self._path = self.folder / f"{own.number}-of-{own.of}.jsonl"
        self._pending: list[str] = []
        self._is_begun = False
        self._written_at = time.monotonic()

    @cached_property
    def key(self) -> dict[str, str]:
        """Name → digest of its value."""
        values = {"": _FORMAT, **self._own_key(), **self._keeping.facts()}
        return {name: _digest(value) for name, value in values.items()}

    def begin(self, *, resume: bool = False) -> None:
        """Look at what is there; a shard always goes on with what it finds.

        Args:
            resume: True: go on with what there is of the same scores.

        Raises:
            OutputError: The folder is somebody else's, or cannot be written.
        """
        self._check_ours()
        if self.shard:
            self._told_other([self._path])
            self._write()  # so that it is seen when another shard has finished all
        elif not self._keeping.files():
            return
        elif not resume:
            warnings.warn(
                f"'{self.folder}' held unfinished scores, which are begun anew; --resume would go "
                "on",
                stacklevel=5,
            )
            self._keeping.remove()
        else:
            for path in self._told_other(self._keeping.files()):
                path.unlink()

    def found(self) -> Iterator[tuple[int, SceneCounts]]:
        """Positions and counts of scenes that are done and whose files are as they were."""
        places = {id: number for number, id in enumerate(self._scenes)}
        for path in self._keeping.files():
            lines = _sound_lines(path)
            if next(lines, {}).get("key") != self.key:
                continue
            for line in lines:
                number = places.get(line.get("scene", ""))
                if number is None or line.get("described") != self._describe(number):
                    continue
                try:
                    counts = SceneCounts.from_dict(line["counts"], self._num_classes)
                except (ValueError, LookupError, TypeError):
                    continue
                if counts.state == self._states(number):
                    del places[self._scenes[number]]
                    yield number, counts

    def add(self, number: int, counts: SceneCounts, *, is_last: bool = False) -> None:
        """Keep the counts of a scene.

        Args:
            is_last: True: the scores follow at once.

        Raises:
            OutputError: The disk is full or fails.
        """
        line = {
            "scene": self._scenes[number],
            "described": self._describe(number),
            "counts": counts.to_dict(),
        }
        self._pending.append(_line(line))
        if time.monotonic() - self._written_at >= _SECONDS and not is_last:
            self._write()

    @property
    def is_removed(self) -> bool:
        """Whether another shard has finished all, and removed what was kept."""
        return self.shard is not None and not self._path.exists()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Where all went well, the scores follow at once.
        if self._pending and (error is not None or self.shard):
            self._write()

    def _write(self) -> None:
        try:
            with deferred():
                self.folder.mkdir(parents=True, exist_ok=True)
                is_begun = self._is_begun and self._path.exists()
                lines = [] if is_begun or self._goes_on() else [_line({"key": self.key})]
                # A line that is torn ends here.
                text = "".join(f"\n{line}" for line in [*lines, *self._pending]) + "\n"
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                self._is_begun = True
                self._pending.clear()
        except OSError as error:
            raise OutputError(
                f"'{self._path}' cannot be written: {write_failure(error, self.folder)}"
            ) from error
        self._written_at = time.monotonic()

    def _goes_on(self) -> bool:
        """Tell whether the file holds the same scores; otherwise it is removed."""
        if next(_sound_lines(self._path), {}).get("key") == self.key:
            return True
        self._path.unlink(missing_ok=True)
        return False

    def _told_other(self, paths: Sequence[Path]) -> list[Path]:
        """Files of other scores, which are begun anew."""
        other = []
        for path in paths:
            if not path.exists():
                continue
            found = next(_sound_lines(path), {}).get("key")
            if found != self.key:
                other.append(path)
                names = sorted(name for name, value in self.key.items() if name)
                known = found if isinstance(found, dict) else {}
                differing = [name for name in names if known.get(name) != self.key[name]]
                warnings.warn(
                    f"'{path}' is of scores with other {', '.join(differing) or 'rules'}; its "
                    "scenes are scored anew",
                    stacklevel=6,
                )
        return other

    def _describe(self, number: int) -> str:
        return _digest(self._keeping.described(self._scenes[number]))

    def _check_ours(self) -> None:
        """Refuse a folder or file of somebody else's that has the name of ours.

        Raises:
            OutputError: There is one.
        """
        if not is_own_folder(self.folder, lambda path: bool(_NAME.fullmatch(path.name))):
            raise OutputError(
                f"'{self.folder}' is needed for scores that are being made, and is no such folder. "
                "Move it"
            )


def _line(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]} {text}"


def _sound_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are as they were written."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                found, _, text = line.rstrip("\n").partition(" ")
                if text and hashlib.sha256(text.encode()).hexdigest()[:_DIGITS] == found:
                    yield json.loads(text)
    except FileNotFoundError:
        return


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
