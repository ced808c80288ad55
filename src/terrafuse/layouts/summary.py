"""Summary of a manifest: files used, and files of the folder that are ignored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.data.names import absolute_name, local_file
from terrafuse.data.raster_file import inspect_pages
from terrafuse.layouts.tree import RealPaths, Tree, natural_key

_MOST_FOLDERS = 8
_LABELS = ("labels", "labels_eroded")
# Relative, and nothing of what names a part of a file or one elsewhere; so are nearly all.
_PLAIN = re.compile(r"[\w-][\w .-]*(?:/[\w-][\w .-]*)*")


def summarise(values: Mapping[str, Any], root: Path) -> list[str]:
    """Summarise where the files of each modality lie, how they pair, and which are not used.

    Args:
        values: Values of a manifest, with paths relative to `root`.
    """
    scenes: Sequence[Mapping[str, Any]] = values["scenes"]
    lines = [
        f"{name}: {_counted(scenes, name)}"
        for name in (*values["modalities"], *_LABELS)
        if any(name in scene for scene in scenes)
    ]
    first = scenes[0]
    files = [f"{name} '{path}'" for name in (*values["modalities"], *_LABELS)
             for path in _paths(first, name)]  # fmt: skip
    lines.append(f"for instance scene '{first['id']}': {', '.join(files)}")
    lines += _notices(values, root)
    real = RealPaths()
    used = {
        real(file)
        for scene in scenes
        for name in (*values["modalities"], *_LABELS)
        for path in _paths(scene, name)
        if (file := _file_of(path, root)) is not None
    }
    rest = []
    for folder, names in Tree.walk(root).names.items():
        place = root / folder
        rest += [f"{folder}/{name}" for name in names if real(f"{place}/{name}") not in used]
    if rest:
        lines.append(f"ignored: {_by_folder(rest)}")
    return lines


def _file_of(path: str, root: Path) -> str | None:
    """Return the file on this disk that a manifest's path is of; None if it is elsewhere."""
    if _PLAIN.fullmatch(path):
        return f"{root}/{path}"
    file = local_file(absolute_name(path, root))
    return None if file is None else str(file)


def _notices(values: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Yield notices on how files are read, from the first file of each modality."""
    for name in values["modalities"]:
        first: Mapping[str, Any] = next((s for s in values["scenes"] if name in s), {})
        for path in _paths(first, name):
            place = absolute_name(path, root)
            page = values["modalities"][name].get("page")
            files = inspect_pages(place, page, f"modality '{name}'")
            if len(files) > 1:
                yield f"{name}: '{path}' has {len(files)} pages, read as bands ('page: {page}')"
            for file in files:
                notices = file.notices
                yield from (f"{name}: {text}" for text in notices.values())


def _counted(scenes: Sequence[Mapping[str, Any]], name: str) -> str:
    own = sum(name in scene for scene in scenes)
    short = "" if own == len(scenes) else f" of {len(scenes)}"
    places = _by_folder([path for scene in scenes for path in _paths(scene, name)])
    return f"{own}{short} scenes: {places}"


def _paths(scene: Mapping[str, Any], name: str) -> Iterator[str]:
    given = scene.get(name, [])
    yield from [given] if isinstance(given, str) else given


def _by_folder(paths: Sequence[str]) -> str:
    folders = Counter(path.rpartition("/")[0] for path in paths)
    counts = Counter[str]()
    for folder, count in folders.items():
        counts[str(PurePosixPath(folder))] += count
    names = sorted(counts, key=natural_key)
    shown = [f"{counts[name]} in '{name}'" for name in names[:_MOST_FOLDERS]]
    others = sum(counts[name] for name in names[_MOST_FOLDERS:])
    more = f", {others} in {len(names) - _MOST_FOLDERS} more folders" if others else ""
    return ", ".join(shown) + more
