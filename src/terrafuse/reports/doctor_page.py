"""Page of the findings in a dataset, with pictures of their places."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.reports.html import Report
from terrafuse.reports.run import describe_environment
from terrafuse.reports.tables import Cell
from terrafuse.samples import Window

#: Largest number of findings of one kind shown in full; the others are listed.
MOST_SHOWN = 24
_HEADINGS = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
_MEANING = {
    "error": "Training would fail, or learn nonsense.",
    "warning": "Probably a mistake; look at the place, then decide.",
    "note": "Good to know.",
}
_MARK, _HALO = (255, 64, 160), (255, 255, 255)


@dataclass(frozen=True)
class FindingView:
    """A finding as shown on the page.

    Args:
        severity: Severity, which is the section of the page.
        code: Short name of the kind of finding.
        remedy: What to do; may be empty.
        scene: Id of the scene concerned, if any.
        path: File concerned, if any.
        modality: Name of the modality concerned, or "labels", if any.
        fix: Dotted key of `dataset.yaml` → value that would fix it.
        pictures: Caption → uint8 (H, W, 3): the place in every modality and in the labels.
    """

    severity: Literal["error", "warning", "note"]
    code: str
    message: str
    remedy: str = ""
    scene: str | None = None
    path: str | None = None
    modality: str | None = None
    fix: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


def write_doctor_page(
    views: Sequence[FindingView],
    path: Path,
    *,
    title: str = "Findings in the data",
    summary: str = "",
    scheme: ClassScheme | None = None,
) -> Path:
    """Write the page of findings, grouped by severity and kind.

    Args:
        views: Findings, in the order of the page.
        summary: A sentence on the data that was checked.
        scheme: Classes, for a legend of the labels' colours; None: no legend.

    Returns:
        `path`.

    Raises:
        OutputError: The file cannot be written.
    """
    report = Report(title, subtitle=describe_environment())
    report.add_text(" ".join(filter(None, [_count(views), summary])), style="lead")
    if views:
        _add_overview(report, views)
    if scheme is not None and any(view.pictures for view in views):
        report.add_legend(scheme)
    for severity, heading in _HEADINGS.items():
        found = [view for view in views if view.severity == severity]
        if not found:
            continue
        report.add_heading(f"{heading} ({len(found)})")
        report.add_text(_MEANING[severity], style="note")
        for code in dict.fromkeys(view.code for view in found):
            _add_kind(report, [view for view in found if view.code == code])
    return report.write(path)


def mark_window(picture: NDArray[np.uint8], window: Window, extent: Window) -> NDArray[np.uint8]:
    """Return a copy of a picture with the outline of a window drawn into it.

    Args:
        picture: Uint8 (H, W, 3).
        window: Window to mark, in scene pixels.
        extent: Window that the picture shows, in scene pixels.
    """
    picture = picture.copy()
    inner = window.intersection(extent)
    if inner is None or inner == extent:
        return picture
    height, width = picture.shape[:2]
    rows = [
        round((row - extent.row) * height / extent.height) for row in (inner.row, inner.row_stop)
    ]
    cols = [round((col - extent.col) * width / extent.width) for col in (inner.col, inner.col_stop)]
    line = max(1, min(height, width) // 150)
    for grow, color in ((2 * line, _HALO), (line, _MARK)):
        _outline(picture, rows, cols, grow, color)
    return picture


def _outline(
    picture: NDArray[np.uint8],
    rows: Sequence[int],
    cols: Sequence[int],
    width: int,
    color: tuple[int, int, int],
) -> None:
    """Draw lines around a box, outside it, so that its content stays visible."""
    top, bottom = max(0, rows[0] - width), min(picture.shape[0], max(rows[1], rows[0] + 1) + width)
    left, right = max(0, cols[0] - width), min(picture.shape[1], max(cols[1], cols[0] + 1) + width)
    picture[top : max(rows[0], top + 1), left:right] = color
    picture[min(rows[1], bottom - 1) : bottom, left:right] = color
    picture[top:bottom, left : max(cols[0], left + 1)] = color
    picture[top:bottom, min(cols[1], right - 1) : right] = color


def _count(views: Sequence[FindingView]) -> str:
    if not views:
        return "Nothing was found."
    counts = {name: sum(view.severity == name for view in views) for name in _HEADINGS}
    listed = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    return ", ".join(listed) + "."


def _add_overview(report: Report, views: Sequence[FindingView]) -> None:
    kinds = {(v.severity, v.code) for v in views}
    order = list(_HEADINGS)
    rows: list[list[Cell]] = []
    for severity, code in sorted(kinds, key=lambda kind: (order.index(kind[0]), kind[1])):
        own = [v for v in views if (v.severity, v.code) == (severity, code)]
        modalities = ", ".join(sorted({v.modality for v in own if v.modality}))
        rows.append([code, severity, len(own), len({v.scene for v in own} - {None}), modalities])
    report.add_table(rows, ["kind", "severity", "findings", "scenes", "in"])


def _add_kind(report: Report, views: Sequence[FindingView]) -> None:
    # Findings with pictures first: only these need their own section.
    ordered = sorted(views, key=lambda view: not view.pictures)
    for view in ordered[:MOST_SHOWN]:
        _add_finding(report, view)
    rest = ordered[MOST_SHOWN:]
    if rest:
        lines = [f"{_place(view)}: {view.message}" for view in rest]
        report.add_details(f"{len(rest)} more of kind {rest[0].code}", "\n".join(lines))


def _add_finding(report: Report, view: FindingView) -> None:
    report.add_heading(" · ".join(filter(None, [view.code, _place(view)])), level=3)
    report.add_text(_sentence(view.message))
    if view.remedy:
        report.add_text(f"→ {_sentence(view.remedy)}")
    if view.path:
        report.add_text(view.path, style="note")
    if view.fix:
        lines = [f"{key}: {json.dumps(value, default=str)}" for key, value in view.fix.items()]
        report.add_details("Fix in dataset.yaml", "\n".join(lines))
    if view.pictures:
        report.add_gallery(view.pictures)


def _place(view: FindingView) -> str:
    return ", ".join(filter(None, [view.scene, view.modality]))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
