"""`terrafuse export`: a run as one file that runs without torch, or without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terrafuse.cli.options import AsJson, OtherManifest, RunFolder

if TYPE_CHECKING:
    from terrafuse.api import Exported


def export(
    run: RunFolder,
    format: Annotated[
        str, typer.Option(help="onnx, or pt2: an archive of torch.export.", metavar="onnx|pt2")
    ] = "onnx",
    half: Annotated[
        bool, typer.Option("--half", help="Store weights as float16: half the size.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Compute in int8; measures the loss of score. ONNX only."),
    ] = False,
    stacked: Annotated[
        bool,
        typer.Option(
            "--stacked",
            help="One input with all bands as they are stored, probabilities as output: for "
            "QGIS' plug-in Deepness and other tools that know one raster.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file; default: model….onnx in the run folder."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Licence of the weights; default: that of the base weights, if known."),
    ] = None,
    manifest: OtherManifest = None,
    as_json: AsJson = False,
) -> None:
    """Write a run as one file: normalisation inside, and all that is known of the model.

    The graph is compared with the model on windows of its data; one that does not agree is refused.
    """
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        made = api.export(
            run,
            format=format,
            half=half,
            int8=int8,
            stacked=stacked,
            out=out,
            licence=licence,
            manifest=manifest,
            stage=display.stage,
            progress=display.update,
        )
    if as_json:
        described = {"file": str(made.path), "bytes": made.size, **made.info.to_dict()}
        typer.echo(json.dumps(described, indent=2))
        return
    for line in _lines(made):
        typer.echo(line)


def _lines(made: Exported) -> list[str]:
    info, checked = made.info, made.info.checked
    size = "H, W" if not info.stacked else f"{info.stride}, {info.stride}"
    inputs = ", ".join(f"{name} (N, {bands}, {size})" for name, bands in info.inputs.items())
    sizes = f"; H and W are multiples of {info.stride}, at least {info.least_size}"
    scores = "log-probabilities" if info.stacked else "logits"
    lines = [
        f"inputs: {inputs}{'' if info.stacked else sizes}",
        f"compared with the model on {checked['images']}, also with gaps: "
        f"{_share(checked['equal_labels'])} % of {checked['pixels']:,} labels are equal, {scores} "
        f"differ by {checked['largest_difference']:.2g} at most",
    ]
    if "scores_of_graph" in checked:
        lines.append(_loss(checked))
    if info.licence is None:
        lines.append("licence of the weights: unknown; name it with --licence")
    further = "".join(f" and {path}" for path in made.further)
    return [*lines, f"wrote {made.path}{further} ({made.size / 1e6:.1f} MB, {info.precision})"]


def _share(share: float) -> str:
    """A share in percent; only what is whole is written as 100."""
    return "100" if share == 1 else f"{min(100 * share, 99.9999):.4f}"


def _loss(checked: Mapping[str, Any]) -> str:
    """What quantisation costs, in points of percent."""
    before, after = checked["scores_of_model"], checked["scores_of_graph"]
    parts = [
        f"{name} {100 * before[name]:.2f} → {100 * after[name]:.2f} % "
        f"({100 * (after[name] - before[name]):+.2f})"
        for name in ("miou", "oa")
        if before.get(name) is not None and after.get(name) is not None
    ]
    scenes = checked["scenes"]
    where = f"{scenes} scene{'s' * (scenes > 1)} of split '{checked['split']}'"
    return f"scores on {where}: {', '.join(parts)}"
