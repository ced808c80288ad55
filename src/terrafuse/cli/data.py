"""Commands on datasets: `terrafuse data COMMAND`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terrafuse.cli.options import AsJson, Fresh, ManifestFile, number, pairs

if TYPE_CHECKING:
    from terrafuse.doctor import Finding

data_app = typer.Typer(help="Describe, check, measure and split a dataset.", no_args_is_help=True)


@data_app.command("describe")
def data_describe(
    root: Annotated[Path, typer.Argument(help="Folder of rasters.", metavar="ROOT")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Layout of the folder; default: recognised by the names in it."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", help="Option of the layout.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Write a manifest for a folder of rasters; nothing is copied."""
    from terrafuse import api
    from terrafuse.plugins import look_beside

    look_beside(layout, Path.cwd())
    manifest = api.data_describe(root, out, layout=layout, options=pairs(option), report=typer.echo)
    scenes = ", ".join(f"{n} {split}" for split, n in manifest.splits.items())
    scenes = (
        scenes or f"{len(manifest.entries)}, in no split yet ('terrafuse data split' draws one)"
    )
    typer.echo(f"wrote {out}: {', '.join(manifest.modalities)}; scenes: {scenes}")


@data_app.command("check")
def data_check(
    manifest: ManifestFile,
    as_json: AsJson = False,
    fixes: Annotated[
        bool, typer.Option("--fix-suggestions", help="Print keys that fix dataset.yaml.")
    ] = False,
    fix: Annotated[
        Path | None,
        typer.Option(help="Write a copy of the manifest with these keys.", metavar="OUT.yaml"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML page to write, with pictures of the places.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the checks that training makes before it starts.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Scenes at a time; default: one per core, at most 4.", min=1)
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Also estimate a run's memory and time.", metavar="run.yaml")
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Find faults in a dataset; exit code 1 if there are errors."""
    from terrafuse import api
    from terrafuse.cli.findings import Ticker, print_expected, print_findings, print_fixes
    from terrafuse.progress import Display

    ticker = Ticker(enabled=not as_json)
    with Display() as display:
        findings = api.data_check(
            manifest,
            quick=quick,
            workers=workers,
            html=html,
            fresh=fresh,
            progress=display.stage("checking"),
            report=ticker.show,
            say=display.say,
        )
        expected = None
        if run is not None:
            display.stage("timing two steps")
            # On the data that were checked, whatever manifest the run names.
            expected = api.expect_run(run, {"data.manifest": str(manifest.absolute())})
    suggested = api.suggested_fixes(findings)
    changes = {} if fix is None else api.data_fix(manifest, findings, fix)
    if as_json:
        typer.echo(json.dumps(_plain(findings, suggested, expected, fixes), indent=2, default=str))
    else:
        print_findings(findings)
        if fixes or changes:
            print_fixes(suggested)
        if fix is not None:
            done = f"wrote {fix} with them" if changes else f"nothing to write to {fix}"
            typer.echo(f"{done}; '{manifest}' and the rasters are as they were")
        if expected is not None:
            print_expected(expected)
        if html is not None:
            typer.echo(f"wrote {html}")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _plain(
    findings: Sequence[Finding],
    suggested: Mapping[str, Any],
    expected: Mapping[str, Any] | None,
    fixes: bool,
) -> Any:
    """Return the list of findings, or an object with key "findings" if more is requested."""
    listed = [asdict(finding) for finding in findings]
    if not fixes and expected is None:
        return listed
    values: dict[str, Any] = {"findings": listed}
    values |= {"fixes": suggested} if fixes else {}
    return values | ({"run": expected} if expected is not None else {})


@data_app.command("stats")
def data_stats(
    manifest: ManifestFile,
    split: Annotated[str, typer.Option(help="Split to measure; 'all': every split.")] = "train",
    as_json: AsJson = False,
    fresh: Fresh = False,
) -> None:
    """Print mean, standard deviation and percentiles per band, over pixels with data."""
    from terrafuse import api
    from terrafuse.progress import Display

    if split == "all":
        _show_all_splits(manifest, as_json, fresh)
        return
    with Display() as display:
        statistics = api.data_stats(
            manifest, split=split, fresh=fresh, progress=display.stage("reading")
        )
    if as_json:
        typer.echo(json.dumps({name: s.to_dict() for name, s in statistics.items()}, indent=2))
    else:
        from terrafuse.cli.tables import print_statistics
        from terrafuse.data import load_manifest

        print_statistics(load_manifest(manifest).modalities, statistics)


def _show_all_splits(manifest: Path, as_json: bool, fresh: bool) -> None:
    from terrafuse import api
    from terrafuse.api.datasets import load_painted
    from terrafuse.cli.splits import print_split, print_statistics_by_split
    from terrafuse.data import load_manifest
    from terrafuse.progress import Display
    from terrafuse.splits import report_split

    with Display() as display:
        statistics = api.data_stats_by_split(
            manifest, fresh=fresh, progress=display.stage("reading")
        )
        report = report_split(load_painted(manifest), display.stage("counting labels"))
    if as_json:
        plain = {
            split: {name: bands.to_dict() for name, bands in own.items()}
            for split, own in statistics.items()
        }
        typer.echo(json.dumps({"statistics": plain, "split": report.to_dict()}, indent=2))
    else:
        print_statistics_by_split(load_manifest(manifest).modalities, statistics)
        print_split(report)


@data_app.command("labels")
def data_labels(
    manifest: ManifestFile,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="Remove the polygons of this scene; repeatable.", metavar="SCENE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the polygons painted over scenes, which training learns from, or remove some."""
    from terrafuse import api

    found = api.data_labels(manifest, remove=remove or ())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(found["file"] if found["scenes"] else f"nothing is painted beside '{manifest}'")
    for id, own in found["scenes"].items():
        classes = ", ".join(f"{number} {name}" for name, number in own["classes"].items())
        split = f"split {own['split']}" if own["split"] else "no split"
        unused = "" if own["is_learnt_from"] else ", not learnt from"
        typer.echo(f"  {id} ({split}{unused}): {classes}")


@data_app.command("split")
def data_split(
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")],
    shares: Annotated[str, typer.Option(help="Shares of the labelled pixels.")] = (
        "train=0.6,val=0.2,test=0.2"
    ),
    block: Annotated[int, typer.Option(help="Side of the blocks, scene pixels.", min=16)] = 512,
    buffer: Annotated[int, typer.Option(help="Unused gap between splits, pixels.", min=0)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    seeds: Annotated[int, typer.Option(help="Draws; the best balanced is used.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Split by whole scenes or by spatial blocks with a buffer, into a new manifest."""
    from terrafuse import api
    from terrafuse.cli.splits import print_split
    from terrafuse.progress import Display
    from terrafuse.splits import report_split

    wanted = {name: number(name, value) for name, value in pairs(shares.split(",")).items()}
    with Display() as display:
        made = api.data_split(
            manifest, out, shares=wanted, block_px=block, buffer_px=buffer, seed=seed, seeds=seeds,
            progress=display.stage("counting labels"),
        )  # fmt: skip
        report = report_split(made, display.stage("checking the splits"))
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_split(report)
        listed = ", ".join(f"{n} {split}" for split, n in made.splits.items())
        typer.echo(f"wrote {out}: {listed}")


@data_app.command("preview")
def data_preview(
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture (PNG) to write.")],
    split: Annotated[str | None, typer.Option(help="Only scenes of this split.")] = None,
    scenes: Annotated[int, typer.Option(help="Number of scenes, evenly spaced.", min=1)] = 6,
) -> None:
    """Draw a contact sheet: a row per scene, a column per modality and one for labels."""
    from terrafuse import api

    shown = api.data_preview(manifest, out, split=split, scenes=scenes)
    typer.echo(f"wrote {out}: {', '.join(shown)}")
