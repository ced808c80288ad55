"""Whether a path on this disk is a file that can be read, before GDAL is asked to.

GDAL waits for ever at a named pipe, and calls a file that nobody may read missing or damaged.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What does not exist, or lies in what is no folder.
_ABSENT = (FileNotFoundError, NotADirectoryError)
_LONGEST = 300


def obstacle(path: Path | str, named: str = "") -> str:
    """Why a path cannot be read as a file, with what to do about it; "" if it can.

    Folders pass: several formats of rasters are folders.

    Args:
        named: The name that the path was taken from, where it is more than that.
    """
    name = f"'{shown(path)}'"
    if named and named != str(path):
        name += f", which '{shown(named)}' names,"
    try:
        about = Path(path).stat()
    except _ABSENT:
        return f"there is no file {name}".rstrip(",")
    except (OSError, ValueError) as error:  # too long, links in a circle, a NUL
        reason = getattr(error, "strerror", None) or str(error)
        return f"{name} cannot be looked up ({reason}). Correct the path"
    kind = _KINDS.get(stat.S_IFMT(about.st_mode))
    if kind is not None:
        return (
            f"{name} is {kind}; rasters and vectors are read from files. Copy what it gives to a "
            "file first"
        )
    if not os.access(path, os.R_OK):
        mode = f"{stat.S_IMODE(about.st_mode):04o}"
        return (
            f"{name} may not be read: its permissions are {mode}. Change them with 'chmod +r', or "
            "ask its owner to"
        )
    return ""


def is_file(path: Path | str) -> bool:
    """Tell whether a path is a regular file."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_stream(path: Path | str) -> bool:
    """Tell whether a path is a named pipe, a socket or a device."""
    try:
        return stat.S_IFMT(Path(path).stat().st_mode) in _KINDS
    except (OSError, ValueError):
        return False


def shown(path: Path | str) -> str:
    """A path as messages show it: control characters escaped, a long one without its middle."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"
