"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from terrafuse.modalities import BandStatistics, Modality

if TYPE_CHECKING:
    from terrafuse.data import Finding

_SCORES = {
    "oa": "OA",
    "mpa": "mPA",
    "miou": "mIoU",
    "mf1": "mF1",
    "kappa": "kappa",
    "fwiou": "FWIoU",
    "boundary_f1": "boundary F1",
}
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per mapping; keys are the header."""
    table = Table(title=title)
    for key in rows[0] if rows else []:
        table.add_column(str(key).replace("_", " "))
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console().print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """What the check found, worst first, each with place and remedy."""
    console = Console(soft_wrap=True)
    order = {name: i for i, name in enumerate(_STYLES)}
    for finding in sorted(findings, key=lambda f: order[f.severity]):
        place = " · ".join(str(x) for x in (finding.scene, finding.path) if x)
        console.print(finding.severity, style=_STYLES[finding.severity], end=" ", markup=False)
        console.print(f"[{finding.code}] {place}", markup=False, highlight=False)
        console.print(f"  {finding.message}", markup=False, highlight=False)
        if finding.remedy:
            console.print(f"  → {finding.remedy}", style="green", markup=False, highlight=False)
    counts = {s: sum(f.severity == s for f in findings) for s in _STYLES}
    console.print(
        ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items())
    )


def print_statistics(
    modalities: Mapping[str, Modality], statistics: Mapping[str, BandStatistics]
) -> None:
    """One row per band."""
    table = Table(title="statistics over pixels with data")
    for column in ("modality", "band", "unit", "mean", "std", "2 %", "98 %", "pixels"):
        table.add_column(column, justify="left" if column in ("modality", "band") else "right")
    for name, values in statistics.items():
        rows = zip(
            modalities[name].bands, values.mean, values.std, values.low, values.high, values.count,
            strict=True,
        )  # fmt: skip
        for band, *numbers, count in rows:
            cells = [f"{number:.5g}" for number in numbers]
            table.add_row(name, band, modalities[name].unit, *cells, f"{count:,}")
    Console().print(table)


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Scores per modality subset, then per class for all modalities."""
    table = Table(title=f"split '{metrics['split']}', {metrics['pixels']:,} pixels, in %")
    table.add_column("modalities")
    for title in _SCORES.values():
        table.add_column(title, justify="right")
    for name, subset in metrics["subsets"].items():
        table.add_row(name, *(_percent(subset["scores"].get(key)) for key in _SCORES))
    Console().print(table)
    per_class = metrics["subsets"][metrics["full"]]["per_class"]
    table = Table(title=f"per class, {metrics['full']}, in %")
    for column in ("class", "IoU", "F1", "recall", "precision", "pixels"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in per_class.items():
        cells = [_percent(row[key]) for key in ("iou", "f1", "recall", "precision")]
        table.add_row(name, *cells, f"{row['pixels']:,}")
    Console().print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
