"""Lists of the scenes of each split, beside their folders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from terrafuse.errors import DataError
from terrafuse.layouts.pieces import SPLITS

_FOLDER = "splits"
_BESIDE = re.compile(rf"(?:{'|'.join(SPLITS)})\.txt", re.IGNORECASE)
_MOST_NAMED = 3


def read_lists(root: Path, ids: Iterable[str], names: Mapping[str, set[str]]) -> dict[str, str]:
    """Map ids to splits from `splits/NAME.txt`, else from `train.txt`, `val.txt`, `test.txt`.

    Args:
        root: Folder that holds them.
        ids: Ids of all scenes.
        names: Name of a file without suffix → scenes it belongs to.

    Raises:
        DataError: A scene is in two lists.
    """
    known = set(ids)
    splits: dict[str, str] = {}
    for path in sorted((root / _FOLDER).glob("*.txt")):
        _add(path, path.stem, [[line] for line in _lines(path)], known, names, splits)
    if splits:
        return splits
    for path in sorted(path for path in root.iterdir() if _BESIDE.fullmatch(path.name)):
        # A line may name the files of all modalities; the first suffices.
        words = [[line, line.split()[0]] for line in _lines(path)]
        split = SPLITS[path.stem.lower()]
        missing = _add(path, split, words, known, names, splits)
        if missing:
            listed = ", ".join(missing[:_MOST_NAMED]) + (" …" if len(missing) > _MOST_NAMED else "")
            warnings.warn(
                f"{len(missing)} of {len(words)} names in '{path}' match no scene with "
                f"labels: {listed}",
                stacklevel=2,
            )
    return splits


def read_split_lists(
    lists: Iterable[tuple[Path, str]], id_of: Callable[[str], str | None] = str
) -> dict[str, str]:
    """Id → split, of files with a scene per line.

    Args:
        lists: Each file, which may be absent, and its split.
        id_of: Line → id of its scene; None where the line names none.

    Raises:
        DataError: A scene in two splits.
    """
    splits: dict[str, str] = {}
    for path, split in lists:
        for id in map(id_of, _lines(path) if path.is_file() else ()):
            if id is not None:
                _put(id, split, path, splits)
    return splits


def _put(id: str, split: str, path: Path, splits: dict[str, str]) -> None:
    if splits.setdefault(id, split) != split:
        raise DataError(f"scene '{id}' is listed in '{splits[id]}' and '{split}' ('{path}')")


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _add(
    path: Path, split: str, lines: list[list[str]], known: set[str],
    names: Mapping[str, set[str]], splits: dict[str, str],
) -> list[str]:  # fmt: skip
    """Add the scenes of a list to a split; return the names that match none."""
    missing = []
    for ways in lines:
        id = next((found for way in ways if (found := _scene(way, known, names))), None)
        if id is None:
            missing.append(ways[-1])
        else:
            _put(id, split, path, splits)
    return missing


def _scene(name: str, known: set[str], names: Mapping[str, set[str]]) -> str | None:
    if name in known:
        return name
    stem = PurePosixPath(name.replace("\\", "/")).stem
    if stem in known:
        return stem
    found = names.get(stem, names.get(name, set()))
    return next(iter(found)) if len(found) == 1 else None
