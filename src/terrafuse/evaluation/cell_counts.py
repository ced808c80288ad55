"""Counting of a map by cells: classes and confidences strip by strip, boundaries of the whole.

Counts are the same whatever the strips, and their sums over cells are those of `ConfusionMatrix`
and `BoundaryScore`. What is 0 is not kept: a cell holds few of the classes.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.boundary import BoundaryScore
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.evidence import (
    CONFIDENCE_EDGES,
    CONFIDENCE_ROWS,
    CONFIDENCE_STEP,
    LEVELS,
    MEASURES,
    cell_size,
)
from terrafuse.prediction import SampledRows, Strip
from terrafuse.samples import IGNORE_INDEX

Ints = NDArray[np.integer[Any]]
#: What is looked at beside the class map.
CERTAINTY = SampledRows(
    ("confidence_float32", "entropy", "margin", "disagreement"), CONFIDENCE_ROWS
)
# Pixels counted at a time: they and their keys stay in a processor's cache.
_CHUNK = 2**17
# Up to so many possible values per key, counting all of them is faster than sorting the keys.
_DENSE = 8
_BINS = len(CONFIDENCE_EDGES)
_STEPS = round(1 / CONFIDENCE_STEP)
# Bin of each whole number of steps. A confidence within half a step of an edge may belong to the
# bin below: it is compared with the edge, as the smallest float32 that is not below that.
_BIN_OF_STEP = (
    np.searchsorted(CONFIDENCE_EDGES, (np.arange(_STEPS + 1) + 0.5) * CONFIDENCE_STEP) - 1
).astype(np.uint8)
_EDGES = CONFIDENCE_EDGES.astype(np.float32)
_EDGES = np.where(_EDGES < CONFIDENCE_EDGES, np.nextafter(_EDGES, np.float32(2)), _EDGES)


@dataclass(frozen=True)
class CellCounts:
    """What is not 0 of a table of counts, a row per cell.

    Args:
        places: Positions in the flat table, ascending; in the smallest unsigned type, as are
            `counts`.
    """

    places: Ints
    counts: Ints

    @classmethod
    def of_keys(cls, keys: Ints, size: int) -> CellCounts:
        """Count how often each position of a table occurs.

        Args:
            size: Of the flat table.
        """
        if size <= _DENSE * len(keys) + 2**12:
            return cls.of_table(np.bincount(keys, minlength=size))
        return cls._of(*np.unique(keys, return_counts=True))

    @classmethod
    def of_table(cls, table: Ints) -> CellCounts:
        """Take what is not 0 of a dense table."""
        places = np.flatnonzero(table)
        return cls._of(places, table.ravel()[places])

    @classmethod
    def sum(cls, parts: Sequence[CellCounts]) -> CellCounts:
        """Add tables of the same cells."""
        if len(parts) == 1:
            return parts[0]
        places = np.concatenate([np.zeros(0, np.uint8), *(part.places for part in parts)])
        counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
        order = np.argsort(places, kind="stable")
        places, counts = places[order], counts[order]
        starts = np.flatnonzero(np.r_[True, places[1:] != places[:-1]][: len(places)])
        sums = np.add.reduceat(counts.astype(np.int64), starts) if len(starts) else counts
        return cls._of(places[starts], sums)

    @classmethod
    def _of(cls, places: Ints, counts: Ints) -> CellCounts:
        return cls(_narrow(places), _narrow(counts))

    def total(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Sum over cells, int64.

        Args:
            shape: Of the counts of a cell.
        """
        summed = np.zeros(prod(shape), np.int64)
        np.add.at(summed, self.places.astype(np.int64) % len(summed), self.counts)
        return summed.reshape(shape)

    def to_text(self) -> str:
        """A text, for a line of a file."""
        steps = self.places.astype(np.int64)
        steps[1:] -= self.places[:-1].astype(np.int64)
        parts = [
            array.astype(array.dtype.newbyteorder("<")) for array in (_narrow(steps), self.counts)
        ]
        data = zlib.compress(b"".join(part.tobytes() for part in parts), level=1)
        sizes = [len(self.places), *(part.itemsize for part in parts)]
        return ":".join([*map(str, sizes), base64.b64encode(data).decode()])

    @classmethod
    def from_text(cls, text: str, size: int) -> CellCounts:
        """Inverse of `to_text`.

        Args:
            size: Of the flat table.

        Raises:
            ValueError: It is no such text; or LookupError or TypeError.
        """
        number, first, second, encoded = text.split(":")
        try:
            data = zlib.decompress(base64.b64decode(encoded, validate=True))
        except (zlib.error, binascii.Error) as error:
            raise ValueError(str(error)) from None
        end = int(number) * int(first)
        places = np.frombuffer(data[:end], f"<u{first}").cumsum(dtype=np.int64)
        counts = np.frombuffer(data[end:], f"<u{second}")
        if not len(places) == len(counts) == int(number) or (places >= size).any():
            raise ValueError("counts do not fit their table")
        return cls._of(places, counts)


