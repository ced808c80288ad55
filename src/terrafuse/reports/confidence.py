"""Figures of how sure a map is and should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terrafuse.reports.figures import INK, LINE, MUTED, SERIES, styled

_LEAST_SHARE = 1e-3


@styled
def reliability_figure(subsets: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw reliability, where confidences lie, and what leaving out uncertain pixels brings.

    Bins with less than a thousandth of the pixels have no point: their accuracy is noise.

    Args:
        subsets: Name → calibration, as `metrics.json` has it at ["calibration"]["subsets"]; one
            run's subsets, or one subset of several runs.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1, 1))
    diagram, pixels = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    risk = figure.add_subplot(grid[:, 1])
    diagram.plot([0, 1], [0, 1], color=LINE, lw=1.2, zorder=0)
    for number, (name, own) in enumerate(subsets.items()):
        color = SERIES[number % len(SERIES)]
        _draw_reliability(diagram, pixels, own["diagram"], color)
        curve = own["risk_curve"]
        risk.plot(
            _percent(curve["coverage"]), _percent(curve["risk"]), color=color, lw=1.8,
            label=f"{name}: ECE {_ece(own)}",
        )  # fmt: skip
    diagram.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    diagram.set_title("Right as often as it says?")
    diagram.text(0.97, 0.04, "surer than right", color=MUTED, fontsize=7, ha="right")
    diagram.tick_params(labelbottom=False)
    pixels.set(xlim=(0, 1), xlabel="confidence", ylabel="pixels, %")
    risk.set(xlim=(0, 100), xlabel="coverage, % of pixels kept, the surest first")
    risk.set_ylim(bottom=0)
    risk.set_title("Errors among the pixels kept, %")
    for axes in (diagram, pixels, risk):
        axes.grid(axis="both")
    figure.legend(loc="outside lower left", ncols=2, fontsize=8, labelcolor=INK)
    return figure


def _draw_reliability(
    diagram: Axes, pixels: Axes, own: Mapping[str, Sequence[Any]], color: str
) -> None:
    counts = np.array(own["pixels"], np.float64)
    known = np.flatnonzero((counts > 0) & (counts >= _LEAST_SHARE * counts.sum())).tolist()
    confidence, accuracy = ([own[key][k] for k in known] for key in ("confidence", "accuracy"))
    diagram.plot(confidence, accuracy, color=color, lw=1.4, marker="o", ms=3.5)
    edges = np.linspace(0, 1, len(counts) + 1)
    pixels.stairs(100 * counts / max(counts.sum(), 1), edges, color=color, lw=1.4)


def _ece(own: Mapping[str, Any]) -> str:
    value = own["ece"]["20"]["value"]
    return "undefined" if value is None else f"{100 * value:.1f} %"


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
