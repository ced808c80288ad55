"""Index of the places in a scene that training crops can be drawn from."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.scene import Scene
from terrafuse.data.streaming import Reservoir, cover, resize_mask
from terrafuse.samples import IGNORE_INDEX, Sample, Window, round_up


@dataclass(frozen=True)
class CropIndex:
    """Usable pixels of one scene, by cell and by class.

    Args:
        alignment: Scene pixels that the origin and size of windows must be multiples of.
        cell: Side of a cell, in scene pixels.
        usable: Pixels with data and a label per cell, int32 (rows, cols); without the use of
            labels, pixels with data.
        labelled: Pixels with a label, with or without data.
        class_counts: Usable pixels per class present.
        class_pixels: Per class a random sample of its usable pixels, int32 (n, 2): row, column.
    """

    height: int
    width: int
    alignment: int
    cell: int
    usable: NDArray[np.int32]
    labelled: int
    class_counts: dict[int, int]
    class_pixels: dict[int, NDArray[np.int32]] = field(default_factory=dict)

    @cached_property
    def row_ends(self) -> NDArray[np.int64]:
        """Usable pixels up to and including each row of cells."""
        ends: NDArray[np.int64] = self.usable.sum(axis=1, dtype=np.int64).cumsum()
        return ends

    @property
    def total(self) -> int:
        """Usable pixels of the scene."""
        return int(self.row_ends[-1])

    def cell_of(self, pixel: int) -> tuple[int, int]:
        """Return row and column, in scene pixels, of the cell with usable pixel number `pixel`."""
        row = int(np.searchsorted(self.row_ends, pixel, side="right"))
        pixel -= int(self.row_ends[row - 1]) if row else 0
        col = int(np.searchsorted(self.usable[row].cumsum(), pixel, side="right"))
        return row * self.cell, col * self.cell


def drained(steps: Generator[None, None, CropIndex]) -> CropIndex:
    """Run to its end what pauses after each window, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: CropIndex = end.value
            return found


