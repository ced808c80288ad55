"""What published data sets share: options, files of each modality, values of the manifest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.data.layouts.complete import Part, inspect_parts, settle
from terrafuse.data.layouts.facts import Facts
from terrafuse.data.layouts.layout import Layout
from terrafuse.data.layouts.tree import FileKind, Found, Tree, natural_key
from terrafuse.errors import BandError, DataError, UnknownNameError, unknown_name

_OPTIONS = ("split", "modalities", "incomplete")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Chosen:
    """Options of a layout, checked.

    Args:
        split: Name of the lists.
        modalities: Names, or None: the default ones.
        allow: Whether to carry on with an incomplete copy.
        more: Further options.
    """

    split: str
    modalities: tuple[str, ...] | None
    allow: bool
    more: Mapping[str, str]


def read_options(layout: Layout, facts: Facts, options: Mapping[str, str]) -> Chosen:
    """Check the options of a user.

    Raises:
        UnknownNameError: An option or modality that does not exist; the nearest is named.
        DataError: A value that an option cannot have.
    """
    allowed = [*_OPTIONS, *layout.choices]
    for key in options:
        if key not in allowed:
            raise UnknownNameError(unknown_name(f"option of layout '{facts.name}'", key, allowed))
    wanted = options.get("modalities")
    names = None if wanted is None else tuple(n.strip() for n in wanted.split(",") if n.strip())
    for name in names or ():
        if name not in layout.readings:
            what = f"modality of layout '{facts.name}'"
            raise UnknownNameError(unknown_name(what, name, layout.readings))
    if wanted is not None and (not names or len(set(names)) < len(names)):
        raise DataError(
            f"-O modalities={wanted} names nothing, or a modality twice; choose some of "
            f"{', '.join(layout.readings)}, separated by commas"
        )
    incomplete = choice(options, "incomplete", ("refuse", "allow"))
    more = {key: options[key] for key in layout.choices if key in options}
    return Chosen(options.get("split", "sound"), names, incomplete == "allow", more)


def choice(options: Mapping[str, str], key: str, allowed: Sequence[str]) -> str:
    """The value of an option that has few; the first is the default.

    Raises:
        DataError: None of them.
    """
    value = options.get(key, allowed[0])
    if value not in allowed:
        raise DataError(f"-O {key}={value} is not known; allowed are {', '.join(allowed)}")
    return value


def need_split(facts: Facts, chosen: Chosen, allowed: Sequence[str]) -> str:
    """The chosen split, of those that a layout makes itself.

    Raises:
        UnknownNameError: Another; the nearest is named.
    """
    if chosen.split not in allowed:
        what = f"split of layout '{facts.name}'"
        raise UnknownNameError(unknown_name(what, chosen.split, allowed))
    return chosen.split


def look_through(root: Path, layout: Layout) -> Tree:
    """The rasters below a folder; says which of them are left alone, and why."""
    tree = Tree.walk(root, layout.avoid)
    for place in tree.avoided:
        warn(f"{layout.title}: folder '{place}' is left alone: {_content(layout, place)}")
    strangers = tree.strangers(layout.kinds)
    if strangers:
        named = ", ".join(f"'{path}'" for path in strangers[:_MOST_NAMED])
        more = " …" if len(strangers) > _MOST_NAMED else ""
        warn(
            f"{layout.title}: rasters whose names no published file has are left out: "
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
) -> dict[str, Any]:
    """Values of a manifest.

    Args:
        tree: The rasters.
        layout: How the data set is published.
        chosen: What the user wants.
        split: Id → split, of the scenes that are to be in the manifest.
        classes: As in a manifest.
        void: As in a manifest.
        labels: Label files.
        eroded: Label files without the boundaries between classes; may be absent.
        unlabelled: Split whose scenes are published without labels.

    Raises:
        DataError: Files are missing, damaged or of unequal size, and that is not allowed.
        BandError: Files lack bands of a modality.
    """
    parts = [
        part
        for name in chosen.modalities or layout.default
        for part in _parts(tree, layout, name)
        if part.found.files or name not in layout.optional
    ]
    if not any(part.found.files for part in parts):
        raise DataError(_nothing(tree, layout, parts))
    labelled = {id for id, name in split.items() if name != unlabelled}
    parts = inspect_parts(tree.root, [*parts, Part("labels", labels, required=labelled)])
    scenes, lacking = settle(tree, layout, parts, split, chosen.allow)
    _tell_of_doubles(layout, [part.found for part in parts])
    # What is altogether absent has been told and allowed.
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
        "modalities": modalities,
        "grid": next(iter(images)),
        "scenes": [_scene(id, split[id], parts, eroded) for id in sorted(scenes, key=natural_key)],
    }


def warn(text: str) -> None:
    """Tell the user something that does not keep a manifest from being written."""
    warnings.warn(text, UserWarning, stacklevel=3)


def _parts(tree: Tree, layout: Layout, name: str) -> list[Part]:
    """The files that serve a modality: of the kinds that can, the first with files."""
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
        f"'{tree.root}' is no copy of {layout.title}: not one file of it was found. Looked at any "
        f"depth for {looked}. Folders with rasters: {there}"
    )


def _tell_of_doubles(layout: Layout, found: Sequence[Found]) -> None:
    for item in found:
        if item.twice:
            listed = ", ".join(item.twice[:_MOST_NAMED])
            warn(
                f"{layout.title}: two files of '{item.kind.name}' each for scenes {listed} "
                f"({len(item.twice)} in all); the first by name is taken, for instance "
                f"'{item.files[item.twice[0]]}'"
            )


def _modality(layout: Layout, part: Part, second: Part | None) -> dict[str, Any]:
    """Values of a modality, with the bands to be picked where not all are taken in order."""
    reading, own = layout.readings[part.name], part.found.kind.bands
    held = own + (second.found.kind.bands if second else ())
    picked = [held.index(band) + 1 for band in reading.bands]
    counts = {header.count for header in part.headers.values()}
    needed = min(max(picked), len(own))
    if min(counts) < needed:
        first = next(id for id, header in part.headers.items() if header.count < needed)
        raise BandError(
            f"{layout.title}: '{part.found.files[first]}' has {part.headers[first].count} bands; "
            f"published are {len(own)} ({', '.join(own)}), of which '{part.name}' takes "
            f"{', '.join(reading.bands)}. Choose other modalities: -O modalities=… of "
            f"{', '.join(layout.readings)}"
        )
    if len(own) > 1 and counts != {len(own)}:
        warn(
            f"{layout.title}: files of '{part.name}' have {sorted(counts)} bands; published are "
            f"{len(own)}. The first {len(own)} are taken for {', '.join(own)}"
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
