"""Blocks: parts of the scored ground that are large enough to count as independent.

Errors of neighbouring pixels come together, so that a map of a million pixels says as much as some
hundred independent draws. Cells are put together to squares whose side is a multiple of the
distance at which errors lose their correlation, and no less than a window of the model, whose
pixels are judged together. Chips that are smaller than that join: by their coordinates where they
have some, by the place that the manifest names, else each is a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ScoresError
from terrafuse.evaluation.evidence import LAGS, Cells, Evidence, ScoredScene

#: Side of a block in distances at which the correlation of errors falls to 1/e.
LENGTHS_PER_BLOCK = 5.0


@dataclass(frozen=True)
class Blocks:
    """Blocks of cells.

    Args:
        of_cell: Block of each cell, int32 (C,).
        side_px: Side in pixels.
        correlation_px: Distance at which the correlation of errors falls to 1/e; None: nowhere
            within the distances that were looked at, or there are no errors.
        reason: What the side comes from, for tables: "5 x the correlation length of the errors".
    """

    of_cell: NDArray[np.int32]
    side_px: int
    correlation_px: float | None
    reason: str

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.of_cell.max(initial=-1)) + 1


def find_blocks(evidence: Sequence[Evidence], side_px: int | None = None) -> Blocks:
    """Blocks for models that were scored on the same cells.

    Args:
        evidence: Of one model or more; the largest block that one of them needs is taken.
        side_px: Side wanted; default: as the errors need it.

    Raises:
        ScoresError: The side is smaller than a cell.
    """
    first = evidence[0]
    smallest = int(first.cells.size.min()) if len(first.cells) else 1
    lengths = [length for own in evidence if (length := correlation_length(own)) is not None]
    length = max(lengths, default=None)
    if side_px is not None:
        if side_px < smallest:
            raise ScoresError(
                f"blocks of {side_px} pixels are smaller than the cells that counts were kept of "
                f"({smallest} pixels). Choose {smallest} or more"
            )
        side, reason = side_px, "as asked for"
    else:
        side, reason = _needed(evidence, length, smallest)
    return Blocks(_assign(first.cells, first.scenes, side), side, length, reason)


def _needed(evidence: Sequence[Evidence], length: float | None, smallest: int) -> tuple[int, str]:
    window = max(int(own.facts.get("crop_size", 0)) for own in evidence)
    wanted = LENGTHS_PER_BLOCK * (length or 0)
    if wanted > window:
        reason = f"{LENGTHS_PER_BLOCK:g} x the correlation length of the errors"
        return max(smallest, round(wanted)), reason
    return max(smallest, window), "a window of the model"


def correlation_length(evidence: Evidence) -> float | None:
    """Distance in pixels at which the correlation of a model's errors falls to 1/e.

    Returns:
        Between the distances of `LAGS` by straight lines; None where it does not fall so far, or
        where there are no errors.
    """
    pairs, both, wrong = np.moveaxis(evidence.correlation.sum(axis=0), -1, 0).astype(np.float64)
    known = pairs > 0
    if not known.any():
        return None
    lags = np.array(LAGS, np.float64)[known]
    share = wrong[known] / (2 * pairs[known])
    spread = share * (1 - share)
    if not spread.all():
        return None
    found = (both[known] / pairs[known] - share**2) / spread
    distances, values = np.r_[0.0, lags], np.r_[1.0, found]
    below = np.flatnonzero(values < exp(-1))
    if not below.size:
        return None
    k = int(below[0])
    part = (values[k - 1] - exp(-1)) / (values[k - 1] - values[k])
    return float(distances[k - 1] + part * (distances[k] - distances[k - 1]))


def _assign(cells: Cells, scenes: Sequence[ScoredScene], side: int) -> NDArray[np.int32]:
    """Number the squares that the centres of cells lie in."""
    keys = np.zeros((len(cells), 3), np.int64)
    grounds: dict[Any, int] = {}
    bounds = np.searchsorted(cells.scene, np.arange(len(scenes) + 1))
    for number, scene in enumerate(scenes):
        part = slice(bounds[number], bounds[number + 1])
        ground, keys[part, 1:] = _squares(cells, part, scene, side)
        keys[part, 0] = grounds.setdefault(ground, len(grounds))
    _, found = np.unique(keys, axis=0, return_inverse=True)
    return found.reshape(-1).astype(np.int32)


def _squares(
    cells: Cells, part: slice, scene: ScoredScene, side: int
) -> tuple[Any, NDArray[np.int64]]:
    """What tells apart the ground of scenes, and rows and columns of the squares on it."""
    rows = cells.row[part] + np.minimum(cells.size[part], scene.height - cells.row[part]) / 2
    cols = cells.col[part] + np.minimum(cells.size[part], scene.width - cells.col[part]) / 2
    small = max(scene.height, scene.width) <= side
    if small and scene.crs and scene.transform:
        a, b, c, d, e, f = scene.transform
        pixel = abs(a * e - b * d) ** 0.5
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        place = np.stack([y, x], axis=1) / (pixel * side)
        # Whole chips: by their own centre, so that none is cut.
        return scene.crs, np.floor(np.broadcast_to(place.mean(axis=0), place.shape)).astype(
            np.int64
        )
    if small and scene.place is not None:
        return ("place", scene.place), np.zeros((len(rows), 2), np.int64)
    if small:
        return ("scene", scene.id), np.zeros((len(rows), 2), np.int64)
    # Squares of equal size instead of a narrow rest at the edge.
    sides = [max(1, round(length / side)) for length in (scene.height, scene.width)]
    squares = [
        np.minimum((at * n / length).astype(np.int64), n - 1)
        for at, n, length in zip((rows, cols), sides, (scene.height, scene.width), strict=True)
    ]
    return ("scene", scene.id), np.stack(squares, axis=1)
