"""Folders whose files may be named in requests."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from terrafuse.errors import DataError, cut

LONGEST = 4096


def resolve(name: str, roots: Sequence[Path]) -> Path:
    """Return the file that a request names.

    Args:
        name: A path relative to one of the folders, or absolute and in one of them.
        roots: Allowed folders.

    Returns:
        The absolute path of a regular file in one of the folders, all links followed. It begins
        with a slash, so that GDAL takes it for nothing but a file.

    Raises:
        DataError: There is no such file there. What lies outside is not told from what does not
            exist, and no folder of the server is named.
    """
    _check_text(name)
    if not roots:
        raise DataError(
            f"'{cut(name)}' cannot be read: this service reads no files of the server. Send the "
            "raster (POST /api/uploads) and name it as upload:ID"
        )
    for candidate, root in _candidates(name, roots):
        found = inside(candidate, root)
        if found is not None:
            return _checked(found, name)
    raise DataError(
        f"'{cut(name)}' is no file in the folders that this service reads. Give a path relative to "
        "one of them"
    )


def _check_text(name: str) -> None:
    if not name or len(name) > LONGEST or not name.isprintable():
        raise DataError(
            f"'{cut(name)}' is no name of a file: 1 to {LONGEST} characters without control "
            "characters are allowed"
        )
    if name.startswith("\\\\") or ".." in name.replace("\\", "/").split("/"):
        raise DataError(
            f"'{cut(name)}' is no name of a file of this service: '..' and names of other machines "
            "are not allowed. Give a path relative to one of its folders"
        )


def _candidates(name: str, roots: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    for root in roots:
        real = root.resolve()
        given = Path(name)
        if not given.is_absolute():
            yield real / given, real
            continue
        # Both the folder's own path and the one that it is a link to are names of it.
        for written in (root.absolute(), real):
            if given.is_relative_to(written):
                yield real / given.relative_to(written), real
                break


def inside(candidate: Path, root: Path) -> Path | None:
    """The file with all links followed, where it lies in the folder."""
    try:
        found = candidate.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # not there, a circle of links, too long
        return None
    return found if found.is_relative_to(root) else None


def _checked(found: Path, name: str) -> Path:
    try:
        mode = found.stat().st_mode
        if stat.S_ISREG(mode):
            with found.open("rb"):
                return found
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    except OSError as error:
        raise DataError(
            f"'{cut(name)}' cannot be read: {error.strerror}. Ask whoever runs the service for "
            "permission to read it"
        ) from error
    raise DataError(f"'{cut(name)}' is {kind}, no file. Name one raster")
