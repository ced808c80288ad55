"""Command line: `terrafuse COMMAND`. Each command is one function of `terrafuse.api`.

Heavy libraries are imported inside the commands, so that `--help` responds at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from terrafuse.cli.batch import check_inputs, predict_many, tell_batch
from terrafuse.cli.checking import check_method
from terrafuse.cli.configs import configs_app
from terrafuse.cli.data import data_app
from terrafuse.cli.evaluate import evaluate
from terrafuse.cli.failures import DEBUG, run_guarded
from terrafuse.cli.generate import generate
from terrafuse.cli.maps import mosaic, vectorize
from terrafuse.cli.options import (
    Abstain,
    AsJson,
    BatchSize,
    BlendingName,
    Convert,
    CropSize,
    Device,
    Overlap,
    PrecisionName,
    ProductNames,
    RunFile,
    RunFolder,
    RunSetting,
    Setting,
    Sieve,
    TrustValues,
    Tta,
    conversions,
    load_run,
    names,
    pairs,
    windows_of,
)
from terrafuse.cli.pretrain import pretrain
from terrafuse.cli.sweep import sweep
from terrafuse.errors import ConfigError
from terrafuse.version import VERSION

if TYPE_CHECKING:
    from terrafuse.prediction import EngineName, Products

app = typer.Typer(
    name="terrafuse",
    help="Rasters in, map out: multimodal land-cover segmentation on foundation models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(configs_app, name="configs")
app.command("check-method")(check_method)
app.command()(generate)
app.command()(pretrain)
app.command()(sweep)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"terrafuse {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[  # read before the command line is, see `failures`
        bool, typer.Option(DEBUG, help="Print the traceback of an internal error.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs, map and report.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of landscape and training.")] = 0,
) -> None:
    """Create a synthetic landscape, train on it, map a scene and write report.html."""
    from terrafuse.demo import run_demo

    report = run_demo(out, seed=seed, say=_say)
    typer.echo(f"open {report}")


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods that run.yaml can name, with those of installed plug-ins."""
    from terrafuse.describe.catalogue import list_names

    _rows("methods", list_names("method"), as_json)


@app.command()
def backbones(as_json: AsJson = False) -> None:
    """List the backbones that a method can stand on, with those of installed plug-ins."""
    from terrafuse.describe.catalogue import list_names

    _rows("backbones", list_names("backbone"), as_json)


@app.command()
def layouts(as_json: AsJson = False) -> None:
    """List the folder layouts that `data describe` knows, with those of installed plug-ins."""
    from terrafuse.layouts import list_layouts

    _rows("layouts", [asdict(layout) for layout in list_layouts()], as_json)


@app.command()
def validate(config: RunFile, settings: Setting = None, as_json: AsJson = False) -> None:
    """Check run.yaml or pretrain.yaml, its manifest and options, without reading pixels."""
    from terrafuse import api

    summary = api.validate(config, pairs(settings))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(f"{config} is valid")
    for key, value in summary.items():
        typer.echo(f"  {key}: {value:,}" if isinstance(value, int) else f"  {key}: {value}")


