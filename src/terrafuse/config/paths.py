"""Paths as users write them: whatever they are, asking about them raises nothing."""

from __future__ import annotations

from pathlib import Path


def expand_home(path: Path | str) -> Path:
    """`path` with "~" replaced; of a user who does not exist it stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: Path | str) -> bool:
    """Tell whether there is a file or folder; a name that is too long is of none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
