"""The verb for one's own method: `terrafuse check-method`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import AsJson, pairs

_WORDS = {"ok": "ok     ", "failed": "FAILED ", "skipped": "skipped"}


def check_method(
    name: Annotated[str, typer.Argument(help="module:Class, or a name.", metavar="METHOD")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", help="Option of the method: backbone=resnet18.", metavar="KEY=VALUE"
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Whose modalities it receives.", metavar="dataset.yaml"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a method to the contract of all methods; exit code 1 if it does not keep it.

    The module is looked for where Python looks and in the working directory. Small options make it
    fast.
    """
    from terrafuse import api
    from terrafuse.config.base import parse_value
    from terrafuse.plugins import look_beside

    options = {key: parse_value(value) for key, value in pairs(settings).items()}
    look_beside([name, options], Path.cwd())
    results = []
    for result in api.check_method(name, options=options, manifest=manifest):
        results.append(result)
        if not as_json:
            typer.echo(f"{_WORDS[result.state]}  {result.name}: {result.promise}")
            if result.message:
                typer.echo(f"         {result.message}")
    failed = [result.name for result in results if result.state == "failed"]
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
    elif failed:
        typer.echo(f"{name} does not keep: {', '.join(failed)}")
    else:
        skipped = sum(result.state == "skipped" for result in results)
        asked = f" ({skipped} not asked of it)" if skipped else ""
        typer.echo(f"{name} keeps the contract of all methods{asked}")
    if failed:
        raise typer.Exit(1)
