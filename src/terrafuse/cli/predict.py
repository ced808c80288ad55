"""`terrafuse predict`: maps of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from terrafuse.cli.batch import check_inputs, predict_many, tell_batch
from terrafuse.cli.options import (
    Abstain,
    BatchSize,
    BlendingName,
    Calibrated,
    Convert,
    CropSize,
    Device,
    ModelFile,
    Overlap,
    PrecisionName,
    ProductNames,
    RunSetting,
    Sieve,
    Tiles,
    TrustValues,
    Tta,
    conversions,
    fetched,
    names,
    pairs,
    replaced,
    tell_waiting,
)
from terrafuse.errors import ConfigError

if TYPE_CHECKING:
    from terrafuse.prediction import EngineName, Products


def predict(
    run: ModelFile,
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
    tiles: Tiles = None,
    calibration: Calibrated = True,
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
    from terrafuse import api
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
        typer.echo(f"--tta {tta}: the model is run {passes} times per window", err=True)
    attributing = MapSettings(tuple(names(products))).attributing
    rasters: dict[str, list[str]] = {}
    for item in raster or []:
        for name, path in pairs([item]).items():
            rasters.setdefault(name, []).append(path)
    run = fetched(run)
    with Display() as display:
        loaded = api.open_model(run, replaced(settings, ("prediction",)))
        if attributing:
            number = len(loaded.info.modalities)
            said = f"{', '.join(attributing)}: the model is run {number + 1} times per window"
            typer.echo(f"{said}, with all modalities and without each", err=True)
        windows = loaded.windows(
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
            "tiles": tiles,
            "calibrated": calibration,
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
    _tell_map(made, out, shard, abstain, profile=profile)


def _tell_map(
    made: Products, out: Path, shard: str | None, abstain: float | None, *, profile: bool
) -> None:
    """Print what was written."""
    from terrafuse.cli.tables import print_rows
    from terrafuse.prediction import describe_areas, describe_profile

    if made.waits_for:
        tell_waiting(shard, f"{made.waits_for} units", f"the map to {out}")
        return
    if made.was_there:
        typer.echo(f"the map in {out} is finished already")
    for name, file in made.files.items():
        typer.echo(f"wrote {file}{_say_values(made) if name == 'class_map' else ''}")
    if made.parts:
        tiles = sum(part.suffix == ".tif" for part in made.parts) // len(made.files)
        folders = ", ".join(f"{file.with_suffix('')}" for file in made.files.values())
        typer.echo(f"wrote {tiles} tiles each in {folders}")
    for file in made.beside:
        typer.echo(f"wrote {file}")
    if made.abstained_pixels is not None:
        typer.echo(
            f"{made.abstained_pixels:,} pixels of less confidence than {abstain:g} abstained"
        )
    if made.areas_file:
        print_rows("areas", describe_areas(made.areas))
        typer.echo(f"wrote {made.areas_file}")
    if profile and made.profile:
        print_rows("profile", describe_profile(made.profile))


def _say_values(made: Products) -> str:
    values = made.class_values
    abstained = "" if values.abstained is None else f"; {values.abstained} = abstained"
    if values.kind == "code":
        return f" (codes of the classes{abstained}; {values.nodata} = no data)"
    why = f", because a map cannot hold the codes: {values.reason}" if values.reason else ""
    return f" (indices of the classes, 0 to {len(values.values) - 1}{why}{abstained})"
