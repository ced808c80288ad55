"""Labels of a part of a scene only: the others are void, whoever reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.labels import Labels
from terrafuse.samples import IGNORE_INDEX, Window


@dataclass(frozen=True)
class KeptArea:
    """Blocks of a scene.

    Args:
        side: Of a block, in scene pixels.
        blocks: Whether a block is kept, bool (rows, cols).
    """

    side: int
    blocks: NDArray[np.bool_]

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window are kept, bool (h, w); none beyond the blocks."""
        mask = np.zeros((window.height, window.width), bool)
        inner = window.intersection(Window(0, 0, *(n * self.side for n in self.blocks.shape)))
        if inner is not None:
            rows = np.arange(inner.row, inner.row_stop) // self.side
            cols = np.arange(inner.col, inner.col_stop) // self.side
            mask[inner.slices(window)] = self.blocks[np.ix_(rows, cols)]
        return mask


class KeptLabels:
    """Labels, void outside an area. Where a window holds none of it, nothing is read.

    Args:
        labels: All of them.
        area: What to keep.
    """

    def __init__(self, labels: Labels, area: KeptArea) -> None:
        self._labels = labels
        self._area = area

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class indices (h, w), 255 = ignore."""
        kept = self._area.mask(window)
        if not kept.any():
            return np.full(kept.shape, IGNORE_INDEX, np.uint8)
        return np.where(kept, self._labels.read(window), np.uint8(IGNORE_INDEX))

    def close(self) -> None:
        """Close the files, as far as this process has them open."""
        self._labels.close()
