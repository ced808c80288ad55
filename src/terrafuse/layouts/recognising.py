"""Recognition of a folder's layout from the names in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from terrafuse.errors import DataError
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.tree import Tree

_LISTS = {".csv", ".geojson", ".json"}
_NEEDED = {"scene", "modality", "path"}


@dataclass(frozen=True)
class Recognised:
    """Layout recognised for a folder.

    Args:
        layout: Name of the layout.
        reason: Evidence it was recognised by, as text to show.
    """

    layout: str
    reason: str


@dataclass(frozen=True)
class _Seen:
    """A published data set in a folder.

    Args:
        layout: Name of its layout.
        files: Files whose names occur in no other data set.
        labels: Label files, of those or beside them.
    """

    layout: str
    title: str
    files: frozenset[PurePosixPath]
    labels: frozenset[PurePosixPath]

    def __str__(self) -> str:
        shown = min(self.labels or self.files)
        what = "labels" if self.labels else "files"
        number = len(self.labels or self.files)
        return f"{self.title} (layout '{self.layout}': {number} {what}, for instance '{shown}')"


def recognise(root: Path, published: Mapping[str, Sequence[Layout]]) -> Recognised:
    """Recognise the layout of a folder.

    Args:
        published: Layout → known forms of its data set.

    Raises:
        DataError: The folder holds more than one published data set.
    """
    tree = Tree.walk(root)
    seen = [item for name, forms in published.items() if (item := _look(tree, name, forms))]
    seen = [item for item in seen if not _is_outdone(item, seen)]
    if len(seen) > 1:
        raise DataError(_several(root, seen))
    if seen:
        return Recognised(seen[0].layout, f"{seen[0]}")
    return _general(root)


def _look(tree: Tree, name: str, forms: Sequence[Layout]) -> _Seen | None:
    files: set[PurePosixPath] = set()
    labels: set[PurePosixPath] = set()
    title = ""
    for form in forms:
        own = {path for kind in form.tells for path in tree.find(form.kind(kind)).files.values()}
        if own:
            title = title or form.title
            files |= own
            labels |= {p for kind in form.labels for p in tree.find(form.kind(kind)).files.values()}
    return _Seen(name, title, frozenset(files), frozenset(labels)) if files else None


def _is_outdone(item: _Seen, seen: Sequence[_Seen]) -> bool:
    """Tell whether another set has labels on the same images, and this one has none."""
    return not item.labels and any(
        other.labels and not other.files.isdisjoint(item.files) for other in seen
    )


def _several(root: Path, seen: Sequence[_Seen]) -> str:
    listed = " and ".join(map(str, seen))
    ways = " or ".join(f"--layout {item.layout}" for item in seen)
    shared = frozenset.intersection(*(item.files for item in seen))
    if shared and not any(item.labels for item in seen):
        return (
            f"'{root}' holds images that several data sets have, and labels of none: {listed}. "
            f"Download the labels, or say which it is: {ways}"
        )
    if shared:
        return (
            f"'{root}' holds labels of several data sets on the same images: {listed}. Say which "
            f"to use; the others are ignored: {ways}"
        )
    return (
        f"'{root}' holds several data sets: {listed}. Name the folder of one, or say which to "
        f"use; the files of the others are ignored: {ways}"
    )


def _general(root: Path) -> Recognised:
    """Recognise a generic layout."""
    here = list(root.iterdir())
    folders = {path.name.lower() for path in here if path.is_dir()}
    files = {path.name.lower() for path in here if path.is_file()}
    if {"rgb", "labels"} <= folders and {"train.txt", "test.txt"} & files:
        return Recognised(
            "forests",
            "no published data set; folders RGB and labels beside lists (layout 'forests', which "
            "ignores code 255 and draws validation scenes; --layout folder reads it too)",
        )
    lists = [path for path in here if path.suffix.lower() in _LISTS and _is_list(path)]
    if len(lists) == 1:
        return Recognised("items", f"the list '{lists[0].name}' of rasters (layout 'items')")
    return Recognised("folder", "no published data set; folders of rasters (layout 'folder')")


def _is_list(path: Path) -> bool:
    """Tell whether a file lists rasters."""
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return set(next(csv.reader(file), ())) >= _NEEDED
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and ("features" in values or "assets" in values)
