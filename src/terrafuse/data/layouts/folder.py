"""Generic layout: one sub-folder or pattern per modality, one of labels, files of equal names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.classes import DEFAULT_COLORS
from terrafuse.data.files import inspect_raster
from terrafuse.data.layouts.codes import find_codes
from terrafuse.data.layouts.guessing import guess_modality, guess_scale
from terrafuse.errors import DataError, LabelError

_SUFFIXES = {".tif", ".tiff", ".gtif", ".png", ".jpg", ".jpeg", ".vrt", ".jp2", ".img"}
_LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "ground_truth", "gt")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SPLIT_LISTS = "splits"


@dataclass(frozen=True)
class _Found:
    """Files by scene id, for one modality or the labels."""

    files: Mapping[str, Path]

    @property
    def first(self) -> Path:
        return next(iter(self.files.values()))


def describe_folder(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """One sub-folder (or pattern) per modality and one of labels; files of a scene share a name.

    Sub-folders `train`, `val`, `test` may stand above; else `splits/NAME.txt` lists scene names.

    Args:
        root: The folder; paths are relative to it.
        options: "labels" names the sub-folder or pattern of labels; every other key is a modality
            with its sub-folder or pattern. Without modalities, each sub-folder is one.

    Raises:
        DataError: Nothing found, names that do not match, or scenes in two splits.
        LabelError: No labels, or more than 255 values in them.
    """
    labels_at, modalities_at = _sort_folders(root, options)
    labels = _find(root, labels_at)
    found = {name: _find(root, at) for name, at in modalities_at.items()}
    found, labels = _match_names(found, labels, modalities_at, labels_at)
    ids = [i for i in labels.files if any(i in item.files for item in found.values())]
    if not ids:
        listed = ", ".join(f"'{at}'" for at in (*modalities_at.values(), labels_at))
        raise DataError(
            f"no file in {listed} of '{root}' has the same name in another; scenes are matched by "
            f"file name, for instance '{labels.first.name}'"
        )
    codes = find_codes([inspect_raster(labels.files[i], f"labels of '{i}'") for i in ids])
    splits = _splits(root, ids, labels)
    stems = Counter(_stem(i) for i in ids)
    names = {i: _stem(i) if stems[_stem(i)] == 1 else i.replace("/", "_") for i in ids}
    return {
        "classes": codes.classes(DEFAULT_COLORS),
        **({"void": codes.void} if codes.void else {}),
        "modalities": {
            name: _describe_modality(name, item, labels, required=set(ids) <= set(item.files))
            for name, item in found.items()
        },
        "scenes": [{"id": names[i], **_scene(i, found, labels, splits.get(i), root)} for i in ids],
    }


def _sort_folders(root: Path, options: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Where labels are, and where each modality is."""
    above = [root / split for split in _SPLITS if (root / split).is_dir()]
    level = next((folder for folder in above if _raster_folders(folder)), root)
    names = _raster_folders(level)
    labels_at = options.get("labels")
    if labels_at is None:
        labels_at = next((n for w in _LABEL_FOLDERS for n in names if n.lower() == w), None)
    if labels_at is None:
        listed = ", ".join(names) or "none with rasters"
        raise LabelError(
            f"no folder of labels in '{level}' (folders: {listed}). Name it: -O labels=FOLDER"
        )
    modalities = {name: at for name, at in options.items() if name != "labels"}
    if not modalities:
        modalities = {_to_name(n): n for n in names if n not in (labels_at, _SPLIT_LISTS)}
    if not modalities:
        raise DataError(
            f"no folder of images in '{level}' beside the labels '{labels_at}'. Name one per "
            "modality: -O NAME=FOLDER"
        )
    return labels_at, modalities


def _raster_folders(root: Path) -> list[str]:
    return sorted(
        folder.name
        for folder in root.iterdir()
        if folder.is_dir() and any(map(_is_raster, folder.iterdir()))
    )


def _is_raster(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _find(root: Path, at: str) -> _Found:
    """Files in a sub-folder or of a pattern; those below a split's folder as "split/name"."""
    pattern = at if any(c in at for c in "*?[") else f"{at}/*"
    files: dict[str, Path] = {}
    for folder in (root, *(root / split for split in _SPLITS if (root / split).is_dir())):
        for path in sorted(filter(_is_raster, folder.glob(pattern))):
            split = "" if folder == root else f"{_SPLITS[folder.name]}/"
            files[split + path.stem] = path
    if not files:
        raise DataError(f"no raster in '{root / at}'; allowed are {', '.join(sorted(_SUFFIXES))}")
    return _Found(files)


def _match_names(
    found: Mapping[str, _Found], labels: _Found, modalities_at: Mapping[str, str], labels_at: str
) -> tuple[dict[str, _Found], _Found]:
    """Leave folder names out of file names if only then they match ('a_S1.tif', 'a_Label.tif')."""
    if any(set(item.files) & set(labels.files) for item in found.values()):
        return dict(found), labels
    return (
        {name: _without(item, modalities_at[name]) for name, item in found.items()},
        _without(labels, labels_at),
    )


def _without(found: _Found, at: str) -> _Found:
    word = re.compile(rf"[_-]?{re.escape(Path(at).name)}[_-]?$|^{re.escape(at)}[_-]", re.IGNORECASE)
    return _Found({word.sub("", name): path for name, path in found.files.items()})


def _describe_modality(name: str, found: _Found, labels: _Found, required: bool) -> dict[str, Any]:
    where = f"modality '{name}'"
    values = guess_modality(name, [inspect_raster(found.first, where)])
    scene = next((i for i in found.files if i in labels.files), None)
    if scene is not None:
        scale = guess_scale(
            inspect_raster(found.files[scene], where),
            inspect_raster(labels.files[scene], f"labels of '{scene}'"),
        )
        values |= {} if scale == 1 else {"scale": float(scale)}
    return values if required else values | {"required": False}


def _splits(root: Path, ids: Sequence[str], labels: _Found) -> dict[str, str]:
    """Split per scene: from the folder above, else from lists."""
    above = {i: i.split("/")[0] for i in ids if "/" in i}
    splits: dict[str, str] = {}
    for path in sorted((root / _SPLIT_LISTS).glob("*.txt")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        names = [
            line if line in labels.files else Path(line).stem  # file names are listed, too
            for line in lines
            if line
        ]
        if not any(name in labels.files for name in names):
            continue  # a list of something else
        for name in names:
            if splits.get(name, path.stem) != path.stem:
                raise DataError(f"scene '{name}' is listed in '{splits[name]}' and '{path.stem}'")
            splits[name] = path.stem
    return above | splits


def _scene(
    i: str, found: Mapping[str, _Found], labels: _Found, split: str | None, folder: Path
) -> dict[str, Any]:
    values: dict[str, Any] = {"split": split} if split else {}
    for name, item in found.items():
        if i in item.files:
            values[name] = _relative(item.files[i], folder)
    return values | {"labels": _relative(labels.files[i], folder)}


def _stem(i: str) -> str:
    return i.rpartition("/")[2]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _to_name(folder: str) -> str:
    name = re.sub(r"\W+", "_", folder).strip("_").lower()
    return name if name[:1].isalpha() else f"m_{name}"
