"""Label efficiency as files: `results.json`, `table.md` and `curve.png`."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrafuse.evaluation import (
    HEADLINE,
    SCORES,
    ScoreKind,
    describe_runs,
    headline_first,
    known_half_interval,
)
from terrafuse.writing import written_whole

Results = Mapping[str, Mapping[str, Any]]


def write_results(out: Path, results: Results) -> None:
    """Write the three files, all of them or none.

    Args:
        results: Results by name of the run, as `label_efficiency` returns them; the first is the
            folder's, and others are shown beside it in table and figure.

    Raises:
        OutputError: The folder cannot be written.
    """
    from terrafuse.reports.efficiency import efficiency_figure

    own = next(iter(results.values()))
    curves = {name: _curve(result["points"]) for name, result in results.items()}
    files = [out / name for name in ("results.json", "table.md", "curve.png")]
    with written_whole(*files) as (found, table, picture):
        found.write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        table.write_text(efficiency_table(results), encoding="utf-8")
        efficiency_figure(curves, score=SCORES[HEADLINE].label).savefig(picture, format="png")


def efficiency_table(results: Results) -> str:
    """Return a table with a row per share of the labels: amounts kept and mean ± half interval.

    For one run it has several scores; for two, the mIoU of each and the difference, seed by seed.

    Args:
        results: As in `write_results`.
    """
    first, *others = results
    own = results[first]
    head = ["labels", "pixels", f"{own['units']['by']}s"]
    if others:
        head += [f"{SCORES[HEADLINE].label} {name}" for name in results] + [f"Δ to {others[0]}"]
    else:
        head += [kind.label for kind in _kinds()]
    rows = [
        _row(share, own, results[others[0]] if others else None) for share in _shares(own["points"])
    ]
    lines = [_heading(results), "", _line(head), "|---" * len(head) + "|", *map(_line, rows)]
    return "\n".join([*lines, *_notes(own["points"])]) + "\n"


def _row(share: float, own: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    points = _at(own["points"], share)
    pixels, units = (statistics.mean(p[key] for p in points) for key in ("pixels", "units"))
    cells = [f"{100 * share:g} %", f"{pixels:,.0f}", f"{units:,.0f}"]
    if other is None:
        return cells + [
            _cell(_values(points, k.name), 100 if k.in_percent else 1) for k in _kinds()
        ]
    theirs = {p["seed"]: p["scores"][HEADLINE] for p in _at(other["points"], share)}
    pairs = [(p["scores"][HEADLINE], theirs.get(p["seed"])) for p in points]
    gains = [a - b for a, b in pairs if a is not None and b is not None]
    beside = _cell(_values(_at(other["points"], share), HEADLINE))
    return [*cells, _cell(_values(points, HEADLINE)), beside, _cell(gains, sign="+")]


def _kinds() -> list[ScoreKind]:
    """List the scores of a single run's table."""
    return [kind for kind in headline_first() if "label_efficiency" in kind.summaries]


def _heading(results: Results) -> str:
    first, own = next(iter(results.items()))
    seeds = len({point["seed"] for point in own["points"]})
    spread = ", mean ± half of the 95 % interval by Student's t" if seeds > 2 else ""
    units = own["units"]
    size = f" of {units['side_px']} px" if units["by"] == "block" else ""
    steps = ", ".join(f"{name} {result['steps']}" for name, result in results.items())
    return (
        f"Label efficiency of {first}: split '{own['split']}', scores in %, {seeds} "
        f"seed{'s' * (seeds > 1)}{spread}. Labels are kept by {units['by']}s{size}, of "
        f"{units['number']:,}. Steps: {steps}. terrafuse {own['terrafuse_version']}, "
        f"{datetime.date.today()}."
    )


def _notes(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the runs that had no label of some class."""
    lost = [
        f"- {100 * p['share']:g} %, seed {p['seed']}: no label of {', '.join(p['missing_classes'])}"
        for p in points
        if p["missing_classes"]
    ]
    return ["", *lost] if lost else []


def _curve(points: Sequence[Mapping[str, Any]]) -> list[Any]:
    from terrafuse.reports.efficiency import SharePoint

    return [
        SharePoint(
            share=share,
            values=tuple(values),
            half=known_half_interval(values),
        )
        for share in _shares(points)
        if (values := _values(_at(points, share), HEADLINE))
    ]


def _shares(points: Sequence[Mapping[str, Any]]) -> list[float]:
    return sorted({point["share"] for point in points})


def _at(points: Sequence[Mapping[str, Any]], share: float) -> list[Mapping[str, Any]]:
    return [point for point in points if point["share"] == share]


def _values(points: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Collect the defined scores; runs scored before a score was added lack it."""
    found = (p["scores"].get(key) for p in points)
    return [value for value in found if value is not None]


def _cell(values: Sequence[float], factor: int = 100, sign: str = "") -> str:
    return describe_runs([factor * value for value in values], sign=sign)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
