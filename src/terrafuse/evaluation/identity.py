"""Identity of a scene that was scored: what tells whether another run scored the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.evidence import ScoredScene

if TYPE_CHECKING:
    from terrafuse.data.grid import Grid
    from terrafuse.data.scene import Scene

_DIGITS = 16


def identify_scene(scene: Scene, labels: NDArray[np.uint8]) -> ScoredScene:
    """Describe a scene.

    Args:
        labels: The reference that it is scored against, uint8 (H, W).
    """
    grid = scene.grid
    files = scene.paths()
    return ScoredScene(
        scene.id,
        grid.height,
        grid.width,
        labels=hashlib.sha256(memoryview(np.ascontiguousarray(labels))).hexdigest()[:_DIGITS],
        place=scene.place,
        crs=None if grid.crs is None else _name_of(grid.crs),
        transform=_transform(grid),
        bytes={
            modality.name: _size(files.get(modality.name, ()))
            for modality in scene.modalities
            if modality.name not in scene.missing
        },
    )


def _transform(grid: Grid) -> tuple[float, ...] | None:
    """The six numbers; None where there is neither a CRS nor a transform."""
    numbers = tuple(float(number) for number in grid.transform[:6])
    return None if grid.crs is None and grid.transform.is_identity else numbers


@lru_cache(maxsize=256)
def _name_of(crs: Any) -> str:
    """Authority and code, or WKT; asking for the former takes milliseconds."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt())


def _size(paths: Sequence[Path]) -> int:
    """Bytes of files on this disk."""
    total = 0
    for path in set(paths):
        with suppress(OSError):  # reading it has said what the matter is
            total += path.stat().st_size
    return total
