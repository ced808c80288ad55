"""Roles of files in folders of unknown layout: split, modality or labels, name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from terrafuse.layouts.pieces import SPLITS
from terrafuse.layouts.tree import Tree

LABELS, ERODED = "labels", "labels_eroded"
#: Words for labels, best first where several folders have such names.
LABEL_WORDS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "ground_truth", "gts", "gt",
    "ann_dir", "ann", "lbl", "sem", "semantic", "seg", "segmentation", "target", "targets", "truth",
)  # fmt: skip
_WORD = "|".join(sorted(LABEL_WORDS, key=len, reverse=True))
_FORMAT = r"(?:[_-](?:dir|png|pngs|tif|tiff|index|\d+))*"
_TRUTH = re.compile(rf"(?:{_WORD}){_FORMAT}", re.IGNORECASE)
_TRUTH_ERODED = re.compile(
    rf"(?:{_WORD}){_FORMAT}_?(?:eroded|no_?boundary){_FORMAT}", re.IGNORECASE
)
# The same labels in colours, or otherwise converted.
_TRUTH_TOO = re.compile(rf"(?:{_WORD}){_FORMAT}[_-]\w+", re.IGNORECASE)
_COMPOUND = re.compile(
    r"(?P<first>train|val|test)[_-](?P<rest>.+)|(?P<start>.+)[_-](?P<last>train|val|test)",
    re.IGNORECASE,
)
_MERGED = re.compile(r"train[_-]?val", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?P<before>{_WORD})[_-]?(?P<end>(?<=[_-]).+|\d.*)|(?P<start>.+?)[_-]\d*(?P<after>{_WORD})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """A raster, with the split, role and group that its folders indicate.

    Args:
        path: Path relative to the root.
        split: Split that a folder is named after, or None.
        role: Name of the folder of the modality or labels; empty: there is none.
        group: Further folders, such as a city's.
        name: Name by which scenes are matched, together with `split` and `group`.
    """

    path: PurePosixPath
    split: str | None
    role: str
    group: str
    name: str

    @property
    def id(self) -> str:
        """Split, group and name separated by slashes."""
        return "/".join(filter(None, (self.split, self.group, self.name)))


def find_places(tree: Tree, labels: str = "") -> tuple[list[Place], list[PurePosixPath]]:
    """Find the places of rasters, and rasters that only repeat others (a folder "train_val").

    Args:
        tree: Rasters below a folder.
        labels: Name of the folder of labels; empty if unknown.
    """
    merged = {f for f in tree.names if any(_MERGED.fullmatch(part) for part in f.parts)}
    if len(merged) == len(tree.names):
        merged = set()  # on their own they repeat nothing
    read = {folder: _read_folder(folder) for folder in tree.names if folder not in merged}
    words = _without_common({folder: words for folder, (_, words) in read.items()})
    back = _steps_back(words.values(), labels)
    roles = {folder: _role(own, back) for folder, own in words.items()}
    places, repeating = [], []
    for folder, name in tree.sorted_names():
        if folder in merged:
            repeating.append(folder / name)
        else:
            stem = name.rpartition(".")[0]
            places.append(Place(folder / name, read[folder][0], *roles[folder], stem))
    if not any(role and (is_like_labels(role) or role == labels) for role, _ in roles.values()):
        places = _by_names(places)
    return places, repeating


def _role(words: tuple[str, ...], back: int) -> tuple[str, str]:
    """Role and group that a folder's words indicate."""
    index = max(0, len(words) - 1 - back)
    role = words[index] if words else ""
    return role, "/".join((*words[:index], *words[index + 1 :]))


def is_label(role: str) -> bool:
    """Tell whether a folder's name means labels."""
    return _TRUTH.fullmatch(role) is not None


def is_eroded(role: str) -> bool:
    """Tell whether a folder's name means labels without boundaries between classes."""
    return _TRUTH_ERODED.fullmatch(role) is not None


def is_like_labels(role: str) -> bool:
    """Tell whether a folder's name means labels in any form."""
    return is_label(role) or is_eroded(role) or _TRUTH_TOO.fullmatch(role) is not None


def rank_of_labels(role: str) -> tuple[int, int, str]:
    """Return a key that sorts names of label folders, the likeliest first."""
    word = next((n for n, word in enumerate(LABEL_WORDS) if role.lower() == word), None)
    return (len(LABEL_WORDS) if word is None else word, len(role), role)


def _read_folder(folder: PurePosixPath) -> tuple[str | None, tuple[str, ...]]:
    """Read the split and all other words from a folder's path."""
    split, words = None, []
    for part in folder.parts:
        compound = _COMPOUND.fullmatch(part)
        if part.lower() in SPLITS:
            split = SPLITS[part.lower()]
        elif compound and not _MERGED.fullmatch(part):
            split = (compound["first"] or compound["last"]).lower()
            words.append(compound["rest"] or compound["start"])
        else:
            words.append(part)
    return split, tuple(words)


def _without_common(
    words: Mapping[PurePosixPath, tuple[str, ...]],
) -> dict[PurePosixPath, tuple[str, ...]]:
    """Strip the words that all folders begin with: folders of archives."""
    shortest = min(map(len, words.values()), default=1)
    common = 0
    while common < shortest - 1 and len({own[common] for own in words.values()}) == 1:
        common += 1
    return {folder: own[common:] for folder, own in words.items()}


def _steps_back(words: Iterable[tuple[str, ...]], labels: str) -> int:
    """Count the folders below the one that names labels or modality."""
    steps = Counter(
        len(own) - 1 - index
        for own in words
        for index, word in enumerate(own)
        if word == labels or (not labels and (is_label(word) or is_eroded(word)))
    )
    return steps.most_common(1)[0][0] if steps else 0


def _by_names(places: Sequence[Place]) -> list[Place]:
    """Sort places by name instead of folder: Image_0 and Label_0, or x and x_label."""
    found = {place.path: match for place in places if (match := _NAMED.fullmatch(place.name))}
    cores: defaultdict[tuple[str | None, str], set[str]] = defaultdict(set)
    for place in places:
        if place.path in found:
            match = found[place.path]
            cores[place.split, place.group].add(match["end"] or match["start"])
    before = any(match["before"] for match in found.values())
    result = []
    for place in places:
        known = cores[place.split, place.group]
        role, name = _role_in_name(place, known, before)
        if place.path in found:
            match = found[place.path]
            role, name = LABELS, match["end"] or match["start"]
        result.append(replace(place, role=role, name=name))
    return result


def _role_in_name(place: Place, known: set[str], before: bool) -> tuple[str, str]:
    """Return role and name of a file that is not a label."""
    if place.name not in known and known:
        for match in _splits_of(place.name, before):
            if match[1] in known:
                return match
    return place.role or "image", place.name


def _splits_of(name: str, before: bool) -> list[tuple[str, str]]:
    """List the ways to strip a word from a name: (word, rest)."""
    ways = []
    for match in re.finditer(r"[_-]|(?<=[A-Za-z])(?=\d)", name):
        first, second = name[: match.start()], name[match.end() :]
        ways.append((first, second) if before else (second, first))
    return [(word, rest) for word, rest in ways if word and rest]
