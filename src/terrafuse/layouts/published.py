"""Common parts of published layouts: files of each modality, values of the manifest."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.errors import BandError, DataError, UnknownNameError, unknown_name
from terrafuse.layouts.complete import Part, inspect_parts, settle
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.options import Chosen, leave_out
from terrafuse.layouts.tree import FileKind, Found, Tree, natural_key

_LISTS = re.compile(r"(?:train|val|valid|validation|test)\.(?:txt|csv|lst)", re.IGNORECASE)
_MOST_NAMED = 3


def look_through(root: Path, layout: Layout) -> Tree:
    """List the rasters below a folder; warn which of them are ignored, and why."""
    tree = Tree.walk(root, layout.avoid)
    for place in tree.avoided:
        warn(f"{layout.title}: folder '{place}' is ignored: {_content(layout, place)}")
    lists = sorted(path.name for path in root.iterdir() if _LISTS.fullmatch(path.name))
    if lists:
        warn(
            f"{layout.title}: lists {', '.join(lists)} in '{root}' are ignored; splits are those "
            "of -O split=NAME. To read them: --layout folder"
        )
    strangers = tree.strangers(layout.kinds)
    if strangers:
        named = ", ".join(f"'{path}'" for path in strangers[:_MOST_NAMED])
        more = " …" if len(strangers) > _MOST_NAMED else ""
        warn(
            f"{layout.title}: rasters whose names match no published file are ignored: "
            f"{len(strangers)}, {named}{more}"
        )
    return tree


def compose(
    tree: Tree,
    layout: Layout,
    chosen: Chosen,
    split: Mapping[str, str],
    classes: Sequence[Mapping[str, Any]],
    void: Sequence[int | str],
    *,
    labels: Found,
    eroded: Found | None = None,
    unlabelled: str | None = None,
    useless: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compose the values of a manifest.

    Args:
        split: Id → split, of the scenes wanted in the manifest.
        classes: Classes as in a manifest.
        void: Void values as in a manifest.
        eroded: Label files without the boundaries between classes; may be absent.
        unlabelled: Split whose scenes are published without labels.
        useless: Id → reason why its label file is unusable.

    Raises:
        DataError: Files are missing, damaged or of unequal size, and that is not allowed; or there
            are no labels at all, which is never allowed.
        BandError: Files lack bands of a modality.
        UnknownNameError: A scene to leave out, or a class, is unknown.
    """
    split = leave_out(layout, chosen, split)
    if chosen.unknown is not None:
        names = ["void", *(str(item["name"]) for item in classes)]
        if chosen.unknown not in names:
            raise UnknownNameError(unknown_name("value of -O unknown", chosen.unknown, names))
    parts = [
        part
        for name in chosen.modalities or layout.default
        for part in _parts(tree, layout, name)
        if part.found.files or name not in layout.optional
    ]
    if not any(part.found.files for part in parts):
        raise DataError(_nothing(tree, layout, parts))
    labelled = {id for id, name in split.items() if name != unlabelled}
    truth = Part("labels", _without(labels, useless or {}), broken=useless or {}, required=labelled)
    parts = inspect_parts(tree.root, [*parts, truth])
    others = {name: leave_out(layout, chosen, own) for name, own in chosen.others.items()}
    others.pop(chosen.split, None)
    scenes, lacking = settle(tree, layout, parts, split, chosen.allow, others)
    _need_labels(tree, layout, parts[-1], scenes, labelled)
    _tell_of_doubles(layout, [part.found for part in parts])
    # Modalities wholly absent have been reported and allowed.
    there = [part for part in parts if part.found.files and part.name != "labels"]
    seconds = {part.name: part for part in there if part.second}
    images = {part.name: part for part in there if not part.second}
    modalities = {}
    for name, part in images.items():
        values = _modality(layout, part, seconds.get(name))
        modalities[name] = values | ({"required": False} if name in lacking else {})
    return {
        "classes": [dict(item) for item in classes],
        **({"void": list(void)} if void else {}),
        **({} if chosen.unknown is None else {"unknown": chosen.unknown}),
        "modalities": modalities,
        "grid": next(iter(images)),
        "scenes": [_scene(id, split[id], parts, eroded) for id in sorted(scenes, key=natural_key)],
    }


def warn(text: str) -> None:
    """Warn the user of something that does not prevent the manifest from being written."""
    warnings.warn(text, UserWarning, stacklevel=3)


def _without(found: Found, useless: Mapping[str, str]) -> Found:
    files = {id: path for id, path in found.files.items() if id not in useless}
    return replace(found, files=files)


