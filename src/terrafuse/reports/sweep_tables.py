"""Results of a sweep as `table.md`, `table.csv`, `results.json` and a figure."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any, Protocol

from terrafuse.evaluation import (
    HEADLINE,
    SCORES,
    describe_runs,
    headline_first,
    known_half_interval,
)
from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.comparison import Comparison, label_of
from terrafuse.evaluation.resampling import LEAST_BLOCKS
from terrafuse.reports.comparison_tables import row_letters
from terrafuse.reports.seeds import ScoreRow, seeds_figure
from terrafuse.writing import written_whole

TABLE, CSV, RESULTS, PICTURE = "table.md", "table.csv", "results.json", "scores.png"
_COSTS = ("parameters", "trainable", "flops", "crop_size", "ms_per_megapixel")
_NONE = "–"
_LETTERS = "letters"

Record = Mapping[str, Any]
Row = dict[str, Any]


class TableRun(Protocol):
    """Protocol of a sweep's run, as far as tables need it."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def group(self) -> str:
        """Heading of its table."""

    @property
    def title(self) -> str:
        """Title of its row."""

    @property
    def seed(self) -> int:
        """Seed of training."""

    @property
    def row(self) -> tuple[str, str]:
        """Group and title."""


@dataclass(frozen=True)
class JudgedRows:
    """Comparison of the rows of one table; or why there is none.

    Args:
        comparison: Of the rows by their titles; scores are columns "miou", "iou:water".
        blocks: What it stands on.
        missing: Why there is none.
    """

    comparison: Comparison | None = None
    blocks: Blocks | None = None
    missing: str = ""


@dataclass(frozen=True)
class Choice:
    """The setting chosen for a row by validation.

    Args:
        value: Value with the best validation score.
        scores: Best validation score by value; None where the run failed.
    """

    key: str
    value: str
    scores: dict[str, float | None]
    score_name: str


def write_tables(
    out: Path,
    jobs: Sequence[TableRun],
    found: Mapping[str, Record],
    failures: Mapping[str, str],
    choices: Mapping[tuple[str, str], Choice] | None = None,
    judged: Mapping[str, JudgedRows] | None = None,
) -> dict[str, Any]:
    """Write all four files; they appear whole and together, or not at all.

    Args:
        jobs: All runs, in the order of the rows.
        found: Scores and costs of finished runs, by name of the run.
        failures: Messages of failed runs, by name of the run.
        choices: Chosen settings, by row.
        judged: Comparisons of rows over ground and seeds, by group; default: intervals are of seeds
            alone.

    Returns:
        The content of `results.json`.

    Raises:
        OutputError: `out` cannot be written.
    """
    rows = _rows(jobs, found, choices or {})
    judged = judged or {}
    for row in rows:
        _judge(row, judged.get(row["group"], JudgedRows()).comparison)
    results: dict[str, Any] = {
        "scores": f"in %; shown: {_how_shown(rows) or 'none yet'}",
        "comparisons": {group: _findings(own) for group, own in judged.items()},
        "rows": rows,
        "runs": [_run(job, found, failures) for job in jobs],
    }
    paths = (out / TABLE, out / CSV, out / RESULTS, out / PICTURE)
    with written_whole(*paths) as (table, sheet, plain, picture):
        table.write_text(_markdown(rows, results["runs"], judged), encoding="utf-8")
        sheet.write_text(_csv(rows), encoding="utf-8")
        plain.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
        headline = SCORES[HEADLINE].label
        groups = {
            group: [
                ScoreRow(row["title"], score["runs"], score["half"], score.get("interval"))
                for row in own
                if (score := row["scores"][headline])["runs"]
            ]
            for group, own in _by_group(rows).items()
        }
        seeds_figure(groups, f"{headline}, %").savefig(picture, format="png")
    return results


def _run(job: TableRun, found: Mapping[str, Record], failures: Mapping[str, str]) -> dict[str, Any]:
    """Return the known facts about one run."""
    known = {"name": job.name, "group": job.group, "title": job.title, "seed": job.seed}
    error = {"error": failures[job.name]} if job.name in failures else {}
    return known | dict(found.get(job.name, {})) | error


