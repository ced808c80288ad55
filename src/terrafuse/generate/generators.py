"""What a raster can be made with: generators that any process can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from terrafuse.generate.photos import Picture

#: What comes out: numbers of segments, or one value per pixel.
Result = Literal["segments", "depth"]

#: Picture uint8 (h, w, 3) → segments (h, w), whole numbers, 0 = none; or depth (h, w), float32.
Maker = Callable[[Picture], NDArray[np.integer[Any]] | NDArray[np.floating[Any]]]


class Generator(Protocol):
    """How windows are made: settings only, so that it can be sent to other processes."""

    @property
    def result(self) -> Result:
        """What it makes."""

    @property
    def aligned(self) -> bool:
        """Whether windows of depth have each their own scale and shift, to be aligned."""

    def describe(self) -> dict[str, Any]:
        """All that the result depends on beside the photo; plain values."""

    def note(self) -> dict[str, Any]:
        """What else is worth knowing (licence, device); plain values."""

    def build(self) -> Maker:
        """Get ready: load the model."""
