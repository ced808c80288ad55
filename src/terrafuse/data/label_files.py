"""The label files of a scene: those to learn from, and others to score with."""

from __future__ import annotations

from typing import Literal

from terrafuse.classes import ClassScheme
from terrafuse.data.files import RasterFile, inspect_raster
from terrafuse.data.grid import Grid
from terrafuse.data.labels import LabelRules, Labels, RasterLabels
from terrafuse.data.polygons import PolygonLabels, is_vector

#: Keys of a scene that name label files: all labels, or without the boundaries between classes.
ReferenceName = Literal["labels", "labels_eroded"]


def inspect_labels(path: str | None, where: str) -> RasterFile | None:
    """The raster that labels are; None for polygons, or without labels.

    Raises:
        RasterReadError: Missing, or no raster.
    """
    if path is None or is_vector(path):
        return None
    return inspect_raster(path, where, judge_alpha=False)  # what is drawn over is not labelled


def open_labels(
    path: str,
    file: RasterFile | None,
    scheme: ClassScheme,
    rules: LabelRules,
    grid: Grid,
    reference: Grid,
    where: str,
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

    Raises:
        DataError: What `RasterLabels` and `PolygonLabels` raise.
    """
    if file is None:
        return PolygonLabels(path, scheme, rules, grid, where)
    return RasterLabels(file, scheme, rules, grid, reference, where)