def _rows(
    jobs: Sequence[TableRun],
    found: Mapping[str, Record],
    choices: Mapping[tuple[str, str], Choice],
) -> list[Row]:
    """Return one row per group and title, over the finished runs."""
    rows = []
    for row in dict.fromkeys(job.row for job in jobs):
        records = [found[job.name] for job in jobs if job.row == row and job.name in found]
        if records:
            known = {"group": row[0], "title": row[1], "n": len(records)}
            chosen = {"chosen": asdict(choices[row])} if row in choices else {}
            rows.append(known | _row(records) | chosen)
    return rows


def _row(records: Sequence[Record]) -> Row:
    # Runs scored before a score was added lack it.
    scores = {
        kind.label: _mean([r["scores"].get(kind.name) for r in records], kind.in_percent)
        for kind in headline_first()
        if "sweep" in kind.summaries
    }
    for name in records[0]["iou"]:
        scores[f"IoU {name}"] = _mean([r["iou"][name] for r in records])
    costs = {key: records[0][key] for key in _COSTS}
    costs["ms_per_megapixel"] = min(r["ms_per_megapixel"] for r in records)
    return {"scores": scores, **costs}


def _mean(values: Iterable[float | None], in_percent: bool = True) -> dict[str, Any]:
    """Average scores, in % if they are shares; undefined ones are left out."""
    runs = [100 * value if in_percent else value for value in values if value is not None]
    return {
        "mean": statistics.mean(runs) if runs else None,
        "half": known_half_interval(runs),
        "runs": runs,
    }


def _judge(row: Row, comparison: Comparison | None) -> None:
    """Add intervals over ground and seeds to a row, and from which rows it cannot be told apart."""
    own = {} if comparison is None else comparison.values.get(row["title"], {})
    if comparison is None or not own or isnan(own[HEADLINE].low):
        return
    for column, interval in own.items():
        score = row["scores"].get(label_of(column))
        if score is not None and not isnan(interval.low):
            score["interval"] = (100 * interval.low, 100 * interval.high)
    row["letters"] = row_letters(comparison, HEADLINE)[row["title"]]
    row["not_told_from"] = comparison.not_told_from(HEADLINE, row["title"])


def _findings(judged: JudgedRows) -> dict[str, Any]:
    if judged.comparison is None or judged.blocks is None:
        return {"missing": judged.missing}
    return {
        "blocks": judged.blocks.count,
        "side_px": judged.blocks.side_px,
        "best": judged.comparison.best(HEADLINE),
        "effects": [effect.to_dict() for effect in judged.comparison.of(HEADLINE)],
    }


def _by_group(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return groups


def _score_names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["scores"]))


def _markdown(rows: Sequence[Row], runs: Sequence[Record], judged: Mapping[str, JudgedRows]) -> str:
    done = [run for run in runs if "scores" in run]
    lines = [_heading(done, rows) + _how_chosen(rows)]
    for group, own in _by_group(rows).items():
        names = _score_names(own)
        chosen = _chosen_keys(own)
        has_letters = any("letters" in row for row in own)
        heads = ["method", "n", *names, *([_LETTERS] if has_letters else [])]
        heads += ["parameters, M", "learning, M", "GFLOPs", "ms / Mpx"]
        heads += [f"{key} (chosen)" for key in chosen]
        lines += [f"## {group}"] if group else []
        body = [
            heads,
            ["---", *["---:"] * (len(heads) - 1)],
            *(_cells(r, names, chosen, has_letters) for r in own),
        ]
        lines.append("\n".join(f"| {' | '.join(cells)} |" for cells in body))
        lines += _what_is_told(judged[group]) if group in judged else []
    failed = [run for run in runs if "error" in run]
    if failed:
        lines.append("Failed:")
        lines.append("\n".join(f"- {run['name']}: {_one_line(run['error'])}" for run in failed))
    waiting = len(runs) - len(done) - len(failed)
    if waiting:
        lines.append(f"{waiting} of {len(runs)} runs are not finished yet.")
    return "\n\n".join(lines) + "\n"


