"""Verbs about data sets: `terrafuse data VERB`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import AsJson, ManifestFile, number, pairs

data_app = typer.Typer(help="Describe, check, measure and split a dataset.", no_args_is_help=True)


@data_app.command("describe")
def data_describe(
    root: Annotated[Path, typer.Argument(help="Folder of rasters.", metavar="ROOT")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest to write.")],
    layout: Annotated[str, typer.Option(help="How the folder is organised.")] = "folder",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", help="Option of the layout.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Write a manifest for a folder of rasters; nothing is copied."""
    from terrafuse import api

    manifest = api.data_describe(root, out, layout=layout, options=pairs(option))
    scenes = ", ".join(f"{n} {split}" for split, n in manifest.splits.items())
    typer.echo(f"wrote {out}: {', '.join(manifest.modalities)}; scenes: {scenes}")


@data_app.command("check")
def data_check(manifest: ManifestFile, as_json: AsJson = False) -> None:
    """Find what cannot be trained; exit code 1 if there are errors."""
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        findings = api.data_check(manifest, progress=display.stage("checking"))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, default=str))
    else:
        from terrafuse.cli.tables import print_findings

        print_findings(findings)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@data_app.command("stats")
def data_stats(
    manifest: ManifestFile,
    split: Annotated[str | None, typer.Option(help="Which scenes.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Mean, deviation and percentiles per band, over the pixels with data."""
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        statistics = api.data_stats(manifest, split=split, progress=display.stage("reading"))
    if as_json:
        typer.echo(json.dumps({name: s.to_dict() for name, s in statistics.items()}, indent=2))
    else:
        from terrafuse.cli.tables import print_statistics
        from terrafuse.data import load_manifest

        print_statistics(load_manifest(manifest).modalities, statistics)


@data_app.command("split")
def data_split(
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The manifest to write.")],
    shares: Annotated[str, typer.Option(help="Shares of the labelled pixels.")] = (
        "train=0.6,val=0.2,test=0.2"
    ),
    block: Annotated[int, typer.Option(help="Edge of the blocks, scene pixels.", min=16)] = 512,
    buffer: Annotated[int, typer.Option(help="Unused strip between splits, pixels.", min=0)] = 64,
    seed: int = 0,
) -> None:
    """Split by whole scenes or spatial blocks with a buffer; writes a new manifest."""
    from terrafuse import api

    wanted = {name: number(name, value) for name, value in pairs(shares.split(",")).items()}
    made = api.data_split(manifest, out, shares=wanted, block_px=block, buffer_px=buffer, seed=seed)
    typer.echo(f"wrote {out}: " + ", ".join(f"{n} {split}" for split, n in made.splits.items()))
