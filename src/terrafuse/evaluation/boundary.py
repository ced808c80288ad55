"""Boundary F1: positional accuracy of the boundaries between classes.

For class c, the boundary of a map is every pixel of c with a 4-neighbour of another class; the
image frame is not a boundary. Precision is the share of mapped boundary pixels within θ pixels
(Euclidean) of a reference boundary pixel of the same class, recall the converse. Counts are summed
over scenes before F1 = 2PR / (P + R) is computed per class.

Pixels ignored in the reference, or without data in the map, belong to no class in either, so
nothing is a boundary against them and values mapped there never change the score. Reference
boundary pixels that touch one, and mapped boundary pixels within θ of one, are not counted; other
pixels may still be matched with them, or identical maps would not score 1.

Reference:
    Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation? BMVC
    2013. There F1 is averaged over images, and θ is 0.75 % of the diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from terrafuse.samples import IGNORE_INDEX

# Share of boundary pixels, per offset, above which all pixels are compared rather than these alone:
# bytes in a row are compared several hundred times faster than bytes here and there.
_SWEPT = 0.0025
_SWEPT_BYTES = 2**16


class BoundaryPixels(NamedTuple):
    """Boundary pixels of a map or a reference.

    Args:
        rows: In the scene (n,); `cols` likewise.
        classes: Uint8 (n,).
        near: Whether a pixel of the same class's boundary in the other one is near, bool (n,).
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    classes: NDArray[np.uint8]
    near: NDArray[np.bool_]


