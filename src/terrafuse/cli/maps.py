"""Commands on finished maps: vectorize, mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import Tiles

MapFile = Annotated[
    Path,
    typer.Argument(help="A class map, or the folder of one.", metavar="MAP"),
]
MapClasses = Annotated[
    str | None,
    typer.Option(
        help="Names and pixel values, where the raster does not say them: water=1,forest=2.",
        metavar="NAME=VALUE,…",
    ),
]


def vectorize(
    map_: MapFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .gpkg, .parquet or .geojson.")
    ],
    simplify: Annotated[
        float,
        typer.Option(
            help="Simplify lines by about so many metres (pixels without CRS), without gaps or "
            "overlaps.",
            metavar="M",
        ),
    ] = 0.0,
    min_area: Annotated[
        float,
        typer.Option(help="Leave out smaller polygons, m² (pixels without CRS).", metavar="M2"),
    ] = 0.0,
    classes: MapClasses = None,
    confidence: Annotated[
        Path | None,
        typer.Option(help="Raster of the confidence; default: confidence.tif beside the map."),
    ] = None,
) -> None:
    """Write the polygons of a class map, with class, area and mean confidence."""
    from terrafuse import api
    from terrafuse.maps import parse_classes
    from terrafuse.progress import Display

    with Display() as display:
        made = api.vectorize(
            map_,
            out,
            simplify=simplify,
            min_area=min_area,
            classes=parse_classes(classes),
            confidence=confidence,
            progress=display.stage("vectorizing"),
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in made.polygons.items() if count)
    small = f"; {made.left_out:,} smaller ones left out" if made.left_out else ""
    typer.echo(f"wrote {made.path} ({counts}{small})")


def mosaic(
    maps: Annotated[
        list[Path], typer.Argument(help="Class maps, or folders of them.", metavar="MAP…")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the mosaic.")],
    by: Annotated[
        str | None,
        typer.Option(
            help="Whose class counts where maps overlap: confidence, first or last; default: "
            "confidence where all have it, else last.",
            metavar="RULE",
        ),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Raster whose grid it gets; default: the first map's.")
    ] = None,
    tiles: Tiles = None,
) -> None:
    """Join class maps of overlapping scenes into one."""
    from terrafuse import api
    from terrafuse.progress import Display

    with Display() as display:
        progress = display.stage("joining")
        made = api.mosaic(maps, out, by=by, like=like, tiles=tiles, progress=progress)
    for file in made.files.values():
        typer.echo(f"wrote {file}")
