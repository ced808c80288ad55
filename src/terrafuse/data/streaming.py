"""Iteration over scenes window by window, in memory that does not grow with their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.samples import Window, blocks, round_up

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

# Opening so many takes less than a second.
_FIRST_SCENES = 64


def cover(scene: Scene, block: int, alignment: int | None = None) -> list[Window]:
    """Return the windows that cover a scene without overlap, row by row.

    Args:
        block: Side of the blocks read at once, in pixels of the scene's finest raster.
        alignment: Origin and size of each window are multiples of this many scene pixels (default:
            `scene.alignment`), so the last ones may extend beyond the scene by less than that.
    """
    alignment = alignment or scene.alignment
    finest = min([1.0, *(modality.scale for modality in scene.modalities)])
    size = round_up(max(1, int(block * finest)), alignment)
    return blocks(scene.grid.height, scene.grid.width, size, alignment)


def first_scenes(scenes: Sequence[Scene]) -> Sequence[Scene]:
    """The scenes, or so many of the first ones that opening them takes less than a second."""
    return scenes[:_FIRST_SCENES]


def expected_total(scenes: Sequence[Scene], count: Callable[[Scene], int]) -> int:
    """Sum of a count over scenes, from the first ones if there are many: counting opens them."""
    first = first_scenes(scenes)
    return round(sum(map(count, first)) * len(scenes) / len(first)) if first else 0


def resize_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask (H_m, W_m) over the same ground, by the nearest pixel."""
    if mask.shape == shape:
        return mask
    rows, cols = (
        ((2 * np.arange(size) + 1) * own) // (2 * size)
        for size, own in zip(shape, mask.shape, strict=True)
    )
    resized: NDArray[np.bool_] = mask[np.ix_(rows, cols)]
    return resized


class Reservoir:
    """A uniform random sample of a stream, of bounded size.

    Every item gets a random key, and the items with the smallest keys are kept. Once the largest
    key kept is known, the number of n further items that fall below it is binomial, so that keys
    are drawn for these few only.

    Args:
        capacity: Maximum number of items kept.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self.capacity = capacity
        self._rng = rng
        self._threshold = 1.0
        self._keys: list[NDArray[np.float64]] = []
        self._items: list[NDArray[Any]] = []

    def add(self, items: NDArray[Any]) -> None:
        """Add items (n,) or (n, d) of the stream; d and dtype must not change between calls."""
        if self._threshold < 1:
            chosen = self._rng.binomial(len(items), self._threshold)
            items = items[self._rng.choice(len(items), chosen, replace=False)]
        self._keys.append(self._rng.random(len(items)) * self._threshold)
        self._items.append(items.copy())
        # Not at every call: the cost of a selection grows with the capacity.
        if sum(map(len, self._keys)) > 2 * self.capacity:
            self._select()

    @property
    def items(self) -> NDArray[Any]:
        """The sample, in no particular order."""
        self._select()
        return self._items[0] if self._items else np.empty(0)

    def _select(self) -> None:
        """Keep the items with the smallest keys."""
        if not self._keys:
            return
        keys, items = np.concatenate(self._keys), np.concatenate(self._items)
        if keys.size > self.capacity:
            kept = np.argpartition(keys, self.capacity - 1)[: self.capacity]
            keys, items = keys[kept], items[kept]
            self._threshold = float(keys.max())
        self._keys, self._items = [keys], [items]