def index_crops_by_window(
    scene: Scene,
    cell: int,
    *,
    pixels_per_class: int = 0,
    require_all: bool = False,
    use_labels: bool = True,
    seed: int = 0,
) -> Generator[None, None, CropIndex]:
    """Index the data and labels of a scene in one pass, pausing after each window.

    Args:
        cell: Side of the cells in scene pixels; a multiple of the scene's alignment.
        pixels_per_class: Pixels to remember per class.
        require_all: Whether a usable pixel needs data of every modality; otherwise of any.
        use_labels: Whether a usable pixel needs a label; otherwise no labels are read.
        seed: Seed of the sample of remembered pixels.
    """
    rows, cols = (round_up(n, cell) // cell for n in (scene.grid.height, scene.grid.width))
    usable = np.zeros((rows, cols), np.int32)
    class_counts = np.zeros(256, np.int64)
    rng = np.random.default_rng(seed)
    reservoirs: dict[int, Reservoir] = {}
    labelled = 0
    for window in cover(scene, 512, cell) if scene.has_labels or not use_labels else []:
        if use_labels:
            labels = scene.read_labels(window)
        else:
            labels = np.zeros((window.height, window.width), np.uint8)
        learnable = labels != IGNORE_INDEX
        labelled += int(learnable.sum())
        if not learnable.any():  # saves reading the images
            yield
            continue
        learnable &= _has_data(scene.read(window, labels=False), labels.shape, require_all)
        usable[_cells(window, cell)] = count_cells(learnable, cell)
        class_counts += np.bincount(labels[learnable], minlength=256)
        if pixels_per_class:
            for value, pixels in _by_class(labels, learnable, window).items():
                if value not in reservoirs:
                    reservoirs[value] = Reservoir(pixels_per_class, rng)
                reservoirs[value].add(pixels)
        yield
    return CropIndex(
        height=scene.grid.height,
        width=scene.grid.width,
        alignment=scene.alignment,
        cell=cell,
        usable=usable,
        labelled=labelled,
        class_counts={int(v): int(class_counts[v]) for v in np.flatnonzero(class_counts)},
        class_pixels={value: reservoir.items for value, reservoir in reservoirs.items()},
    )


def _has_data(sample: Sample, shape: tuple[int, ...], require_all: bool) -> NDArray[np.bool_]:
    masks = [resize_mask(valid.numpy(), (shape[0], shape[1])) for valid in sample.valid.values()]
    result: NDArray[np.bool_] = (np.logical_and if require_all else np.logical_or).reduce(masks)
    return result


def _cells(window: Window, cell: int) -> tuple[slice, slice]:
    return (
        slice(window.row // cell, window.row_stop // cell),
        slice(window.col // cell, window.col_stop // cell),
    )


def count_cells(mask: NDArray[np.bool_], cell: int) -> NDArray[np.int32]:
    """Count pixels of a mask (H, W) per cell; `cell` divides both, int32 (H / cell, W / cell)."""
    height, width = mask.shape
    blocks = mask.reshape(height // cell, cell, width // cell, cell)
    counts: NDArray[np.int32] = blocks.sum(axis=(1, 3), dtype=np.int32)
    return counts


def _by_class(
    labels: NDArray[np.uint8], mask: NDArray[np.bool_], window: Window
) -> dict[int, NDArray[np.int32]]:
    """Group pixels under the mask by class, int32 (n, 2), in rows and columns of the scene."""
    pixels = np.flatnonzero(mask)
    values = labels.ravel()[pixels]
    found: dict[int, NDArray[np.int32]] = {}
    for value in np.flatnonzero(np.bincount(values)).tolist():
        rows, cols = np.divmod(pixels[values == value].astype(np.int32), np.int32(labels.shape[1]))
        found[value] = np.stack([rows + np.int32(window.row), cols + np.int32(window.col)], axis=1)
    return found


def pack_indexes(indexes: Sequence[CropIndex]) -> dict[str, NDArray[Any]]:
    """Join crop indexes into few arrays, from which `unpack_indexes` makes them again."""
    counts = [list(index.class_counts.items()) for index in indexes]
    pixels = [list(index.class_pixels.items()) for index in indexes]
    every = [(value, own) for group in pixels for value, own in group]
    return {
        "sizes": np.array(
            [
                (i.height, i.width, i.alignment, i.cell, i.labelled, *i.usable.shape)
                for i in indexes
            ],
            np.int64,
        ).reshape(-1, 7),
        "usable": np.concatenate([np.empty(0, np.int32), *(i.usable.ravel() for i in indexes)]),
        "counts": np.array([item for group in counts for item in group], np.int64).reshape(-1, 2),
        "counts_ends": np.cumsum([0, *map(len, counts)]),
        "values": np.array([value for value, _ in every], np.int64),
        "values_ends": np.cumsum([0, *map(len, pixels)]),
        "pixels": np.concatenate([np.empty((0, 2), np.int32), *(own for _, own in every)]),
        "pixels_ends": np.cumsum([0, *(len(own) for _, own in every)]),
    }


def unpack_indexes(arrays: Mapping[str, NDArray[Any]]) -> list[CropIndex]:
    """Inverse of `pack_indexes`."""
    counts, values, ends = arrays["counts"].tolist(), arrays["values"].tolist(), 0
    parts = [arrays["pixels"][a:b] for a, b in pairwise(arrays["pixels_ends"].tolist())]
    indexes = []
    for size, (a, b), (c, d) in zip(
        arrays["sizes"].tolist(),
        pairwise(arrays["counts_ends"].tolist()),
        pairwise(arrays["values_ends"].tolist()),
        strict=True,
    ):
        height, width, alignment, cell, labelled, rows, cols = size
        usable = arrays["usable"][ends : ends + rows * cols].reshape(rows, cols)
        ends += rows * cols
        indexes.append(
            CropIndex(
                height, width, alignment, cell, usable, labelled,
                class_counts=dict(counts[a:b]),
                class_pixels=dict(zip(values[c:d], parts[c:d], strict=True)),
            )
        )  # fmt: skip
    return indexes
