"""Smallest patch of a class map: GDAL's sieve over the whole map, so across edges of units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import sieve

from terrafuse.errors import NotEnoughMemoryError
from terrafuse.memory import explaining_memory, free_memory, in_words
from terrafuse.prediction.areas import read_rows

# The map, which pixels count, the sieved map; GDAL's tables of patches come to less than a byte
# where patches have 20 pixels on average.
_BYTES_PER_PIXEL = 4
_ADVICE = (
    "Leave out --sieve and sieve the finished map elsewhere (gdal_sieve), or take a machine with "
    "more memory"
)


def check_sieve(height: int, width: int) -> None:
    """Refuse a map that cannot be held in memory, as sieving needs.

    Raises:
        NotEnoughMemoryError: It cannot.
    """
    needed, free = _BYTES_PER_PIXEL * height * width, free_memory()
    if free is not None and needed > free:
        raise NotEnoughMemoryError(
            f"sieving a map of {height} × {width} pixels needs about {in_words(needed)} of memory, "
            f"and {in_words(free)} are free. {_ADVICE}"
        )


def sieve_map(path: Path, size: int, kept: set[int]) -> tuple[NDArray[np.uint8], int]:
    """Merge small patches of a class map into their largest neighbours, 4-connected.

    Args:
        path: The map.
        size: Patches of fewer pixels are merged.
        kept: Pixel values that neither merge nor are merged into.

    Returns:
        Pixels (H, W), and how many were changed.

    Raises:
        NotEnoughMemoryError: Memory did not suffice.
    """
    with explaining_memory("sieving", _ADVICE), rasterio.open(path) as dataset:
        check_sieve(dataset.height, dataset.width)
        pixels: NDArray[np.uint8] = dataset.read(1)
        counts = ~np.isin(pixels, list(kept))
        if counts.any():
            pixels = sieve(pixels, size, mask=counts, connectivity=4)
    changed = sum(
        int(np.count_nonzero(before != pixels[row : row + len(before)]))
        for row, before in read_rows(path)
    )
    return pixels, changed
