"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terrafuse.errors import ConfigError

if TYPE_CHECKING:
    from terrafuse.api import Run
    from terrafuse.data.value_conversion import ValueConversion

RunFile = Annotated[Path, typer.Argument(help="Settings of the run.", metavar="run.yaml")]
RunFolder = Annotated[
    Path,
    typer.Argument(help="Folder of a trained run, or hf://owner/name@revision.", metavar="RUN"),
]
ModelFile = Annotated[
    Path,
    typer.Argument(
        help="Folder of a trained run, hf://owner/name@revision, or the ONNX file of one.",
        metavar="RUN",
    ),
]
ManifestFile = Annotated[Path, typer.Argument(help="The manifest.", metavar="dataset.yaml")]
OtherManifest = Annotated[
    Path | None,
    typer.Option("--manifest", "--data", help="Another dataset.yaml than the run's."),
]
ScoredSplit = Annotated[
    str | None, typer.Option(help="Split to score on; default: evaluation.split.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Read the data again, whatever is kept of it.")
]
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
Host = Annotated[
    str, typer.Option(help="Address to listen at; others than loopback need --tokens.")
]
HostNames = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        help="Further name by which browsers reach it, as behind a reverse proxy; repeatable.",
        metavar="HOST",
    ),
]
Tokens = Annotated[
    Path | None,
    typer.Option(help="File of tokens that let people in (terrafuse token add).", metavar="FILE"),
]
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

Convert = Annotated[
    list[str] | None,
    typer.Option(
        help="Bring values to the training's scale: FACTOR[,OFFSET], db or linear.",
        metavar="MODALITY=…",
    ),
]
TrustValues = Annotated[
    bool,
    typer.Option("--trust-values", help="Map values of another scale than the training's."),
]
RunSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", help="Replace a setting of the run: prediction.overlap=64.",
        metavar="KEY=VALUE",
    ),
]  # fmt: skip


ProductNames = Annotated[
    str,
    typer.Option(
        help="Products to write: class_map, confidence, confidence_float32, entropy, margin, "
        "probabilities, probabilities_float32, disagreement, sources, attribution, "
        "attribution_margin, class_sets, class_set_size.",
        metavar="NAME,NAME,…",
    ),
]
Tta = Annotated[
    str | None,
    typer.Option(
        "--tta",
        help="Test-time augmentation: average over flips (4 passes per window), turns (4), both "
        "(8), scales (3), or all combinations of them (12, 24).",
        metavar="flips,turns,scales",
    ),
]
Abstain = Annotated[
    float | None,
    typer.Option(
        help="Give pixels of less confidence a value of their own instead of a class: above 0, "
        "at most 1.",
        metavar="CONFIDENCE",
    ),
]
Sieve = Annotated[
    int | None,
    typer.Option(
        help="Merge patches of fewer pixels of the class map into their largest neighbours.",
        metavar="PIXELS",
    ),
]
Tiles = Annotated[
    int | None,
    typer.Option(
        help="Divide each product into files of so many pixels a side, a multiple of 2048, with a "
        "VRT over them.",
        metavar="PIXELS",
    ),
]

Calibrated = Annotated[
    bool,
    typer.Option(
        "--calibration/--no-calibration",
        help="Use the run's calibration.json, if it has one. Classes are the same without.",
    ),
]


def names(text: str | None) -> list[str]:
    """Comma-separated names; none of None."""
    return [] if text is None else [name.strip() for name in text.split(",")]


def conversions(items: list[str] | None) -> dict[str, ValueConversion]:
    """MODALITY=FACTOR,OFFSET items by modality.

    Raises:
        ConfigError: An item of another form.
    """
    from terrafuse.data.value_conversion import ValueConversion

    given = pairs(items)
    return {name: ValueConversion.parse(text, f"--convert {name}") for name, text in given.items()}


def fetched(run: Path) -> Path:
    """The folder of a run; of one on the hub it is said where it lies now.

    Raises:
        ConfigError: No name of a run on the hub.
        WeightsError: It cannot be fetched, or not as it was pushed.
    """
    if not str(run).startswith(("hf:", "hub:")):  # others need not wait for what that imports
        return run
    from terrafuse.weights import is_on_hub, run_folder

    if not is_on_hub(run):
        return run
    folder = run_folder(run)
    typer.echo(f"{str(run).replace('hf:/', 'hf://', 1)} lies in {folder}", err=True)
    return folder


def load_run(folder: Path, settings: list[str] | None, sections: tuple[str, ...]) -> Run:
    """A trained run, with settings of some sections replaced.

    Raises:
        ConfigError: A setting that would have no effect any more.
    """
    from terrafuse import api

    return api.load(folder, overrides=replaced(settings, sections))


def replaced(settings: list[str] | None, sections: tuple[str, ...]) -> dict[str, str]:
    """Settings of a run to replace, which are of some sections only.

    Raises:
        ConfigError: A setting that would have no effect any more.
    """
    given = pairs(settings)
    for key in given:
        if key.partition(".")[0] not in sections:
            allowed = " and ".join(f"'{section}.…'" for section in sections)
            raise ConfigError(
                f"-s {key}: the run is trained; only {allowed} can be replaced. Train again to "
                "change the rest"
            )
    return given


def tell_waiting(shard: str | None, left: str, result: str) -> None:
    """Print that the parts of other shards are missing.

    Args:
        shard: The one that is done.
        left: How many units or scenes are missing.
        result: The last shard writes it, and where.
    """
    typer.echo(
        f"shard {shard} is done; {left} of other shards are missing. The shard that finishes the "
        f"last one writes {result}; run again those that have died"
    )


def pairs(items: list[str] | None) -> dict[str, str]:
    """Parse KEY=VALUE items.

    Raises:
        ConfigError: An item has no "=" or no key, or a key is given twice.
    """
    found: dict[str, str] = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{item}' is not of the form KEY=VALUE")
        if key.strip() in found:
            raise ConfigError(f"'{key.strip()}' is given twice; leave one out")
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
