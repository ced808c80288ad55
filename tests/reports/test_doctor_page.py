"""The page of findings: everything is on it, once, escaped, with its pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest

from terrafuse.classes import ClassScheme
from terrafuse.reports import FindingView, write_doctor_page
from terrafuse.reports.doctor_page import MOST_SHOWN, mark_window
from terrafuse.samples import Window

PICTURE = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)


def view(severity, code, message="m", **more):
    return FindingView(severity=severity, code=code, message=message, **more)


def read(path):
    return path.read_text(encoding="utf-8")


def test_findings_stand_under_their_severity_with_everything_known(tmp_path):
    views = [
        view("note", "coverage", "covers 90 %", scene="a"),
        view(
            "error", "unreadable", "is <cut> & off", remedy="fetch it again", scene="b",
            path="/x/b.tif", modality="sar", fix={"modalities.sar.nodata": 0},
            pictures={"sar": PICTURE, "labels": PICTURE},
        ),
        view("warning", "leak", "are identical"),
    ]  # fmt: skip
    path = write_doctor_page(
        views, tmp_path / "page.html", summary="3 scenes.", scheme=ClassScheme(("water", "land"))
    )
    page = read(path)
    places = [page.index(f"{name} (1)</h2>") for name in ("Errors", "Warnings", "Notes")]
    assert places == sorted(places)
    assert places[0] < page.index("Is &lt;cut&gt; &amp; off.") < places[1]
    for text in ("1 error, 1 warning, 1 note. 3 scenes.", "→ Fetch it again.", "/x/b.tif",
                 "modalities.sar.nodata: 0", "unreadable · b, sar", "water"):  # fmt: skip
        assert text in page
    assert page.count('<figure class="picture"') == 2
    assert page.count('<img src="data:image/') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_clean_data_set_has_a_page_too(tmp_path):
    page = read(write_doctor_page([], tmp_path / "page.html", summary="12 scenes."))
    assert "Nothing was found. 12 scenes." in page
    assert "<h2" not in page
    assert "<figure" not in page


def test_many_findings_of_a_kind_are_listed_after_those_with_pictures(tmp_path):
    views = [view("warning", "scale", f"number {i}.") for i in range(MOST_SHOWN + 9)]
    views.append(view("warning", "scale", "with picture", pictures={"s2": PICTURE}))
    page = read(write_doctor_page(views, tmp_path / "page.html"))
    assert page.count("<h3") == MOST_SHOWN
    assert f"<summary>{10} more of kind scale</summary>" in page
    assert page.index("With picture.") < page.index("Number 0.")
    for i in range(MOST_SHOWN + 9):
        assert page.count(f"umber {i}.") == 1


@pytest.mark.parametrize("extent", [Window(0, 0, 40, 40), Window(100, 200, 40, 40)])
def test_a_window_is_outlined_and_what_is_in_it_stays(extent):
    picture = np.full((80, 80, 3), 7, np.uint8)
    window = Window(extent.row + 10, extent.col + 15, 10, 5)
    marked = mark_window(picture, window, extent)
    assert (picture == 7).all()
    inside = (slice(20, 40), slice(30, 40))  # two pixels of the picture per scene pixel
    assert (marked[inside] == 7).all()
    changed = (marked != 7).any(axis=2)
    rows, cols = np.nonzero(changed)
    assert (rows.min(), rows.max()) == (18, 41)
    assert (cols.min(), cols.max()) == (28, 41)
    assert changed[19, 25:45].sum() == 14


def test_nothing_is_marked_where_the_window_is_all_or_elsewhere():
    picture = np.full((30, 30, 3), 7, np.uint8)
    extent = Window(0, 0, 30, 30)
    assert (mark_window(picture, Window(0, 0, 30, 30), extent) == 7).all()
    assert (mark_window(picture, Window(50, 50, 3, 3), extent) == 7).all()
    corner = mark_window(picture, Window(-5, -5, 10, 10), extent)
    assert (corner[:5, :5][1:4, 1:4] == 7).all()
    assert (corner[5, :6] != 7).any()
