"""`terrafuse compare`: is one setting better than another?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from terrafuse.cli.options import AsJson, names
from terrafuse.errors import ConfigError, unknown_name
from terrafuse.writing import claimed_file, written_whole


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of evaluated runs, and of sweeps; or hf://owner/name.", metavar="RUN…"
        ),
    ],
    groups: Annotated[
        str,
        typer.Option(
            help="Runs that are seeds of one setting: 'settings' (they differ in the seed alone), "
            "'alone' (none are), or patterns of folder names.",
            metavar="settings|alone|NAME=PATTERN,…",
        ),
    ] = "settings",
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare all with this run or setting only; default: each with each.",
            metavar="RUN",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Scores to compare; default: miou,mpa,oa,boundary_f1,iou.",
            metavar="NAME,iou:CLASS,…",
        ),
    ] = None,
    evidence: Annotated[
        str | None,
        typer.Option(help="NAME of metrics_NAME.json; default: the run's own split."),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the blocks of ground, in pixels; default: by how far errors reach.",
            metavar="PX",
        ),
    ] = None,
    pair_seeds: Annotated[
        bool,
        typer.Option("--pair-seeds", help="Take runs of the same seed as pairs."),
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="text, markdown or latex.", metavar="FORM")
    ] = "text",
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the differences, or a matrix of many.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write instead of the terminal.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs over seeds and blocks of ground: differences with intervals, and verdicts.

    Reads what `terrafuse evaluate` left in the run folders; no model is run.
    """
    from terrafuse import api
    from terrafuse.reports.comparison_tables import FORMS, comparison_text

    if form not in FORMS:
        raise ConfigError(unknown_name("--format", form, FORMS))
    if figure is not None and figure.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--figure '{figure}' is no picture; name a .png, .svg or .pdf file")
    found = api.compare(
        runs,
        groups=groups,
        against=against,
        metrics=names(metrics) or None,
        evidence=evidence,
        block_size=block_size,
        pair_seeds=pair_seeds,
    )
    if as_json:
        text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n"
    else:
        text = comparison_text(
            found.comparison,
            found.blocks,
            found.split,
            found.notes,
            next(known for known in FORMS if known == form),
        )
    if figure is not None:
        _draw(found, figure)
    if out is None:
        typer.echo(text, nl=False)
        return
    with claimed_file(out, "compare"), written_whole(out) as (partial,):
        partial.write_text(text, encoding="utf-8")


def _draw(found: Any, path: Path) -> None:
    from terrafuse.reports.comparison_figure import comparison_figure

    drawn = comparison_figure(found.comparison)
    with claimed_file(path, "compare"), written_whole(path) as (partial,):
        drawn.savefig(partial, format=path.suffix[1:].lower())