def _what_is_told(judged: JudgedRows) -> list[str]:
    """Sentences below a table: the best row, and which cannot be told from it."""
    found, blocks = judged.comparison, judged.blocks
    if found is None or blocks is None:
        return [f"Rows are not compared over the ground: {_one_line(judged.missing)}"]
    headline = SCORES[HEADLINE].label
    if blocks.count < LEAST_BLOCKS:
        return [
            f"Rows are not compared over the ground: it is {blocks.count} blocks of "
            f"{blocks.side_px} pixels, and fewer than {LEAST_BLOCKS} tell nothing."
        ]
    best = found.best(HEADLINE)
    if best is None or len(found.values) < 2:
        return []
    same = found.not_told_from(HEADLINE, best)
    told = f"cannot be told from it: {', '.join(same)}" if same else "all others are worse"
    return [
        f"{headline}: best is {best}; {told}. By {blocks.count} blocks of {blocks.side_px} pixels "
        "and seeds, corrected by Holm; rows that share a letter cannot be told apart. Differences "
        "with intervals: terrafuse compare."
    ]


def _heading(done: Sequence[Record], rows: Sequence[Row]) -> str:
    if not done:
        return "No run is finished yet."
    facts = [
        f"terrafuse {_all('version', done)}",
        f"{_all('date', done)}",
        f"{_all('machine', done)}",
        f"split {_all('split', done)}",
        f"a sample of {_all('crop_size', done)} pixels",
    ]
    return (
        f"{', '.join(facts)}. Scores in %: {_how_shown(rows)}. GFLOPs of a forward pass of one "
        "sample; ms / Mpx: the fastest of some passes."
    )


def _how_shown(rows: Sequence[Row]) -> str:
    """Format a cell of any number of seeds."""
    numbers = {row["n"] for row in rows if "letters" not in row}
    how = []
    if any("letters" in row for row in rows):
        how.append("mean of n seeds (95 % interval over other ground and seeds)")
    if max(numbers, default=0) > 2:
        how.append("mean of n seeds ± half of its 95 % confidence interval (Student's t)")
    if 2 in numbers:
        how.append("of two seeds both values, of which an interval would say nothing")
    if 1 in numbers:
        how.append("of one seed its value")
    return "; ".join(how)


def _how_chosen(rows: Iterable[Row]) -> str:
    found = [row["chosen"] for row in rows if "chosen" in row]
    if not found:
        return ""
    values = ", ".join(dict.fromkeys(value for choice in found for value in choice["scores"]))
    return (
        f" {found[0]['key']} of each row: of {values} the one with the best "
        f"{found[0]['score_name']} in validation, with the first seed."
    )


def _all(key: str, records: Iterable[Record]) -> str:
    return " and ".join(dict.fromkeys(str(record[key]) for record in records))


def _chosen_keys(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["chosen"]["key"] for row in rows if "chosen" in row))


def _cells(row: Row, names: Iterable[str], chosen: Sequence[str], has_letters: bool) -> list[str]:
    flops = row["flops"]
    return [
        row["title"].replace("|", "\\|"),
        str(row["n"]),
        *(_score_cell(row["scores"].get(name)) for name in names),
        *([row.get("letters") or _NONE] if has_letters else []),
        f"{row['parameters'] / 1e6:.3g}",
        f"{row['trainable'] / 1e6:.3g}",
        _NONE if flops is None else f"{flops / 1e9:.3g}",
        f"{row['ms_per_megapixel']:.0f}",
        *(row["chosen"]["value"] if "chosen" in row else _NONE for _ in chosen),
    ]


def _score_cell(score: Mapping[str, Any] | None) -> str:
    if score is None or score["mean"] is None:
        return _NONE
    if "interval" in score:
        low, high = score["interval"]
        return f"{score['mean']:.1f} ({low:.1f} to {high:.1f})"
    return describe_runs(score["runs"])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _csv(rows: Sequence[Row]) -> str:
    names = _score_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("%", "± %", "low %", "high %")
    scores = [f"{name} {part}" for name in names for part in parts]
    writer.writerow(["group", "title", "n", *scores, *_COSTS])
    for row in rows:
        cells = []
        for name in names:
            score = row["scores"].get(name, {})
            cells += [score.get("mean"), score.get("half"), *score.get("interval", (None, None))]
        writer.writerow(
            [row["group"], row["title"], row["n"], *cells, *(row[key] for key in _COSTS)]
        )
    return text.getvalue()
