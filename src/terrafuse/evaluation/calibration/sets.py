"""Coverage of class sets, as it stands in `metrics.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.cell_counts import SET_COLUMNS, CellCounts
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.scores import ratio
from terrafuse.prediction import Calibration


def class_set_report(
    evidence: Evidence,
    blocks: Blocks,
    found: Sequence[Sequence[CellCounts]],
    calibration: Calibration,
) -> dict[str, Any]:
    """Return coverage and size of class sets per subset, with 95 % intervals over blocks.

    Args:
        evidence: Of the same scenes.
        blocks: Of its cells.
        found: Counts of (SET_COLUMNS,) per cell, of each scene for each subset.
        calibration: What promises the coverage.
    """
    bootstrap = BlockBootstrap(blocks.count, widening=blocks.widening)
    return {
        "blocks": blocks.count,
        "block_px": blocks.side_px,
        "subsets": {
            "+".join(subset): {
                "coverage": calibration.of(subset).coverage,
                "threshold": calibration.of(subset).threshold,
                **_of_subset([own[place] for own in found], evidence, blocks, bootstrap),
            }
            for place, subset in enumerate(evidence.subsets)
        },
    }


def _of_subset(
    found: Sequence[CellCounts], evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap
) -> dict[str, Any]:
    table = np.zeros((len(evidence.cells), SET_COLUMNS), np.int64)
    starts = np.searchsorted(evidence.cells.scene, np.arange(len(found)))
    for own, start in zip(found, starts, strict=True):
        table.reshape(-1)[own.places.astype(np.int64) + start * SET_COLUMNS] = own.counts
    counts = np.zeros((blocks.count, SET_COLUMNS), np.int64)
    np.add.at(counts, blocks.of_cell, table)
    known = counts[:, 0] > 0
    # Each block once, as the promise has it.
    shares = np.where(known, counts[:, 1] / np.maximum(counts[:, 0], 1), 0.0)
    of_blocks = np.stack([known, shares], axis=1).astype(np.float64)

    def interval(
        values: NDArray[Any], top: int, bottom: int, most: float = 1
    ) -> dict[str, float | None]:
        drawn = bootstrap.drawn(values)
        found = bootstrap.interval_of(ratio(drawn[:, top], drawn[:, bottom]))
        return found.within(0, most).to_dict()

    return {
        "covered_per_block": interval(of_blocks, 1, 0),
        "covered_pixels": interval(counts, 1, 0),
        "mean_size": interval(counts, 2, 0, np.inf),
        "of_one_class": interval(counts, 3, 0),
    }
