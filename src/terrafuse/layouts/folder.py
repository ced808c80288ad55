"""Generic layout: one folder or pattern per modality, one of labels, files of matching names."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.classes import DEFAULT_COLORS
from terrafuse.data.placement import SIZE_TOLERANCE_PX
from terrafuse.data.raster_file import RasterFile, inspect_pages, inspect_raster
from terrafuse.errors import DataError, LabelError
from terrafuse.layouts.codes import find_codes
from terrafuse.layouts.guessing import guess_modality, guess_scale, tell_band_names
from terrafuse.layouts.lists import read_lists
from terrafuse.layouts.looking import Look
from terrafuse.layouts.matching import Matched, match_names
from terrafuse.layouts.pieces import SPLITS
from terrafuse.layouts.places import (
    ERODED,
    LABELS,
    Place,
    find_places,
    is_eroded,
    is_label,
    is_like_labels,
    rank_of_labels,
)
from terrafuse.layouts.published import warn
from terrafuse.layouts.tree import RASTER_SUFFIXES, RealPaths, Tree, is_raster, natural_key

_MOST_NAMED = 5


def describe_folder(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """One folder (or pattern) per modality and one of labels; names of a scene's files match.

    Folders train, val and test may be above or below those; else splits/NAME.txt, or train.txt and
    the like, list names. Names may differ by a prefix or suffix common to a folder. Without
    folders, names such as Image_0 and Label_0, or x and x_label, distinguish labels from images.

    Args:
        root: The folder; paths are relative to it.
        options: "labels" names the folder or pattern of labels. "look": "some" (the default) opens
            a part of very many scenes, "all" all. Every other key is a modality with its folder or
            pattern. Without modalities, each folder is one.

    Raises:
        DataError: Nothing is found, names or sizes do not match, or a scene is in two splits.
        LabelError: There are no labels, or they hold more than 255 values.
    """
    places = {key: at for key, at in options.items() if key != "look"}
    return describe_folders(root, places, look=options.get("look", "some"))


def describe_folders(
    root: Path, options: Mapping[str, str], *, lists: bool = True, look: str = "some"
) -> dict[str, Any]:
    """Do as `describe_folder`; without `lists`, lists beside the folders are left to the caller."""
    places, merged = find_places(Tree.walk(root), options.get(LABELS, ""))
    if merged:
        folder = merged[0].parent
        warn(f"{len(merged)} rasters in folders such as '{folder}' repeat others: ignored")
    roles = _sort_roles(root, places, options)
    found = match_names(roles, LABELS)
    labels = found.pop(LABELS)
    eroded = found.pop(ERODED, {})
    found = _with_matches(root, roles, found, labels, given=set(options))
    ids = [i for i in labels if any(i in files for files in found.values())]
    ids.sort(key=lambda i: (_rank_of_split(labels[i].split), natural_key(i)))
    if not ids:
        listed = ", ".join(f"'{places[0].path.parent}'" for places in roles.values())
        first = next(iter(labels.values())).path.name
        raise DataError(
            f"no file in {listed} of '{root}' has the same name in another; scenes are matched by "
            f"file name, for instance '{first}'"
        )
    _tell_of_the_rest(found, labels, ids)
    files_seen = _Files(root)
    looked = Look.at(ids, {"look": look})
    codes = find_codes(
        (files_seen.label(i, labels[i]) for i in looked.order), patience=looked.patience
    )
    looked.tell(codes.files)
    modalities = {
        name: _describe_modality(name, files, labels, files_seen, looked, set(ids) <= set(files))
        for name, files in found.items()
    }
    splits = _splits(root, ids, labels, [*found.values(), labels]) if lists else {}
    stems = Counter(_stem(i) for i in ids)
    names = {i: _stem(i) if stems[_stem(i)] == 1 else i.replace("/", "_") for i in ids}
    every = {**found, LABELS: labels, ERODED: eroded}
    names_in = _Names(root)
    return {
        "classes": codes.classes(DEFAULT_COLORS),
        **({"void": codes.void} if codes.void else {}),
        "modalities": modalities,
        "scenes": [{"id": names[i], **_scene(i, every, splits.get(i), names_in)} for i in ids],
    }


def _sort_roles(
    root: Path, places: Sequence[Place], options: Mapping[str, str]
) -> dict[str, list[Place]]:
    """Sort places into labels, labels without boundaries, and each modality."""
    by_role: defaultdict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_role[place.role].append(place)
    labels, eroded = _label_roles(root, by_role, options)
    modalities = {name: at for name, at in options.items() if name != LABELS}
    if modalities:
        found = {name: _places_at(root, places, at) for name, at in modalities.items()}
    else:
        rest = [r for r in sorted(by_role) if r and r not in (labels, eroded)]
        found = {_to_name(r): by_role[r] for r in rest if not is_like_labels(r)}
        alike = [r for r in rest if is_like_labels(r)]
        if alike:
            listed = ", ".join(f"'{role}'" for role in alike)
            warn(
                f"labels are taken from '{labels}'; {listed} look like labels too, and are "
                "ignored. To use others: -O labels=FOLDER"
            )
    if not found:
        raise DataError(
            f"no folder of images in '{root}' beside the labels '{labels}'. Name one per "
            "modality: -O NAME=FOLDER"
        )
    truth = _places_at(root, places, options[LABELS]) if LABELS in options else by_role[labels]
    return {**found, LABELS: truth, **({ERODED: by_role[eroded]} if eroded else {})}


def _label_roles(
    root: Path, by_role: Mapping[str, Sequence[Place]], options: Mapping[str, str]
) -> tuple[str, str]:
    """Choose the folders of labels, and of labels without boundaries (empty: none)."""
    full = sorted(filter(is_label, by_role), key=rank_of_labels)
    eroded = sorted(filter(is_eroded, by_role), key=rank_of_labels)
    if LABELS in options:
        return options[LABELS], eroded[0] if eroded else ""
    if not full and not eroded:
        listed = ", ".join(sorted(filter(None, by_role), key=natural_key)) or "none with rasters"
        raise LabelError(
            f"no folder of labels in '{root}' (folders: {listed}). Name it: -O labels=FOLDER"
        )
    if not full:
        warn(f"there are only labels without boundaries ('{eroded[0]}'); they are used as labels")
        return eroded[0], ""
    return full[0], eroded[0] if eroded else ""


def _places_at(root: Path, places: Sequence[Place], at: str) -> list[Place]:
    """List the files of a folder that a user names, or of a pattern."""
    if any(c in at for c in "*?["):
        found = _matches(root, at)
    else:
        folders = {place.path.parent for place in places}
        exact = {f for f in folders if _without_split(f) == PurePosixPath(at)}
        alike = {f for f in folders if _ends_with(f, at)}
        here = [p for p in places if p.path.parent in exact]
        found = here or [p for p in places if p.role == at or p.path.parent in alike]
    if not found:
        raise DataError(f"no raster in '{root / at}'; allowed are {', '.join(RASTER_SUFFIXES)}")
    return found


def _matches(root: Path, pattern: str) -> list[Place]:
    above = [path for path in sorted(root.iterdir()) if path.name.lower() in SPLITS]
    return [
        Place(PurePosixPath(path.relative_to(root).as_posix()), split, pattern, "", path.stem)
        for folder, split in ((root, None), *((p, SPLITS[p.name.lower()]) for p in above))
        for path in sorted(folder.glob(pattern))
        if is_raster(path.name)
    ]


def _without_split(folder: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*(part for part in folder.parts if part.lower() not in SPLITS))


def _ends_with(folder: PurePosixPath, at: str) -> bool:
    end = PurePosixPath(at).parts
    return _without_split(folder).parts[-len(end) :] == end


def _with_matches(
    root: Path, roles: Mapping[str, Sequence[Place]], found: Matched, labels: Mapping[str, Place],
    given: set[str],
) -> Matched:  # fmt: skip
    """Keep modalities with a file that belongs to a label; reject others if named, else warn."""
    bad = [name for name, files in found.items() if labels.keys().isdisjoint(files)]
    if len(bad) == len(found):
        return found
    for name in bad:
        first = roles[name][0].path
        text = f"no file of '{name}' has the name of a label, for instance '{first}'"
        if name in given:
            raise DataError(f"{text} in '{root}'; scenes are matched by file name")
        warn(f"{text}: ignored")
    return {name: files for name, files in found.items() if name not in bad}


def _tell_of_the_rest(found: Matched, labels: Mapping[str, Place], ids: Sequence[str]) -> None:
    """Warn of images without labels, and of labels without images."""
    known = set(ids)
    images = {i: p for files in found.values() for i, p in files.items() if i not in known}
    lone = {i: p for i, p in labels.items() if i not in known}
    for rest, what in ((images, "images without labels"), (lone, "labels without an image")):
        if rest:
            shown = [str(p.path) for _, p in sorted(rest.items(), key=lambda o: natural_key(o[0]))]
            more = " …" if len(shown) > _MOST_NAMED else ""
            warn(f"{len(rest)} {what} are ignored: {', '.join(shown[:_MOST_NAMED])}{more}")


class _Files:
    """Rasters below a folder, each inspected once: opening takes most of the time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images: dict[PurePosixPath, Sequence[RasterFile]] = {}
        self._labels: dict[PurePosixPath, RasterFile] = {}

    def image(self, name: str, place: Place) -> Sequence[RasterFile]:
        """Every page of a raster of a modality."""
        if place.path not in self._images:
            found = inspect_pages(self.root / place.path, "all", f"modality '{name}'")
            self._images[place.path] = found
        return self._images[place.path]

    def label(self, id: str, place: Place) -> RasterFile:
        """Labels of a scene."""
        if place.path not in self._labels:
            found = inspect_raster(self.root / place.path, f"labels of '{id}'")
            self._labels[place.path] = found
        return self._labels[place.path]


