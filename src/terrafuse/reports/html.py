"""Self-contained HTML pages: pictures embedded, nothing fetched, readable anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from terrafuse.classes import ClassScheme, hex_color
from terrafuse.reports.figures import recolor
from terrafuse.reports.previews import VOID_COLOR
from terrafuse.reports.tables import Cell
from terrafuse.writing import written_whole

#: Best value of a column.
Best = Literal["max", "min"]
Picture = Figure | NDArray[np.uint8] | Path

#: Largest size of an embedded picture in bytes, and in pixels along its longer side.
MAX_BYTES = 300_000
MAX_SIDE = 1600
_FOLDER = Path(__file__).parent
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="terrafuse">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
{intro}
<nav aria-label="Contents">{contents}</nav>
</header>
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


class Report:
    """A page built from top to bottom. Every text is escaped.

    Args:
        title: Title and first heading.
        subtitle: Line below the title.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._intro = f'<p class="meta">{escape(subtitle)}</p>' if subtitle else ""
        self._contents: list[tuple[str, str]] = []
        self._parts: list[str] = []
        self._pictures = 0

    def add_heading(self, text: str, level: Literal[2, 3] = 2) -> None:
        """Add a heading; those of level 2 form the table of contents."""
        anchor = ""
        if level == 2:
            name = f"part-{len(self._contents) + 1}"
            self._contents.append((name, text))
            anchor = f' id="{name}"'
        self._parts.append(f"<h{level}{anchor}>{escape(text)}</h{level}>")

    def add_text(self, text: str, *, style: Literal["", "lead", "note"] = "") -> None:
        """Add paragraphs, which blank lines in the text separate."""
        kind = f' class="{style}"' if style else ""
        for paragraph in text.strip().split("\n\n"):
            self._parts.append(f"<p{kind}>{escape(paragraph)}</p>")

    def add_table(
        self,
        rows: Sequence[Sequence[Cell]],
        header: Sequence[str],
        *,
        best: Best | Sequence[Best] | None = None,
        caption: str = "",
    ) -> None:
        """Add a table; the first column names the rows, None is shown as "–".

        Args:
            rows: Cells; floats are shown with three decimals.
            header: Names of the columns.
            best: Set the largest or smallest number of every column in bold, if there are two
                different ones; one word for all columns, or one per column after the first.
            caption: Line above the table.
        """
        rows = [list(row) for row in rows]
        numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(header))]
        each = [best] * (len(header) - 1) if isinstance(best, str) else list(best or ())
        winners = _find_best(rows, each)
        head = "".join(
            f'<th scope="col"{_number_class(is_number)}>{escape(name)}</th>'
            for name, is_number in zip(header, numeric, strict=True)
        )
        body = "".join(_row(row, i, numeric, winners) for i, row in enumerate(rows))
        above = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll"><table>{above}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def add_figure(self, picture: Picture, caption: str = "") -> None:
        """Add a figure, a picture (H, W, 3) or an image file; a click shows it in full size."""
        self._parts.append(self._figure(picture, caption, caption))

    def add_gallery(
        self,
        pictures: Mapping[str, NDArray[np.uint8]],
        compare: tuple[str, str] | None = None,
        *,
        dense: bool = False,
    ) -> None:
        """Add pictures side by side under their titles.

        Args:
            pictures: Title → (H, W, 3); they show the same area.
            compare: Titles of two pictures to overlay with a slider; the reader can choose others.
            dense: True: as many in a row as can be told apart; a click shows one in full size.
        """
        name = f"gallery-{len(self._parts)}"
        figures = "".join(self._figure(p, title, title) for title, p in pictures.items())
        if compare is not None:
            titles = list(pictures)
            under, over = (titles.index(title) for title in compare)
            height, width = pictures[compare[0]].shape[:2]
            self._parts.append(_compare_box(name, under, over, width / height))
        kind = "gallery dense" if dense else "gallery"
        self._parts.append(f'<div class="{kind}" id="{name}">{figures}</div>')

    def add_legend(self, scheme: ClassScheme) -> None:
        """Add a legend of the classes and their colours."""
        void = hex_color(VOID_COLOR)
        named = [*zip(scheme.names, scheme.colors, strict=True), ("no label", void)]
        items = "".join(
            f'<li><span style="background:{color}"></span>{escape(name)}</li>'
            for name, color in named
        )
        self._parts.append(f'<ul class="legend">{items}</ul>')

    def add_details(self, summary: str, text: str) -> None:
        """Add preformatted text, collapsed below a summary line."""
        self._parts.append(
            f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
        )

    def render(self) -> str:
        """Return the page."""
        contents = "".join(f'<a href="#{n}">{escape(text)}</a>' for n, text in self._contents)
        return _PAGE.format(
            title=escape(self.title),
            css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
            script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
            intro=self._intro,
            contents=contents,
            body="\n".join(self._parts),
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        with written_whole(path) as (partial,):
            partial.write_text(self.render(), encoding="utf-8")
        return path

    def _figure(self, picture: Picture, title: str, caption: str) -> str:
        self._pictures += 1
        name, alt = f"picture-{self._pictures}", escape(title, quote=True)
        if isinstance(picture, Figure):
            kind, width = "chart", round(96 * picture.get_figwidth())
            with recolor(picture):
                dark = _encode_figure(picture)
            image = (
                f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
                f'<img src="{_encode_figure(picture)}" alt="{alt}" width="{width}"></picture>'
            )
        else:
            array = np.asarray(
                Image.open(picture).convert("RGB") if isinstance(picture, Path) else picture
            )
            kind = "picture"
            image = f'<img src="{encode_picture(array)}" alt="{alt}">'
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return (
            f'<figure class="{kind}" id="{name}" data-title="{alt}">'
            f'<a class="open" href="#{name}">{image}</a>{below}'
            f'<a class="close" href="#_" aria-label="Close"></a></figure>'
        )


def encode_picture(picture: NDArray[np.uint8]) -> str:
    """Encode a picture (H, W, 3) as a data URI of at most about 300 kB.

    Pictures of few colours (class maps) stay exact, as PNG with a palette; others become JPEG.
    """
    image = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
    is_map = image.getcolors(256) is not None
    # Averaging two class colours would show a third.
    how = Image.Resampling.NEAREST if is_map else Image.Resampling.BOX
    shrink = max(image.size) / MAX_SIDE
    while True:
        size = tuple(max(1, round(n / max(shrink, 1))) for n in image.size)
        small = image.resize((size[0], size[1]), how) if shrink > 1 else image
        for quality in (None,) if is_map else (90, 80, 65):
            data = _encode(small, quality)
            if len(data) <= MAX_BYTES:
                return _data_uri(data, "png" if is_map else "jpeg")
        shrink = max(shrink, 1) * 1.4


def _encode(image: Image.Image, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    if quality is None:
        _with_palette(image).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    """Convert to a palette exactly; Pillow's own conversion is slow and made for photographs."""
    packed = np.asarray(image).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colors = np.unique(np.array([c for _, c in image.getcolors(256) or []], np.uint8), axis=0)
    order = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    indexed = Image.fromarray(np.searchsorted(order, packed).astype(np.uint8))
    indexed.putpalette(colors.tobytes())
    return indexed


def _encode_figure(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, transparent=True)
    return _data_uri(buffer.getvalue(), "png")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _find_best(rows: Sequence[Sequence[Cell]], best: Sequence[Best]) -> set[tuple[int, int]]:
    winners = set()
    for column, wanted in enumerate(best, start=1):
        # Rounded as shown: equal numbers on the page are equally good.
        cells = {
            i: round(float(value), 3)
            for i, row in enumerate(rows)
            if isinstance(value := row[column], int | float) and not isinstance(value, bool)
        }
        if len(set(cells.values())) > 1:
            target = max(cells.values()) if wanted == "max" else min(cells.values())
            winners |= {(i, column) for i, value in cells.items() if value == target}
    return winners


def _row(
    row: Sequence[Cell], index: int, numeric: Sequence[bool], winners: set[tuple[int, int]]
) -> str:
    cells = [f'<th scope="row">{escape(_show(row[0]))}</th>']
    for column, value in enumerate(row[1:], start=1):
        kinds = ["number"] * numeric[column] + ["best"] * ((index, column) in winners)
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        cells.append(f"<td{kind}>{escape(_show(value))}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _show(value: Cell) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def _is_number(value: Cell) -> bool:
    if not isinstance(value, str):
        return value is not None
    return value.replace(".", "", 1).removeprefix("-").isdigit()


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _compare_box(pictures: str, under: int, over: int, aspect: float) -> str:
    return (
        f'<div class="compare" hidden data-pictures="{pictures}" data-under="{under}" '
        f'data-over="{over}"><div class="choice"><label>left <select class="under"></select>'
        '</label><label>right <select class="over"></select></label></div>'
        f'<div class="view" style="aspect-ratio:{aspect:.4f}"><img class="under" alt="">'
        '<img class="over" alt=""><input type="range" min="0" max="100" value="50" step="0.2" '
        'aria-label="Where the two pictures meet"></div></div>'
    )
