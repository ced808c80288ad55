"""What has been made of single windows, on disk until the whole raster is; and fingerprints."""

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

# Enough for a window and its eight neighbours, with those that are moved back at the end.
_KEPT = 12


def digest_settings(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that differ wherever the values (plain, as for JSON) do."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class WindowCache:
    """Arrays by number of the window, each in a file that is there whole or not at all.

    Args:
        folder: Where; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recent: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def path(self, number: int) -> Path:
        """File of a window."""
        return self.folder / f"{number:06d}.npz"

    def has(self, number: int) -> bool:
        """Whether the window is there and can be read; what cannot is removed."""
        path = self.path(number)
        if not path.exists():
            return False
        try:
            _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink()  # damaged by a crash of the machine
            return False
        return True

    def save(self, number: int, values: NDArray[Any]) -> None:
        """Keep what was made of a window.

        Raises:
            OutputError: The disk is full, or fails.
        """
        with (
            written_whole(self.path(number)) as (partial,),
            partial.open("wb") as file,
        ):
            np.savez_compressed(file, values=values)

    def load(self, number: int) -> NDArray[Any]:
        """What was made of a window; the latest few stay in memory."""
        if number in self._recent:
            self._recent.move_to_end(number)
        else:
            self._recent[number] = _read(self.path(number))
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return self._recent[number]

    def remove(self) -> None:
        """Remove the files."""
        self._recent.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> NDArray[Any]:
    # Opened here: numpy forgets to close what is no archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        values: NDArray[Any] = arrays["values"]
    return values
