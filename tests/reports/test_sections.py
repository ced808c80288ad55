"""Facts and sections of a page."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from terrafuse.classes import ClassScheme
from terrafuse.reports import Section, Table, run_report


def test_facts_stand_in_a_column_per_run(tmp_path: Path) -> None:
    facts = {
        "photo": {"Training": {"steps": 300, "seed": 1}, "Cost": {"training": "3 min 2 s"}},
        "both": {"Training": {"steps": 400, "crop": "64 x 64 px"}},
    }
    page = page_of(tmp_path, facts=facts)
    assert ">About</h2>" in page
    assert page.index(">steps</th>") < page.index(">seed</th>") < page.index(">crop</th>")
    row = page[page.index(">crop</th>") :]
    row = row[: row.index("</tr>")]
    assert row.index("\u2013") < row.index("64 x 64 px")  # the first run does not tell
    assert page.count(">photo</th>") == page.count(">both</th>") == 2


def test_facts_of_one_run_need_no_name(tmp_path: Path) -> None:
    page = page_of(tmp_path, facts={"photo": {"Training": {"steps": 300}}})
    assert ">photo</th>" not in page


def test_sections_follow_in_their_order(tmp_path: Path) -> None:
    first = Section("Confidence", "It is <too> sure.", notes=("After Guo et al.",))
    figure = Figure(figsize=(2, 1))
    second = Section(
        "Synergy", tables=[Table("Shares", ("class", "share"), [("bare", 0.25)])],
        figures=[(figure, "Bars")],
    )  # fmt: skip
    page = page_of(tmp_path, sections=[first, second])
    parts = (
        ">Confidence</h2>", "It is &lt;too&gt; sure.", "After Guo et al.",
        ">Synergy</h2>", "<caption>Shares", "0.250", ">Bars</figcaption>",
    )  # fmt: skip
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def page_of(folder: Path, **options: object) -> str:
    path = run_report(
        folder / "report.html", title="Floods", scenes=[], metrics={}, curves=None,
        scheme=ClassScheme(("dry", "wet")), **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return path.read_text(encoding="utf-8")
