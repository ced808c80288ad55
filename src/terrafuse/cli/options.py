"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terrafuse.errors import ConfigError

if TYPE_CHECKING:
    from terrafuse.api import Run
    from terrafuse.prediction import WindowSettings

RunFile = Annotated[Path, typer.Argument(help="Settings of the run.", metavar="run.yaml")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN")]
ManifestFile = Annotated[Path, typer.Argument(help="The manifest.", metavar="dataset.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Replace a setting: training.lr=1e-3. data.manifest=… is relative to the working "
        "directory.",
        metavar="KEY=VALUE",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
CropSize = Annotated[
    int | None, typer.Option(help="Side of the windows in scene pixels; default: the run's.")
]
Overlap = Annotated[
    int | None,
    typer.Option(
        help="Scene pixels shared by neighbours; default: the run's, or a quarter of the window."
    ),
]
BlendingName = Annotated[
    str | None, typer.Option(help="taper, uniform or repeated; default: the run's.")
]
BatchSize = Annotated[
    int | None, typer.Option(help="Windows per forward pass; default: the run's.")
]
PrecisionName = Annotated[
    str | None, typer.Option(help="32-true, 16-mixed or bf16-mixed; default: 32-true.")
]


def windows_of(run: Run, **given: Any) -> WindowSettings:
    """Return the windows of a run, with values replaced by command-line options.

    Raises:
        ConfigError: The values contradict each other.
    """
    from terrafuse.prediction import WindowSettings

    return WindowSettings.of_run(run.config, **given)


def pairs(items: list[str] | None) -> dict[str, str]:
    """Parse KEY=VALUE items.

    Raises:
        ConfigError: An item has no "=" or no key.
    """
    found = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{item}' is not of the form KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def number(name: str, text: str) -> float:
    """Parse a split's share as a number.

    Raises:
        ConfigError: The text is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"share of '{name}' is '{text}', not a number") from None