def _describe_modality(
    name: str,
    files: Mapping[str, Place],
    labels: Mapping[str, Place],
    seen: _Files,
    look: Look,
    required: bool,
) -> dict[str, Any]:
    scene = next(i for i in files if i in labels)
    pages = seen.image(name, files[scene])
    values = guess_modality(name, pages) | ({"page": "all"} if len(pages) > 1 else {})
    scale = guess_scale(pages[0], seen.label(scene, labels[scene]))
    values |= {} if scale == 1 else {"scale": float(scale)}
    looked = look.choose(files)
    _check_sizes(name, looked, labels, seen, scale)
    own = {id: seen.image(name, place) for id, place in looked.items()}
    tell_band_names(name, values["bands"], own)
    return values if required else values | {"required": False}


def _check_sizes(
    name: str,
    files: Mapping[str, Place],
    labels: Mapping[str, Place],
    seen: _Files,
    scale: Fraction,
) -> None:
    """Check that files without CRS, which are matched by pixel, have the size of the labels.

    Args:
        files: Of scenes with labels.

    Raises:
        DataError: They have not; lists the scenes.
    """
    bad = []
    for id in files:
        image = seen.image(name, files[id])[0].grid
        truth = seen.label(id, labels[id]).grid
        if image.crs is not None and truth.crs is not None:
            continue
        apart = max(
            abs(image.width * scale - truth.width), abs(image.height * scale - truth.height)
        )
        if apart > SIZE_TOLERANCE_PX * max(Fraction(1), scale):
            sizes = f"{image.width} × {image.height}, labels {truth.width} × {truth.height}"
            bad.append(f"  {id}: {name} {sizes} ('{files[id].path}')")
    if bad:
        more = [f"  and {len(bad) - _MOST_NAMED} more"] if len(bad) > _MOST_NAMED else []
        lines = "\n".join((*bad[:_MOST_NAMED], *more))
        raise DataError(
            f"sizes of '{name}' and of labels do not match (width × height) in {len(bad)} scenes "
            f"of '{seen.root}':\n{lines}\nWithout a CRS they are matched by pixel: fix these "
            "files, or remove them"
        )


