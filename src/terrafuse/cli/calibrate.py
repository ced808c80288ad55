"""`terrafuse calibrate`: a temperature, and class sets, for a run's confidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from terrafuse.cli.options import (
    AsJson,
    BatchSize,
    BlendingName,
    CropSize,
    Device,
    OtherManifest,
    Overlap,
    PrecisionName,
    RunFolder,
    RunSetting,
    fetched,
    load_run,
)


def calibrate(
    run: RunFolder,
    split: Annotated[
        str | None,
        typer.Option(help="Split to fit on; default: training.validation_split.", metavar="NAME"),
    ] = None,
    per_subset: Annotated[
        bool, typer.Option("--per-subset", help="A temperature for every subset of modalities.")
    ] = False,
    conformal: Annotated[
        float | None,
        typer.Option(help="Also set a threshold of class sets.", metavar="COVERAGE"),
    ] = None,
    block_px: Annotated[
        int | None,
        typer.Option(
            help="Side of the blocks that coverage is counted on; default: five times the "
            "correlation length of the errors, or a window."
        ),
    ] = None,
    manifest: OtherManifest = None,
    crop_size: CropSize = None,
    overlap: Overlap = None,
    blending: BlendingName = None,
    batch_size: BatchSize = None,
    precision: PrecisionName = None,
    device: Device = "auto",
    settings: RunSetting = None,
    as_json: AsJson = False,
) -> None:
    """Fit the confidence of a run to labels; writes calibration.json into the run folder.

    predict and evaluate use it from then on, until the weights change. Classes stay as they are.
    """
    from terrafuse import api
    from terrafuse.progress import Display

    run = fetched(run)
    with Display() as display:
        loaded = load_run(run, settings, ("prediction", "evaluation"))
        fitted = api.calibrate(
            loaded,
            split=split,
            per_subset=per_subset,
            conformal=conformal,
            block_px=block_px,
            manifest=manifest,
            windows=loaded.windows(
                crop_size=crop_size, overlap=overlap, blending=blending,
                batch_size=batch_size, precision=precision,
            ),
            device=device,
            progress=display.stage("calibrating"),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(fitted, indent=2))
        return
    from terrafuse.cli.tables import print_rows

    rows = [_row(name, own) for name, own in fitted["subsets"].items()]
    print_rows(f"calibration on split '{fitted['split']}'", rows)
    for name, own in fitted["subsets"].items():
        if sets := own["class_sets"]:
            typer.echo(
                f"class sets of {name}: {100 * sets['coverage']:g} % of a block, by classes with a "
                f"probability of {sets['threshold']:.4f} or more; from {sets['blocks']} blocks of "
                f"{sets['block_px']} pixels"
            )
    typer.echo(f"wrote {run / 'calibration.json'}")


def _row(name: str, own: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table."""
    nll, ece = own["nll"], own["ece"]
    return {
        "modalities": name,
        "pixels": f"{own['pixels']:,}",
        "temperature": f"{own['temperature']:.3f}",
        "NLL": f"{nll['before']:.4f} → {nll['after']:.4f}",
        "ECE_in_%": f"{100 * ece['before']:.2f} → {100 * ece['after']:.2f}",
    }
