"""On-disk cache of window results, kept until the whole raster is finished; fingerprints."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.writing import written_whole

# Enough for a window and its eight neighbours, including those moved back at the end.
_KEPT = 12


def digest_settings(values: Mapping[str, Any]) -> str:
    """Return a fingerprint of plain values (as for JSON): sixteen hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class WindowCache:
    """Arrays by window number, each in a file that is written whole or not at all.

    Args:
        folder: Folder of the files; created on first writing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recent: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def path(self, number: int) -> Path:
        """Return the file of a window."""
        return self.folder / f"{number:06d}.npz"

    def has(self, number: int) -> bool:
        """Tell whether a window is cached and readable; remove its file if it is not readable."""
        path = self.path(number)
        if not path.exists():
            return False
        try:
            _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink()  # damaged by a machine crash
            return False
        return True

    def save(self, number: int, values: NDArray[Any]) -> None:
        """Save the result of a window.

        Raises:
            OutputError: The disk is full, or fails.
        """
        with (
            written_whole(self.path(number)) as (partial,),
            partial.open("wb") as file,
        ):
            np.savez_compressed(file, values=values)

    def load(self, number: int) -> NDArray[Any]:
        """Load the result of a window; the most recent ones stay in memory."""
        if number in self._recent:
            self._recent.move_to_end(number)
        else:
            self._recent[number] = _read(self.path(number))
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return self._recent[number]

    def remove(self) -> None:
        """Delete all files."""
        self._recent.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> NDArray[Any]:
    # Opened here: numpy does not close a file that is not an archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        values: NDArray[Any] = arrays["values"]
    return values
