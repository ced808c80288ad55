"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terrafuse.errors import ConfigError

RunFile = Annotated[Path, typer.Argument(help="Settings of the run.", metavar="run.yaml")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN")]
ManifestFile = Annotated[Path, typer.Argument(help="The manifest.", metavar="dataset.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Replace a setting: training.lr=1e-3. data.manifest=… counts from where you are.",
        metavar="KEY=VALUE",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]


def pairs(items: list[str] | None) -> dict[str, str]:
    """KEY=VALUE items as a mapping.

    Raises:
        ConfigError: An item without "=" or without a key.
    """
    found = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{item}' is not of the form KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def number(name: str, text: str) -> float:
    """Text as a number.

    Raises:
        ConfigError: It is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"share of '{name}' is '{text}', not a number") from None
