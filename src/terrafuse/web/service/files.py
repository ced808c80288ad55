"""`GET /api/files`: folders and rasters that requests may name, for people to choose from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from terrafuse.errors import DataError, cut
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import current_user
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.messages import Message
from terrafuse.web.service.rasters import SUFFIXES
from terrafuse.web.service.roots import LONGEST, inside

_MOST_ENTRIES = 1000
_MOST_SEEN = 100_000


class FolderEntry(Message):
    """A folder; `path` leads to it."""

    name: str
    path: str


class RasterEntry(Message):
    """A raster; `path` names it in requests."""

    name: str
    path: str
    bytes: int


class FolderListing(Message):
    """A folder of those that the service reads.

    Args:
        path: Relative to the service's folders, with "/"; "": they themselves.
        left_out: Entries beyond the longest list.
    """

    path: str
    folders: tuple[FolderEntry, ...]
    rasters: tuple[RasterEntry, ...]
    left_out: int = 0


def files_router(roots: Sequence[Path]) -> APIRouter:
    """The route.

    Args:
        roots: Folders whose rasters may be named.
    """
    router = APIRouter()

    @router.get("/api/files")
    def list_files(
        _: Annotated[User, Depends(current_user)],
        path: Annotated[str, Query(max_length=LONGEST)] = "",
    ) -> FolderListing:
        """List folders and rasters that jobs may name."""
        try:
            return list_folder(path, roots)
        except DataError as error:
            raise Refusal(404, str(error)) from error

    return router


def list_folder(path: str, roots: Sequence[Path]) -> FolderListing:
    """List a folder under the roots.

    All roots are shown as one: a name that two of them have is the first one's, as `resolve` finds
    it. Hidden entries, links that lead elsewhere, and what nobody may read are left out.

    Raises:
        DataError: There is no such folder in any of them.
    """
    plain = _plain(path)
    folders: dict[str, FolderEntry] = {}
    rasters: dict[str, RasterEntry] = {}
    is_found = not plain
    for root in roots:
        real = root.resolve()
        folder = inside(real / plain, real)
        if folder is None or not folder.is_dir():
            continue
        is_found = True
        for entry in _entries(folder):
            if entry.name in folders or entry.name in rasters:
                continue
            _note(entry, real, f"{plain}/{entry.name}" if plain else entry.name, folders, rasters)
    if not is_found:
        raise DataError(
            f"'{cut(path)}' is no folder of those that this service reads. Begin with "
            "/api/files, which lists them"
        )
    shown_folders = sorted(folders.values(), key=lambda entry: _key(entry.name))
    shown_rasters = sorted(rasters.values(), key=lambda entry: _key(entry.name))
    rest = max(0, _MOST_ENTRIES - len(shown_folders))
    left = max(0, len(shown_folders) - _MOST_ENTRIES) + max(0, len(shown_rasters) - rest)
    return FolderListing(
        path=plain,
        folders=tuple(shown_folders[:_MOST_ENTRIES]),
        rasters=tuple(shown_rasters[:rest]),
        left_out=left,
    )


def _plain(path: str) -> str:
    """A relative path without empty parts.

    Raises:
        DataError: It is absolute, leads upwards, or has control characters.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or "\\" in path or ".." in parts or not (path or " ").isprintable():
        raise DataError(
            f"'{cut(path)}' is no folder of those that this service reads: paths are relative to "
            "them, with '/' and without '..'. Begin with /api/files, which lists them"
        )
    return "/".join(parts)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= _MOST_SEEN:
                    return
                if not entry.name.startswith(".") and entry.name.isprintable():
                    yield entry
    except OSError:  # nobody may read it, or it has gone: there is nothing to choose
        return


def _note(
    entry: os.DirEntry[str],
    root: Path,
    path: str,
    folders: dict[str, FolderEntry],
    rasters: dict[str, RasterEntry],
) -> None:
    """Put an entry where it belongs, if anywhere."""
    try:
        if entry.is_symlink() and inside(Path(entry.path), root) is None:
            return
        if entry.is_dir():
            folders[entry.name] = FolderEntry(name=entry.name, path=path)
        elif entry.is_file() and entry.name.lower().endswith(SUFFIXES):
            size = entry.stat().st_size
            rasters[entry.name] = RasterEntry(name=entry.name, path=path, bytes=size)
    except OSError:
        return


def _key(name: str) -> tuple[str, str]:
    return name.casefold(), name
