"""Further scores of `terrafuse evaluate`: options that count in the map of each scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene


class FurtherScore(Protocol):
    """A score that is counted scene by scene; it can be sent to another process.

    Counts are plain values that JSON can hold, so that scenes may be scored by several processes,
    in shards, and gone on with.
    """

    @property
    def name(self) -> str:
        """Key in `metrics.json`."""

    def key(self) -> Any:
        """What counts depend on, as plain values."""

    def count(self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> Any:
        """Count in a scene.

        Args:
            labels: Reference classes, uint8 (H, W); 255 is ignored.
            class_map: Mapped classes, uint8 (H, W); 255 = no data.
        """

    def report(self, counts: Sequence[Any]) -> dict[str, Any]:
        """Return what stands in `metrics.json`, of the counts of all scenes in their order."""
