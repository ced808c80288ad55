"""Scenes that show the same ground, told by their pixels where nothing says where they lie.

Chips cut from one image overlap in pixels that are equal to the last bit. Of every place in a scene
a number is computed from the 8 × 8 pixels there; the smallest numbers, which chance has spread over
the scene, are kept. Two scenes that share some of them, all at one distance, overlap there: the
distance tells how. Chips that were resampled, or compressed with loss one by one, are not found.

Reference:
    Broder: On the resemblance and containment of documents, SEQUENCES 1997 (the smallest numbers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.grid import own_window
from terrafuse.data.scene import Scene
from terrafuse.modalities import Modality
from terrafuse.samples import Window, blocks, round_up

Numbers = NDArray[np.uint64]

# Side of what a number stands for; how many are kept of a scene: one per so many pixels.
_SIDE = 8
_PER_NUMBER, _LEAST_KEPT, _MOST_KEPT = 64, 256, 1 << 15
# As many equal ones are no chance.
_LEAST = 4
# Neighbours that differ, of the 56 along rows and along columns of a place: level ground, fill
# and drawn patterns look alike in many scenes.
_LEAST_CHANGES = 24
_BLOCK = 512
# Of what very many scenes share, neighbours in the list stand for all pairs.
_MOST_SHARING = 16
_ROW, _COL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Sketch:
    """Content of a scene that is compared.

    Args:
        numbers: Of places, each once, uint64 (n,).
        rows: Where they are, in scene pixels, int32 (n,).
        cols: Likewise.
        size: Rows and columns of the scene.
    """

    numbers: Numbers
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    size: tuple[int, int]


@dataclass(frozen=True)
class SharedGround:
    """Two scenes that overlap.

    Args:
        first: Position of one in the list.
        second: Of the other.
        row: Rows from the first's corner to the second's, in scene pixels.
        col: Columns likewise.
        share: Part of the smaller scene that lies in both.
    """

    first: int
    second: int
    row: int
    col: int
    share: float


def sketch_scene(scene: Scene) -> Sketch | None:
    """Read the content to compare of a scene without CRS; None for georeferenced scenes.

    Raises:
        RasterReadError: Pixels cannot be decoded.
    """
    modality = _telling(scene)
    if scene.grid.crs is not None or modality is None:
        return None
    kept = min(max(_LEAST_KEPT, scene.grid.height * scene.grid.width // _PER_NUMBER), _MOST_KEPT)
    side = round_up(_BLOCK, scene.alignment)
    margin = round_up(_SIDE * max(1, round(modality.scale)), scene.alignment)
    found = np.empty((0, 3), np.uint64)
    for block in blocks(scene.grid.height, scene.grid.width, side, scene.alignment):
        window = Window(block.row, block.col, block.height + margin, block.width + margin)
        image = scene.read(window, labels=False).images[modality.name].numpy()
        corner = own_window(modality, block)
        numbers = _numbers(image[:, : corner.height + _SIDE - 1, : corner.width + _SIDE - 1])
        rows, cols = np.nonzero(numbers < np.iinfo(np.uint64).max)
        new = np.stack([numbers[rows, cols], rows + corner.row, cols + corner.col], axis=1)
        found = _smallest(np.concatenate([found, new.astype(np.uint64)]), 2 * kept)
    _, first, counts = np.unique(found[:, 0], return_index=True, return_counts=True)
    chosen = found[first[counts == 1][:kept]]  # what is there twice tells no place
    rows, cols = np.round(chosen[:, 1:].T.astype(float) * modality.scale).astype(np.int32)
    size = (scene.grid.height, scene.grid.width)
    # Equal numbers of different modalities mean nothing.
    seed = np.uint64(int.from_bytes(modality.name.encode()[:8].ljust(8), "little"))
    return Sketch(chosen[:, 0] ^ seed, rows, cols, size)


def find_shared_ground(sketches: Sequence[Sketch | None]) -> list[SharedGround]:
    """Pairs of scenes that overlap, by their pixels."""
    votes: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
    for places in _shared_places(sketches):
        many = len(places) > _MOST_SHARING
        for (i, row, col), (j, other_row, other_col) in (
            pairwise(places) if many else combinations(places, 2)
        ):
            away = (row - other_row, col - other_col)
            votes.setdefault((i, j), Counter())[away] += 1
    found = []
    for (i, j), counts in sorted(votes.items()):
        (row, col), count = counts.most_common(1)[0]
        a, b = sketches[i], sketches[j]
        assert a is not None
        assert b is not None
        if count >= _LEAST:
            found.append(SharedGround(i, j, row, col, _share(a.size, b.size, row, col)))
    return found


def _shared_places(
    sketches: Sequence[Sketch | None],
) -> list[list[tuple[int, int, int]]]:
    """Per number that several scenes have, where: (scene, row, col), in the order of scenes."""
    own = [(i, sketch) for i, sketch in enumerate(sketches) if sketch is not None]
    if len(own) < 2:
        return []
    numbers = np.concatenate([sketch.numbers for _, sketch in own])
    whose = np.concatenate([np.full(len(sketch.numbers), i) for i, sketch in own])
    rows = np.concatenate([sketch.rows for _, sketch in own])
    cols = np.concatenate([sketch.cols for _, sketch in own])
    order = np.argsort(numbers, kind="stable")
    edges = np.flatnonzero(np.diff(numbers[order])) + 1
    return [
        list(zip(whose[run].tolist(), rows[run].tolist(), cols[run].tolist(), strict=True))
        for run in np.split(order, edges)
        if len(run) > 1
    ]


def _share(a: tuple[int, int], b: tuple[int, int], row: int, col: int) -> float:
    inner = Window(0, 0, *a).intersection(Window(row, col, *b))
    if inner is None:
        return 0.0
    return inner.height * inner.width / min(a[0] * a[1], b[0] * b[1])


def _telling(scene: Scene) -> Modality | None:
    """The modality that is compared: the finest image, else the finest of all."""
    seen = [m for m in scene.modalities if m.name not in scene.missing]
    images = [m for m in seen if m.kind not in ("elevation", "structure")]
    return min(images or seen, key=lambda m: m.scale, default=None)


def _numbers(image: NDArray[np.float32]) -> Numbers:
    """A number per place of (C, H, W), uint64 (H - 7, W - 7); the largest where none is of use."""
    if min(image.shape[1:]) < _SIDE:
        return np.empty((0, 0), np.uint64)
    pixels: NDArray[np.uint64] = np.zeros(image.shape[1:], np.uint64)
    for band in image:
        bits = np.ascontiguousarray(band + np.float32(0)).view(np.uint32)  # −0 is 0
        pixels = pixels * _COL + bits
    pixels = _mix(pixels)
    known = np.asarray(~np.isnan(image).any(axis=0))
    usable = _sum(known, _SIDE, _SIDE) == _SIDE**2
    down, right = pixels[1:] != pixels[:-1], pixels[:, 1:] != pixels[:, :-1]
    usable &= _sum(down, _SIDE - 1, _SIDE) >= _LEAST_CHANGES
    usable &= _sum(right, _SIDE, _SIDE - 1) >= _LEAST_CHANGES
    height, width = (n - _SIDE + 1 for n in known.shape)
    along = np.zeros((pixels.shape[0], width), np.uint64)
    for k in range(_SIDE):
        along = along * _COL + pixels[:, k : k + width]
    places = np.zeros((height, width), np.uint64)
    for k in range(_SIDE):
        places = places * _ROW + along[k : k + height]
    return np.where(usable, _mix(places), np.iinfo(np.uint64).max)


def _sum(values: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.int64]:
    total = np.pad(values.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    part: NDArray[np.int64] = (
        total[rows:, cols:] - total[:-rows, cols:] - total[rows:, :-cols] + total[:-rows, :-cols]
    )
    return part


def _mix(numbers: Numbers) -> Numbers:
    # SplitMix64 (Steele, Lea, Flood 2014): every bit depends on all.
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _smallest(found: Numbers, count: int) -> Numbers:
    """The rows of (n, 3) whose first number is among the `count` smallest."""
    if len(found) <= count:
        return found
    return found[np.argpartition(found[:, 0], count - 1)[:count]]


def join_groups(
    groups: Sequence[Sequence[int]], pairs: Iterable[tuple[int, int]]
) -> list[list[int]]:
    """Groups of scenes, joined where a pair lies in two of them."""
    own = [list(group) for group in groups]
    group_of: dict[int, list[int]] = {i: group for group in own for i in group}
    for first, second in pairs:
        a, b = group_of[first], group_of[second]
        if a is not b:
            a += b
            group_of |= dict.fromkeys(b, a)
    kept: Mapping[int, list[int]] = {id(group): group for group in group_of.values()}
    return [sorted(group) for group in kept.values()]
