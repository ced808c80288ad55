"""`log.csv`: losses and scores, one line per logged step and per validation."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from terrafuse.errors import OutputError
from terrafuse.writing import written_whole

Value = str | int | float | None


class RunLog:
    """Log in a CSV file; columns that appear later are added to all lines.

    Args:
        path: The file; an existing one is continued.
        last_step: Lines of later steps are dropped, as the run resumes from there.

    Raises:
        OutputError: The file cannot be read or written.
    """

    def __init__(self, path: Path, *, last_step: int = 0) -> None:
        self.path = path
        self._columns: list[str] = []
        rows = [row for row in read_log(path) if int(row["step"]) <= last_step]
        if rows:
            self._columns = [*rows[0]]
            self._write(rows, mode="w")
        else:
            path.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Value]) -> None:
        """Append one line; `row` must have the key "step".

        Raises:
            OutputError: The disk is full, or the file cannot be written.
        """
        new = [key for key in row if key not in self._columns]
        if new:
            rows = read_log(self.path)
            self._columns += new
            self._write([*rows, row], mode="w")
        else:
            self._write([row], mode="a")

    def _write(self, rows: list[dict[str, str]] | list[Mapping[str, Value]], mode: str) -> None:
        if mode == "w":  # a kill must not take the lines that are there
            with written_whole(self.path) as (partial,):
                self._write_into(partial, rows, mode)
            return
        try:
            self._write_into(self.path, rows, mode)
        except OSError as error:
            raise OutputError(
                f"'{self.path}' cannot be written: {error.strerror or error}. Free space or make "
                "it writable, then continue with --resume"
            ) from None

    def _write_into(
        self, path: Path, rows: list[dict[str, str]] | list[Mapping[str, Value]], mode: str
    ) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            if mode == "w":
                writer.writeheader()
            writer.writerows(_text(row) for row in rows)


def read_log(path: Path) -> list[dict[str, str]]:
    """Read the lines of a log by column; empty text where a column has no value.

    Args:
        path: The file; a missing one has no lines.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # A line truncated by a full disk or a kill lacks columns: it is dropped.
            return [row for row in csv.DictReader(file) if None not in row.values()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"'{path}' cannot be read: {error}") from None


def _text(row: Mapping[str, Value]) -> dict[str, Value]:
    return {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
