"""`terrafuse push`: a run on the hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import AsJson


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN")],
    to: Annotated[
        str, typer.Argument(help="Repository; made if need be.", metavar="hub:owner/name")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository for its owner only.")
    ] = False,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Of the commit; default: the run's name.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of the weights, as the hub lists it: cc-by-4.0, mit …", metavar="ID"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Push a run to the hub: weights, settings, scores, a model card, SHA-256 of the files.

    The token in HF_TOKEN must be allowed to write there; HF_ENDPOINT names another hub.
    """
    from terrafuse import api

    pushed = api.push(run, to, private=private, message=message, licence=licence)
    if as_json:
        typer.echo(json.dumps({**asdict(pushed), "name": str(pushed)}, indent=2))
        return
    typer.echo(
        f"pushed {len(pushed.files)} files ({pushed.bytes / 1e6:,.1f} MB) to {pushed.url}: "
        f"{', '.join(pushed.files)}"
    )
    if pushed.shortened:
        typer.echo(f"paths of this machine were shortened in {', '.join(pushed.shortened)}")
    if pushed.left_out:
        typer.echo(f"not pushed: {', '.join(pushed.left_out)}")
    typer.echo(f"load it as {pushed}")
