"""Places worth a look: where a map is most wrong, least sure, or right although it was hard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.evidence import CONFIDENCE_STEP, Evidence
from terrafuse.evaluation.scores import ratio

#: Least share of a cell that has labels.
LEAST_LABELLED = 0.25
#: Distance between places of one scene, in cells.
_APART = 4


@dataclass(frozen=True)
class Place:
    """A cell of a scene.

    Args:
        kind: "most wrong", "least sure" or "best".
        scene: Id.
        row: Of the centre, in scene pixels; `col` likewise.
        wrong: Share of the labelled pixels that are wrong.
        confidence: Mean confidence; NaN if it was not counted.
    """

    kind: str
    scene: str
    row: int
    col: int
    wrong: float
    confidence: float


def find_places(evidence: Evidence, most: int = 3) -> list[Place]:
    """Choose cells to look at, of the map with all modalities.

    Args:
        most: Places of each kind.

    Returns:
        The most wrong ones; those that were least sure, if confidence was counted; and the least
        wrong ones with two classes or more. No two are neighbours.
    """
    counts = evidence.counts("confusion")
    pixels = counts.sum(axis=(1, 2))
    right = np.trace(counts[:, :, : counts.shape[1]], axis1=1, axis2=2)
    known = pixels >= LEAST_LABELLED * evidence.cells.size.astype(np.int64) ** 2
    if not known.any():  # chips smaller than a cell
        known = pixels > 0
    wrong = 1 - ratio(right, pixels)
    sure = _confidence(evidence)
    mixed = known & ((counts.sum(axis=2) > 0).sum(axis=1) > 1)
    orders = (
        ("most wrong", -wrong, known & (wrong > 0)),
        ("least sure", sure, known & np.isfinite(sure)),
        ("best", wrong, mixed),
    )
    taken: list[int] = []
    return [
        _place(evidence, kind, cell, float(wrong[cell]), float(sure[cell]))
        for kind, values, among in orders
        for cell in _choose(evidence, values, among, taken, most)
    ]


def _confidence(evidence: Evidence) -> NDArray[np.float64]:
    """Mean confidence of each cell (C,)."""
    if "reliability" not in evidence.tables:
        return np.full(len(evidence.cells), np.nan)
    bins = evidence.counts("reliability").sum(axis=1)
    return ratio(bins[:, 2] * CONFIDENCE_STEP, bins[:, 0])


def _choose(
    evidence: Evidence,
    values: NDArray[np.float64],
    among: NDArray[np.bool_],
    taken: list[int],
    most: int,
) -> Iterator[int]:
    """Cells of the smallest values, away from those that are taken."""
    cells = evidence.cells
    left = most
    candidates = np.flatnonzero(among)
    for cell in candidates[np.argsort(values[candidates], kind="stable")]:
        if not left:
            return
        apart = _APART * int(cells.size[cell])
        near = any(
            cells.scene[other] == cells.scene[cell]
            and abs(int(cells.row[other]) - int(cells.row[cell])) < apart
            and abs(int(cells.col[other]) - int(cells.col[cell])) < apart
            for other in taken
        )
        if not near:
            taken.append(int(cell))
            left -= 1
            yield int(cell)


def _place(evidence: Evidence, kind: str, cell: int, wrong: float, confidence: float) -> Place:
    cells = evidence.cells
    scene = evidence.scenes[int(cells.scene[cell])]
    row, col, size = (int(x[cell]) for x in (cells.row, cells.col, cells.size))
    return Place(
        kind,
        scene.id,
        row + min(size, scene.height - row) // 2,
        col + min(size, scene.width - col) // 2,
        wrong,
        confidence,
    )
