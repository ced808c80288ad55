"""Generators of rasters: picklable settings that any process can build and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from terrafuse.generate.photos import Picture

#: Kind of result: segment numbers, or one depth value per pixel.
Result = Literal["segments", "depth"]

#: Picture uint8 (h, w, 3) → segments (h, w), integers, 0 = none; or depth (h, w), float32.
Maker = Callable[[Picture], NDArray[np.integer[Any]] | NDArray[np.floating[Any]]]


class Generator(Protocol):
    """Settings by which windows are generated, without state: they can be sent to processes."""

    @property
    def result(self) -> Result:
        """Kind of result."""

    @property
    def aligned(self) -> bool:
        """True if each depth window has its own scale and shift and must be aligned."""

    def describe(self) -> dict[str, Any]:
        """Return all that the result depends on besides the photo, as plain values."""

    def note(self) -> dict[str, Any]:
        """Return further facts for the record (licence, device), as plain values."""

    def build(self) -> Maker:
        """Load the model and return the function that generates a window."""
