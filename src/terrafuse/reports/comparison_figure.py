"""Figure of a comparison: differences with their intervals, or a matrix of verdicts of many."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from terrafuse.evaluation.comparison import Comparison, Effect, label_of
from terrafuse.evaluation.score_table import SCORES
from terrafuse.reports.figures import INK, LINE, MUTED, SERIES, styled

#: More differences than so many of one score are a matrix.
MOST_ROWS = 15
_ROW_INCHES, _HEAD_INCHES = 0.26, 0.8
_BETTER, _WORSE = SERIES[0], SERIES[5]


@styled
def comparison_figure(comparison: Comparison) -> Figure:
    """Draw a panel per score over classes; of scores of classes alone, a panel each."""
    over = [column for column in comparison.columns if column in SCORES]
    columns = over or list(comparison.columns)
    number = len(comparison.of(columns[0]))
    if number > MOST_ROWS and comparison.against is None:
        return _matrix(comparison, columns[0])
    height = _HEAD_INCHES + _ROW_INCHES * number
    figure = Figure(figsize=(6.8, height * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    for axes, column in zip(panels, columns, strict=True):
        _forest(axes, comparison.of(column))
        axes.set_title(label_of(column))
    panels[-1].set_xlabel("A − B, points; 95 % interval")
    return figure


def _forest(axes: Axes, effects: Sequence[Effect]) -> None:
    axes.axvline(0, color=MUTED, lw=0.8)
    for place, effect in enumerate(effects):
        color = SERIES[6] if effect.better is None else SERIES[0]
        own = effect.difference
        if not isnan(own.low):
            axes.plot([100 * own.low, 100 * own.high], [place] * 2, color=color, lw=2)
        if not isnan(own.value):
            axes.plot([100 * own.value], [place], "o", ms=5, color=color)
    axes.set_yticks(range(len(effects)), [f"{e.a} − {e.b}" for e in effects], color=INK)
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.grid(axis="x")


def _matrix(comparison: Comparison, column: str) -> Figure:
    """Draw who is better than whom; the best on top."""
    ranked = comparison.ranked(column)
    names = [*ranked, *(name for name in comparison.values if name not in ranked)]
    verdicts = {(e.a, e.b): e.better for e in comparison.of(column)}
    side = 1.6 + 0.26 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    for row, one in enumerate(names):
        for place, other in enumerate(names):
            if one == other:
                continue
            better = verdicts.get((one, other), verdicts.get((other, one)))
            color = LINE if better is None else _BETTER if better == one else _WORSE
            axes.add_patch(_square(place, row, color))
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks(range(len(names)), names, rotation=90, color=INK)
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_title(f"{label_of(column)}: row against column")
    words = {"row is better": _BETTER, "row is worse": _WORSE, "cannot be told apart": LINE}
    handles = [Patch(color=color, label=text) for text, color in words.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _square(column: int, row: int, color: str) -> Patch:
    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, facecolor=color, edgecolor="none")
