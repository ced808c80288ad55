"""Object scores: are the buildings there, whatever their outlines.

Objects of a class are its connected pixels: those that touch at a side. A mapped and a reference
object of the same class are a match where the intersection over union of their pixels is above
0.5; each then has one match at most, so that no assignment has to be chosen. With TP matches, FP
mapped objects and FN reference objects without one:

| score | formula |
|---|---|
| precision, recall | TP / (TP + FP), TP / (TP + FN) |
| F1, the recognition quality RQ | TP / (TP + FP / 2 + FN / 2) |
| segmentation quality SQ | mean IoU of matches |
| panoptic quality PQ | SQ · RQ |

Ignored pixels of the reference belong to no object: they are taken off mapped objects, and of those
without a match, the ones of which more than half is ignored are not counted. Reference objects
smaller than `least_px` are ignored likewise; mapped ones are not counted.

Objects are those of one scene: what a scene's edge cuts counts as it is.

Reference:
    Kirillov, He, Girshick, Rother, Dollár: Panoptic Segmentation. CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, unknown_name
from terrafuse.samples import IGNORE_INDEX

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

# IoUs are summed as whole numbers of this step, so that sums are exact in any order.
_STEP = 1e-9
_MATCHED, _MAPPED, _MISSED, _IOU = range(4)


@dataclass(frozen=True)
class ObjectScores:
    """Objects of some classes; a `FurtherScore`.

    Args:
        classes: Name → index.
        least_px: Smaller objects do not count.
    """

    classes: Mapping[str, int]
    least_px: int = 1
    name: str = "objects"

    @classmethod
    def of(cls, names: Sequence[str], scheme: ClassScheme, least_px: int = 1) -> ObjectScores:
        """Scores of named classes.

        Raises:
            ConfigError: A name is not a class, or the smallest object has less than a pixel.
        """
        for name in names:
            if name not in scheme.names:
                raise ConfigError(unknown_name("class in --objects", name, scheme.names))
        if least_px < 1:
            raise ConfigError(f"the smallest object has {least_px} pixels; give 1 or more")
        return cls({name: scheme.names.index(name) for name in names}, least_px)

    def key(self) -> Any:
        """See `FurtherScore`."""
        return {"classes": dict(self.classes), "least_px": self.least_px}

    def count(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> dict[str, list[int]]:
        """Return per class TP, FP, FN and the summed IoU of matches, in steps."""
        del scene
        return {
            name: count_objects(labels, class_map, index, self.least_px)
            for name, index in self.classes.items()
        }

    def report(self, counts: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
        """See `FurtherScore`."""
        rows = {
            name: _scores(np.sum([own[name] for own in counts], axis=0)) for name in self.classes
        }
        known = [row["pq"] for row in rows.values() if row["pq"] is not None]
        return {
            "least_px": self.least_px,
            "pq": float(np.mean(known)) if known else None,
            "per_class": rows,
        }


def count_objects(
    labels: NDArray[np.uint8], class_map: NDArray[np.uint8], index: int, least_px: int = 1
) -> list[int]:
    """Count matched, further mapped, and missed objects of a class, and sum the IoU in steps.

    Args:
        labels: Reference classes, uint8 (H, W); 255 is ignored.
        class_map: Mapped classes, uint8 (H, W).
        index: The class.
        least_px: Smaller objects do not count.
    """
    reference, in_reference = _objects(labels == index)
    mapped, in_map = _objects(class_map == index)
    # Of each object, whether it counts; object 0 is the rest of the scene.
    is_small = in_reference < least_px
    is_small[0] = False
    ignored = np.bincount(
        mapped[(labels == IGNORE_INDEX) | is_small[reference]], minlength=len(in_map)
    )
    kept = in_map - ignored
    both = (reference > 0) & (mapped > 0) & ~is_small[reference]
    pairs = mapped[both].astype(np.int64) * len(in_reference) + reference[both]
    pairs, common = np.unique(pairs, return_counts=True)
    of_map, of_reference = np.divmod(pairs, len(in_reference))
    iou = common / (kept[of_map] + in_reference[of_reference] - common)
    found = iou > 0.5
    is_matched = np.zeros(len(in_map), bool)
    is_matched[of_map[found]] = True
    is_alone = ~is_matched & (in_map >= least_px) & (2 * ignored <= in_map)
    is_alone[0] = False
    total = int((~is_small).sum()) - 1
    steps = int(np.rint(iou[found] / _STEP).sum())
    return [int(found.sum()), int(is_alone.sum()), total - int(found.sum()), steps]


def _objects(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number of the object of each pixel (0: none), and pixels of each number."""
    numbers = np.empty(mask.shape, np.int32)
    scipy.ndimage.label(mask, output=numbers)
    return numbers, np.bincount(numbers.ravel())


def _scores(counts: NDArray[np.int64]) -> dict[str, Any]:
    matched, alone, missed = (int(counts[k]) for k in (_MATCHED, _MAPPED, _MISSED))
    quality = counts[_IOU] * _STEP / matched if matched else None
    recognised = _share(2 * matched, 2 * matched + alone + missed)
    return {
        "objects": matched + missed,
        "mapped": matched + alone,
        "matched": matched,
        "precision": _share(matched, matched + alone),
        "recall": _share(matched, matched + missed),
        "f1": recognised,
        "sq": None if quality is None else float(quality),
        "pq": recognised if quality is None else float(quality * (recognised or 0)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
