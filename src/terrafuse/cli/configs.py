"""Shipped settings files: `terrafuse configs COMMAND`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import AsJson

configs_app = typer.Typer(
    help="List the shipped settings files, and copy some to start from.", no_args_is_help=True
)


@configs_app.command("list")
def configs_list(as_json: AsJson = False) -> None:
    """List the shipped settings files."""
    from terrafuse import api

    rows = [asdict(config) for config in api.list_configs()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from terrafuse.cli.tables import print_rows

    print_rows("configs", rows)


@configs_app.command("copy")
def configs_copy(
    name: Annotated[str, typer.Argument(help="A listed file, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to copy into.")] = Path(
        "configs"
    ),
) -> None:
    """Copy settings files with the shipped files they refer to; nothing is overwritten."""
    from terrafuse import api

    copied = api.copy_configs(name, out)
    for path in copied.written:
        typer.echo(f"wrote {path}")
    for path in copied.kept:
        typer.echo(f"kept: {path}")
    for note in copied.notes:
        typer.echo(f"note: {note}")