class BoundaryScore:
    """Matched and counted boundary pixels per class, over any number of scenes.

    Args:
        num_classes: Number of classes, K.
        tolerance_px: Tolerance θ, in pixels.
    """

    def __init__(self, num_classes: int, tolerance_px: float) -> None:
        self.num_classes = num_classes
        self.tolerance_px = tolerance_px
        self._offsets = _disc(tolerance_px)
        #: Int64 (K, 4): boundary pixels of the map, matched and total; of the reference likewise.
        self.counts: NDArray[np.int64] = np.zeros((num_classes, 4), np.int64)

    def update(self, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> None:
        """Add a scene.

        Args:
            labels: Reference classes of the whole scene, uint8 (H, W); 255 is ignored.
            class_map: Mapped classes, uint8 (H, W); 255 = no data, which is ignored too.
        """
        for column, found in zip((2, 0), self.matches(labels, class_map), strict=True):
            for further, classes in enumerate((found.classes[found.near], found.classes)):
                self.counts[:, column + further] += np.bincount(classes, minlength=self.num_classes)
            del found  # the next ones need the memory

    def matches(
        self, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> Iterator[BoundaryPixels]:
        """Yield the boundary pixels that count, of the reference and then of the map.

        Args:
            labels: As in `update`; so is `class_map`.
        """
        ignored = (labels == IGNORE_INDEX) | (class_map == IGNORE_INDEX)
        reference, mapped = (
            boundaries(np.where(ignored, np.uint8(IGNORE_INDEX), classes))
            for classes in (labels, class_map)
        )
        counted = reference.copy()
        counted[_touching(ignored)] = IGNORE_INDEX
        yield self._match(counted, reference=mapped)
        counted = mapped.copy()
        if ignored.any():
            points = np.flatnonzero(mapped != IGNORE_INDEX)
            source = np.ones(mapped.shape, np.uint8)
            near = self._near(points, source, ignored.view(np.uint8))
            counted.ravel()[points[near]] = IGNORE_INDEX
        yield self._match(counted, reference=reference)

    def merge(self, other: BoundaryScore) -> None:
        """Add the counts of another score."""
        self.counts += other.counts

    def f1(self) -> NDArray[np.float64]:
        """Return F1 per class (K,); NaN where neither map nor reference has a boundary.

        Where only one of them has counted pixels, their matched share is the score: 0 if the other
        has no boundary at all, more if its boundary was left out next to ignored pixels.
        """
        hit, mapped, found, reference = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            precision, recall = hit / mapped, found / reference
            f1 = 2 * precision * recall / (precision + recall)
        f1 = np.where(precision + recall == 0, 0.0, f1)
        f1 = np.where(np.isnan(precision), recall, f1)
        return np.where(np.isnan(recall), precision, f1)

    def _match(self, counted: NDArray[np.uint8], *, reference: NDArray[np.uint8]) -> BoundaryPixels:
        """Tell which boundary pixels of `counted` are near those of `reference`."""
        points = np.flatnonzero(counted != IGNORE_INDEX)
        near = self._near(points, counted, reference)
        rows = points // counted.shape[1]
        return BoundaryPixels(rows, points - rows * counted.shape[1], counted.ravel()[points], near)

    def _near(
        self, points: NDArray[np.intp], source: NDArray[np.uint8], image: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Tell for each point whether `image` holds its value within the tolerance, bool (n,).

        Args:
            points: Flat positions in `source`.
            source: Holds their values, (H, W).
            image: (H, W).
        """
        radius = int(self.tolerance_px)
        padded = np.pad(image, radius, constant_values=IGNORE_INDEX)
        if len(points) > _SWEPT * len(self._offsets) * source.size:
            return self._sweep(source, padded).ravel()[points]
        return self._search(points, source, padded)

    def _sweep(self, source: NDArray[np.uint8], padded: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell for every pixel of `source` whether it has its value nearby, bool (H, W)."""
        radius = int(self.tolerance_px)
        height, width = source.shape
        near = np.zeros(source.shape, dtype=bool)
        rows = max(1, _SWEPT_BYTES // width)  # they stay in a processor's cache
        for start in range(0, height, rows):
            own, found = source[start : start + rows], near[start : start + rows]
            for row, col in self._offsets:
                top, left = start + radius + row, radius + col
                found |= own == padded[top : top + len(own), left : left + width]
        return near

    def _search(
        self, points: NDArray[np.intp], source: NDArray[np.uint8], padded: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Tell the same for each point.

        Offsets are tried one after the other, the nearest first, for points not yet matched only.
        Where boundary pixels are few and most have a match nearby, this is ten to a hundred times
        faster than a distance transform per class, and exact.
        """
        radius = int(self.tolerance_px)
        width = padded.shape[1]
        flat = padded.ravel()
        rows = points // source.shape[1]
        place = points + rows * (2 * radius) + (radius * width + radius)
        values = source.ravel()[points]
        waiting = np.arange(len(place))
        near = np.zeros(len(place), dtype=bool)
        for row, col in self._offsets:
            hit = flat[place + (row * width + col)] == values
            near[waiting[hit]] = True
            place, values, waiting = place[~hit], values[~hit], waiting[~hit]
            if not len(place):
                break
        return near


def boundaries(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of pixels with a 4-neighbour of another class, else 255; uint8 (H, W).

    Args:
        classes: Class indices (H, W); 255 belongs to no class.
    """
    known = classes != IGNORE_INDEX
    edge = np.zeros(classes.shape, dtype=bool)
    for ahead, behind in _NEIGHBOURS:
        differs = (classes[ahead] != classes[behind]) & known[ahead] & known[behind]
        edge[ahead] |= differs
        edge[behind] |= differs
    return np.where(edge, classes, np.uint8(IGNORE_INDEX))


_NEIGHBOURS = (
    (np.s_[1:, :], np.s_[:-1, :]),
    (np.s_[:, 1:], np.s_[:, :-1]),
)


def _touching(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilate a mask by its 4-neighbours."""
    grown = mask.copy()
    for ahead, behind in _NEIGHBOURS:
        grown[ahead] |= mask[behind]
        grown[behind] |= mask[ahead]
    return grown


def _disc(radius: float) -> list[tuple[int, int]]:
    """List the offsets (row, col) within a Euclidean distance, the nearest first."""
    reach = range(-int(radius), int(radius) + 1)
    inside = [(r * r + c * c, r, c) for r in reach for c in reach if r * r + c * c <= radius**2]
    return [(r, c) for _, r, c in sorted(inside)]
