"""Terminal tables of splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from terrafuse.modalities import BandStatistics, Modality

if TYPE_CHECKING:
    from terrafuse.splits import SplitReport


def print_split(report: SplitReport) -> None:
    """Print the share of each class per split, and the distance between splits."""
    console = Console(soft_wrap=True, highlight=False)
    table = Table(title="share of each class, in % of its labelled pixels")
    table.add_column("class")
    for split, scenes in report.scenes.items():
        table.add_column(f"{split} ({scenes})", justify="right")
    table.add_column("pixels", justify="right")
    shares = report.shares()
    totals = report.totals
    for i, name in enumerate(report.classes):
        cells = [f"{100 * own[i]:.1f}" if totals[i] else "–" for own in shares.values()]
        table.add_row(name, *cells, f"{totals[i]:,}")
    console.print(table)
    console.print(_distance_line(report), markup=False)


def _distance_line(report: SplitReport) -> str:
    if report.least_distance_px is None:
        return "distance between splits: none are known to be close to each other"
    a, b = report.nearest or ("", "")
    line = f"least distance between splits: {report.least_distance_px:.0f} px ('{a}' and '{b}')"
    if report.least_distance_px == 0:
        line += "; they touch or overlap, so scores are slightly too optimistic"
    return line


def print_statistics_by_split(
    modalities: Mapping[str, Modality],
    statistics: Mapping[str, Mapping[str, BandStatistics]],
) -> None:
    """Print a row per band, with mean and standard deviation of every split side by side."""
    table = Table(title="mean ± standard deviation, over pixels with data")
    table.add_column("modality")
    table.add_column("band")
    table.add_column("unit")
    for split in statistics:
        table.add_column(split, justify="right")
    for name, modality in modalities.items():
        for i, band in enumerate(modality.bands):
            cells = [
                f"{own[name].mean[i]:.5g} ± {own[name].std[i]:.4g}" for own in statistics.values()
            ]
            table.add_row(name, band, modality.unit, *cells)
    Console().print(table)
