"""Comparison of settings as text, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import Literal, get_args

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.comparison import (
    Comparison,
    Effect,
    family_of,
    label_of,
    letters,
)
from terrafuse.evaluation.resampling import LEAST_BLOCKS, Interval
from terrafuse.evaluation.score_table import SCORES
from terrafuse.reports.tables import Table

Form = Literal["text", "markdown", "latex"]
FORMS: tuple[Form, ...] = get_args(Form)
#: More pairs than so many are letters in the table of scores only, where each meets each.
MOST_PAIRS = 15
#: Sentence on fewer blocks than `LEAST_BLOCKS`.
TOO_FEW_BLOCKS = f"With fewer than {LEAST_BLOCKS} blocks nothing can be told: score more ground."
_NONE = "–"


def comparison_text(
    comparison: Comparison, blocks: Blocks, split: str, notes: Sequence[str], form: Form = "text"
) -> str:
    """Write tables of scores and of differences, with what they stand on.

    Args:
        split: Split that was scored.
        notes: Sentences that a reader must know.
    """
    return _FORMS[form](*comparison_parts(comparison, blocks, split, notes))


def comparison_parts(
    comparison: Comparison, blocks: Blocks, split: str, notes: Sequence[str]
) -> tuple[list[str], list[Table]]:
    """Sentences and tables of a comparison, as in `comparison_text`."""
    tables = [_scores(comparison)]
    if not _has_letters(comparison):
        tables += [_differences(comparison, family) for family in _families(comparison)]
    return [_how(comparison, blocks, split), *(f"Note: {note}." for note in notes)], tables


def _families(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(family_of(column) for column in comparison.columns))


def _has_letters(comparison: Comparison) -> bool:
    return comparison.against is None and _pairs(comparison) > MOST_PAIRS


def _pairs(comparison: Comparison) -> int:
    return len(comparison.of(comparison.columns[0]))


def blocks_text(blocks: Blocks) -> str:
    """What intervals stand on: "12 blocks of 256 pixels (a window of the model)"."""
    number = f"{blocks.count} block{'s' if blocks.count != 1 else ''}"
    return f"{number} of {blocks.side_px} pixels ({blocks.reason})"


def _how(comparison: Comparison, blocks: Blocks, split: str) -> str:
    """Sentences on ground, seeds and what intervals mean."""
    said = [
        f"Split {split}: {blocks_text(blocks)}. Values in %, differences in points, with 95 % "
        "intervals over other ground of this kind"
        + (" and other seeds" if max(comparison.seeds.values()) > 1 else "")
        + "."
    ]
    if blocks.count < LEAST_BLOCKS:
        return " ".join([*said, TOO_FEW_BLOCKS])
    said.append(
        "p by flipping the signs of blocks, corrected by Holm over the comparisons of a table; "
        "detectable: the difference that one comparison would find in four of five times."
    )
    if _has_letters(comparison):
        said.append(
            "Settings that share a letter cannot be told apart; --against NAME and --json show "
            "differences."
        )
    if comparison.paired:
        said.append("Seeds are paired by their number.")
    return " ".join(said)


def _scores(comparison: Comparison) -> Table:
    marks = {column: row_letters(comparison, column) for column in comparison.columns}
    rows = []
    for name, own in comparison.values.items():
        cells = [_value(column, own[column]) for column in comparison.columns]
        shown = [
            f"{cell} {marks[column][name]}".rstrip()
            for column, cell in zip(comparison.columns, cells, strict=True)
        ]
        rows.append([name, str(comparison.seeds[name]), *shown])
    heads = ["setting", "runs", *(label_of(column) for column in comparison.columns)]
    return Table("Scores", heads, rows)


def row_letters(comparison: Comparison, column: str) -> Mapping[str, str]:
    """Letters of each setting in a score; "" where not each was compared with each."""
    none = dict.fromkeys(comparison.values, "")
    if comparison.against is not None:
        return none
    apart = [(e.a, e.b) for e in comparison.of(column) if e.better is not None]
    return none | letters(comparison.ranked(column), apart)


def _value(column: str, interval: Interval, sign: str = "") -> str:
    if isnan(interval.value):
        return _NONE
    value = _number(column, interval.value, sign)
    if isnan(interval.low):
        return value
    ends = (_number(column, end, sign) for end in (interval.low, interval.high))
    return f"{value} ({' to '.join(ends)})"


def _number(column: str, value: float, sign: str = "") -> str:
    kind = SCORES.get(family_of(column))
    if kind is None or kind.in_percent:
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.4g}"


def _differences(comparison: Comparison, family: str) -> Table:
    columns = [column for column in comparison.columns if family_of(column) == family]
    several = len(columns) > 1
    rows = [
        [*([label_of(column)] if several else []), *_effect_cells(effect)]
        for column in columns
        for effect in comparison.of(column)
    ]
    title = "IoU of classes" if several else label_of(columns[0])
    heads = ["A", "B", "A − B", "p", "detectable", "verdict"]
    return Table(title, [*(["score"] if several else []), *heads], rows)


def _effect_cells(effect: Effect) -> list[str]:
    value = _value(effect.score, effect.difference, "+")
    p = (
        _NONE
        if isnan(effect.p_holm)
        else "< 0.001"
        if effect.p_holm < 1e-3
        else f"{effect.p_holm:.3f}"
    )
    least = _NONE if isnan(effect.detectable) else _number(effect.score, effect.detectable)
    return [effect.a, effect.b, value, p, least, verdict_text(effect)]


def verdict_text(effect: Effect) -> str:
    """Verdict in words; what is missing to a finding, if there is none."""
    if effect.better is not None:
        return f"{effect.better} is better"
    needs = f" (a difference of this size needs {effect.needs})" if effect.needs else ""
    return f"cannot be told apart{needs}"


# The three forms


def _rows_of(table: Table) -> list[list[str]]:
    """Header and rows as text."""
    return [[str(cell) for cell in row] for row in (table.header, *table.rows)]


def _as_text(said: Sequence[str], tables: Sequence[Table]) -> str:
    parts = list(said)
    for table in tables:
        cells = _rows_of(table)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        parts.append("\n".join([f"{table.title}:", *lines]))
    return "\n\n".join(parts) + "\n"


def _as_markdown(said: Sequence[str], tables: Sequence[Table]) -> str:
    parts = list(said)
    for table in tables:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in _rows_of(table)]
        cells.insert(1, ["---"] * len(table.header))
        lines = [f"| {' | '.join(row)} |" for row in cells]
        parts += [f"## {table.title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _as_latex(said: Sequence[str], tables: Sequence[Table]) -> str:
    """Tables for the package booktabs; sentences are comments."""
    parts = ["\n".join(f"% {line}" for line in said)]
    for table in tables:
        header, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in _rows_of(table))
        parts.append(
            "\n".join(
                [
                    f"% {table.title}",
                    rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
                    r"\toprule",
                    header,
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", "−": "$-$", "–": "--",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


_FORMS: Mapping[Form, Callable[[Sequence[str], Sequence[Table]], str]] = {
    "text": _as_text,
    "markdown": _as_markdown,
    "latex": _as_latex,
}
