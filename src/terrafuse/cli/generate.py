"""`terrafuse generate`: a second modality from photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terrafuse.cli.options import AsJson, Device

if TYPE_CHECKING:
    from terrafuse.api import GeneratedSet
    from terrafuse.generate import Generated

_SAM, _DEPTH, _PIXELS = "Masks", "Depth", "Superpixels"


def generate(
    source: Annotated[
        str, typer.Argument(help="dataset.yaml, or one image.", metavar="dataset.yaml|IMAGE")
    ],
    kind: Annotated[str, typer.Option(help="sam, depth or superpixels.")],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id, for sam and depth.", metavar="FOLDER|owner/name"),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", "-o", help="Manifest to write; default: beside the given one."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the rasters; default: generated/KIND beside the source."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="Modality of the photos; default: the one with red, green, blue."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new modality; default: structure, or depth.")
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="auto, color, gray, boundary, mean_rgb, stretch or none.")
    ] = "auto",
    rgb: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Numbers of the red, green and blue bands, from 1.", metavar="R G B"),
    ] = None,
    window: Annotated[int, typer.Option(help="Side of the model's windows, pixels.", min=32)] = (
        1024
    ),
    overlap: Annotated[int, typer.Option(help="Pixels shared by neighbours.", min=0)] = 128,
    workers: Annotated[int, typer.Option(help="Processes, each with its own model.", min=1)] = 1,
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32 (default), float16 or bfloat16.")
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Prompt points per side of a window (32).", rich_help_panel=_SAM),
    ] = None,
    iou: Annotated[
        float | None, typer.Option(help="Smallest predicted IoU (0.88).", rich_help_panel=_SAM)
    ] = None,
    stability: Annotated[
        float | None, typer.Option(help="Smallest stability (0.95).", rich_help_panel=_SAM)
    ] = None,
    nms: Annotated[
        float | None,
        typer.Option(help="Largest IoU of the boxes of two masks (0.7).", rich_help_panel=_SAM),
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(help="Smallest mask in pixels (0).", rich_help_panel=_SAM)
    ] = None,
    points_per_batch: Annotated[
        int | None, typer.Option(help="Points prompted at once (16).", rich_help_panel=_SAM)
    ] = None,
    meaning: Annotated[
        str | None,
        typer.Option(
            help="nearness, distance or height; default: from the model.", rich_help_panel=_DEPTH
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="slic (default) or watershed.", rich_help_panel=_PIXELS)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of a superpixel, pixels (24).", rich_help_panel=_PIXELS),
    ] = None,
    compactness: Annotated[
        float | None,
        typer.Option(help="Larger: squarer superpixels.", rich_help_panel=_PIXELS),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files made with other settings.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a second modality from photos: rasters of segments or depth, and a dataset.yaml.

    The same command resumes after an interruption.
    """
    from terrafuse import api
    from terrafuse.progress import Display

    given = {
        "points": points, "iou": iou, "stability": stability, "nms": nms, "min_area": min_area,
        "points_per_batch": points_per_batch, "meaning": meaning, "method": method, "size": size,
        "compactness": compactness, "precision": precision,
        "device": None if kind == "superpixels" or device == "auto" else device,
    }  # fmt: skip
    with Display() as display:
        made = api.generate(
            source,
            kind=kind,  # type: ignore[arg-type]  # checked there
            model=model,
            modality=modality,
            name=name,
            manifest=manifest,
            out=out,
            encoding=encoding,  # type: ignore[arg-type]  # likewise
            rgb=rgb,
            window=window,
            overlap=overlap,
            workers=workers,
            options={key: value for key, value in given.items() if value is not None},
            overwrite=overwrite,
            progress=display.stage("generating"),
        )
    if as_json:
        typer.echo(json.dumps(_plain(made), indent=2))
        return
    for raster in made.rasters:
        typer.echo(_line(raster))
    if made.manifest is not None:
        typer.echo(f"wrote {made.manifest}: modality '{made.modality.name}' added")


def _line(made: Generated) -> str:
    result = made.record["result"]
    if "segments" in result:
        text = f"{result['segments']} segments on {result['covered']:.0%} of the photo"
    else:
        text = f"depth from {result['min']:.4g} to {result['max']:.4g}"
    return f"{'exists already:' if made.skipped else 'wrote'} {made.raster}: {text}"


def _plain(made: GeneratedSet) -> dict[str, Any]:
    return {
        "manifest": None if made.manifest is None else str(made.manifest),
        "modality": made.modality.to_dict(),
        "rasters": [
            {"raster": str(one.raster), "skipped": one.skipped, **one.record}
            for one in made.rasters
        ],
    }
