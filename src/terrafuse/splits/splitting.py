"""Division of a manifest into training, validation and test: whole scenes, or spatial blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isclose
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.footprints import overlap_groups
from terrafuse.data.manifest import Manifest
from terrafuse.data.names import moved_name
from terrafuse.data.scene import Scene
from terrafuse.data.statistics import class_counts
from terrafuse.errors import ConfigError, DataError
from terrafuse.progress import Progress
from terrafuse.samples import Window, round_up
from terrafuse.splits.assignment import assign_units
from terrafuse.splits.balance import least_gap
from terrafuse.splits.content import find_shared_ground, join_groups, sketch_scene

DEFAULT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}

# With this many scenes per split, whole scenes can represent the classes.
_SCENES_PER_SPLIT = 3
# Above this many units, one attempt meets the shares closely enough.
_MOST_UNITS = 2000


@dataclass(frozen=True)
class _Unit:
    """A unit that goes into one split as a whole: overlapping scenes, or one block of a scene."""

    scenes: tuple[int, ...]
    block: tuple[int, int] | None
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a scene: edges of their rows and columns, in scene pixels."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]

    def window(self, row: int, col: int, row_stop: int, col_stop: int) -> Window:
        top, left = int(self.rows[row]), int(self.cols[col])
        return Window(top, left, int(self.rows[row_stop]) - top, int(self.cols[col_stop]) - left)


def split_manifest(
    manifest: Manifest,
    *,
    shares: Mapping[str, float] | None = None,
    by: Literal["auto", "scene", "block"] = "auto",
    block_px: int = 512,
    buffer_px: int = 64,
    seed: int = 0,
    seeds: int = 8,
    manifest_folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Divide the scenes of a manifest among new splits, and return the values of the new manifest.

    Every class shall have its share of pixels in every split, as near as whole scenes or blocks
    allow: the largest holdings of a class are given away first, each to the split that then is
    nearest to its shares; then single ones are moved and pairs exchanged while that helps. Scenes
    that show the same ground stay together, be it that only their pixels tell, and so do those of
    one `place`. Without any labels the shares are of area; otherwise scenes without labels are in
    no split.

    Args:
        manifest: Data set to divide; its present splits are discarded.
        shares: Share per split; default: train 0.6, val 0.2, test 0.2.
        by: "scene": whole scenes. "block": scenes that stay with no other are cut into blocks,
            which become scenes with a `window`. "auto": blocks where there are fewer than three
            scenes per split.
        block_px: Side of a block, in scene pixels.
        buffer_px: Gap left between blocks of different splits, in scene pixels; at most half
            of `block_px`.
        seed: Breaks ties.
        seeds: Number of draws, with seeds from `seed` on, of which the best balanced is taken.
        manifest_folder: Folder of the new manifest; default: that of the old one. Relative
            paths are adapted to it.
        progress: Called with (scenes done, scenes in total) while counting labels.

    Returns:
        Values for `write_manifest`.

    Raises:
        ConfigError: Shares or sizes are invalid.
        DataError: There are too few scenes or blocks, or a raster cannot be read.
    """
    shares = _check_shares(shares or DEFAULT_SHARES)
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; at least one draw is needed")
    if not 0 <= 2 * buffer_px <= block_px or block_px < 1:
        raise ConfigError(
            f"buffer_px is {buffer_px} and block_px {block_px}; a buffer is at most half of a block"
        )
    scenes = manifest.scenes()
    if any(scene.has_labels for scene in scenes):
        scenes = [scene for scene in scenes if scene.has_labels]
    groups = _group_scenes(manifest, scenes)
    if by == "auto":
        by = "block" if len(groups) < _SCENES_PER_SPLIT * len(shares) else "scene"
    blocks = {
        group[0]: _cut(scenes[group[0]], block_px)
        for group in groups
        if by == "block" and len(group) == 1
    }
    units = _count_units(scenes, groups, blocks, progress)
    if len(units) < len(shares):
        raise DataError(_too_few(manifest, scenes, groups, len(units), list(shares), by))
    chosen = assign_units(
        np.stack([unit.counts for unit in units]), list(shares.values()), seed,
        draws=seeds if len(units) <= _MOST_UNITS else 1,
    )  # fmt: skip
    pieces = _pieces(scenes, units, chosen, blocks, buffer_px)
    _assert_apart(pieces, buffer_px)
    return _new_values(manifest, list(shares), pieces, manifest_folder)


