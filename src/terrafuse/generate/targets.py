"""Jobs from a manifest or a bare image, and the manifest extended by the new modality."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from terrafuse.data.encoding import ENCODED_BANDS, EncodingName
from terrafuse.data.handles import pool
from terrafuse.data.manifest import Manifest
from terrafuse.data.names import gdal_path, is_remote
from terrafuse.data.raster_file import RasterFile, inspect_raster
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.schema import SCENE_KEYS, modality_values
from terrafuse.errors import ConfigError, SceneNotFoundError, unknown_name
from terrafuse.generate.depth import DepthGenerator
from terrafuse.generate.photos import find_photo_modality, open_photo, require_channels
from terrafuse.generate.products import RasterFiles
from terrafuse.generate.rasters import PhotoJob, WindowedGenerator
from terrafuse.modalities import Modality

Channels = tuple[int, int, int] | None


def choose_modality(manifest: Manifest, name: str | None, rgb: Channels) -> Modality:
    """Choose the modality to generate from.

    Args:
        name: Name of the modality; None: the only one with red, green and blue.
        rgb: Numbers of these bands, from 1; None: by names or wavelengths.

    Raises:
        ConfigError: There is no such modality, or there are several.
        BandError: The modality is not a photo.
    """
    if name is not None and name not in manifest.known:
        raise ConfigError(unknown_name("modality", name, manifest.known))
    chosen = manifest.known[name] if name else find_photo_modality(list(manifest.known.values()))
    require_channels(chosen, rgb)
    return chosen


def plan_jobs(
    manifest: Manifest, modality: Modality, rgb: Channels, folder: Path
) -> tuple[list[PhotoJob], dict[str, Path]]:
    """Plan one job per photo; scenes that are windows of one photo share it.

    Args:
        modality: Modality to generate from.
        rgb: Numbers of its red, green and blue bands, from 1; None: by names or wavelengths.
        folder: Folder of the generated rasters.

    Returns:
        The jobs, and the raster of each scene that has the modality, by its id.

    Raises:
        DataError: A scene cannot be opened.
        SceneNotFoundError: No scene has the modality.
    """
    channels = require_channels(modality, rgb)
    sharing: dict[tuple[str, ...], list[str]] = {}
    for scene in manifest.select([modality.name]).scenes():
        held = scene.files.get(modality.name, ())
        if held:
            sharing.setdefault(tuple(file.path for file in held), []).append(scene.id)
    if not sharing:
        raise SceneNotFoundError(
            f"no scene of '{manifest.path}' has a raster of modality '{modality.name}'"
        )
    jobs: list[PhotoJob] = []
    rasters: dict[str, Path] = {}
    taken: set[str] = set()
    for files, ids in sharing.items():
        name = ids[0] if len(ids) == 1 else Path(files[0]).stem
        rules = manifest.rules_of(ids[0])[modality.name]
        photo = open_photo(name, modality, files, rules, channels)
        jobs.append(PhotoJob(photo, RasterFiles(folder / f"{_file_name(name, files, taken)}.tif")))
        rasters |= dict.fromkeys(ids, jobs[-1].files.raster)
    return jobs, rasters


def plan_image(path: str, rgb: Channels, folder: Path) -> PhotoJob:
    """Plan the job of a bare image.

    Args:
        path: File or URL.
        rgb: Numbers of its red, green and blue bands, from 1; None: from the file's metadata.
        folder: Folder of the generated raster.

    Raises:
        DataError: The image cannot be opened.
        BandError: Its red, green and blue bands are unknown.
    """
    file = inspect_raster(path, "image")
    modality = Modality("image", _band_names(file), kind="optical")
    channels = require_channels(modality, rgb)
    photo = open_photo(Path(path).stem, modality, [path], ReadingRules(), channels)
    return PhotoJob(photo, RasterFiles(folder / f"{_file_name(photo.name, [path], set())}.tif"))


def extend_manifest(
    manifest: Manifest,
    photo: Modality,
    name: str,
    rasters: Mapping[str, Path],
    windowed: WindowedGenerator,
    encoding: EncodingName | None,
    folder: Path,
) -> dict[str, Any]:
    """Return the values of a manifest extended by the generated modality.

    Args:
        photo: Modality of the photos, whose pixel grid the new one has.
        name: Name of the new modality.
        rasters: Generated rasters by scene id.
        windowed: Generator and windows of the rasters.
        encoding: Encoding applied on reading; None: values as they are.
        folder: Folder of the new manifest.

    Raises:
        ConfigError: The name is taken.
    """
    if name in manifest.known or name in SCENE_KEYS:
        raise ConfigError(
            f"'{manifest.path}' has '{name}' already; choose another --name for the new modality"
        )
    values = manifest.to_dict()
    if folder.absolute() != manifest.path.parent.absolute():
        values = {"root": _relative(manifest.folder, folder)} | values
        values["root"] = _relative(manifest.folder, folder)
    lacking = any(entry.id not in rasters for entry in manifest.entries)
    modality, rules = describe_modality(name, windowed, encoding)
    values["modalities"][name] = modality_values(
        replace(modality, scale=photo.scale), replace(rules, required=not lacking)
    )
    for entry in values["scenes"]:
        if entry["id"] in rasters:
            entry[name] = _relative(rasters[entry["id"]], manifest.folder)
    return values


def describe_modality(
    name: str, windowed: WindowedGenerator, encoding: EncodingName | None
) -> tuple[Modality, ReadingRules]:
    """Return the modality of generated rasters and its reading rules.

    Raises:
        ConfigError: The encoding does not suit the kind of raster.
    """
    generator = windowed.generator
    depth = generator.result == "depth"
    if encoding is not None and (encoding == "stretch") != depth:
        suits = ["stretch"] if depth else [e for e in ENCODED_BANDS if e != "stretch"]
        raise ConfigError(
            f"encoding '{encoding}' does not apply to {generator.result}; "
            f"allowed are {', '.join(suits)} and none"
        )
    unit = generator.unit if isinstance(generator, DepthGenerator) else "dn"
    plain = ("depth",) if depth else ("segment",)
    bands = ENCODED_BANDS[encoding] if encoding else plain
    return (
        Modality(name, bands, kind="structure", unit="dn" if encoding else unit),
        ReadingRules(
            resampling="bilinear" if depth else "nearest",
            encoding=encoding,
            generator=windowed.id,
        ),
    )


def _band_names(file: RasterFile) -> tuple[str, ...]:
    """Return the band names of a bare image: the file's colours or descriptions, else numbers."""
    with pool.borrow(gdal_path(file.path)) as dataset:
        colors = [color.name for color in dataset.colorinterp]
    opaque = [n for n in range(file.count) if not file.alpha[n]]
    names = []
    for n in opaque:
        named = colors[n] if colors[n] in ("red", "green", "blue") else file.descriptions[n].lower()
        names.append(named if named and named not in names else f"band{n + 1}")
    return tuple(names)


def _file_name(name: str, files: Any, taken: set[str]) -> str:
    """Return a unique file name that every file system accepts."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip(".") or "photo"
    if plain.lower() in taken:
        plain += "-" + hashlib.sha256("\n".join(files).encode()).hexdigest()[:6]
    taken.add(plain.lower())
    return plain


def _relative(path: Path, folder: Path) -> str:
    if is_remote(str(path)):
        return str(path)
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # on another drive
        return str(path.absolute())
