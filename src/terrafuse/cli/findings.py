"""Terminal output of findings, suggested fixes and expected cost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from terrafuse.doctor import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
# Largest number of findings of one kind and modality shown; the rest is counted.
_MOST_ALIKE = 5


class Ticker:
    """Printer of a line per error and warning as found; silent if stderr is not a terminal.

    Args:
        enabled: False: always silent.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = Console(stderr=True) if enabled and sys.stderr.isatty() else None
        self._shown: Counter[tuple[str, str | None]] = Counter()

    def show(self, finding: Finding) -> None:
        """Print a finding, unless it is a note or several like it have been printed."""
        kind = (finding.code, finding.modality)
        self._shown[kind] += 1
        if self._console and finding.severity != "note" and self._shown[kind] <= _MOST_ALIKE:
            self._console.print(finding.severity, style=_STYLES[finding.severity], end=" ")
            self._console.print(finding.message, markup=False, highlight=False)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings, worst first, with place and remedy; of many alike only the first."""
    console = Console(soft_wrap=True)
    order = {name: i for i, name in enumerate(_STYLES)}
    alike: dict[tuple[str, str, str | None], list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: order[f.severity]):
        alike.setdefault((finding.severity, finding.code, finding.modality), []).append(finding)
    for group in alike.values():
        for finding in group[:_MOST_ALIKE]:
            _print_finding(console, finding)
        if len(group) > _MOST_ALIKE:
            rest = [finding.scene for finding in group[_MOST_ALIKE:] if finding.scene]
            named = f", in scenes {', '.join(rest[:8])}{' …' if len(rest) > 8 else ''}" * bool(rest)
            text = f"  … and {len(group) - _MOST_ALIKE} more [{group[0].code}]{named} (--json: all)"
            console.print(text, style="dim", markup=False, highlight=False)
    counts = {s: sum(f.severity == s for f in findings) for s in _STYLES}
    console.print(
        ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items())
    )


def _print_finding(console: Console, finding: Finding) -> None:
    window = finding.window
    place = [finding.scene, finding.path]
    if window is not None:
        place.append(f"rows {window.row}–{window.row_stop}, columns {window.col}–{window.col_stop}")
    text = " · ".join(str(item) for item in place if item)
    console.print(finding.severity, style=_STYLES[finding.severity], end=" ", markup=False)
    console.print(f"[{finding.code}] {text}", markup=False, highlight=False)
    console.print(f"  {finding.message}", markup=False, highlight=False)
    if finding.remedy:
        console.print(f"  → {finding.remedy}", style="green", markup=False, highlight=False)


def print_fixes(suggested: Mapping[str, Any]) -> None:
    """Print the keys to put into `dataset.yaml`."""
    from terrafuse.config.yaml_writing import to_yaml  # with it comes pydantic

    console = Console(soft_wrap=True)
    if not suggested:
        console.print("no change of dataset.yaml would fix this")
        return
    console.print("to put into dataset.yaml, if the findings are right:", style="green")
    scenes = [{"id": id, **own} for id, own in suggested.get("scenes", {}).items()]
    suggested = {**suggested, "scenes": scenes} if scenes else suggested
    text = to_yaml(suggested)
    console.print(text.rstrip(), markup=False, highlight=False)


def print_expected(expected: Mapping[str, Any]) -> None:
    """Print the expected steps, memory and time of a run."""
    console = Console(soft_wrap=True)
    memory = expected["memory_bytes"]
    passes = expected["passes"]
    seen = "" if passes is None else f", {passes:.3g} times the pixels of the training scenes"
    lines = [
        f"{expected['steps']:,} steps, {expected['samples']:,} crops{seen}",
        f"{expected['seconds_per_step']:.3g} s per step on this machine without data loading: "
        f"{_duration(expected['seconds'])}",
        "memory cannot be derived from shapes alone"
        if memory is None
        else f"{memory / 2**20:,.0f} MiB for weights, gradients, optimiser and activations",
    ]
    console.print("the run would take", style="bold")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
