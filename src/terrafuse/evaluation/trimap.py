"""Trimap: scores of the pixels near the boundaries of the reference.

A pixel is within n pixels of a boundary if it lies at most n pixels (Euclidean) from a pixel with
one of its four neighbours in another class. The edge of the image, and that of ignored pixels, is
no boundary. For each n there is a confusion matrix, and scores from it.

Reference:
    Kohli, Ladický, Torr: Robust Higher Order Potentials for Enforcing Label Consistency.
    International Journal of Computer Vision 82 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from terrafuse.errors import ConfigError
from terrafuse.evaluation.boundary import boundaries
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.scores import ClassMean, score
from terrafuse.samples import IGNORE_INDEX

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

_MOST_PX = 512
# Pixels whose distances, 8 bytes each and more on the way, are in memory at a time.
_BAND = 2**22


@dataclass(frozen=True)
class TrimapScores:
    """Scores within some distances of boundaries; a `FurtherScore`.

    Args:
        widths: Distances in pixels, ascending.
        num_classes: K.
        class_mean: As in `score`; so is `mean_over`.

    Raises:
        ConfigError: No distance, one twice, or one that is not allowed.
    """

    widths: tuple[float, ...]
    num_classes: int
    class_mean: ClassMean = "present"
    mean_over: tuple[int, ...] | None = None
    name: str = "trimap"

    def __post_init__(self) -> None:
        is_rising = all(a < b for a, b in zip(self.widths, self.widths[1:], strict=False))
        if (
            not self.widths
            or not is_rising
            or not 0 <= self.widths[0] <= self.widths[-1] <= _MOST_PX
        ):
            given = ",".join(f"{width:g}" for width in self.widths)
            raise ConfigError(
                f"distances of --trimap are '{given}'; give pixels from 0 to {_MOST_PX} in rising "
                "order, such as 1,3,5"
            )

    def key(self) -> Any:
        """See `FurtherScore`."""
        return list(self.widths)

    def count(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> list[list[list[int]]]:
        """Return a matrix (K, K + 1) per distance, as `ConfusionMatrix` has it."""
        del scene
        matrices = [ConfusionMatrix(self.num_classes) for _ in self.widths]
        edge = boundaries(labels) != IGNORE_INDEX
        reach = ceil(self.widths[-1])
        height, width = labels.shape
        rows = max(1, _BAND // width)
        for start in range(0, height, rows):
            first, stop = max(0, start - reach), min(height, start + rows + reach)
            near = edge[first:stop]
            if not near.any():
                continue
            own = slice(start, min(height, start + rows))
            far = scipy.ndimage.distance_transform_edt(~near)[own.start - first : own.stop - first]
            for matrix, distance in zip(matrices, self.widths, strict=True):
                shown = np.where(far <= distance, labels[own], np.uint8(IGNORE_INDEX))
                matrix.update(shown, class_map[own])
        return [matrix.counts.tolist() for matrix in matrices]

    def report(self, counts: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """See `FurtherScore`."""
        found = {}
        for place, distance in enumerate(self.widths):
            matrix = np.sum([np.array(own[place], np.int64) for own in counts], axis=0)
            scores = score(matrix, self.class_mean, mean_over=self.mean_over)
            found[f"{distance:g}"] = {
                "oa": scores.oa,
                "miou": scores.miou,
                "pixels": int(matrix.sum()),
                "unmapped": int(matrix[:, -1].sum()),
            }
        return {"within_px": found}
