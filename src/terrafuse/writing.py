"""Atomic writing: files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terrafuse.errors import OutputError, TerrafuseError


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Yield temporary names to write under; the files get their own once all are written.

    Args:
        paths: Files in one folder, which is created if needed. Earlier content stays until then,
            and for good if writing fails.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    partials = [path.with_name(path.name + ".partial") for path in paths]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        yield partials
        for partial, path in zip(partials, paths, strict=True):
            partial.replace(path)
    except TerrafuseError:
        raise
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"'{paths[0]}' cannot be written: {reason}. Free space, or choose another folder"
        ) from error
    finally:
        # `lexists` tolerates a folder that is a file.
        for partial in partials:
            if os.path.lexists(partial):
                partial.unlink()
