"""Sampling of training crops: random, balanced over classes, on a regular grid, or by scene.

A draw is a pure function of (seed, index). Training can therefore be resumed at any step and
distributed over any number of processes without keeping state.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.kept import Keeper
from terrafuse.data.scene import Scene
from terrafuse.errors import ConfigError, DataError, LabelError
from terrafuse.progress import Progress
from terrafuse.samples import Window, round_up
from terrafuse.sampling.crop_index import (
    CropIndex,
    drained,
    index_crops_by_window,
    pack_indexes,
    unpack_indexes,
)

_Windows = NDArray[np.int32]
SamplingMode = Literal["random", "balanced", "grid", "scene"]

# Cells of the crop index per side of a crop; also the phases of the grid per axis.
_CELLS_PER_CROP = 4
# Pixels remembered per class, over all scenes: 8 MB.
_CLASS_PIXELS = 1_000_000
_LEAST_PIXELS_PER_SCENE = 64


@dataclass(frozen=True)
class CropIndexing:
    """Settings by which scenes are indexed for a sampler.

    Args:
        crop_size: Height and width of windows, in scene pixels.
        smallest: Smallest size that will be drawn.
        mode: As of `WindowSampler`.
        require_all: Likewise.
        use_labels: Likewise.
        scenes: Number of scenes.
    """

    crop_size: int
    smallest: int
    mode: SamplingMode
    require_all: bool
    use_labels: bool
    scenes: int

    def steps(self, number: int, scene: Scene) -> Generator[None, None, CropIndex]:
        """Index scene `number`, pausing after each window.

        Raises:
            ConfigError: `crop_size` does not fit the scales of the modalities.
        """
        _check_crop_size(self.crop_size, scene)
        cell = min(self.crop_size, self.smallest) // _CELLS_PER_CROP
        pixels = max(_LEAST_PIXELS_PER_SCENE, _CLASS_PIXELS // self.scenes)
        return index_crops_by_window(
            scene,
            max(1, cell // scene.alignment) * scene.alignment,
            pixels_per_class=pixels if self.mode == "balanced" else 0,
            require_all=self.require_all,
            use_labels=self.use_labels,
            seed=number,
        )


class WindowSampler:
    """A sampler of windows from scenes.

    Where a scene is larger than the window, the window lies inside it (up to rounding to its
    alignment); where it is smaller, the window starts at the scene's origin and extends beyond it.

    Args:
        crop_size: Height and width of windows, in scene pixels.
        mode: `random`: every usable pixel is equally likely to be in the window, up to the borders
            of scenes. `balanced`: a class is drawn uniformly among those present, then one of its
            pixels, then a window around it at a random offset. `grid`: every epoch is a
            permutation of a lattice of windows without overlap, each epoch with another phase.
            `scene`: a scene is drawn uniformly among those with usable pixels, then the window
            uniformly among all inside it, as published protocols do. Such a window may have no
            usable pixel; with `require_all` or `require_usable` it is then replaced by one that
            has.
        seed: Draws depend on this and on the index only.
        smallest: Smallest size that `draw` will be asked for; default: `crop_size`.
        require_all: Only pixels with data of every modality are usable, for methods that need all
            of them and might reject a window in which one has none.
        require_usable: Every window has usable pixels in mode `scene` too, for labels so sparse
            that most windows would have none.
        use_labels: Whether a usable pixel needs a label; otherwise no labels are read.
        kept: Indexes of the same scenes from before.
        progress: Called with (scenes done, scenes in total) while looking for usable pixels.

    Raises:
        ConfigError: `crop_size` does not fit the scales of the modalities.
        DataError: There are no scenes, or they have no data.
        LabelError: There are no labels, or all are ignored.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        *,
        crop_size: int,
        mode: SamplingMode = "random",
        seed: int = 0,
        smallest: int | None = None,
        require_all: bool = False,
        require_usable: bool = False,
        use_labels: bool = True,
        kept: KeptIndexes | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not scenes:
            raise DataError("there are no scenes to train on; set 'split: train' in the manifest")
        self.crop_size, self.mode, self.seed = crop_size, mode, seed
        self._require_usable = require_all or require_usable
        indexing = CropIndexing(
            crop_size, smallest or crop_size, mode, require_all, use_labels, len(scenes)
        )
        self.crop_indexes = _index_all(scenes, indexing, kept, progress)
        _check_usable(scenes, self.crop_indexes, require_all, use_labels)
        self._usable = [i for i, crop_index in enumerate(self.crop_indexes) if crop_index.total]
        self._scene_ends = np.cumsum([crop_index.total for crop_index in self.crop_indexes])
        self._classes = sorted({value for s in self.crop_indexes for value in s.class_counts})
        self._class_ends = np.cumsum(
            [[s.class_counts.get(value, 0) for value in self._classes] for s in self.crop_indexes],
            axis=0,
        )
        self._lattices: list[_Windows] = self._make_lattices() if mode == "grid" else []
        self._epoch: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def draw(self, index: int, size: int | None = None) -> tuple[int, Window]:
        """Return the scene and the window of draw number `index`.

        Args:
            index: Any integer from 0.
            size: Height and width in scene pixels, a multiple of the alignment; default:
                `crop_size`. It is limited to the scene's shorter side, but not below `crop_size`.

        Returns:
            Position of the scene in the sequence, and the window.
        """
        rng = np.random.default_rng((self.seed, index))
        if self.mode == "scene":
            return self._draw_in_scene(size or self.crop_size, rng)
        if self.mode == "grid":
            scene, row, col = self._draw_from_grid(index)
        elif self.mode == "balanced":
            scene, row, col = self._draw_class_pixel(rng)
        else:
            scene, row, col = self._draw_cell(rng)
        crop_index = self.crop_indexes[scene]
        size = self._limit(size or self.crop_size, crop_index)
        # The window must contain this many pixels from (row, col) on.
        extent = {"grid": self.crop_size, "balanced": 1, "random": crop_index.cell}[self.mode]
        if self.mode == "grid" and size < extent:
            (row, col), extent = self._cell_in_window(crop_index, row, col, rng), crop_index.cell
        row, col = (
            _place_window(place, extent, size, length, crop_index.alignment, rng)
            for place, length in ((row, crop_index.height), (col, crop_index.width))
        )
        return scene, Window(row, col, size, size)

    def _limit(self, size: int, crop_index: CropIndex) -> int:
        shorter = round_up(min(crop_index.height, crop_index.width), crop_index.alignment)
        return min(size, max(self.crop_size, shorter))

    def _draw_in_scene(self, size: int, rng: np.random.Generator) -> tuple[int, Window]:
        scene = self._usable[int(rng.integers(len(self._usable)))]
        crop_index = self.crop_indexes[scene]
        size, alignment = self._limit(size, crop_index), crop_index.alignment
        sides = (crop_index.height, crop_index.width)
        row, col = (
            int(rng.integers(_last_start(length, size, alignment) // alignment + 1)) * alignment
            for length in sides
        )
        if self._require_usable and not _holds_usable(crop_index, row, col, size):
            place = crop_index.cell_of(int(rng.integers(crop_index.total)))
            row, col = (
                _place_window(start, crop_index.cell, size, length, alignment, rng)
                for start, length in zip(place, sides, strict=True)
            )
        return scene, Window(row, col, size, size)

    def _draw_cell(self, rng: np.random.Generator) -> tuple[int, int, int]:
        pixel = int(rng.integers(self._scene_ends[-1]))
        scene = int(np.searchsorted(self._scene_ends, pixel, side="right"))
        crop_index = self.crop_indexes[scene]
        row, col = crop_index.cell_of(pixel - int(self._scene_ends[scene]) + crop_index.total)
        return scene, row, col

    def _draw_class_pixel(self, rng: np.random.Generator) -> tuple[int, int, int]:
        position = int(rng.integers(len(self._classes)))
        ends = self._class_ends[:, position]
        scene = int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))
        row, col = rng.choice(self.crop_indexes[scene].class_pixels[self._classes[position]])
        return scene, int(row), int(col)

    def _draw_from_grid(self, index: int) -> tuple[int, int, int]:
        # A cycle visits every phase once, in another order each time; so its length is known and
        # any index is found without visiting those before it.
        lengths = np.array([len(lattice) for lattice in self._lattices])
        cycle, position = divmod(index, int(lengths.sum()))
        phases = np.random.default_rng((self.seed, cycle)).permutation(len(lengths))
        ends = np.cumsum(lengths[phases])
        epoch = int(np.searchsorted(ends, position, side="right"))
        lattice = self._lattices[phases[epoch]]
        if self._epoch is None or self._epoch[0] != (cycle, epoch):
            order = np.random.default_rng((self.seed, cycle, epoch)).permutation(len(lattice))
            self._epoch = ((cycle, epoch), order)
        scene, row, col = lattice[self._epoch[1][position - ends[epoch] + len(lattice)]]
        return int(scene), int(row), int(col)

    def _cell_in_window(
        self, crop_index: CropIndex, row: int, col: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Draw a cell of a lattice window by its usable pixels, so that a part of it holds some."""
        rows = slice(*_inner_cells(row, self.crop_size, crop_index.height, crop_index.cell))
        cols = slice(*_inner_cells(col, self.crop_size, crop_index.width, crop_index.cell))
        part = crop_index.usable[rows, cols]
        ends = part.ravel().cumsum()
        found = int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))
        down, right = divmod(found, part.shape[1])
        return (rows.start + down) * crop_index.cell, (cols.start + right) * crop_index.cell

    def _make_lattices(self) -> list[_Windows]:
        """List the usable windows per phase, int32 (n, 3): scene, row, column."""
        size = self.crop_size
        # A scene not larger than a window has the same single window in every phase.
        usable = [
            (i, crop_index) for i, crop_index in enumerate(self.crop_indexes) if crop_index.total
        ]
        single = [(i, 0, 0) for i, s in usable if max(s.height, s.width) <= size]
        large = [(i, s) for i, s in usable if max(s.height, s.width) > size]
        steps = [step * size // _CELLS_PER_CROP for step in range(_CELLS_PER_CROP)]
        return [
            np.concatenate(
                [
                    np.array(single, np.int32).reshape(-1, 3),
                    *(_lattice(i, crop_index, size, (down, right)) for i, crop_index in large),
                ]
            )
            for down in steps
            for right in steps
        ]


@dataclass(frozen=True)
class KeptIndexes:
    """Crop indexes of a data set that are kept with it.

    Args:
        keeper: What is kept of the data set.
        about: What decides which scenes of it are indexed, and which of their labels are void.
    """

    keeper: Keeper
    about: tuple[object, ...]

    def load(self, indexing: CropIndexing) -> list[CropIndex] | None:
        """Return the indexes, or None."""
        found = self.keeper.load("crops", indexing, self.about)
        return None if found is None else unpack_indexes(found)

    def save(self, indexing: CropIndexing, indexes: Sequence[CropIndex]) -> None:
        """Keep the indexes."""
        self.keeper.save("crops", indexing, self.about, values={}, arrays=pack_indexes(indexes))


def _index_all(
    scenes: Sequence[Scene],
    indexing: CropIndexing,
    kept: KeptIndexes | None,
    progress: Progress | None,
) -> list[CropIndex]:
    found = kept.load(indexing) if kept else None
    if found is not None:
        return found
    indexes = []
    for number, scene in enumerate(scenes):
        indexes.append(drained(indexing.steps(number, scene)))
        if progress:
            progress(number + 1, len(scenes))
    if kept:
        kept.save(indexing, indexes)
    return indexes


def _place_window(
    place: int, extent: int, size: int, length: int, alignment: int, rng: np.random.Generator
) -> int:
    """Draw an aligned start of a window of `size` that holds `extent` pixels from `place` on.

    A window smaller than `extent` lies within those pixels; inside the scene's `length` if it fits.
    """
    low, high = sorted((place + extent - size, place))
    start = int(rng.integers(-(-low // alignment), high // alignment + 1)) * alignment
    return _clamp(start, length, size, alignment)


def _clamp(start: int, length: int, size: int, alignment: int) -> int:
    """Move `start` so that the window lies inside the scene if it fits."""
    return min(max(0, start // alignment * alignment), _last_start(length, size, alignment))


def _last_start(length: int, size: int, alignment: int) -> int:
    """Return the last start of a window inside the scene, up to rounding to its alignment."""
    return round_up(max(0, length - size), alignment)


def _holds_usable(crop_index: CropIndex, row: int, col: int, size: int) -> bool:
    """Tell whether a usable cell lies entirely in a window, so that it has a usable pixel."""
    rows = slice(*_inner_cells(row, size, crop_index.height, crop_index.cell))
    cols = slice(*_inner_cells(col, size, crop_index.width, crop_index.cell))
    return bool(crop_index.usable[rows, cols].any())


def _lattice(index: int, crop_index: CropIndex, size: int, phase: tuple[int, int]) -> _Windows:
    """List the usable windows of one scene, int32 (n, 3): scene, row, column."""
    rows = _lattice_starts(crop_index.height, size, phase[0], crop_index.alignment)
    cols = _lattice_starts(crop_index.width, size, phase[1], crop_index.alignment)
    # A window counts if a usable cell lies entirely in it: it then has a usable pixel for certain.
    top, bottom = np.array(
        [_inner_cells(r, size, crop_index.height, crop_index.cell) for r in rows]
    ).T
    left, right = np.array(
        [_inner_cells(c, size, crop_index.width, crop_index.cell) for c in cols]
    ).T
    sums = np.pad(crop_index.usable.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = (
        sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    )
    i, j = np.nonzero(inside > 0)
    return np.stack([np.full_like(i, index), rows[i], cols[j]], axis=1).astype(np.int32)


def _lattice_starts(length: int, size: int, phase: int, alignment: int) -> NDArray[np.int64]:
    """Return starts of windows `size` apart, shifted by `phase`, that cover a side of a scene."""
    if length <= size:
        return np.zeros(1, np.int64)
    starts = {_clamp(start, length, size, alignment) for start in range(-phase, length, size)}
    return np.array(sorted(starts))


def _inner_cells(start: int, size: int, length: int, cell: int) -> tuple[int, int]:
    """Return the first and last + 1 cell inside a window; the scene's last cell may be cut off."""
    stop = round_up(length, cell) if start + size >= length else start + size
    first = -(-start // cell)
    return first, max(first, stop // cell)


def _check_crop_size(crop_size: int, scene: Scene) -> None:
    if crop_size % scene.alignment:
        scales = ", ".join(f"{m.name} {m.scale:g}" for m in scene.modalities)
        raise ConfigError(
            f"data.crop_size is {crop_size}; with the scales of these modalities ({scales}) it "
            f"must be a multiple of {scene.alignment}, for example "
            f"{round_up(crop_size, scene.alignment)}"
        )


def _check_usable(
    scenes: Sequence[Scene], crop_indexes: Sequence[CropIndex], require_all: bool, use_labels: bool
) -> None:
    if any(crop_index.total for crop_index in crop_indexes):
        return
    ids = ", ".join(f"'{scene.id}'" for scene in scenes[:5])
    where = f"the scenes to train on ({ids}{', …' if len(scenes) > 5 else ''})"
    every = "every" if require_all else "any"
    if not use_labels:
        raise DataError(
            f"no data: in {where} no pixel has data of {every} modality. Correct 'nodata' in the "
            "manifest"
        )
    if not any(scene.has_labels for scene in scenes):
        raise LabelError(f"{where} have no labels; give each 'labels' in the manifest")
    if not any(crop_index.labelled for crop_index in crop_indexes):
        raise LabelError(
            f"labels all ignored: in {where} every label is void, nodata or outside 'area'. "
            "Correct 'classes', 'void' or the labels' 'nodata' in the manifest"
        )
    raise DataError(
        f"no data where labels are: in {where} no labelled pixel has data of "
        f"{every} modality. Correct 'nodata' in the manifest, or "
        "check that the rasters cover the labels"
    )
