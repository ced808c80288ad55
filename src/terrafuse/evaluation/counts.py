"""Counts of one scene: what scores are summed from, as values and as a line of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.cell_counts import CellCounts
from terrafuse.evaluation.evidence import (
    LAGS,
    LEVELS,
    MEASURES,
    TABLES,
    ScoredScene,
    TableName,
    cell_shape,
    cells_of,
)

#: Shape of the levels of uncertainty of a map.
DETECTION = (len(MEASURES), LEVELS, 2)


@dataclass(frozen=True)
class SceneCounts:
    """Comparison of a scene's labels with its maps.

    Args:
        scene: What was scored.
        tables: Counts per cell of the scene, for each subset of modalities; no "boundary" where
            these are not compared.
        detection: Int64 (measures, levels, 2) for each subset, as in `Evidence`.
        correlation: Int64 (lags, 3), of the full subset, likewise.
        windows: Windows of all maps.
        pixel_size_m: Of the scene's grid, if it has one in metres.
        notes: What was found out about the scene beside its scores.
        state: Tells whether its files are still the same; "" where nobody asks.
    """

    scene: ScoredScene
    tables: Mapping[TableName, tuple[CellCounts, ...]]
    detection: tuple[NDArray[np.int64], ...]
    correlation: NDArray[np.int64]
    windows: int
    pixel_size_m: float | None = None
    notes: tuple[Any, ...] = ()
    state: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of counts those that are not 0."""
        return {
            "scene": self.scene.to_dict(),
            "tables": {name: [own.to_text() for own in x] for name, x in self.tables.items()},
            "detection": [CellCounts.of_table(own).to_text() for own in self.detection],
            "correlation": self.correlation.tolist(),
            "windows": self.windows,
            "pixel_size_m": self.pixel_size_m,
            "notes": list(self.notes),
            "state": self.state,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], num_classes: int) -> SceneCounts:
        """Inverse of `to_dict`.

        Raises:
            ValueError: They are no such values; or LookupError or TypeError.
        """
        scene = ScoredScene.from_dict(values["scene"])
        cells = len(cells_of(0, scene.height, scene.width))
        tables = {
            name: tuple(
                CellCounts.from_text(text, cells * prod(cell_shape(name, num_classes)))
                for text in values["tables"][name]
            )
            for name in TABLES
            if name in values["tables"]
        }
        return cls(
            scene=scene,
            tables=tables,
            detection=tuple(_detection(text) for text in values["detection"]),
            correlation=np.array(values["correlation"], np.int64).reshape(len(LAGS), 3),
            windows=int(values["windows"]),
            pixel_size_m=values["pixel_size_m"],
            notes=tuple(values["notes"]),
            state=str(values["state"]),
        )


def _detection(text: str) -> NDArray[np.int64]:
    return CellCounts.from_text(text, prod(DETECTION)).total(DETECTION)
