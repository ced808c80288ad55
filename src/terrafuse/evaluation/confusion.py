"""Confusion matrix: one int64 table over all scored pixels of all scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import LabelError, ModelError
from terrafuse.samples import IGNORE_INDEX

# Pixels counted at a time: numpy's bincount needs 8 bytes for each.
_CHUNK = 2**20


class ConfusionMatrix:
    """Counts of reference class × mapped class.

    Args:
        num_classes: Number of classes, K; at most 255.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        #: Int64 (K, K + 1), rows = reference, columns = map; last column: no data in the map.
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), np.int64)

    @property
    def matrix(self) -> NDArray[np.int64]:
        """Int64 (K, K), rows = reference, columns = map, without unmapped pixels."""
        return self.counts[:, : self.num_classes]

    @property
    def unmapped(self) -> int:
        """Number of pixels with a reference class but no data in the map; they count as wrong."""
        return int(self.counts[:, self.num_classes].sum())

    @property
    def pixels(self) -> int:
        """Number of scored pixels."""
        return int(self.counts.sum())

    def update(self, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> None:
        """Add the pixels of a map.

        Args:
            labels: Reference classes, uint8 (H, W); 255 is ignored.
            class_map: Mapped classes, uint8 (H, W); 255 = no data.

        Raises:
            LabelError: A reference class is not one of the K.
            ModelError: A mapped class is not one of the K.
        """
        assert labels.shape == class_map.shape, (labels.shape, class_map.shape)
        counts = np.zeros(2**16, np.int64)
        flat_labels, flat_map = labels.ravel(), class_map.ravel()
        for start in range(0, flat_labels.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            joint = flat_labels[part].astype(np.uint16) << 8 | flat_map[part]
            counts += np.bincount(joint, minlength=2**16)
        table = counts.reshape(256, 256)[:IGNORE_INDEX]  # 255 in the reference is dropped here
        self._check(table)
        self.matrix[:] += table[: self.num_classes, : self.num_classes]
        self.counts[:, self.num_classes] += table[: self.num_classes, IGNORE_INDEX]

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix (another scene, another process)."""
        self.counts += other.counts

    def _check(self, table: NDArray[np.int64]) -> None:
        highest = self.num_classes - 1
        stray_labels = np.flatnonzero(table[self.num_classes :].any(axis=1)) + self.num_classes
        if stray_labels.size:
            raise LabelError(
                f"labels hold class {stray_labels[0]}; allowed are 0 to {highest}, and 255 = ignore"
            )
        columns = table[:, self.num_classes : IGNORE_INDEX]
        stray_classes = np.flatnonzero(columns.any(axis=0)) + self.num_classes
        if stray_classes.size:
            raise ModelError(
                f"the map holds class {stray_classes[0]}; allowed are 0 to {highest}, "
                "and 255 = no data"
            )
