"""Forests: RGB pictures, a second modality derived from them, and lists of training and test names.

The data of the publication were not released; this is the folder tree that its code reads.

Reference: VSGNet, IEEE JSTARS (2025), DOI 10.1109/JSTARS.2025.3547880.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.errors import DataError, UnknownNameError, unknown_name
from terrafuse.layouts.facts import draw_by_name
from terrafuse.layouts.folder import describe_folders
from terrafuse.layouts.lists import read_split_lists
from terrafuse.layouts.options import choice

_IGNORED = 255
_VAL_SHARE = 0.125
_OPTIONS = ("second", "split", "incomplete")


def describe_forests(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """RGB/*.jpg, a second folder of pictures, labels/*.png (255 = ignore), train.txt and test.txt.

    Args:
        options: "second": folder of the second modality; default: the only other one. "split":
            sound (validation drawn by name from the training list, unless there is a val.txt) or
            official (the lists unchanged). "incomplete": refuse or allow.

    Raises:
        DataError: Folders, lists or listed pictures are missing.
        LabelError: There are no labels, or they hold more than 255 values.
    """
    for key in options:
        if key not in _OPTIONS:
            raise UnknownNameError(unknown_name("option of layout 'forests'", key, _OPTIONS))
    folders = _folders(root)
    second = options.get("second") or _only_other(root, folders)
    named = {"rgb": folders["rgb"], _to_name(second): second, "labels": folders["labels"]}
    values = describe_folders(root, named, lists=False)
    if len(values["modalities"]["rgb"]["bands"]) == 3:
        values["modalities"]["rgb"]["bands"] = ["red", "green", "blue"]
    values["classes"] = [item for item in values["classes"] if item["code"] != _IGNORED]
    values = {"classes": values.pop("classes"), "void": [_IGNORED], **values}
    split = _read_lists(root)
    if choice(options, "split", ("sound", "official")) == "sound" and "val" not in split.values():
        train = [id for id, name in split.items() if name == "train"]
        split |= dict.fromkeys(draw_by_name(train, _VAL_SHARE), "val")
    allow = choice(options, "incomplete", ("refuse", "allow")) == "allow"
    return values | {"scenes": _scenes(root, values, split, allow)}


def _folders(root: Path) -> dict[str, str]:
    here = {path.name.lower(): path.name for path in sorted(root.iterdir()) if path.is_dir()}
    for name in ("rgb", "labels"):
        if name not in here:
            listed = ", ".join(here.values()) or "none"
            raise DataError(
                f"there is no folder '{'RGB' if name == 'rgb' else name}' in '{root}'; folders: "
                f"{listed}. For other names use --layout folder"
            )
    return here


def _only_other(root: Path, folders: Mapping[str, str]) -> str:
    others = [real for name, real in folders.items() if name not in ("rgb", "labels", "splits")]
    others = [name for name in others if not name.startswith((".", "__"))]
    if len(others) != 1:
        listed = ", ".join(f"'{name}'" for name in others) or "none"
        raise DataError(
            f"'{root}' should have one folder beside RGB and labels, but there are {listed}. Name "
            "that of the second modality: -O second=FOLDER"
        )
    return others[0]


def _to_name(folder: str) -> str:
    name = "".join(c if c.isalnum() else "_" for c in folder.lower())
    return name if name[:1].isalpha() else f"m_{name}"


def _read_lists(root: Path) -> dict[str, str]:
    """Map names of pictures to splits. A line is a path, or several separated by white space."""
    split = read_split_lists(
        [(root / f"{name}.txt", name) for name in ("train", "val", "test")],
        lambda line: PurePosixPath(line.split()[0].replace("\\", "/")).stem,
    )
    if not split:
        raise DataError(f"'{root}' has no train.txt and test.txt with a path per line")
    return split


def _scenes(
    root: Path, values: Mapping[str, Any], split: Mapping[str, str], allow: bool
) -> list[dict[str, Any]]:
    needed = set(values["modalities"]) | {"labels"}
    whole = {item["id"]: item for item in values["scenes"] if needed <= set(item)}
    missing = [id for id in split if id not in whole]
    if missing:
        listed = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
        text = f"{len(missing)} of {len(split)} listed pictures lack a file in '{root}': {listed}"
        if len(missing) == len(split):
            raise DataError(f"{text}. Without them nothing is left: name the folder that holds all")
        if not allow:
            raise DataError(f"{text}. To continue without them: -O incomplete=allow")
        warnings.warn(f"{text}. They are left out", stacklevel=2)
    return [
        {
            "id": id,
            "split": split[id],
            **{k: v for k, v in item.items() if k not in ("id", "split")},
        }
        for id, item in whole.items()
        if id in split
    ]
