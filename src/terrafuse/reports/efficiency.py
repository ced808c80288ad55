"""Figure of scores against the share of the labels used in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from terrafuse.reports.figures import SERIES, styled


@dataclass(frozen=True)
class SharePoint:
    """Scores of the runs on one share of the labels.

    Args:
        share: Part of the labelled pixels that was asked for, above 0, at most 1.
        values: A score from 0 to 1 per run.
        half: Half of the confidence interval of their mean; None with one or two runs.
    """

    share: float
    values: tuple[float, ...]
    half: float | None = None


@styled
def efficiency_figure(curves: Mapping[str, Sequence[SharePoint]], *, score: str) -> Figure:
    """Draw a curve per model over the share of the labels, on a logarithmic axis.

    Dots are single runs, the line goes through the means, the band is the mean's interval.

    Args:
        curves: Name of the model → its points.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot(xscale="log")
    for (name, points), color in zip(curves.items(), SERIES * len(curves), strict=False):
        ordered = sorted((p for p in points if p.values), key=lambda p: p.share)
        shares = np.array([100 * p.share for p in ordered])
        means = np.array([100 * np.mean(p.values) for p in ordered])
        for point in ordered:
            x = np.full(len(point.values), 100 * point.share)
            axes.plot(
                x, [100 * v for v in point.values], ls="", marker="o", ms=3, color=color, alpha=0.45
            )
        axes.plot(shares, means, lw=1.8, marker="o", ms=5, color=color, label=name)
        if all(p.half is not None for p in ordered):
            halves = np.array([100 * (p.half or 0.0) for p in ordered])
            # Of three runs the interval may reach beyond what a score can be.
            low, high = (means - halves).clip(0, 100), (means + halves).clip(0, 100)
            axes.fill_between(shares, low, high, color=color, alpha=0.14, lw=0)
    ticks = sorted({100 * p.share for points in curves.values() for p in points})
    axes.set_xticks(_apart(ticks), [f"{tick:.3g} %" for tick in _apart(ticks)])
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.set_xlabel("share of the labelled training pixels")
    axes.set_ylabel(f"{score}, %")
    axes.set_title(f"{score} against labels")
    axes.legend(loc="lower right")
    return figure


def _apart(ticks: Sequence[float]) -> list[float]:
    """Drop ascending ticks that are too close to the previous one to be labelled."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick > 1.25 * kept[-1]:
            kept.append(tick)
    return kept
