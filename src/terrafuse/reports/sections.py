"""Parts of a page that others make: tables of facts, and sections with tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from terrafuse.reports.html import Picture, Report
from terrafuse.reports.tables import Cell, Table

#: Group → name of a fact → its value.
Facts = Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in this order.

    Args:
        lead: What it comes to, in a sentence or two.
        figures: Picture and caption of each.
        notes: Small print: definitions, assumptions, sources.
    """

    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[Picture, str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def add_section(report: Report, section: Section) -> None:
    """Add a section to a page."""
    report.add_heading(section.title)
    if section.lead:
        report.add_text(section.lead)
    for table in section.tables:
        report.add_table(table.rows, table.header, caption=table.title)
    for picture, caption in section.figures:
        report.add_figure(picture, caption)
    for note in section.notes:
        report.add_text(note, style="note")


def add_facts(report: Report, title: str, facts: Mapping[str, Facts]) -> None:
    """Add facts of runs, group by group: a row per fact and a column per run."""
    groups = list(dict.fromkeys(group for own in facts.values() for group in own))
    if not groups:
        return
    report.add_heading(title)
    for group in groups:
        own: dict[str, Mapping[str, Any]] = {run: f.get(group, {}) for run, f in facts.items()}
        names = list(dict.fromkeys(name for values in own.values() for name in values))
        rows = [[name, *(values.get(name) for values in own.values())] for name in names]
        report.add_table(rows, [group, *(own if len(own) > 1 else [""])])
