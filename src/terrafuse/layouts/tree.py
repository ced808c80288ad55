"""Search for the files of a data set by folder and name, wherever it was unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

#: Best first, where one picture is present in several formats.
RASTER_SUFFIXES = (".tif", ".tiff", ".gtif", ".png", ".jpg", ".jpeg", ".vrt", ".jp2", ".img")
_JUNK_FOLDERS = ("__macosx", "@eadir")
# Archives nest a folder of their own name, or two.
_DEEPEST = 7


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts "2_10" after "2_9"."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _take_id(match: re.Match[str]) -> str:
    return match["id"]


@dataclass(frozen=True)
class FileKind:
    """One kind of files in a data set: how they are recognised, and their content.

    Args:
        name: Name in layouts and messages.
        folders: Patterns of the end of the folder's path, best first; case is ignored.
        stem: Pattern of the name without suffix, with a group "id" unless `to_id` needs others.
        bands: Names of the bands, in the order of the file; empty for labels.
        dtype: Data type as published.
        size: Width and height as published; None where they vary.
        to_id: Match of the stem → id of the scene.
    """

    name: str
    folders: tuple[str, ...]
    stem: str
    bands: tuple[str, ...] = ()
    dtype: str = ""
    size: tuple[int, int] | None = None
    to_id: Callable[[re.Match[str]], str] = field(default=_take_id, compare=False)

    def rank(self, folder: PurePosixPath) -> int | None:
        """Return the rank of a folder for such files, 0 the best; None if it does not fit."""
        text = "" if folder == PurePosixPath(".") else folder.as_posix()
        for number, pattern in enumerate(self.folders):
            if re.search(rf"(?:^|/)(?:{pattern})$", text, re.IGNORECASE):
                return number
        return None

    def id_of(self, path: PurePosixPath) -> str | None:
        """Return the id of the scene that a file shows; None if it is of another kind."""
        match = re.fullmatch(self.stem, path.stem, re.IGNORECASE)
        return None if match is None else self.to_id(match)

    def places(self) -> str:
        """Return the folders in words."""
        names = dict.fromkeys(map(_readable, self.folders))
        return ", ".join("any folder" if name == "…" else f"'{name}'" for name in names)


@dataclass(frozen=True)
class Found:
    """Files of one kind.

    Args:
        files: Id → path relative to the root, in natural order of the ids.
        twice: Ids that two files match equally well.
        empty: Files of zero bytes, which count as absent.
    """

    kind: FileKind
    files: Mapping[str, PurePosixPath]
    twice: tuple[str, ...] = ()
    empty: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True)
class Tree:
    """The rasters below a folder.

    Args:
        paths: Paths relative to the root, sorted.
        avoided: Folders that are not searched.
    """

    root: Path
    paths: tuple[PurePosixPath, ...]
    avoided: tuple[PurePosixPath, ...] = ()

    @classmethod
    def walk(cls, root: Path, avoid: Iterable[str] = ()) -> Tree:
        """Walk a folder, skipping what operating systems and GDAL put beside rasters.

        Args:
            avoid: Patterns of the end of the path of folders that must not be used.
        """
        bad = [re.compile(rf"(?:^|/)(?:{pattern})$", re.IGNORECASE) for pattern in avoid]
        paths, avoided = [], []
        for here, folders, names in os.walk(root, followlinks=True):
            place = PurePosixPath(Path(here).relative_to(root).as_posix())
            if any(pattern.search(place.as_posix()) for pattern in bad):
                avoided.append(place)
                folders.clear()
                continue
            keep = [n for n in folders if n[0] != "." and n.lower() not in _JUNK_FOLDERS]
            folders[:] = sorted(keep) if len(place.parts) < _DEEPEST else []
            paths += [place / name for name in names if is_raster(name)]
        return cls(root, tuple(sorted(paths)), tuple(avoided))

    def find(self, kind: FileKind) -> Found:
        """Find the files of a kind by id; of several for one id, the one in the best folder."""
        best: dict[str, tuple[tuple[int, int], PurePosixPath]] = {}
        twice: dict[str, bool] = {}
        empty = []
        for path in self.paths:
            rank = kind.rank(path.parent)
            id = None if rank is None else kind.id_of(path)
            if rank is None or id is None:
                continue
            if not (self.root / path).stat().st_size:
                empty.append(path)
                continue
            order = (rank, RASTER_SUFFIXES.index(path.suffix.lower()))
            if id not in best or order < best[id][0]:
                twice[id] = False
                best[id] = (order, path)
            elif order == best[id][0]:
                twice[id] = True
        files = {id: best[id][1] for id in sorted(best, key=natural_key)}
        return Found(kind, files, tuple(id for id in files if twice[id]), tuple(empty))

    def strangers(self, kinds: Sequence[FileKind]) -> list[PurePosixPath]:
        """List rasters beside files of these kinds whose names match none."""
        known = {
            path
            for path in self.paths
            for kind in kinds
            if kind.rank(path.parent) is not None and kind.id_of(path) is not None
        }
        used = {path.parent for path in known}
        return [path for path in self.paths if path.parent in used and path not in known]

    def folders(self) -> list[str]:
        """List the folders that hold rasters."""
        return sorted({path.parent.as_posix() for path in self.paths}, key=natural_key)


class RealPaths:
    """Paths without symbolic links; those of folders are found once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str | Path) -> str:
        """Return the absolute path of a file without symbolic links."""
        path = os.fspath(path)
        if os.path.islink(path):  # noqa: PTH114  (of 10⁵ files)
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return f"{self._folders[folder].rstrip('/')}/{name}"


def is_raster(name: str) -> bool:
    """Tell whether a file name is that of a raster, and not of a sidecar file."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in RASTER_SUFFIXES


def _readable(pattern: str) -> str:
    """Strip the metacharacters of regular expressions from a pattern of folders."""
    text = re.sub(r"\(\?![^)]*\)", "", pattern)
    text = re.sub(r"\[\^/\]\*|\\w\+", "…", text)
    text = re.sub(r"\(\?:([^|)]*)[^)]*\)", r"\1", text.replace("[sz]", "s"))
    return text.replace("_+", "__").replace("?", "")