def _need_labels(
    tree: Tree, layout: Layout, labels: Part, scenes: Sequence[str], labelled: set[str]
) -> None:
    """Check that there is at least one label, whatever is allowed to be missing."""
    if labelled.isdisjoint(scenes) or any(id in labels.found.files for id in scenes):
        return
    there = ", ".join(f"'{name}'" for name in tree.folders()[:12]) or "none"
    raise DataError(
        f"no label of {layout.title} was found below '{tree.root}', and a manifest without any "
        f"is of no use. Looked at any depth for '{labels.found.kind.name}' in "
        f"{labels.found.kind.places()}. Folders with rasters: {there}"
    )


def _parts(tree: Tree, layout: Layout, name: str) -> list[Part]:
    """Choose the files of a modality: of the kinds that hold it, the first with files."""
    reading = layout.readings[name]
    found = [tree.find(layout.kind(kind)) for kind in reading.files]
    first = Part(name, next((item for item in found if item.files), found[0]))
    if not reading.then:
        return [first]
    return [first, Part(name, tree.find(layout.kind(reading.then)), second=True)]


def _nothing(tree: Tree, layout: Layout, parts: Sequence[Part]) -> str:
    looked = "; ".join(f"{part.name} in {part.found.kind.places()}" for part in parts)
    there = ", ".join(f"'{name}'" for name in tree.folders()[:12]) or "none"
    return (
        f"'{tree.root}' is not a copy of {layout.title}: it has none of its files. Looked at any "
        f"depth for {looked}. Folders with rasters: {there}"
    )


def _tell_of_doubles(layout: Layout, found: Sequence[Found]) -> None:
    for item in found:
        if item.twice:
            listed = ", ".join(item.twice[:_MOST_NAMED])
            warn(
                f"{layout.title}: two files of '{item.kind.name}' each for scenes {listed} "
                f"({len(item.twice)} in all); the first by name is used, for instance "
                f"'{item.files[item.twice[0]]}'"
            )


def _modality(layout: Layout, part: Part, second: Part | None) -> dict[str, Any]:
    """Return values of a modality, with the bands to pick where not all are taken in order."""
    reading, own = layout.readings[part.name], part.found.kind.bands
    held = own + (second.found.kind.bands if second else ())
    picked = [held.index(band) + 1 for band in reading.bands]
    counts = {header.count for header in part.headers.values()}
    needed = min(max(picked), len(own))
    if min(counts) < needed:
        first = next(id for id, header in part.headers.items() if header.count < needed)
        there = set(own[: min(counts)])
        able = [
            name
            for name, other in layout.readings.items()
            if part.found.kind.name not in other.files or there >= set(other.bands)
        ]
        raise BandError(
            f"{layout.title}: '{part.found.files[first]}' has {part.headers[first].count} bands, "
            f"but {len(own)} are published ({', '.join(own)}), of which '{part.name}' takes "
            f"{', '.join(reading.bands)}. Choose other modalities: -O modalities=… of "
            f"{', '.join(able)}"
        )
    if len(own) > 1 and counts != {len(own)}:
        warn(
            f"{layout.title}: files of '{part.name}' have {sorted(counts)} bands, but {len(own)} "
            f"are published. The first {len(own)} are read as {', '.join(own)}"
        )
    whole = counts == {len(own)} and picked == list(range(1, len(held) + 1))
    taken = [layout.wavelengths_um.get(band) for band in reading.bands]
    return {
        "kind": reading.kind,
        "bands": list(reading.bands),
        **({"wavelengths_um": taken} if reading.kind == "optical" and all(taken) else {}),
        "unit": reading.unit,
        **({} if reading.nodata is None else {"nodata": reading.nodata}),
        **({} if whole else {"read_bands": picked}),
    }


def _scene(id: str, split: str, parts: Sequence[Part], eroded: Found | None) -> dict[str, Any]:
    values: dict[str, Any] = {"id": id, "split": split}
    for name in dict.fromkeys(part.name for part in parts):
        own = [part.found.files for part in parts if part.name == name]
        if all(id in files for files in own):
            paths = [files[id].as_posix() for files in own]
            values[name] = paths[0] if len(paths) == 1 else paths
    if eroded is not None and id in eroded.files and "labels" in values:
        values["labels_eroded"] = eroded.files[id].as_posix()
    return values


def _content(layout: Layout, place: PurePosixPath) -> str:
    kinds = [FileKind("", (pattern,), "") for pattern in layout.avoid]
    index = next(n for n, kind in enumerate(kinds) if kind.rank(place) is not None)
    return list(layout.avoid.values())[index]
