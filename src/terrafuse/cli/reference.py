"""Commands on reference samples: sample, areas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.maps import MapClasses, MapFile
from terrafuse.cli.options import AsJson, names, number, pairs


def sample(
    map_: MapFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="GeoPackage to write (.gpkg).")],
    points: Annotated[
        int | None, typer.Option("--points", "-n", help="Number of points.", min=1)
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Instead of -n: target standard error of the overall accuracy.", metavar="SHARE"
        ),
    ] = None,
    allocation: Annotated[
        str, typer.Option(help="good-practice, proportional, equal or neyman.")
    ] = "good-practice",
    minimum: Annotated[
        int | None,
        typer.Option(
            help="Points of every class at least; default of good-practice: 50, or half of an "
            "equal share of few points.",
            min=1,
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            help="Share of what is mapped that is expected to be right, for --margin and neyman: "
            "one number, or by class; default: 0.8.",
            metavar="SHARE|NAME=SHARE,…",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.", min=0)] = 0,
    blind: Annotated[
        bool, typer.Option("--blind", help="Points do not say their class on the map.")
    ] = False,
    also: Annotated[
        str | None,
        typer.Option(
            help="Classes that the map does not have and a label may be.", metavar="NAME,…"
        ),
    ] = None,
    classes: MapClasses = None,
    as_json: AsJson = False,
) -> None:
    """Draw a stratified random sample of the pixels of a class map, to be labelled."""
    from terrafuse import api
    from terrafuse.evaluation.sample_design import EXPECTED
    from terrafuse.maps import parse_classes
    from terrafuse.progress import Display

    with Display() as display:
        made = api.sample(
            map_,
            out,
            points=points,
            margin=margin,
            allocation=allocation,
            minimum=minimum,
            expected=_expected(expect),
            seed=seed,
            blind=blind,
            also=names(also),
            classes=parse_classes(classes),
            progress=display.stage("drawing"),
        )
    if as_json:
        facts = {
            "path": str(made.path), "points": dict(made.points),
            "expected_standard_error": made.standard_error, "notes": list(made.notes),
        }  # fmt: skip
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    counts = ", ".join(f"{name} {count}" for name, count in made.points.items() if count)
    typer.echo(f"wrote {made.path}: {sum(made.points.values())} points ({counts})")
    said = "as expected" if expect else f"right in {100 * EXPECTED:g} % of every class"
    typer.echo(
        f"if the map is {said}, its overall accuracy will have a standard error of "
        f"{made.standard_error:.3f}"
    )
    for note in made.notes:
        typer.echo(note)
    typer.echo(
        f"fill the column 'reference' of its layer 'points'; next: terrafuse areas {map_} {out}"
    )


def areas(
    map_: MapFile,
    labels: Annotated[
        Path, typer.Argument(help="Labelled file of `sample`.", metavar="LABELS.gpkg")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for tables, JSON and a figure."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.", metavar="SHARE")] = 0.95,
    allow_unlabelled: Annotated[
        float,
        typer.Option(help="Share of points that may lack a label; left out.", metavar="SHARE"),
    ] = 0.1,
    classes: MapClasses = None,
    as_json: AsJson = False,
) -> None:
    """Estimate areas of the classes and the accuracy of a map, with intervals."""
    from terrafuse import api
    from terrafuse.maps import parse_classes
    from terrafuse.progress import Display

    with Display() as display:
        found = api.areas(
            map_,
            labels,
            out=out,
            classes=parse_classes(classes),
            confidence=confidence,
            most_unlabelled=allow_unlabelled,
            progress=display.stage("counting"),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    from terrafuse.cli.tables import print_areas

    print_areas(found)
    if out is not None:
        typer.echo(f"wrote {out}")


def _expected(text: str | None) -> float | dict[str, float] | None:
    """One share, or shares by class."""
    if text is None:
        return None
    if "=" not in text:
        return number("all classes", text)
    return {name: number(name, value) for name, value in pairs(text.split(",")).items()}
