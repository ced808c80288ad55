"""A table before it is text, Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows.

    Args:
        title: Line above it.
        header: Names of the columns.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
