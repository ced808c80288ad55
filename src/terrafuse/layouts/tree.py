"""Search for the files of a data set by folder and name, wherever it was unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

    def id_of(self, name: str) -> str | None:
        """Return the id of the scene that a raster of this name shows; None: of another kind."""
        match = self._pattern.fullmatch(name, 0, name.rindex("."))
        return None if match is None else self.to_id(match)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.stem, re.IGNORECASE)

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
        names: Folder, relative to the root → names of its rasters, sorted.
        avoided: Folders that are not searched.
    """

    root: Path
    names: Mapping[PurePosixPath, tuple[str, ...]]
    avoided: tuple[PurePosixPath, ...] = ()

    @classmethod
    def walk(cls, root: Path, avoid: Iterable[str] = ()) -> Tree:
        """Walk a folder, skipping what operating systems and GDAL put beside rasters.

        Args:
            avoid: Patterns of the end of the path of folders that must not be used.
        """
        bad = [re.compile(rf"(?:^|/)(?:{pattern})$", re.IGNORECASE) for pattern in avoid]
        rasters, avoided = {}, []
        for here, folders, names in os.walk(root, followlinks=True):
            place = PurePosixPath(Path(here).relative_to(root).as_posix())
            if any(pattern.search(place.as_posix()) for pattern in bad):
                avoided.append(place)
                folders.clear()
                continue
            keep = [n for n in folders if n[0] != "." and n.lower() not in _JUNK_FOLDERS]
            folders[:] = sorted(keep) if len(place.parts) < _DEEPEST else []
            if found := sorted(filter(is_raster, names)):
                rasters[place] = tuple(found)
        return cls(root, rasters, tuple(avoided))

    @cached_property
    def paths(self) -> tuple[PurePosixPath, ...]:
        """Paths relative to the root, sorted."""
        return tuple(folder / name for folder, name in self.sorted_names())

    def sorted_names(self) -> list[tuple[PurePosixPath, str]]:
        """List folders and names in the order of the paths."""
        found = [(folder, name) for folder, own in self.names.items() for name in own]
        parts = {folder: folder.parts for folder in self.names}
        return sorted(found, key=lambda file: (*parts[file[0]], file[1]))

    def find(self, kind: FileKind) -> Found:
        """Find the files of a kind by id; of several for one id, the one in the best folder."""
        best: dict[str, tuple[tuple[int, int], PurePosixPath]] = {}
        twice: set[str] = set()
        empty = []
        for path, rank, id in self._files(kind):
            if not (self.root / path).stat().st_size:
                empty.append(path)
                continue
            order = (rank, RASTER_SUFFIXES.index(path.suffix.lower()))
            if id in best and order == best[id][0]:
                twice.add(id)
            elif id not in best or order < best[id][0]:
                twice.discard(id)
            best[id] = min((order, path), best.get(id, (order, path)))
        files = {id: best[id][1] for id in sorted(best, key=natural_key)}
        return Found(kind, files, tuple(id for id in files if id in twice), tuple(sorted(empty)))

    def _files(self, kind: FileKind) -> Iterator[tuple[PurePosixPath, int, str]]:
        """Yield the files of a kind: path, rank of the folder, id.

        Only of these are paths made: of 10⁵ files and 50 kinds, most are of none.
        """
        for folder, names in self.names.items():
            rank = kind.rank(folder)
            if rank is None:
                continue
            for name in names:
                if (id := kind.id_of(name)) is not None:
                    yield folder / name, rank, id

    def strangers(self, kinds: Sequence[FileKind]) -> list[PurePosixPath]:
        """List rasters beside files of these kinds whose names match none."""
        known = {path for kind in kinds for path, _, _ in self._files(kind)}
        used = {path.parent for path in known}
        return [path for path in self.paths if path.parent in used and path not in known]

    def folders(self) -> list[str]:
        """List the folders that hold rasters."""
        return sorted((folder.as_posix() for folder in self.names), key=natural_key)


class RealPaths:
    """Paths without symbolic links; folders are looked into once."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, frozenset[str]]] = {}

    def __call__(self, path: str) -> str:
        """Return the absolute path of a file without symbolic links."""
        folder, _, name = path.rpartition("/")
        real, links = self.within(folder or "/")
        return os.path.realpath(path) if name in links else f"{real}/{name}"

    def within(self, folder: str) -> tuple[str, frozenset[str]]:
        """Return a folder's path without symbolic links, and the names in it that are links."""
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    links = frozenset(entry.name for entry in entries if entry.is_symlink())
            except OSError:  # there is none
                links = frozenset()
            self._folders[folder] = os.path.realpath(folder).rstrip("/"), links
        return self._folders[folder]


def is_raster(name: str) -> bool:
    """Tell whether a file name is that of a raster, and not of a sidecar file."""
    return not name.startswith(".") and name.lower().endswith(RASTER_SUFFIXES)


def _readable(pattern: str) -> str:
    """Strip the metacharacters of regular expressions from a pattern of folders."""
    text = re.sub(r"\(\?![^)]*\)", "", pattern)
    text = re.sub(r"\[\^/\]\*|\\w\+", "…", text)
    text = re.sub(r"\(\?:([^|)]*)[^)]*\)", r"\1", text.replace("[sz]", "s"))
    return text.replace("_+", "__").replace("?", "")
