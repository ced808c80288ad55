"""Values of a modality relative to their range in the scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrafuse.samples import Window, blocks

#: Unit of a rescaled modality, whatever it was before: decibels and metres are none any more.
RESCALED_UNIT = "scene range"

_BLOCK = 512


@dataclass(frozen=True)
class SceneRange:
    """Smallest value and extent of each band over all its pixels with data.

    Args:
        low: Float32 (C,); 0 where a band has no data.
        extent: Largest minus smallest, float32 (C,); 1 where a band is constant or has no data.
    """

    low: NDArray[np.float32]
    extent: NDArray[np.float32]

    @classmethod
    def measure(
        cls, read: Callable[[Window], NDArray[np.float32]], height: int, width: int
    ) -> SceneRange:
        """Go through a raster once, block by block.

        Args:
            read: Values (C, h, w) of a window, NaN without data.
            height: Rows of the raster.
            width: Columns of the raster.
        """
        lows, highs = [], []
        for window in blocks(height, width, _BLOCK):
            image = read(window)
            lows.append(np.fmin.reduce(image, axis=(1, 2), initial=np.inf))
            highs.append(np.fmax.reduce(image, axis=(1, 2), initial=-np.inf))
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        # A band without variation becomes 0, not 0/0.
        return cls(np.where(low <= high, low, 0), np.where(low < high, high - low, 1))

    def rescale(self, image: NDArray[np.float32]) -> None:
        """Change an image (C, h, w) in place: smallest of the scene → 0, largest → 1."""
        image -= self.low[:, None, None]
        image /= self.extent[:, None, None]
