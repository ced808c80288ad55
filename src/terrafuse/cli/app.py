"""Command line: `terrafuse COMMAND`. Each command is one function of `terrafuse.api`.

Heavy libraries are imported inside the commands, so that `--help` responds at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from terrafuse.cli.calibrate import calibrate
from terrafuse.cli.checking import check_method
from terrafuse.cli.compare import compare
from terrafuse.cli.configs import configs_app
from terrafuse.cli.data import data_app
from terrafuse.cli.evaluate import evaluate
from terrafuse.cli.export import export
from terrafuse.cli.failures import DEBUG, run_guarded
from terrafuse.cli.generate import generate
from terrafuse.cli.maps import mosaic, vectorize
from terrafuse.cli.options import AsJson, Device, Fresh, Resume, RunFile, Setting, fetched, pairs
from terrafuse.cli.predict import predict
from terrafuse.cli.pretrain import pretrain
from terrafuse.cli.push import push
from terrafuse.cli.reference import areas, sample
from terrafuse.cli.serve import serve, serve_worker
from terrafuse.cli.sweep import sweep
from terrafuse.cli.token import token_app
from terrafuse.cli.view import view
from terrafuse.version import VERSION

app = typer.Typer(
    name="terrafuse",
    help="Rasters in, map out: multimodal land-cover segmentation on foundation models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(configs_app, name="configs")
app.add_typer(token_app, name="token")
app.command("check-method")(check_method)
app.command()(generate)
app.command()(pretrain)
app.command()(sweep)
app.command()(compare)


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
        Path,
        typer.Argument(
            help="run.yaml, the folder of a trained run, hf://owner/name, or an exported .onnx.",
            metavar="MODEL",
        ),
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
    from terrafuse.weights.onnx_file import names_onnx

    if names_onnx(model):
        _describe_exported(model, as_json)
        return
    model = fetched(model)
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


def _describe_exported(file: Path, as_json: bool) -> None:
    from terrafuse.cli.tables import print_rows
    from terrafuse.describe.exported import describe_exported, exported_rows

    found = describe_exported(file)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_rows("exported model", exported_rows(found))


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
    resume: Resume = False,
    fresh: Fresh = False,
) -> None:
    """Train a model as run.yaml specifies."""
    from terrafuse import api
    from terrafuse.locking import is_first_process, one_voice

    with one_voice():
        folder = api.train(config, out, overrides=pairs(settings), resume=resume, fresh=fresh)
    if not is_first_process():  # the first process may still be writing
        return
    typer.echo(f"trained {folder}; next: {_needs_path(folder)}terrafuse evaluate {folder}")


app.command()(evaluate)
app.command()(calibrate)
app.command()(predict)
app.command()(export)
app.command()(view)
app.command()(vectorize)
app.command()(mosaic)
app.command()(sample)
app.command()(areas)
app.command()(push)
app.command()(serve)
app.command("serve-worker")(serve_worker)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of trained runs, or hf://owner/name.", metavar="RUN…"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: report.html in the first run.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the page of a run, or of several: scores, maps over images and labels, curves."""
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        path = api.report(
            list(map(fetched, runs)), out, device=device, progress=display.stage("evaluating")
        )
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
