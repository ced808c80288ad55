"""Going through scenes window by window, in memory that does not grow with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.samples import Window, blocks, round_up

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene


def cover(scene: Scene, block: int, alignment: int | None = None) -> list[Window]:
    """Windows that cover a scene without overlap, row by row.

    Args:
        scene: The scene.
        block: Height and width of what is read at once, in pixels of its finest raster.
        alignment: Windows start and measure multiples of this many scene pixels (default:
            `scene.alignment`), so the last ones may reach beyond the scene by less than that.
    """
    alignment = alignment or scene.alignment
    finest = min([1.0, *(modality.scale for modality in scene.modalities)])
    size = round_up(max(1, int(block * finest)), alignment)
    return blocks(scene.grid.height, scene.grid.width, size, alignment)


def resize_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H_m, W_m) at another size over the same ground, by the nearest pixel."""
    if mask.shape == shape:
        return mask
    rows, cols = (
        ((2 * np.arange(size) + 1) * own) // (2 * size)
        for size, own in zip(shape, mask.shape, strict=True)
    )
    resized: NDArray[np.bool_] = mask[np.ix_(rows, cols)]
    return resized


class Reservoir:
    """A uniform random part of everything it was shown, of bounded size.

    Every item gets a random key, and the items with the smallest keys stay. Once the largest key
    kept is known, how many of n further items fall below it is binomial, so that keys are drawn
    for these few only.

    Args:
        capacity: Items kept at most.
        rng: Source of the keys.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self.capacity = capacity
        self._rng = rng
        self._threshold = 1.0
        self._keys: list[NDArray[np.float64]] = []
        self._items: list[NDArray[Any]] = []

    def add(self, items: NDArray[Any]) -> None:
        """Show it items (n,) or (n, d); d and dtype are always the same."""
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
        """What it kept, in no order."""
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