def _splits(
    root: Path,
    ids: Sequence[str],
    labels: Mapping[str, Place],
    roles: Sequence[Mapping[str, Place]],
) -> dict[str, str]:
    """Determine the split per scene: from lists, else from the folder."""
    above = {i: split for i in ids if (split := labels[i].split)}
    names: defaultdict[str, set[str]] = defaultdict(set)
    for files in roles:
        for id in (i for i in ids if i in files):
            names[files[id].path.stem].add(id)
    listed = read_lists(root, ids, names)
    other = [i for i in listed if above.get(i, listed[i]) != listed[i]]
    if other:
        warn(
            f"{len(other)} scenes lie in folders of another split than the lists say, for instance "
            f"'{labels[other[0]].path}', listed in '{listed[other[0]]}': the lists take precedence"
        )
    without = [i for i in ids if i not in listed and i not in above]
    if listed and without:
        shown = ", ".join(without[:_MOST_NAMED]) + (" …" if len(without) > _MOST_NAMED else "")
        warn(f"{len(without)} scenes are in no list and have no split: {shown}")
    return above | listed


def _scene(
    i: str, roles: Mapping[str, Mapping[str, Place]], split: str | None, names: _Names
) -> dict[str, Any]:
    values: dict[str, Any] = {"split": split} if split else {}
    return values | {name: names.of(files[i]) for name, files in roles.items() if i in files}


def _rank_of_split(split: str | None) -> int:
    """Rank splits: training, validation, test."""
    return 0 if split is None else list(SPLITS.values()).index(split)


def _stem(i: str) -> str:
    return i.rpartition("/")[2]


class _Names:
    """Names of files from a folder, without symbolic links."""

    def __init__(self, root: Path) -> None:
        self._real, self._root, self._base = RealPaths(), str(root), os.path.realpath(root)

    def of(self, place: Place) -> str:
        """Return the name of a file below the folder."""
        real = self._real(f"{self._root}/{place.path}")
        if real.startswith(f"{self._base}/"):
            return real[len(self._base) + 1 :]
        return Path(os.path.relpath(real, self._base)).as_posix()


def _to_name(folder: str) -> str:
    name = re.sub(r"\W+", "_", folder).strip("_").lower()
    return name if name[:1].isalpha() else f"m_{name}"
