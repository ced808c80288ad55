"""Figures of data flow: `python docs/flows.py` draws docs/assets/flow from docs/flows.yaml.

A figure is a grid of boxes and arrows between them. In flows.yaml a box is

    name: [column, row, kind, "line", "further line", …]

and an arrow "from > to", with ": text" after it where it needs one. Columns and rows may be halves;
what a kind of box stands for is in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).with_name("flows.yaml")
TARGET = Path(__file__).with_name("assets") / "flow"

#: Kind of box → (colour, what it stands for).
KINDS = {
    "optical": ("#2f6fb5", "an image"),
    "sar": ("#b8612a", "another modality"),
    "learnt": ("#5c6b7a", "learns"),
    "frozen": ("#5c6b7a", "frozen"),
    "meet": ("#c2255c", "modalities meet"),
    "map": ("#2f8a4f", "the result"),
}
COLUMN, ROW = 172, 78
BOX_WIDTH, LINE, PADDING = 148, 15, 9
MARGIN = 16
_FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif'
_STYLE = f"""<style>
text{{font-family:{_FONT};font-size:12px;fill:#1f2933;text-anchor:middle}}
.first{{font-weight:600}}.more,.label{{fill:#5c6b7a;font-size:11px}}
.arrow{{stroke:#1f2933;stroke-width:1.3;fill:none;marker-end:url(#head)}}
.under{{fill:#fff}}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" \
orient="auto"><path d="M0 0L8 4L0 8z" fill="#1f2933"/></marker></defs>"""


@dataclass(frozen=True)
class Box:
    """A box by the place of its centre, in pixels."""

    x: float
    y: float
    kind: str
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        """Pixels."""
        return len(self.lines) * LINE + 2 * PADDING


@dataclass(frozen=True)
class Figure:
    """Boxes and arrows of one method."""

    title: str
    boxes: Mapping[str, Box]
    arrows: tuple[tuple[str, str, str], ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Figure:
        """From an entry of flows.yaml."""
        boxes = {}
        for name, (column, row, kind, *lines) in values["boxes"].items():
            x, y = MARGIN + BOX_WIDTH / 2 + column * COLUMN, MARGIN + 24 + row * ROW
            boxes[name] = Box(x, y, kind, tuple(map(str, lines)))
        arrows = []
        for text in values["arrows"]:
            ends, _, label = text.partition(":")
            start, end = (end.strip() for end in ends.split(">"))
            arrows.append((start, end, label.strip()))
        return cls(values["title"], boxes, tuple(arrows))

    def svg(self) -> str:
        """The figure, with a legend of the kinds in it."""
        width = max(box.x for box in self.boxes.values()) + BOX_WIDTH / 2 + MARGIN
        bottom = max(box.y + box.height / 2 for box in self.boxes.values()) + 14
        kinds = [kind for kind in KINDS if any(b.kind == kind for b in self.boxes.values())]
        legend, right = _legend(kinds, bottom)
        width = max(width, right)
        arrows = [self._arrow(*arrow) for arrow in self.arrows]
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {bottom + 34:g}" '
            f'width="{width:g}" role="img" aria-labelledby="title">',
            f'<title id="title">{escape(self.title)}</title>',
            _STYLE,
            f'<rect width="{width:g}" height="{bottom + 34:g}" rx="8" fill="#fff"/>',
            *(path for path, _ in arrows),
            *(part for box in self.boxes.values() for part in _draw(box)),
            *(label for _, label in arrows if label),
            *legend,
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _arrow(self, start: str, end: str, label: str) -> tuple[str, str]:
        a, b = self.boxes[start], self.boxes[end]
        if abs(a.y - b.y) < ROW / 4:  # beside each other
            side = BOX_WIDTH / 2 if b.x > a.x else -BOX_WIDTH / 2
            points = [(a.x + side, a.y), (b.x - side, b.y)]
        else:
            down = 1 if b.y > a.y else -1
            top, bottom = a.y + down * a.height / 2, b.y - down * b.height / 2
            middle = bottom - down * 14
            points = [(a.x, top), (a.x, middle), (b.x, middle), (b.x, bottom)]
            if a.x == b.x:
                points = [points[0], points[-1]]
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        text = ""
        if label:
            x, y = (points[0][0] + points[-1][0]) / 2, (points[0][1] + points[-1][1]) / 2
            half = len(label) * 3.0 + 3
            text = (
                f'<rect class="under" x="{x - half:g}" y="{y - 8:g}" width="{2 * half:g}" '
                f'height="14"/><text class="label" x="{x:g}" y="{y + 3:g}">{escape(label)}</text>'
            )
        return f'<path class="arrow" d="{path}"/>', text


def _draw(box: Box) -> Iterator[str]:
    yield _rect(box.x - BOX_WIDTH / 2, box.y - box.height / 2, BOX_WIDTH, box.height, box.kind)
    first = box.y - box.height / 2 + PADDING + 11
    for n, line in enumerate(box.lines):
        kind = "first" if n == 0 else "more"
        yield f'<text class="{kind}" x="{box.x:g}" y="{first + n * LINE:g}">{escape(line)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    colour = KINDS[kind][0]
    look = f'fill="{colour}" fill-opacity="0.1" stroke="{colour}" stroke-width="1.2"'
    if kind == "frozen":
        look += ' stroke-dasharray="4 3"'
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" {look}/>'


def _legend(kinds: list[str], top: float) -> tuple[list[str], float]:
    """Its parts, and where it ends at the right."""
    parts, x = [], float(MARGIN)
    for kind in kinds:
        text = KINDS[kind][1]
        parts.append(_rect(x, top + 8, 14, 10, kind))
        parts.append(
            f'<text class="label" style="text-anchor:start" x="{x + 19:g}" y="{top + 17:g}">'
            f"{escape(text)}</text>"
        )
        x += 19 + len(text) * 6 + 18
    return parts, x


def figures() -> dict[str, str]:
    """All figures by name, as SVG."""
    found = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return {name: Figure.parse(values).svg() for name, values in found.items()}


def main() -> None:
    """Write all figures."""
    TARGET.mkdir(exist_ok=True)
    for name, svg in figures().items():
        (TARGET / f"{name}.svg").write_text(svg, encoding="utf-8")
        print(TARGET / f"{name}.svg")


if __name__ == "__main__":
    main()
