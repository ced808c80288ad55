"""Training on a share of the labels: choice of the scenes, or blocks of scenes, that keep theirs.

Shares are nested: what 1 % keeps, 3 % of the same seed keeps too, since every share is the
beginning of the same order of units.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.config import DataConfig
from terrafuse.data.label_files import LabelMask
from terrafuse.data.manifest import Manifest
from terrafuse.data.scene import Scene
from terrafuse.data.streaming import cover
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, round_up
from terrafuse.sampling.crop_index import count_cells

# Scenes are kept whole where none holds more than the first part of the labelled pixels; otherwise
# blocks are as large as they can be with none above the second. A share is met within half a unit.
_LARGEST_SCENE, _LARGEST_BLOCK = 1 / 200, 1 / 500
# Cells in which labels are counted, over all scenes; blocks are made of them.
_CELLS = 1 << 16
# Every class should fit into this share; so many draws of other units are tried until it does.
_SHARE_WITH_ALL_CLASSES, _DRAWS = 0.01, 100


@dataclass(frozen=True)
class KeptShare:
    """The labels kept by a share.

    Args:
        by: Kind of unit: whole scenes, or blocks of them.
        side: Side of a block, in scene pixels; a whole scene is one block.
        units: Blocks kept, int (n, 3): position of the scene, row and column of the block.
        counts: Kept pixels per class, int64 (K,).
        total_counts: All labelled pixels per class, int64 (K,).
    """

    by: Literal["scene", "block"]
    side: int
    units: NDArray[np.int64]
    counts: NDArray[np.int64]
    total_counts: NDArray[np.int64]

    @property
    def pixels(self) -> int:
        """Number of labelled pixels kept."""
        return int(self.counts.sum())

    @property
    def scenes(self) -> int:
        """Number of scenes with a label kept."""
        return len(np.unique(self.units[:, 0]))

    @property
    def share(self) -> float:
        """Part of all labelled pixels that is kept."""
        return self.pixels / int(self.total_counts.sum())

    @property
    def missing(self) -> tuple[int, ...]:
        """Classes that have labels, but none kept."""
        return tuple(np.flatnonzero((self.counts == 0) & (self.total_counts > 0)).tolist())

    def apply(self, scenes: Sequence[Scene]) -> list[Scene]:
        """Return the scenes counted, given in the same order, with all other labels void."""
        result = []
        for index, scene in enumerate(scenes):
            kept = self.units[self.units[:, 0] == index, 1:]
            shape = (-(-n // self.side) for n in (scene.grid.height, scene.grid.width))
            blocks = np.zeros(tuple(shape), bool)
            blocks[kept[:, 0], kept[:, 1]] = True
            area = LabelMask(self.side, blocks)
            result.append(scene.keep_labels(area) if scene.has_labels else scene)
        return result


@dataclass(frozen=True)
class LabelUnits:
    """Units that a share is made of: scenes or blocks of scenes, each with some label.

    Args:
        by: Kind of unit: whole scenes, or blocks of them.
        side: Side of a block, in scene pixels; a whole scene is one block.
        places: Position of the scene, row and column of the block, int (n, 3).
        counts: Labelled pixels per class, int64 (n, K).
    """

    by: Literal["scene", "block"]
    side: int
    places: NDArray[np.int64]
    counts: NDArray[np.int64]

    def keep(self, share: float, seed: int) -> KeptShare:
        """Keep the units of a share: the number that comes nearest to it, at least one.

        Args:
            share: Part of all labelled pixels, above 0, at most 1.
            seed: Seed of the order of the units. It begins with units that together hold every
                class, if possible within 1 % of the labelled pixels.
        """
        order = self._order(seed)
        ends = self.counts[order].sum(axis=1).cumsum()
        number = int(np.abs(ends - share * ends[-1]).argmin()) + 1
        chosen = np.sort(order[:number])
        return KeptShare(
            by=self.by,
            side=self.side,
            units=self.places[chosen],
            counts=self.counts[chosen].sum(axis=0),
            total_counts=self._totals,
        )

    @cached_property
    def _totals(self) -> NDArray[np.int64]:
        totals: NDArray[np.int64] = self.counts.sum(axis=0)
        return totals

    def _order(self, seed: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(seed)
        first = self._units_of_all_classes(rng)
        rest = rng.permutation(len(self.counts))
        return np.concatenate([first, rest[~np.isin(rest, first)]])

    def _units_of_all_classes(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw units that together hold every class: the first small enough, else the smallest."""
        enough = _SHARE_WITH_ALL_CLASSES * self._totals.sum()
        smallest, least = np.empty(0, np.int64), np.inf
        for _ in range(_DRAWS):
            chosen = self._draw_all_classes(rng)
            pixels = self.counts[chosen].sum()
            if pixels < least:
                smallest, least = chosen, pixels
            if pixels <= enough:
                break
        return smallest

    def _draw_all_classes(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw, rarest class first, the unit of a random pixel of each class still missing."""
        present = np.flatnonzero(self._totals)
        held = np.zeros(len(self._totals), bool)
        chosen: list[int] = []
        for value in present[self._totals[present].argsort(kind="stable")]:
            if not held[value]:
                pixel = rng.integers(self._totals[value])
                ends = self.counts[:, value].cumsum()
                chosen.append(int(np.searchsorted(ends, pixel, side="right")))
                held |= self.counts[chosen[-1]] > 0
        return np.array(chosen, np.int64)


def labelled_scenes(manifest: Manifest, splits: Sequence[str]) -> list[Scene]:
    """Open the scenes of some splits that have labels to train on, split by split."""
    scenes = [s for split in splits if split in manifest.splits for s in manifest.scenes(split)]
    return [scene for scene in scenes if scene.has_labels]


def label_units(
    scenes: Sequence[Scene], scheme: ClassScheme, progress: Progress | None = None
) -> LabelUnits:
    """Count labels and choose the units that shares are made of; labels are read once.

    Args:
        progress: Called with (scenes done, scenes in total).

    Returns:
        Whole scenes if there are so many that none holds more than 0.5 % of the labelled pixels;
        else square blocks, as large as possible with none above 0.2 %. No units if no scene
        has a label.

    Raises:
        LabelError: A label value is not in the scheme.
    """
    area = sum(scene.grid.height * scene.grid.width for scene in scenes)
    cell = max(1, isqrt(area // _CELLS))
    places, counts = [np.empty((0, 3), np.int64)], [np.empty((0, scheme.num_classes), np.int64)]
    for index, scene in enumerate(scenes):
        for place, count in _count_scene(scene, cell, scheme.num_classes):
            places.append(np.insert(place, 0, index, axis=1))
            counts.append(count)
        if progress:
            progress(index + 1, len(scenes))
    cells = LabelUnits("block", cell, np.concatenate(places), np.concatenate(counts))
    if not len(cells.places):
        return cells
    longest = max(max(scene.grid.height, scene.grid.width) for scene in scenes)
    whole = _merge(cells, round_up(longest, cell) // cell, "scene")
    if _largest(whole) <= _LARGEST_SCENE:
        return whole
    blocks = cells
    while _largest(larger := _merge(blocks, 2, "block")) <= _LARGEST_BLOCK:
        blocks = larger
    return blocks


def share_labels(
    scenes: Sequence[Scene],
    config: DataConfig,
    scheme: ClassScheme,
    progress: Progress | None = None,
) -> list[Scene]:
    """Void the labels that `label_share` does not keep; a warning names classes that are lost.

    Args:
        scenes: All training scenes; each is returned, even without any label.
        config: `label_share` and `label_seed`.
        progress: Called with (scenes done, scenes in total).

    Raises:
        LabelError: A label value is not in the scheme.
    """
    if config.label_share == 1:
        return list(scenes)
    units = label_units(scenes, scheme, progress)
    if not len(units.places):  # the crop sampler reports what is wrong
        return list(scenes)
    kept = units.keep(config.label_share, config.label_seed)
    if kept.missing:
        lost = ", ".join(scheme.names[value] for value in kept.missing)
        warnings.warn(
            f"data.label_share {config.label_share:g} keeps no label of {lost}, which the model "
            f"cannot learn: {len(kept.units)} of {len(units.places)} {kept.by}s are kept. Use a "
            "larger share, or another data.label_seed",
            stacklevel=4,
        )
    return kept.apply(scenes)


def _count_scene(
    scene: Scene, cell: int, num_classes: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Count labels: per window with any, row and column of its labelled cells, and their counts."""
    found = []
    for window in cover(scene, 1024, cell) if scene.has_labels else []:
        labels = scene.read_labels(window)
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE_INDEX])
        if not len(present):
            continue
        shape = (window.height // cell, window.width // cell, num_classes)
        counts = np.zeros(shape, np.int64)
        for value in present:
            counts[..., value] = count_cells(labels == value, cell)
        rows, cols = np.nonzero(counts.any(axis=-1))
        place = np.stack([rows + window.row // cell, cols + window.col // cell], axis=1)
        found.append((place, counts[rows, cols]))
    return found


def _merge(units: LabelUnits, times: int, by: Literal["scene", "block"]) -> LabelUnits:
    """Merge units into units of `times` the side."""
    places, members = np.unique(
        units.places // np.array([1, times, times]), axis=0, return_inverse=True
    )
    counts = np.zeros((len(places), units.counts.shape[1]), np.int64)
    np.add.at(counts, members.ravel(), units.counts)
    return LabelUnits(by, units.side * times, places, counts)


def _largest(units: LabelUnits) -> float:
    """Return the largest part of all labelled pixels that one unit holds."""
    pixels = units.counts.sum(axis=1)
    return float(pixels.max() / pixels.sum())