def _group_scenes(manifest: Manifest, scenes: Sequence[Scene]) -> list[list[int]]:
    """Scenes that have to stay together: they overlap, or have one place; be it through others."""
    groups = join_groups(overlap_groups([scene.grid for scene in scenes]), _same_place(scenes))
    if all(scene.grid.crs is not None for scene in scenes):
        return groups
    # Values as they are in the files: equal pixels shall be equal.
    plain = manifest.with_rescale(dict.fromkeys(manifest.rules))
    sketches = [
        sketch_scene(plain.scene(scene.id)) if scene.grid.crs is None else None for scene in scenes
    ]
    return join_groups(groups, ((pair.first, pair.second) for pair in find_shared_ground(sketches)))


def _same_place(scenes: Sequence[Scene]) -> Iterator[tuple[int, int]]:
    """Pairs of scenes that the manifest says are of one place."""
    first: dict[str, int] = {}
    for number, scene in enumerate(scenes):
        if scene.place is not None:
            yield first.setdefault(scene.place, number), number


def _too_few(
    manifest: Manifest,
    scenes: Sequence[Scene],
    groups: Sequence[Sequence[int]],
    found: int,
    splits: Sequence[str],
    by: str,
) -> str:
    text = (
        f"'{manifest.path}' has {found} separate {by}s with labels, too few for the {len(splits)} "
        f"splits {', '.join(splits)}. "
    )
    together = max(groups, key=len)
    if by == "scene":
        return text + "Divide by blocks (by='block')"
    if len(together) == 1:
        return text + "Use smaller blocks (block_px, --block; and buffer_px, --buffer)"
    named = ", ".join(f"'{scenes[i].id}'" for i in together[:3])
    named += " …" if len(together) > 3 else ""
    return text + (
        f"{len(together)} scenes overlap or have one 'place', be it through others ({named}), and "
        "can only be in one split as a whole, however small the blocks. Join them into one raster "
        "that is cut into blocks (rio merge, gdalbuildvrt), leave out those between, or name fewer "
        "splits"
    )


