"""Rasters listed one by one: a CSV table, a GeoJSON of rows, or a STAC ItemCollection."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from terrafuse.classes import DEFAULT_COLORS
from terrafuse.data.names import absolute_name, is_part, is_remote, local_file, moved_name
from terrafuse.data.polygons import is_vector
from terrafuse.data.raster_file import RasterFile, inspect_pages, inspect_raster
from terrafuse.errors import DataError, LabelError, UnknownNameError, unknown_name
from terrafuse.layouts.codes import find_codes
from terrafuse.layouts.guessing import guess_modality, guess_scale, tell_band_names
from terrafuse.layouts.looking import Look
from terrafuse.layouts.options import choice
from terrafuse.layouts.tree import natural_key
from terrafuse.modalities import KINDS

_LABELS = ("labels", "labels_eroded")
_NEEDED = ("scene", "modality", "path")
_COLUMNS = (*_NEEDED, "split", "kind", "bands", "wavelengths_um", "unit")
_OPTIONS = ("file", "incomplete", "look")
_LISTS = (".csv", ".geojson", ".json")
_SPLITS = {"training": "train", "validate": "val", "validation": "val", "valid": "val"}
_NO_PIXELS = {"thumbnail", "overview", "metadata", "graphic"}


@dataclass(frozen=True)
class Row:
    """A raster in a list.

    Args:
        scene: Id of the scene it belongs to.
        modality: Its modality, "labels" or "labels_eroded".
        path: Path as in the manifest.
        split: Split of the scene, if the list gives it.
        about: Values of the modality in the list: keys of a manifest.
        classes: Classes of the labels in the list.
    """

    scene: str
    modality: str
    path: str
    split: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[Mapping[str, Any]] = ()


def describe_items(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """A list with one row per raster: CSV (scene, modality, path, …), GeoJSON, or STAC items.

    The bands of rows of one scene and modality are concatenated. Labels have the modality "labels",
    or "labels_eroded". Paths are relative to the list; URLs are kept.

    Args:
        root: Folder of the list.
        options: "file": the list; default: the only one in the folder. "incomplete": refuse or
            allow missing files. "look": "some" (the default) opens a part of very many scenes,
            "all" all.

    Raises:
        DataError: There is no list, a row is incomplete, or files are missing.
        LabelError: There are no labels, or they hold more than 255 values.
    """
    for key in options:
        if key not in _OPTIONS:
            raise UnknownNameError(unknown_name("option of layout 'items'", key, _OPTIONS))
    path = root / options["file"] if "file" in options else _only_list(root)
    rows = [replace(row, path=_relative(row.path, path, root)) for row in _read(path)]
    allow = choice(options, "incomplete", ("refuse", "allow")) == "allow"
    rows = _with_files(rows, root, path, allow)
    scenes = _scenes(rows, path)
    look = Look.at(list(scenes), options)
    names = _names(rows, path)
    classes, labels_read = _classes(rows, root, path, options)
    look.tell(labels_read)
    return {
        **classes,
        "modalities": {name: _modality(name, rows, scenes, root, look) for name in names},
        "scenes": [scenes[id] for id in sorted(scenes, key=natural_key)],
    }


def _only_list(root: Path) -> Path:
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in _LISTS)
    if len(found) != 1:
        listed = ", ".join(f"'{path.name}'" for path in found) or "none"
        raise DataError(
            f"'{root}' should hold one list (.csv, .geojson, .json), but there are {listed}. Name "
            "it: -O file=LIST"
        )
    return found[0]


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        raise DataError(f"there is no list '{path}'")
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check_columns(reader.fieldnames or [], path)
            return [_to_row(row, f"'{path}', line {reader.line_num}") for row in reader]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON: {error}") from None
    features = values.get("features", [values]) if isinstance(values, dict) else []
    rows = [row for n, item in enumerate(features, 1) for row in _feature(item, path, n)]
    if not rows:
        raise DataError(
            f"'{path}' lists no raster; it is neither a STAC ItemCollection nor GeoJSON of rows"
        )
    return rows


def _check_columns(names: Sequence[str], path: Path) -> None:
    for name in names:
        if name not in _COLUMNS:
            raise DataError(f"'{path}': {unknown_name('column', name, _COLUMNS)}")
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise DataError(
            f"'{path}' has no column {', '.join(missing)}; it needs {', '.join(_NEEDED)}"
        )


def _to_row(values: Mapping[str, Any], where: str) -> Row:
    given = {k: str(v).strip() for k, v in values.items() if k and v not in (None, "")}
    for name in _NEEDED:
        if not given.get(name):
            raise DataError(f"{where}: '{name}' is empty")
    about: dict[str, Any] = {k: given[k] for k in ("kind", "unit") if k in given}
    if about.get("kind", "other") not in KINDS:
        raise DataError(f"{where}: {unknown_name('kind', about['kind'], KINDS)}")
    if "bands" in given:
        about["bands"] = given["bands"].replace(";", " ").split()
    if "wavelengths_um" in given:
        try:
            about["wavelengths_um"] = [
                float(n) for n in given["wavelengths_um"].replace(";", " ").split()
            ]
        except ValueError:
            raise DataError(
                f"{where}: 'wavelengths_um' must be numbers separated by blanks"
            ) from None
    return Row(given["scene"], given["modality"], given["path"], _split(given.get("split")), about)


def _split(name: str | None) -> str | None:
    return None if name is None else _SPLITS.get(name.lower(), name)


def _feature(item: Any, path: Path, number: int) -> Iterator[Row]:
    """Yield the rows of a STAC item, or the one row of a feature without assets."""
    where = f"'{path}', feature {number}"
    if not isinstance(item, dict):
        raise DataError(f"{where} is not an object")
    properties = item.get("properties") or {}
    if "assets" not in item:
        yield _to_row({k: v for k, v in properties.items() if k in _COLUMNS}, where)
        return
    split = properties.get("split", properties.get("ml-aoi:split"))
    scene = str(properties.get("scene", item.get("id", number)))
    for key, asset in item["assets"].items():
        roles = set(asset.get("roles") or ())
        if roles & _NO_PIXELS or "href" not in asset:
            continue
        name = "labels" if roles & {"labels", "label", "mask"} else key.replace("-", "_")
        classes = [_stac_class(value) for value in asset.get("classification:classes") or ()]
        yield Row(scene, name, asset["href"], _split(split), _stac_bands(asset), classes)


def _stac_bands(asset: Mapping[str, Any]) -> dict[str, Any]:
    bands = asset.get("bands") or asset.get("eo:bands") or []
    names = [band.get("name") for band in bands]
    centres = [b.get("eo:center_wavelength", b.get("center_wavelength")) for b in bands]
    about: dict[str, Any] = {"bands": names} if names and all(names) else {}
    return about | ({"wavelengths_um": centres} if about and all(centres) else {})


def _stac_class(value: Mapping[str, Any]) -> dict[str, Any]:
    color = value.get("color_hint")
    name = value.get("name", value.get("description", f"class_{value['value']}"))
    return {
        "name": name,
        "code": value["value"],
        **({"color": f"#{color.lower()}"} if color else {}),
    }


def _relative(path: str, listed_in: Path, root: Path) -> str:
    if is_part(path):
        return moved_name(path, listed_in.parent, root)
    full = listed_in.parent / path
    return Path(os.path.relpath(full, root)).as_posix()


def _with_files(rows: Sequence[Row], root: Path, path: Path, allow: bool) -> list[Row]:
    files = [local_file(_place(row.path, root)) for row in rows]
    is_here = [file is None or file.exists() for file in files]
    here = list(compress(rows, is_here))
    missing = [row.path for row, found in zip(rows, is_here, strict=True) if not found]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing[:5]) + (" …" if len(missing) > 5 else "")
        text = f"{len(missing)} of {len(rows)} files of '{path}' are missing: {listed}"
        if not here:
            raise DataError(f"{text}. None is left: paths count from the folder of the list")
        if not allow:
            raise DataError(f"{text}. To continue without them: -O incomplete=allow")
        warnings.warn(f"{text}. They are left out", stacklevel=2)
    return here


def _scenes(rows: Sequence[Row], path: Path) -> dict[str, dict[str, Any]]:
    scenes: dict[str, dict[str, Any]] = {}
    for row in rows:
        scene = scenes.setdefault(row.scene, {"id": row.scene})
        if row.split and scene.setdefault("split", row.split) != row.split:
            raise DataError(
                f"'{path}': scene '{row.scene}' is in split '{scene['split']}' and '{row.split}'"
            )
        if row.modality in _LABELS:
            if row.modality in scene:
                raise DataError(f"'{path}': scene '{row.scene}' has two files of {row.modality}")
            scene[row.modality] = row.path
        else:
            given = scene.get(row.modality, [])
            paths = [*([given] if isinstance(given, str) else given), row.path]
            scene[row.modality] = paths[0] if len(paths) == 1 else paths
    return {id: scene for id, scene in scenes.items() if set(scene) - {"id", "split", *_LABELS}}


def _names(rows: Sequence[Row], path: Path) -> list[str]:
    names = list(dict.fromkeys(row.modality for row in rows if row.modality not in _LABELS))
    if not names:
        raise DataError(f"'{path}' lists no raster but labels")
    return names


def _modality(
    name: str,
    rows: Sequence[Row],
    scenes: Mapping[str, Mapping[str, Any]],
    root: Path,
    look: Look,
) -> dict[str, Any]:
    first = next(scene for scene in scenes.values() if name in scene)
    paths = [first[name]] if isinstance(first[name], str) else first[name]
    files = [
        page
        for path in paths
        for page in inspect_pages(_place(path, root), "all", f"modality '{name}'")
    ]
    values = guess_modality(name, files) | ({"page": "all"} if len(files) > len(paths) else {})
    own = [row for row in rows if row.modality == name and row.scene == first["id"]]
    for key in ("bands", "wavelengths_um"):  # concatenated over the files
        told = [row.about[key] for row in own if key in row.about]
        if len(told) == len(own):
            values[key] = [item for part in told for item in part]
    values |= {k: v for row in own for k, v in row.about.items() if k in ("kind", "unit")}
    looked = look.choose({id: scene for id, scene in scenes.items() if name in scene})
    tell_band_names(name, values["bands"], _local_files(name, looked, root))
    labelled = next((s for s in scenes.values() if name in s and "labels" in s), None)
    if labelled is not None and not is_vector(labelled["labels"]):
        path = labelled[name] if isinstance(labelled[name], str) else labelled[name][0]
        image = inspect_pages(_place(path, root), "all", f"modality '{name}'")[0]
        labels = inspect_raster(_place(labelled["labels"], root), "labels")
        scale = guess_scale(image, labels)
        values |= {} if scale == 1 else {"scale": float(scale)}
    return values if all(name in s for s in scenes.values()) else values | {"required": False}


def _local_files(
    name: str, scenes: Mapping[str, Mapping[str, Any]], root: Path
) -> dict[str, list[RasterFile]]:
    """Files of a modality by scene; those elsewhere cost a request each and are left out."""
    found = {}
    for id, scene in scenes.items():
        given = scene.get(name, [])
        paths = [given] if isinstance(given, str) else given
        if paths and not any(map(is_remote, paths)):
            where = f"modality '{name}'"
            found[id] = [
                page for path in paths for page in inspect_pages(_place(path, root), "all", where)
            ]
    return found


def _place(path: str, root: Path) -> str:
    return absolute_name(path, root)


def _classes(
    rows: Sequence[Row], root: Path, path: Path, options: Mapping[str, str]
) -> tuple[dict[str, Any], int | None]:
    """Classes, and the number of files read to find them; None: all, or they are listed."""
    told = next((row.classes for row in rows if row.modality in _LABELS and row.classes), None)
    if told is not None:
        return {"classes": [dict(item) for item in told]}, None
    labels = [row.path for row in rows if row.modality == "labels" and not is_vector(row.path)]
    if not labels:
        raise LabelError(
            f"'{path}' lists no raster of labels, so the classes are unknown. Add rows whose "
            "modality is 'labels'; with polygons, write the manifest by hand"
        )
    look = Look.at(labels, options)
    files = (inspect_raster(_place(label, root), f"labels '{label}'") for label in look.order)
    codes = find_codes(files, patience=look.patience)
    return {
        "classes": codes.classes(DEFAULT_COLORS),
        **({"void": codes.void} if codes.void else {}),
    }, codes.files if look.is_sample else None
