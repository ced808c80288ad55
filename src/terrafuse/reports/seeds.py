"""Figure of scores over seeds: a dot per seed, their mean and its interval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terrafuse.reports.figures import INK, SERIES, styled

_ROW_INCHES, _HEAD_INCHES = 0.24, 0.75


@dataclass(frozen=True)
class ScoreRow:
    """A row of the figure.

    Args:
        values: One score per seed.
        half: Half the width of the confidence interval of their mean; None for a single seed.
        ends: Of an interval that is not even about the mean; instead of `half`.
    """

    title: str
    values: Sequence[float]
    half: float | None = None
    ends: tuple[float, float] | None = None


@styled
def seeds_figure(groups: Mapping[str, Sequence[ScoreRow]], label: str) -> Figure:
    """Draw rows from top to bottom, one panel per group.

    Args:
        groups: Title of a panel → its rows.
        label: Name and unit of the score.
    """
    shown = {title: rows for title, rows in groups.items() if rows}
    heights = [_HEAD_INCHES + _ROW_INCHES * len(rows) for rows in shown.values()]
    figure = Figure(figsize=(6.4, sum(heights) or _HEAD_INCHES), layout="constrained")
    if not shown:
        return figure
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(panels, shown.items(), strict=True):
        _draw(axes, rows)
        axes.set_title(title)
        axes.set_xlabel(label)
    return figure


def _draw(axes: Axes, rows: Sequence[ScoreRow]) -> None:
    for place, row in enumerate(rows):
        mean = statistics.mean(row.values)
        axes.plot(row.values, [place] * len(row.values), "o", ms=4, color=SERIES[0], alpha=0.45)
        ends = row.ends
        if ends is None and row.half is not None:
            ends = (mean - row.half, mean + row.half)
        if ends is not None:
            axes.plot(ends, [place] * 2, color=SERIES[0], lw=1.5)
        axes.plot([mean], [place], "|", ms=11, mew=2, color=INK)
    # The interval of few, very different seeds is wide: it must not squeeze the other rows.
    values = [value for row in rows for value in row.values]
    margin = 0.15 * (max(values) - min(values)) or 1.0
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], color=INK)
    axes.grid(axis="x")
