"""`terrafuse serve` and `terrafuse serve-worker`: maps as jobs, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import Device, Host, HostNames, Tokens, fetched
from terrafuse.extras import from_extra

Served = Annotated[
    list[str],
    typer.Argument(
        help="Folders of trained runs, hf://owner/name, or exported .onnx files; the folder's name "
        "is the model's, or NAME=RUN.",
        metavar="RUN…",
    ),
]
DataFolder = Annotated[Path, typer.Option(help="Folder of jobs, uploads and database.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="TERRAFUSE_DATABASE",
        show_envvar=True,
        help="Database of jobs; default: SQLite in --data.",
        metavar="postgresql://…",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that map, each with the models.")]
UrlHosts = Annotated[
    list[str] | None,
    typer.Option(
        help="Host whose http(s) addresses and STAC items jobs may name; repeatable.",
        metavar="HOST[:PORT]",
    ),
]


def serve(
    runs: Served,
    data: DataFolder = Path("service"),
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8766,
    name: HostNames = None,
    tokens: Tokens = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose rasters jobs may name; repeatable.", metavar="DIR"),
    ] = None,
    allow_urls: UrlHosts = None,
    database: DatabaseUrl = None,
    workers: Workers = 1,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Map nothing here: serve-worker does, elsewhere.")
    ] = False,
    device: Device = "auto",
    keep_days: Annotated[
        float, typer.Option(min=0, help="Days that ended jobs and their files are kept.")
    ] = 30.0,
    max_queued: Annotated[
        int, typer.Option(min=1, help="Jobs of a user that wait or run at once.")
    ] = 100,
    max_running: Annotated[int, typer.Option(min=1, help="Jobs of a user that run at once.")] = 4,
) -> None:
    """Serve trained models: maps as jobs over HTTP, with a page, tiles and results."""
    with from_extra("web", "terrafuse serve"):
        from terrafuse.web.service.serving import run_service
    from terrafuse.web.service.settings import ServiceSettings

    settings = ServiceSettings(
        models=_models(runs),
        data=data,
        database=database,
        roots=tuple(root or ()),
        url_hosts=tuple(allow_urls or ()),
        tokens=tokens,
        host=host,
        port=port,
        names=tuple(name or ()),
        workers=0 if no_worker else workers,
        device=device,
        keep_days=keep_days,
        max_queued=max_queued,
        max_running=max_running,
    )
    run_service(settings, say=lambda text: typer.echo(text, err=True))


def serve_worker(
    runs: Served,
    data: DataFolder = Path("service"),
    database: DatabaseUrl = None,
    allow_urls: UrlHosts = None,
    workers: Workers = 1,
    device: Device = "auto",
) -> None:
    """Map jobs of a service that runs elsewhere, on the same disk and database."""
    with from_extra("web", "terrafuse serve-worker"):
        from terrafuse.web.service.serving import run_workers
    from terrafuse.web.service.settings import ServiceSettings

    settings = ServiceSettings(
        models=_models(runs),
        data=data,
        database=database,
        url_hosts=tuple(allow_urls or ()),
        workers=workers,
        device=device,
    )
    run_workers(settings, say=lambda text: typer.echo(text, err=True))


def _models(runs: list[str]) -> tuple[str, ...]:
    """Models as they are given; those of the hub are fetched."""
    return tuple(_model(one) for one in runs)


def _model(given: str) -> str:
    name, separator, place = given.rpartition("=")
    return f"{name}{separator}{fetched(Path(place))}" if place.startswith("hf:") else given
