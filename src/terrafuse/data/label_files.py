"""The label files of a scene: those to learn from, and others to score with."""

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
        RasterReadError: Missing, or no raster.
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
    """Labels on the grid of a scene.

    Args:
        path: The file.
        file: The raster it is, with its place; None for polygons.
        scheme: What the values mean.
        rules: How it is read.
        grid: The scene's grid.
        reference: The whole of which `grid` is a part.
        where: Names the labels in messages.
        shared: Whether polygons are of several scenes, of which some may hold none.

    Raises:
        DataError: What `RasterLabels` and `PolygonLabels` raise.
    """
    if file is None:
        return PolygonLabels(path, scheme, rules, grid, where, shared=shared)
    return RasterLabels(file, scheme, rules, grid, reference, where)


@dataclass(frozen=True)
class LabelMask:
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


class MaskedLabels:
    """Labels, void outside an area. Where a window holds none of it, nothing is read.

    Args:
        labels: All of them.
        area: What to keep.
    """

    def __init__(self, labels: Labels, area: LabelMask) -> None:
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
