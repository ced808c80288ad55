"""Scenes of a trained model's rasters: files, URLs, and STAC items."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrafuse.config.paths import exists, expand_home
from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.data.names import is_remote, moved_name
from terrafuse.data.stac import Chosen, Item, choose_assets, has_any, names_item, read_item
from terrafuse.errors import BandError, ConfigError, DataError, cut, unknown_name
from terrafuse.modalities import Modality
from terrafuse.weights import RunInfo

Rasters = Mapping[str, str | Path | Sequence[str | Path]]


def open_rasters(info: RunInfo, given: Rasters, *, id: str = "scene") -> Scene:
    """Open a scene of rasters for a trained model.

    Args:
        info: Whose modalities and reading rules.
        given: Modality → file or files, URLs, or a STAC item whose assets are its bands.
        id: Name of the scene.

    Raises:
        DataError: The rasters do not suit the model or each other.
    """
    chosen = {}
    for name, paths in given.items():
        (path, *more) = (paths,) if isinstance(paths, str | Path) else paths or ("",)
        if not more and names_item(str(path)):
            chosen[name] = choose_assets(read_item(str(path)), _modality(info, name))
    return _open(info, dict(given), chosen, id)


def open_item(info: RunInfo, item: Item) -> Scene:
    """Open a scene of a STAC item for a trained model: all modalities that the item has bands of.

    Raises:
        BandError: It has none, or only some bands of a modality.
        DataError: The rasters do not suit the model or each other.
    """
    held = [m for m in info.modalities if has_any(item, m)] or list(info.modalities[:1])
    chosen = {modality.name: choose_assets(item, modality) for modality in held}
    return _open(info, {}, chosen, item.id)


def name_inputs(
    model: Path, scene: str | Scene | None, rasters: Rasters | None, folder: Path
) -> dict[str, Any]:
    """What a map is made of, for its record: files as they are named from its folder.

    Args:
        model: Run folder or file of the model.
        scene: "dataset.yaml#id", or a scene that is open.
        rasters: Modality → file or files, instead.
        folder: Of the map.
    """
    here, there = Path.cwd(), folder.absolute()
    found: dict[str, Any] = {"model": moved_name(str(model), here, there)}
    if isinstance(scene, str):
        path, id = split_scene_name(scene)
        return found | {"scene": f"{moved_name(str(expand_home(path)), here, there)}#{id}"}
    id = "scene" if scene is None else scene.id
    given = rasters if scene is None else scene.made_of.rasters
    named = {
        name: [_moved(str(path), here, there) for path in _listed(paths)]
        for name, paths in (given or {}).items()
    }
    return found | {"id": id, "rasters": named}


def _listed(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return (paths,) if isinstance(paths, str | Path) else paths


def _moved(name: str, old: Path, new: Path) -> str:
    """A raster as it is named from another folder; of URLs without what is signed in them."""
    return name.partition("?")[0] if is_remote(name) else moved_name(name, old, new)


def split_scene_name(text: str) -> tuple[Path, str]:
    """The manifest and the id that "dataset.yaml#id" names; both may hold '#'.

    Raises:
        ConfigError: It is not of this form.
    """
    marks = [mark.start() for mark in re.finditer("#", text)]
    parts = [(Path(text[:m]), text[m + 1 :]) for m in marks if text[:m] and text[m + 1 :]]
    if not parts:
        raise ConfigError(f"scene '{cut(text)}' is not of the form dataset.yaml#id")
    # The first '#' that a file ends at; without such a file the message is about the first.
    return next((part for part in parts if exists(expand_home(part[0]))), parts[0])


def reading_rules(info: RunInfo) -> dict[str, ReadingRules]:
    """How a trained model's rasters are read, by modality."""
    return {name: ReadingRules.from_dict(rule) for name, rule in info.rules.items()}


def _open(
    info: RunInfo,
    rasters: dict[str, str | Path | Sequence[str | Path]],
    chosen: Mapping[str, Chosen],
    id: str,
) -> Scene:
    rules = reading_rules(info)
    for name, found in chosen.items():
        rasters[name] = found.files
        kind = _modality(info, name).kind
        rules[name] = found.rules(rules.get(name) or ReadingRules.for_kind(kind))
    try:
        scene = scene_from_rasters(
            info.modalities, rasters, sources=rules, grid=_reference(info, list(rasters)), id=id
        )
    except BandError as error:
        if chosen and "'read_bands' does not fit" in str(error):  # a file has fewer
            raise BandError(_unlike(chosen)) from error
        raise
    for name, found in chosen.items():
        if tuple(file.count for file in scene.files[name]) != found.counts:
            raise BandError(_unlike({name: found}))
    _tell_order(scene)
    return scene


def _unlike(chosen: Mapping[str, Chosen]) -> str:
    """Say that files have other bands than their STAC item says: numbers count on them."""
    said = ", ".join(
        f"'{file}' (its STAC item says {count})"
        for found in chosen.values()
        for file, count in zip(found.files, found.counts, strict=True)
    )
    names = " ".join(f"-r {name}=URL" for name in chosen)
    return f"another number of bands than it should be: {said}. Give the files themselves: {names}"


def _modality(info: RunInfo, name: str) -> Modality:
    known = {modality.name: modality for modality in info.modalities}
    if name not in known:
        raise DataError(unknown_name("modality", name, known))
    return known[name]


def _tell_order(scene: Scene) -> None:
    """Say in which order several files without names of bands are read."""
    for name, files in scene.files.items():
        choice = scene.source(name).choice
        if len(files) > 1 and not choice.is_named and choice.notice is None:
            bands = next(m.bands for m in scene.modalities if m.name == name)
            read = ", ".join(
                f"'{files[i].path}' as {band}"
                for band, (i, _) in zip(bands, choice.picked, strict=False)
            )
            warnings.warn(
                f"the files of modality '{name}' do not name their bands; they are read in the "
                f"order given: {read}",
                stacklevel=5,
            )


def _reference(info: RunInfo, given: Sequence[str]) -> str | None:
    """Choose the modality whose grid the scene gets: training's, else one of scale 1."""
    if info.grid in given:
        return info.grid
    return next((m.name for m in info.modalities if m.name in given and m.scale == 1), None)
