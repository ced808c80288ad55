"""Estimated areas as a figure and as rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from terrafuse.evaluation import AreaEstimates, Estimate
from terrafuse.reports.figures import INK, LINE, MUTED, SERIES, styled

_LONGEST_NAME = 22
# Hollow, so that an interval shows through it.
_DIAMOND: dict[str, Any] = {"marker": "D", "ms": 6, "mfc": "none", "mew": 1.6, "ls": "none"}
#: Header of the rows of `area_rows`.
AREA_COLUMNS = ("class", "quantity", "value", "low", "high", "standard_error", "unit")


def area_rows(estimates: AreaEstimates) -> Iterator[tuple[Any, ...]]:
    """A row per estimated quantity: class, quantity, value, low, high, standard error, unit."""

    def row(name: str, quantity: str, found: Estimate | None, unit: str) -> tuple[Any, ...]:
        values = (
            ("",) * 4
            if found is None
            else (found.value, found.low, found.high, found.standard_error)
        )
        return name, quantity, *("" if v is None else v for v in values), unit

    for one in estimates.classes:
        mapped = "" if one.mapped_area is None else one.mapped_area
        yield one.name, "mapped area", mapped, "", "", "", estimates.unit
        yield row(one.name, "area", one.area, estimates.unit)
        yield row(one.name, "user's accuracy", one.users, "share")
        yield row(one.name, "producer's accuracy", one.producers, "share")
    yield row("", "overall accuracy", estimates.overall, "share")
    if estimates.overall_of_classed is not None:
        of_classed = estimates.overall_of_classed
        yield row("", "overall accuracy of pixels with a class", of_classed, "share")


@styled
def area_figure(estimates: AreaEstimates) -> Figure:
    """Draw areas with their intervals beside what the map counts, and accuracies with theirs."""
    count = len(estimates.classes)
    figure = Figure(figsize=(8.4, 0.5 * count + 1.7), layout="constrained")
    areas, accuracies = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for y, one in enumerate(estimates.classes):
        areas.barh(y, one.area.value, 0.56, color=SERIES[4])
        _interval(areas, y, one.area, INK)
        if one.mapped_area is not None:
            areas.plot(one.mapped_area, y, color=SERIES[5], zorder=2, **_DIAMOND)
        for offset, found, color in (
            (-0.14, one.users, SERIES[0]),
            (0.14, one.producers, SERIES[2]),
        ):
            if found is None:
                accuracies.text(0.02, y + offset, "–", va="center", color=MUTED, fontsize=7)
                continue
            _interval(accuracies, y + offset, found, color)
            accuracies.plot(found.value, y + offset, marker="o", ms=4.5, color=color, ls="none")
    names = [one.name for one in estimates.classes]
    short = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in names]
    areas.set_yticks(range(count), short, color=INK)
    areas.set_ylim(count - 0.45, -0.55)
    areas.set_xlim(left=0)
    areas.set_title("Area")
    areas.set_xlabel("hectares" if estimates.unit == "ha" else "pixels")
    accuracies.set_xlim(0, 1.02)
    accuracies.set_title("Accuracy")
    for axes in (areas, accuracies):
        axes.grid(axis="x")
        axes.spines["bottom"].set_color(LINE)
    _add_legend(figure, estimates)
    return figure


def _interval(axes: Any, y: float, found: Estimate, color: str) -> None:
    axes.plot((found.low, found.high), (y, y), color=color, lw=1.6, zorder=3)


def _add_legend(figure: Figure, estimates: AreaEstimates) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    interval = f"{100 * estimates.confidence:g} % interval"
    handles = [
        Patch(color=SERIES[4], label="estimated"),
        Line2D([], [], color=INK, lw=1.6, label=interval),
        Line2D([], [], color=SERIES[5], label="counted on the map", **_DIAMOND),
        Line2D([], [], color=SERIES[0], marker="o", ms=4.5, label="user's accuracy"),
        Line2D([], [], color=SERIES[2], marker="o", ms=4.5, label="producer's accuracy"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=8)
