"""`terrafuse sweep`: many runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from terrafuse.cli.options import AsJson, Device, Fresh, ScoredSplit, Setting, pairs, tell_waiting

if TYPE_CHECKING:
    from terrafuse.prediction import EngineName


def sweep(
    configs: Annotated[
        list[Path], typer.Argument(help="Settings of runs, one or more.", metavar="run.yaml…")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to create, or of a sweep to resume.")
    ],
    methods: Annotated[
        Path | None,
        typer.Option(
            help="Methods that replace the runs' own, one row each.",
            metavar="methods.yaml",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row, with seeds 0, 1 …", min=1)] = 3,
    settings: Setting = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="Training setting that each row chooses by validation with the first seed.",
            metavar="KEY=VALUE,VALUE…",
        ),
    ] = None,
    split: ScoredSplit = None,
    device: Device = "auto",
    shard: Annotated[
        str | None,
        typer.Option(
            help="Part of the runs to do, beside calls that do the others, in the same --out.",
            metavar="i/n",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local: one run after the other; ray: one in each slot of a cluster.",
            metavar="local|ray",
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster; default: RAY_ADDRESS, else this machine alone."),
    ] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Train and score run files × methods × seeds, and write a table.

    The same command resumes after an interruption: finished runs are kept.
    """
    from terrafuse import api

    done = api.sweep(
        configs,
        out,
        methods=methods,
        seeds=seeds,
        overrides=pairs(settings),
        choose=choose,
        split=split,
        device=device,
        shard=shard,
        engine=cast("EngineName", engine),
        ray_address=ray_address,
        fresh=fresh,
        say=lambda text: typer.echo(text, err=True),
    )
    if done.waits_for:
        tell_waiting(shard, f"{done.waits_for} runs", f"the table to {out}")
    elif as_json:
        typer.echo(json.dumps(done.results, indent=2))
    else:
        typer.echo((done.out / "table.md").read_text(encoding="utf-8"), nl=False)
    if done.failures:
        for name, message in done.failures.items():
            typer.echo(f"error: {name}: {message}", err=True)
        raise typer.Exit(2)
