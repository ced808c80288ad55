"""Label files of a scene: those for training, and others for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import Grid
from terrafuse.data.labels import LabelRules, Labels, RasterLabels
from terrafuse.data.polygons import PolygonLabels, is_vector
from terrafuse.data.raster_file import RasterFile, inspect_pages
from terrafuse.samples import IGNORE_INDEX, Window

#: Keys of a scene that name label files: all labels, or without the boundaries between classes.
ReferenceName = Literal["labels", "labels_eroded"]


def inspect_labels(path: str | None, where: str, page: int | None = None) -> RasterFile | None:
    """The raster that labels are; None for polygons, or without labels.

    Args:
        path: The file.
        where: Names the labels in messages.
        page: Page to take of a file that has several.

    Raises:
        RasterReadError: Missing, or not a raster.
    """
    if path is None or is_vector(path):
        return None
    # Alpha counts as tagged: what is drawn over is not labelled.
    return inspect_pages(path, page, where, judge_alpha=False)[0]


def open_labels(
    path: str,
    file: RasterFile | None,
    scheme: ClassScheme,
    rules: LabelRules,
    grid: Grid,
    reference: Grid,
    where: str,
    *,
    shared: bool = False,
) -> Labels:
    """Open labels on the grid of a scene.

    Args:
        file: Its raster, placed on the grid; None for polygons.
        grid: The scene's grid.
        reference: Full grid of which `grid` is a part.
        where: Names the labels in messages.
        shared: Whether polygons are of several scenes, of which some may hold none.

    Raises:
        DataError: As raised by `RasterLabels` and `PolygonLabels`.
    """
    if file is None:
        return PolygonLabels(path, scheme, rules, grid, where, shared=shared)
    return RasterLabels(file, scheme, rules, grid, reference, where)


@dataclass(frozen=True)
class LabelMask:
    """The blocks of a scene whose labels are kept.

    Args:
        side: Side of a block, in scene pixels.
        blocks: Whether a block is kept, bool (rows, cols).
    """

    side: int
    blocks: NDArray[np.bool_]

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return the pixels of a window that are kept, bool (h, w); none beyond the blocks."""
        mask = np.zeros((window.height, window.width), bool)
        inner = window.intersection(Window(0, 0, *(n * self.side for n in self.blocks.shape)))
        if inner is not None:
            rows = np.arange(inner.row, inner.row_stop) // self.side
            cols = np.arange(inner.col, inner.col_stop) // self.side
            mask[inner.slices(window)] = self.blocks[np.ix_(rows, cols)]
        return mask


class MaskedLabels:
    """Labels, void outside an area. Windows that lie wholly outside are not read."""

    def __init__(self, labels: Labels, area: LabelMask) -> None:
        self._labels = labels
        self._area = area

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w), 255 = ignore."""
        kept = self._area.mask(window)
        if not kept.any():
            return np.full(kept.shape, IGNORE_INDEX, np.uint8)
        return np.where(kept, self._labels.read(window), np.uint8(IGNORE_INDEX))

    def close(self) -> None:
        """Close the files that this process has open."""
        self._labels.close()
