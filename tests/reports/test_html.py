"""The page: safe, self-contained, whole or not there."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from terrafuse.classes import ClassScheme
from terrafuse.errors import OutputError
from terrafuse.reports import Report
from terrafuse.reports.html import MAX_BYTES, MAX_SIDE, encode_picture

NASTY = "<script>alert(1)</script> & \"quoted\" 'text'"
VOID_TAGS = {"meta", "link", "img", "source", "input"}


class Page(HTMLParser):
    """Elements of a page; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(seed: int = 0, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decode(uri: str) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    )


def full_report(title: str = "Title", text: str = "Text") -> Report:
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1])
    report = Report(title, subtitle=text)
    report.add_heading(text)
    report.add_heading(text, level=3)
    report.add_text(f"{text}\n\n{text}", style="note")
    report.add_table([[text, 0.5, text]], ["run", "score", text], caption=text)
    report.add_figure(picture(), text)
    report.add_figure(figure, text)
    report.add_gallery({"one": picture(1), text: picture(2)}, compare=("one", text))
    report.add_legend(ClassScheme((f"class {text}", "b")))
    report.add_details(text, text)
    return report


def test_everything_is_escaped() -> None:
    page = Page(full_report(NASTY, NASTY).render())
    assert len(page.all("script")) == 1  # our own
    assert page.text.count(NASTY) >= 12
    assert any(image.get("alt") == NASTY for image in page.all("img"))


def test_nothing_is_fetched() -> None:
    html = full_report().render()
    page = Page(html)
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "srcset", "href")]
    assert links
    assert all(link and link.startswith(("data:", "#")) for link in links)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "http:" not in html
    assert "https:" not in html


def test_contents_lead_to_the_headings() -> None:
    report = Report("t")
    report.add_heading("First")
    report.add_heading("Detail", level=3)
    report.add_heading("Second")
    page = Page(report.render())
    targets = {a["id"]: tag for tag, a in page.elements if "id" in a}
    anchors = [a["href"] for a in page.all("a")]
    assert len(anchors) == 2
    assert all(targets[str(href)[1:]] == "h2" for href in anchors)


def test_best_numbers_are_bold_in_every_column() -> None:
    report = Report("t")
    rows = [["a", 0.5, 1.0, None, 3], ["b", 0.7, 1.0, 0.1, 5], ["c", 0.70001, 1.0, None, 4]]
    report.add_table(rows, ["run", "x", "y", "z", "n"], best="max")
    best = re.findall(r'class="number best">([^<]*)<', report.render())
    assert best == ["0.700", "5", "0.700"]  # b's and c's x look equal; y and z have no contest
    report = Report("t")
    report.add_table(rows, ["run", "x", "y", "z", "n"], best="min")
    assert re.findall(r'class="number best">([^<]*)<', report.render()) == ["0.500", "3"]


def test_table_shows_what_is_undefined_and_groups_thousands() -> None:
    report = Report("t")
    report.add_table([["a", None, float("nan"), 1234567]], ["", "x", "y", "n"])
    text = Page(report.render()).text
    assert text.count("–") == 2
    assert "1\u202f234\u202f567" in text


def test_figures_come_for_light_and_dark_pages() -> None:
    page = Page(full_report().render())
    (dark,) = page.all("source")
    assert dark["media"] == "(prefers-color-scheme: dark)"
    images = [str(image["src"]) for image in page.all("img") if "src" in image]
    assert str(dark["srcset"]) not in images


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 60), width=st.integers(1, 60), count=st.integers(1, 256))
def test_few_colours_stay_exact(height: int, width: int, count: int) -> None:
    rng = np.random.default_rng(count)
    colours = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    image = colours[rng.integers(0, count, (height, width))]
    assert (decode(encode_picture(image)) == image).all()


@pytest.mark.parametrize(("height", "width"), [(2000, 300), (1200, 1200)])
def test_large_pictures_are_made_small(height: int, width: int) -> None:
    noise = picture(0, height, width)
    uri = encode_picture(noise)
    assert len(base64.b64decode(uri.partition(",")[2])) <= MAX_BYTES
    shown = decode(uri)
    assert max(shown.shape) <= MAX_SIDE
    assert shown.shape[0] / shown.shape[1] == pytest.approx(height / width, rel=0.01)


def test_large_maps_keep_to_their_colours() -> None:
    colours = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    image = colours[np.indices((40, 60)).sum(0) % 2].repeat(60, 0).repeat(60, 1)
    shown = decode(encode_picture(image))
    assert max(shown.shape) <= MAX_SIDE
    assert {tuple(c) for c in shown.reshape(-1, 3)} == {(200, 0, 0), (0, 0, 200)}


def test_write_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = Report("t").write(tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_write_to_nowhere_is_one_error_and_keeps_the_old_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match=r"'.*report.html' cannot be written"):
        Report("t").write(tmp_path / "file" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError):
        Report("t").write(tmp_path / "report.html")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "report.html"}


def test_picture_files_are_embedded(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    report = Report("t")
    report.add_figure(tmp_path / "a.png")
    (image,) = Page(report.render()).all("img")
    assert str(image["src"]).startswith("data:image/")
