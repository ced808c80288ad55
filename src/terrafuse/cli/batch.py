"""`terrafuse predict` of many scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from terrafuse.cli.failures import MISTAKE
from terrafuse.errors import ConfigError

if TYPE_CHECKING:
    from terrafuse.api import Mapped, TrainedModel
    from terrafuse.progress import Display

_MOST_SHOWN = 20


def check_inputs(
    scene: str | None, raster: object, scenes: Path | None, items: str | None, split: str | None
) -> None:
    """Refuse none or several of the ways to say what is mapped.

    Raises:
        ConfigError: Names those given.
    """
    ways = {"--scene": scene, "-r": raster, "--scenes": scenes, "--items": items}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        raise ConfigError(
            f"{' and '.join(given) or 'nothing'} given to map; give one of --scene "
            "dataset.yaml#id, -r MODALITY=FILE, --scenes dataset.yaml or --items search.json"
        )
    if split is not None and scenes is None:
        raise ConfigError("--split chooses among the scenes of --scenes dataset.yaml; add that")


def predict_many(
    run: TrainedModel,
    out: Path,
    display: Display,
    *,
    scenes: Path | None,
    split: str | None,
    items: str | None,
    **options: Any,
) -> Sequence[Mapped]:
    """Map the scenes of a manifest, or the items of a STAC document."""
    from terrafuse import api

    if items is not None:
        places = api.places_of_items(run, items)
    else:
        assert scenes is not None
        places = api.places_of_manifest(run, scenes, split)
    return api.predict_batch(
        run, places, out, progress=display.stage("scenes"), note=display.note, **options
    )


def tell_batch(done: Sequence[Mapped], out: Path) -> None:
    """Print what became of each scene, of many that went well the first ones only.

    Raises:
        typer.Exit: A scene could not be mapped.
    """
    from terrafuse.cli.tables import print_rows

    failed = [one for one in done if one.state == "failed"]
    well = [one for one in done if one.state != "failed"]
    rows = [
        {"scene": one.id, "state": one.state, "map": str(one.folder)} for one in well[:_MOST_SHOWN]
    ]
    if rows:
        print_rows("maps", rows)
    if len(well) > _MOST_SHOWN:
        typer.echo(f"… and {len(well) - _MOST_SHOWN} more maps")
    if failed:
        print_rows("not mapped", [{"scene": one.id, "why": one.message} for one in failed])
    there = sum(one.state == "there already" for one in well)
    before = f", {there} of them before" if there else ""
    typer.echo(f"{len(well)} of {len(done)} scenes are mapped in {out}{before}")
    if failed:
        typer.echo(
            f"{len(failed)} scenes could not be mapped: correct what the table says, and run the "
            "same command with --resume",
            err=True,
        )
        raise typer.Exit(MISTAKE)
