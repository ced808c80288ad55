"""A table before it is text, Markdown, LaTeX or HTML; intervals as its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Cell = str | int | float | None
#: Plain values of an interval, as `Interval.to_dict` returns them.
IntervalDict = Mapping[str, float | None]


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


def points(interval: IntervalDict) -> str:
    """An interval in points: "12.3 [8.1, 16.0]"."""
    return _with_ends(interval, lambda value: f"{100 * value:.1f}")


def bits(interval: IntervalDict) -> str:
    """An interval in bits: "0.123 [0.081, 0.160]"."""
    return _with_ends(interval, lambda value: f"{value:.3f}")


def _with_ends(interval: IntervalDict, text: Callable[[float], str]) -> str:
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return text(value)
    return f"{text(value)} [{text(low)}, {text(high)}]"
