"""Scores per region: administrative units, catchments, strata, given as polygons.

A pixel belongs to a region if its centre lies in one of the region's polygons. Where regions
overlap, a pixel counts in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.polygons import RegionFile
from terrafuse.errors import DataError
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.scores import ClassMean, score, score_classes
from terrafuse.samples import IGNORE_INDEX

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene


@dataclass(frozen=True)
class RegionScores:
    """Scores per region; a `FurtherScore`.

    Args:
        file: Polygons of the regions.
        classes: Names of the K classes.
        class_mean: As in `score`; so is `mean_over`.
    """

    file: RegionFile
    classes: tuple[str, ...]
    class_mean: ClassMean = "present"
    mean_over: tuple[int, ...] | None = None
    name: str = "regions"

    def key(self) -> Any:
        """See `FurtherScore`."""
        return self.file.state()

    def count(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> dict[str, list[list[int]]]:
        """Return a matrix (K, K + 1) per region that the scene has pixels of.

        Raises:
            RasterReadError: The polygons cannot be read.
            GridMismatchError: Only one of polygons and scene has a CRS.
            LabelError: There are geometries other than polygons.
        """
        found: dict[str, list[list[int]]] = {}
        for name, window, inside in self.file.masks(scene.grid):
            matrix = ConfusionMatrix(len(self.classes))
            part = window.slices()
            matrix.update(np.where(inside, labels[part], np.uint8(IGNORE_INDEX)), class_map[part])
            if matrix.pixels:
                found[name] = matrix.counts.tolist()
        return found

    def report(self, counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `FurtherScore`.

        Raises:
            DataError: No region has a pixel with a label.
        """
        names = sorted({name for own in counts for name in own})
        if not names:
            raise DataError(
                f"no labelled pixel of these scenes lies in a region of '{self.file.path}'. Check "
                "that its polygons cover them, and its CRS"
            )
        rows = {}
        for name in names:
            matrix = np.sum(
                [np.array(own[name], np.int64) for own in counts if name in own], axis=0
            )
            scores = score(matrix, self.class_mean, mean_over=self.mean_over)
            iou = score_classes(matrix).iou
            rows[name] = {
                "oa": scores.oa,
                "miou": scores.miou,
                "iou": {
                    own: None if np.isnan(value) else float(value)
                    for own, value in zip(self.classes, iou, strict=True)
                },
                "pixels": int(matrix.sum()),
                "unmapped": int(matrix[:, -1].sum()),
            }
        return {"file": self.file.path, "column": self.file.column, "per_region": rows}