def _narrow(values: Ints) -> Ints:
    """In the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))), copy=False)


@dataclass(frozen=True)
class MapCounts:
    """Counts of one map of a scene.

    Args:
        confusion: Of (K, K + 1) per cell, as in `ConfusionMatrix`.
        boundary: Of (K, 4) per cell, as in `BoundaryScore`; None where they are not compared.
        reliability: Of (bins, 3) per cell, as in `Evidence`.
        detection: Int64 (measures, levels, 2), likewise.
    """

    confusion: CellCounts
    boundary: CellCounts | None
    reliability: CellCounts
    detection: NDArray[np.int64]


class MapCounter:
    """Counts of one map of a scene, strip by strip.

    Args:
        labels: Reference classes of the whole scene, uint8 (H, W); 255 is ignored.
        num_classes: K.
    """

    def __init__(self, labels: NDArray[np.uint8], num_classes: int) -> None:
        self._labels = labels
        self._num_classes = num_classes
        self._size = cell_size(*labels.shape)
        self._across = -(-labels.shape[1] // self._size)
        self._cells = self._across * -(-labels.shape[0] // self._size)
        self._codes = _codes(num_classes)
        self._col_cells = np.arange(labels.shape[1]) // self._size
        self._confusion: list[CellCounts] = []
        self._reliability: list[CellCounts] = []
        self._detection = np.zeros((len(MEASURES), LEVELS, 2), np.int64)

    def add(self, strip: Strip) -> None:
        """Count a strip, with its class map and what is sampled of `CERTAINTY`.

        Raises:
            LabelError: A reference class is not one of the K.
            ModelError: A mapped class is not one of the K.
        """
        class_map = strip.layers["class_map"]
        rows = max(1, _CHUNK // class_map.shape[1])
        for start in range(0, len(class_map), rows):
            self._count_classes(strip.row + start, class_map[start : start + rows])
        self._count_certainty(strip)

    def finish(
        self, class_map: NDArray[np.uint8], boundary: BoundaryScore | None = None
    ) -> MapCounts:
        """Return the counts, of all strips.

        Args:
            class_map: The whole map.
            boundary: Rule by which boundaries are compared.
        """
        found = None
        if boundary is not None:
            found = self._count_boundaries(class_map, boundary)
        return MapCounts(
            CellCounts.sum(self._confusion),
            found,
            CellCounts.sum(self._reliability),
            self._detection,
        )

    def _cells_of(self, rows: Ints) -> tuple[NDArray[np.int64], int, int]:
        """Cells (rows, W) of pixels of some rows, from the first of them on; that, and how many."""
        row_cells = rows // self._size
        first, last = int(row_cells[0]), int(row_cells[-1])
        local = (row_cells - first)[:, None] * self._across + self._col_cells
        return local, first * self._across, (last - first + 1) * self._across

    def _count_classes(self, row: int, class_map: NDArray[np.uint8]) -> None:
        labels = self._labels[row : row + len(class_map)]
        keys, first, number = self._cells_of(np.arange(row, row + len(class_map)))
        values = self._num_classes * (self._num_classes + 1)
        keys *= values + 2  # and what is ignored, and what is no class
        keys += self._codes[labels.astype(np.uint16) << 8 | class_map]
        found = CellCounts.of_keys(keys.ravel(), number * (values + 2))
        cells, codes = np.divmod(found.places.astype(np.int64), values + 2)
        if (codes == values + 1).any():
            ConfusionMatrix(self._num_classes).update(labels, class_map)  # says what it is
        known = codes < values
        places = (first + cells[known]) * values + codes[known]
        self._confusion.append(CellCounts(places, found.counts[known]))

    def _count_certainty(self, strip: Strip) -> None:
        rows = np.array(CERTAINTY.rows(strip.row, strip.row + len(strip.layers["class_map"])))
        if not rows.size:
            return
        labels, class_map = self._labels[rows], strip.layers["class_map"][rows - strip.row]
        known = (labels != IGNORE_INDEX) & (class_map != IGNORE_INDEX)
        wrong = (labels != class_map)[known]
        layers = {name: values[known] for name, values in strip.sampled.items()}
        confidence = layers["confidence_float32"]
        steps = np.rint(confidence.astype(np.float64) / CONFIDENCE_STEP)
        cells, first, number = self._cells_of(rows)
        keys = cells[known] * _BINS + _bins(confidence, steps.astype(np.int32))
        size = number * _BINS
        table = np.empty((size, 3), np.int64)
        table[:, 0] = np.bincount(keys, minlength=size)
        table[:, 1] = np.bincount(keys[~wrong], minlength=size)
        table[:, 2] = np.bincount(keys, steps, minlength=size)
        found = CellCounts.of_table(table)
        shift = first * _BINS * 3
        self._reliability.append(CellCounts(found.places.astype(np.int64) + shift, found.counts))
        self._detection += _detection(layers, wrong)

    def _count_boundaries(
        self, class_map: NDArray[np.uint8], boundary: BoundaryScore
    ) -> CellCounts:
        parts = []
        size = self._cells * self._num_classes * 4
        for column, found in zip((2, 0), boundary.matches(self._labels, class_map), strict=True):
            cells = found.rows // self._size * self._across + found.cols // self._size
            keys = (cells * self._num_classes + found.classes) * 4 + column
            parts += [CellCounts.of_keys(keys[found.near], size)]
            parts += [CellCounts.of_keys(keys + 1, size)]
            del found, cells, keys  # the next ones need the memory
        return CellCounts.sum(parts)


def _codes(num_classes: int) -> NDArray[np.uint16]:
    """Code of each pair (reference << 8 | map), uint16 (2**16,).

    It is the position in the (K, K + 1) counts of a cell; behind them one of what is ignored in the
    reference, and one of what is no class.
    """
    values = num_classes * (num_classes + 1)
    codes = np.full((256, 256), values + 1, np.uint16)
    columns = [*range(num_classes), IGNORE_INDEX]
    codes[:num_classes, columns] = np.arange(values).reshape(num_classes, num_classes + 1)
    codes[IGNORE_INDEX] = values
    return codes.ravel()


def _bins(confidence: NDArray[np.float32], steps: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Bins of confidences, as `searchsorted` finds them but ten times faster."""
    bins = _BIN_OF_STEP[steps]
    bins -= confidence < _EDGES[bins]
    return bins


def _detection(layers: Mapping[str, NDArray[Any]], wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Right and wrong pixels by level of uncertainty, int64 (measures, levels, 2)."""
    top = LEVELS - 1
    uncertainty: Mapping[str, NDArray[Any]] = {
        "confidence": np.rint((1 - layers["confidence_float32"]) * top).astype(np.uint8),
        "entropy": layers["entropy"],
        "margin": top - layers["margin"],
        "disagreement": layers["disagreement"],
    }
    keys = (uncertainty[name].astype(np.uint16) << 1 | wrong for name in MEASURES)
    found = [np.bincount(own, minlength=2 * LEVELS) for own in keys]
    return np.stack(found).reshape(len(MEASURES), LEVELS, 2)
