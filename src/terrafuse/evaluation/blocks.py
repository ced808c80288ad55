"""Blocks: parts of the scored ground that are large enough to count as independent.

Errors of neighbouring pixels come together, so that a map of a million pixels says as much as some
hundred independent draws. Cells are put together to squares whose side is a multiple of the
distance at which errors lose their correlation, and no less than a window of the model, whose
pixels are judged together. Chips that are smaller than that join: by their coordinates where they
have some, by the place that the manifest names, else each is a block.

Blocks side by side still know of each other: of errors whose correlation is exp(-d²/L²), squares of
5 L hold 79 % of the variance of a sum, and larger ones would leave too few. `Blocks.widening` is
the rest, from the correlation at all distances (the variance of a sum over an area: Isaaks,
Srivastava: An Introduction to Applied Geostatistics. Oxford 1989, chapter 19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ScoresError
from terrafuse.evaluation.evidence import LAGS, Cells, Evidence, ScoredScene

#: Side of a block in distances at which the correlation of errors falls to 1/e.
LENGTHS_PER_BLOCK = 5.0
#: Correlation that is no longer told from noise, and where the sum over distances ends.
_LEAST_CORRELATION = 0.05
_STEPS, _ANGLES = 512, 16
_ENDLESS = (inf, inf)

Floats = NDArray[np.float64]
#: Sides in pixels of connected ground, and of the blocks that it is cut into.
Rectangles = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Blocks:
    """Blocks of cells.

    Args:
        of_cell: Block of each cell, int32 (C,).
        side_px: Side in pixels.
        correlation_px: Distance at which the correlation of errors falls to 1/e, or the largest
            one looked at; None: there are no errors.
        reason: What the side comes from, for tables: "5 x the correlation length of the errors".
        widening: Variance of a sum over the scenes, in variances that independent blocks would
            have; 1 or more.
    """

    of_cell: NDArray[np.int32]
    side_px: int
    correlation_px: float | None
    reason: str
    widening: float = 1.0

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
    of_cell, areas = _assign(first.cells, first.scenes, side)
    pairs = np.sum([own.correlation.sum(axis=0) for own in evidence], axis=0)
    return Blocks(of_cell, side, length, reason, _widening(pairs, areas))


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
        Between the distances of `LAGS` by straight lines; the largest of them where it does not
        fall so far; None where there are no errors.
    """
    distances, values = _correlation(evidence.correlation.sum(axis=0))
    below = np.flatnonzero(values < exp(-1))
    if len(distances) == 1:
        return None
    if not below.size:
        return float(distances[-1])
    k = int(below[0])
    part = (values[k - 1] - exp(-1)) / (values[k - 1] - values[k])
    return float(distances[k - 1] + part * (distances[k] - distances[k - 1]))


def _correlation(counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Distances and the correlation there, from 0 on; 0 alone where there are no errors.

    Args:
        counts: As in `Evidence.correlation`, of all scenes, (lags, 3).
    """
    pairs, both, wrong = np.moveaxis(counts, -1, 0).astype(np.float64)
    known = pairs > 0
    share = wrong[known] / (2 * pairs[known])
    spread = share * (1 - share)
    if not spread.size or not spread.all():
        return np.zeros(1), np.ones(1)
    found = (both[known] / pairs[known] - share**2) / spread
    return np.r_[0.0, np.array(LAGS, np.float64)[known]], np.r_[1.0, found]


def _widening(counts: NDArray[np.int64], areas: Mapping[Rectangles, float]) -> float:
    """Variance of a sum over scenes, in variances of as many independent blocks.

    What correlation remains at all distances is how much scenes differ, not how far errors reach:
    it is taken off before.

    Args:
        areas: Pixels of ground that is cut in the same way.
    """
    distances, values = _correlation(counts)
    rest = float(np.clip(values.min(), 0, 0.9))
    values = (values - rest) / (1 - rest)
    ends = np.flatnonzero(values < _LEAST_CORRELATION)
    last = int(ends[0]) if ends.size else len(values) - 1
    if last < 1:
        return 1.0
    steps = np.linspace(0, distances[last], _STEPS)
    weights = np.clip(np.interp(steps, distances, values), 0, None) * steps

    def inside(sides: tuple[float, float]) -> float:
        return float((weights * _overlap(steps, sides)).sum())

    found = [(pixels, inside(whole) / inside(block)) for (whole, block), pixels in areas.items()]
    return max(1.0, float(np.average([x for _, x in found], weights=[n for n, _ in found])))


def _overlap(distances: Floats, sides: tuple[float, float]) -> Floats:
    """Share of points of a rectangle that stay in it when moved, over all directions."""
    angles = (np.arange(_ANGLES) + 0.5) * (pi / 2 / _ANGLES)
    moved = np.stack([np.sin(angles), np.cos(angles)])[:, None] * distances[:, None]  # (2, n, A)
    shares = np.clip(1 - moved / np.array(sides)[:, None, None], 0, None)
    mean: Floats = shares.prod(axis=0).mean(axis=1)
    return mean


def _assign(
    cells: Cells, scenes: Sequence[ScoredScene], side: int
) -> tuple[NDArray[np.int32], dict[Rectangles, float]]:
    """Number the squares that the centres of cells lie in; and how ground is cut into them."""
    keys = np.zeros((len(cells), 3), np.int64)
    grounds: dict[Any, int] = {}
    areas: dict[Rectangles, float] = {}
    bounds = np.searchsorted(cells.scene, np.arange(len(scenes) + 1))
    for number, scene in enumerate(scenes):
        part = slice(bounds[number], bounds[number + 1])
        ground, keys[part, 1:], cut = _squares(cells, part, scene, side)
        keys[part, 0] = grounds.setdefault(ground, len(grounds))
        areas[cut] = areas.get(cut, 0.0) + scene.height * scene.width
    _, found = np.unique(keys, axis=0, return_inverse=True)
    return found.reshape(-1).astype(np.int32), areas


def _squares(
    cells: Cells, part: slice, scene: ScoredScene, side: int
) -> tuple[Any, NDArray[np.int64], Rectangles]:
    """What tells apart the ground of scenes; rows and columns of the squares on it; their sides."""
    rows = cells.row[part] + np.minimum(cells.size[part], scene.height - cells.row[part]) / 2
    cols = cells.col[part] + np.minimum(cells.size[part], scene.width - cells.col[part]) / 2
    whole = (float(scene.height), float(scene.width))
    small = max(scene.height, scene.width) <= side
    if small and scene.crs and scene.transform:
        a, b, c, d, e, f = scene.transform
        pixel = abs(a * e - b * d) ** 0.5
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        place = np.stack([y, x], axis=1) / (pixel * side)
        # Whole chips: by their own centre, so that none is cut.
        square = np.floor(np.broadcast_to(place.mean(axis=0), place.shape)).astype(np.int64)
        return scene.crs, square, (_ENDLESS, (float(side), float(side)))
    alone = np.zeros((len(rows), 2), np.int64)
    if small and scene.place is not None:
        return ("place", scene.place), alone, (whole, whole)
    if small:
        return ("scene", scene.id), alone, (whole, whole)
    # Squares of equal size instead of a narrow rest at the edge.
    sides = [max(1, round(length / side)) for length in whole]
    squares = [
        np.minimum((at * n / length).astype(np.int64), n - 1)
        for at, n, length in zip((rows, cols), sides, whole, strict=True)
    ]
    block = (whole[0] / sides[0], whole[1] / sides[1])
    return ("scene", scene.id), np.stack(squares, axis=1), (whole, block)
