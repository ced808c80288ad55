"""`terrafuse view`: look at maps, runs and data sets in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terrafuse.cli.options import Host, HostNames, Tokens, fetched


def view(
    target: Annotated[
        Path,
        typer.Argument(
            help="Folder of a map or of maps, a raster of classes, a run folder, dataset.yaml, or "
            "the GeoPackage of a sample.",
            metavar="MAP|RUN|dataset.yaml",
        ),
    ],
    host: Host = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="Port; where it is taken, the next free one; 0: any that is free.",
        ),
    ] = 8765,
    name: HostNames = None,
    tokens: Tokens = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    static: Annotated[
        Path | None,
        typer.Option(help="Write the page into this folder instead, to be shared or copied."),
    ] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a data set or a run: a scene to show, repeatable. Of a map: dataset.yaml#id "
            "of what it is of.",
            metavar="ID",
        ),
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", help="Of a sample: the map that it was drawn from."),
    ] = None,
    subsets: Annotated[
        bool,
        typer.Option("--subsets", help="Of a run: also map each modality alone, and all but one."),
    ] = False,
) -> None:
    """Show a map, a run or a data set as a page in the browser, on this machine."""
    from terrafuse import web
    from terrafuse.progress import Display

    target = fetched(target)
    chosen: dict[str, Any] = {"scenes": scene or [], "map_": map_, "subsets": subsets}
    if static is None:
        web.view(
            target, port=port, host=host, tokens=tokens, names=name or [], browser=browser,
            say=_say, **chosen,
        )  # fmt: skip
        return
    with Display() as display:
        progress = display.stage("writing the page")
        notes = web.write_static(target, static, progress=progress, **chosen)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"open {static / 'index.html'}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