def _check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    sound = all(share > 0 for share in shares.values())
    if not shares or not sound or not isclose(sum(shares.values()), 1, abs_tol=1e-3):
        raise ConfigError(
            f"shares of the splits are {dict(shares)}; give positive numbers that sum to 1"
        )
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _cut(scene: Scene, block_px: int) -> _Blocks:
    """Cut a scene into blocks of nearly equal size, at least `block_px` if the scene is.

    A single block thus keeps the neighbours on its two sides a buffer apart.
    """

    def edges(length: int) -> NDArray[np.int64]:
        even = np.linspace(0, length, max(1, length // block_px) + 1)[1:-1]
        inner = np.round(even / scene.alignment).astype(np.int64) * scene.alignment
        return np.unique([0, *inner, length])

    return _Blocks(edges(scene.grid.height), edges(scene.grid.width))


def _count_units(
    scenes: Sequence[Scene],
    groups: Sequence[Sequence[int]],
    blocks: Mapping[int, _Blocks],
    progress: Progress | None,
) -> list[_Unit]:
    units: list[_Unit] = []
    done = 0
    for group in groups:
        if group[0] in blocks:
            units += _count_blocks(group[0], scenes[group[0]], blocks[group[0]])
        else:
            counts = np.sum([_count_scene(scenes[i]) for i in group], axis=0)
            units.append(_Unit(tuple(group), None, counts))
        done += len(group)
        if progress:
            progress(done, len(scenes))
    # A unit without labels is of no use to any split.
    return [unit for unit in units if unit.counts.any()]


def _count_scene(scene: Scene) -> NDArray[np.int64]:
    if scene.scheme is None or not scene.has_labels:
        return np.array([scene.grid.height * scene.grid.width])
    counts = class_counts([scene], scene.scheme)
    return np.append(counts, counts.sum())


def _count_blocks(index: int, scene: Scene, blocks: _Blocks) -> list[_Unit]:
    units = []
    for row in range(len(blocks.rows) - 1):
        for col in range(len(blocks.cols) - 1):
            window = blocks.window(row, col, row + 1, col + 1)
            if scene.scheme is None or not scene.has_labels:
                counts = np.array([window.height * window.width])
            else:
                height, width = (
                    round_up(n, scene.alignment) for n in (window.height, window.width)
                )
                labels = scene.read_labels(Window(window.row, window.col, height, width))
                counts = np.bincount(labels.ravel(), minlength=256)[: scene.scheme.num_classes]
                counts = np.append(counts, counts.sum())
            units.append(_Unit((index,), (row, col), counts))
    return units


def _pieces(
    scenes: Sequence[Scene],
    units: Sequence[_Unit],
    chosen: NDArray[np.int64],
    blocks: Mapping[int, _Blocks],
    buffer_px: int,
) -> dict[str, list[tuple[int, Window | None]]]:
    """Return the parts per scene id: split index, and window of the scene or None for all of it."""
    pieces: dict[str, list[tuple[int, Window | None]]] = {}
    maps = {i: np.full((len(cut.rows) - 1, len(cut.cols) - 1), -1) for i, cut in blocks.items()}
    for unit, split in zip(units, chosen.tolist(), strict=True):
        for i in unit.scenes:
            if unit.block is None:
                pieces[scenes[i].id] = [(split, None)]
            else:
                maps[i][unit.block] = split
    for i, splits in maps.items():
        margin = round_up(ceil(buffer_px / 2), scenes[i].alignment)
        pieces[scenes[i].id] = _windows(splits, blocks[i], margin)
    return pieces


def _assert_apart(
    pieces: Mapping[str, Sequence[tuple[int, Window | None]]], buffer_px: int
) -> None:
    for parts in pieces.values():
        windows = [(window, split) for split, window in parts if window is not None]
        gap = least_gap([w for w, _ in windows], [split for _, split in windows])
        assert gap is None or gap[0] >= buffer_px, (parts, gap, buffer_px)


def _windows(
    splits: NDArray[np.int64], blocks: _Blocks, margin: int
) -> list[tuple[int, Window | None]]:
    """Join blocks of one split to rectangles, shrunk where a neighbour belongs to another split."""
    around = np.pad(splits, 1, constant_values=-1)
    windows: list[tuple[int, Window | None]] = []
    if splits.size == 1:
        return [(int(splits[0, 0]), None)] if splits[0, 0] >= 0 else []
    for row, col, row_stop, col_stop in _rectangles(splits):
        split = int(splits[row, col])
        # In `around` the rectangle is offset by one; corners belong to both of their sides, since
        # blocks that meet only at a corner are neighbours too.
        sides = (
            around[row, col : col_stop + 2],
            around[row : row_stop + 2, col],
            around[row_stop + 1, col : col_stop + 2],
            around[row : row_stop + 2, col_stop + 1],
        )
        top, left, bottom, right = (
            margin if ((side >= 0) & (side != split)).any() else 0 for side in sides
        )
        whole = blocks.window(row, col, row_stop, col_stop)
        height, width = whole.height - top - bottom, whole.width - left - right
        if height > 0 and width > 0:
            windows.append((split, Window(whole.row + top, whole.col + left, height, width)))
    return windows


def _rectangles(splits: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Join runs of equal value along rows with the same run of the row above."""
    finished: list[tuple[int, int, int, int]] = []
    growing: dict[tuple[int, int, int], int] = {}  # (value, col, col_stop) → first row
    for row in range(len(splits) + 1):
        runs = _runs(splits[row]) if row < len(splits) else []
        ended = {run: start for run, start in growing.items() if run not in runs}
        finished += [(start, col, row, stop) for (_, col, stop), start in ended.items()]
        growing = {run: growing.get(run, row) for run in runs}
    return sorted(finished)


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    borders = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(int(values[a]), a, b) for a, b in pairwise(borders) if values[a] >= 0]


def _new_values(
    manifest: Manifest,
    names: Sequence[str],
    pieces: Mapping[str, Sequence[tuple[int, Window | None]]],
    folder: Path | None,
) -> dict[str, Any]:
    values = manifest.to_dict()
    entries = []
    for old in values["scenes"]:
        plain = {key: value for key, value in old.items() if key != "split"}
        parts = pieces.get(old["id"])
        if parts is None:
            entries.append(plain)
            continue
        for split, window in parts:
            entry = {"id": old["id"], "split": names[split]} | plain
            if window is not None:
                row, col = (old.get("window") or (0, 0))[:2]
                entry["id"] = f"{old['id']}_r{window.row}_c{window.col}"
                entry["window"] = [row + window.row, col + window.col, window.height, window.width]
            entries.append(entry)
    values["scenes"] = entries
    if folder is not None:
        move_paths(values, manifest.path.parent, folder)
    return values


def move_paths(values: dict[str, Any], old: Path, new: Path) -> None:
    """Make relative paths of a manifest's values hold from another folder, in place."""

    def moved(path: Any) -> Any:
        if isinstance(path, list):
            return [moved(part) for part in path]
        return moved_name(path, old, new) if isinstance(path, str) else path

    if values.get("root") is not None:  # all others are relative to it
        values["root"] = moved(values["root"])
        return
    for entry in values["scenes"]:
        files = (*values["modalities"], "labels", "labels_eroded")
        entry |= {k: moved(entry[k]) for k in files if k in entry}
    labels = values.get("labels")
    if isinstance(labels, dict) and "area" in labels:
        labels["area"] = moved(labels["area"])
