"""Counts of one scene: what scores are summed from, as values and as a line of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SceneCounts:
    """Comparison of a scene's labels with its maps.

    Args:
        confusion: Int64 (K, K + 1) per subset of modalities, as in `ConfusionMatrix`.
        boundary: Int64 (K, 4) per subset, as in `BoundaryScore`; none where they are not compared.
        windows: Windows of all maps.
        pixel_size_m: Of the scene's grid, if it has one in metres.
        notes: What was found out about the scene beside its scores.
        state: Tells whether its files are still the same; "" where nobody asks.
    """

    confusion: tuple[NDArray[np.int64], ...]
    boundary: tuple[NDArray[np.int64], ...]
    windows: int
    pixel_size_m: float | None = None
    notes: tuple[Any, ...] = ()
    state: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of counts those that are not 0."""
        return {
            "confusion": [_pack(counts) for counts in self.confusion],
            "boundary": [_pack(counts) for counts in self.boundary],
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
        return cls(
            confusion=tuple(
                _unpack(x, (num_classes, num_classes + 1)) for x in values["confusion"]
            ),
            boundary=tuple(_unpack(x, (num_classes, 4)) for x in values["boundary"]),
            windows=int(values["windows"]),
            pixel_size_m=values["pixel_size_m"],
            notes=tuple(values["notes"]),
            state=str(values["state"]),
        )


def _pack(counts: NDArray[np.int64]) -> list[list[int]]:
    """Places in the flat table, and what stands there."""
    flat = counts.ravel()
    places = np.flatnonzero(flat)
    return [places.tolist(), flat[places].tolist()]


def _unpack(packed: list[list[int]], shape: tuple[int, int]) -> NDArray[np.int64]:
    counts = np.zeros(shape, np.int64)
    places, values = packed
    counts.reshape(-1)[places] = values
    return counts