@app.command()
def describe(
    model: Annotated[
        Path, typer.Argument(help="run.yaml, or the folder of a trained run.", metavar="MODEL")
    ],
    settings: Setting = None,
    parameters: Annotated[
        bool,
        typer.Option(
            "--parameters", help="Also show learning rate and weight decay of all parameters."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show parts, trainable and frozen parameters, FLOPs, memory and licences of a model."""
    from terrafuse import api

    overview = api.describe_model(model, pairs(settings))
    if parameters:
        overview["parameter_groups"] = api.describe_parameters(model, pairs(settings))
    if as_json:
        typer.echo(json.dumps(overview, indent=2))
        return
    from terrafuse.cli.tables import print_model, print_parameter_groups

    print_model(overview)
    if parameters:
        print_parameter_groups(overview["parameter_groups"])


@app.command()
def schema(
    pretrain: Annotated[
        bool, typer.Option("--pretrain", help="Schema of pretrain.yaml instead of run.yaml.")
    ] = False,
) -> None:
    """Print the JSON Schema of run.yaml, for validation in editors."""
    from terrafuse.config import RunConfig
    from terrafuse.config.pretrain import PretrainConfig

    model = PretrainConfig if pretrain else RunConfig
    typer.echo(json.dumps(model.model_json_schema(), indent=2))


@app.command()
def train(
    config: RunFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to create.")],
    settings: Setting = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = (False),
) -> None:
    """Train a model as run.yaml specifies."""
    from terrafuse import api

    folder = api.train(config, out, overrides=pairs(settings), resume=resume)
    typer.echo(f"trained {folder}; next: {_needs_path(folder)}terrafuse evaluate {folder}")


app.command()(evaluate)


@app.command()
def predict(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the map.")],
    scene: Annotated[
        str | None, typer.Option(help="A scene of a manifest.", metavar="dataset.yaml#id")
    ] = None,
    raster: Annotated[
        list[str] | None,
        typer.Option(
            "--raster",
            "-r",
            help="A raster of a modality, a URL of one, or a STAC item; repeatable.",
            metavar="MODALITY=FILE",
        ),
    ] = None,
    scenes: Annotated[
        Path | None,
        typer.Option(
            help="Map all scenes of a manifest, each into a folder of its own.",
            metavar="dataset.yaml",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of --scenes: those of a split only.", metavar="NAME")
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="Map the items of a STAC document (file or URL), each into a folder of its own.",
            metavar="search.json",
        ),
    ] = None,
    products: ProductNames = "class_map,confidence",
    values: Annotated[
        str | None,
        typer.Option(
            help="Pixels of the class map: code or index; default: the codes of the classes where "
            "a byte holds them and each class has one.",
            metavar="code|index",
        ),
    ] = None,
    crop_size: CropSize = None,
    overlap: Overlap = None,
    blending: BlendingName = None,
    batch_size: BatchSize = None,
    precision: PrecisionName = None,
    device: Device = "auto",
    areas: Annotated[
        bool, typer.Option("--areas", help="Print the area of each class, and write areas.csv.")
    ] = False,
    tta: Tta = None,
    abstain: Abstain = None,
    sieve: Sieve = None,
    convert: Convert = None,
    trust_values: TrustValues = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished map in the folder.")
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that map, each with a model; with --devices: per GPU.")
    ] = 1,
    devices: Annotated[int | None, typer.Option(help="GPUs to map on.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Part of the map to make, beside runs that make the others, in the same --out.",
            metavar="i/n",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where the workers run: local or ray.", metavar="local|ray")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster; default: RAY_ADDRESS, else this machine alone."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print what reading, model and writing took.")
    ] = False,
    settings: RunSetting = None,
) -> None:
    """Map a scene on its own grid: class_map.tif, confidence.tif and other products."""
    from terrafuse.prediction import MapSettings, WorkerSettings
    from terrafuse.progress import Display

    check_inputs(scene, raster, scenes, items, split)
    if shard and (scenes or items):
        raise ConfigError(
            "--shard divides one scene; of many, let each job have a part of them: a manifest, a "
            "split or a STAC document of its own"
        )
    if profile and (scenes or items):
        raise ConfigError(
            "--profile is of one map; prediction.json of each map has the same under 'profile'"
        )
    if tta:
        passes = len(MapSettings(tta=tuple(names(tta))).views)
        _say(f"--tta {tta}: the model is run {passes} times per window")
    rasters: dict[str, list[str]] = {}
    for item in raster or []:
        for name, path in pairs([item]).items():
            rasters.setdefault(name, []).append(path)
    with Display() as display:
        loaded = load_run(run, settings, ("prediction",))
        windows = windows_of(
            loaded,
            crop_size=crop_size,
            overlap=overlap,
            blending=blending,
            batch_size=batch_size,
            precision=precision,
        )
        options: dict[str, Any] = {
            "products": names(products),
            "values": values,
            "areas": areas,
            "convert": conversions(convert),
            "trust_values": trust_values,
            "windows": windows,
            "device": device,
            "resume": resume,
            "workers": WorkerSettings(workers, devices, cast("EngineName", engine), ray_address),
            "tta": names(tta),
            "abstain": abstain,
            "sieve": sieve,
        }
        if scenes or items:
            many = predict_many(
                loaded, out, display, scenes=scenes, split=split, items=items, **options
            )
        else:
            made = loaded.predict(
                out,
                scene=scene,
                rasters=rasters or None,
                shard=shard,
                progress=display.stage("mapping"),
                **options,
            )
    if scenes or items:
        tell_batch(many, out)
        return
    if made.waits_for:
        typer.echo(
            f"shard {shard} is done; {made.waits_for} units of other shards are missing. The shard "
            f"that finishes the last one writes the map to {out}; run again those that have died"
        )
        return
    if made.was_there:
        typer.echo(f"the map in {out} is finished already")
    for name, file in made.files.items():
        typer.echo(f"wrote {file}{_say_values(made) if name == 'class_map' else ''}")
    for file in made.beside:
        typer.echo(f"wrote {file}")
    if made.abstained_pixels is not None:
        typer.echo(
            f"{made.abstained_pixels:,} pixels of less confidence than {abstain:g} abstained"
        )
    if made.areas_file:
        from terrafuse.prediction import describe_areas

        _rows("areas", describe_areas(made.areas), as_json=False)
        typer.echo(f"wrote {made.areas_file}")
    if profile and made.profile:
        from terrafuse.prediction import describe_profile

        _rows("profile", describe_profile(made.profile), as_json=False)


app.command()(vectorize)
app.command()(mosaic)


def _say_values(made: Products) -> str:
    values = made.class_values
    abstained = "" if values.abstained is None else f"; {values.abstained} = abstained"
    if values.kind == "code":
        return f" (codes of the classes{abstained}; {values.nodata} = no data)"
    why = f", because a map cannot hold the codes: {values.reason}" if values.reason else ""
    return f" (indices of the classes, 0 to {len(values.values) - 1}{why}{abstained})"


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs.", metavar="RUN…")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: report.html in the first run.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the page of a run, or of several: scores, maps over images and labels, curves."""
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        path = api.report(runs, out, device=device, progress=display.stage("evaluating"))
    typer.echo(f"open {path}")


def _needs_path(run: Path) -> str:
    """Options of verbs on run folders whose code Python does not find by itself."""
    from terrafuse.plugins import folders_to_add
    from terrafuse.weights import read_run_info

    folders = folders_to_add(read_run_info(run).code)
    return f"PYTHONPATH={':'.join(folders)} " if folders else ""


def _rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(list(rows), indent=2))
        return
    from terrafuse.cli.tables import print_rows

    print_rows(title, rows)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command line and exit: 0 done, 2 a mistake with one message, 70 a failure of ours."""
    sys.exit(run_guarded(app))
