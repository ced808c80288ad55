"""Joining segments across neighbouring windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrafuse.generate.windows import WindowPlan

# Segments seen whole in both windows are the same if their IoU is at least this.
_SAME = 0.5
# A segment cut off by its window continues in the one that holds this share of its visible part.
_WITHIN = 0.5
# Segments this many pixels apart are neighbours: masks often leave a thin gap.
_GAP_PX = 3

Load = Callable[[int], NDArray[np.integer]]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Segments of all windows, numbered consecutively: `offsets[window] + label`; 0 is none.

    Args:
        offsets: First number of each window, int64 (windows + 1,).
        roots: Per segment, the smallest number it was joined with, int64.
        areas: Per segment, pixels in its own window, int64.
        owned: Per segment, bool: complete in its window, with at least half of it in the window's
            core. Such a segment is drawn whole, also beyond the core.
        shown: Number of segments, after joining, with a pixel in the core of a window.
    """

    offsets: Numbers
    roots: Numbers
    areas: Numbers
    owned: NDArray[np.bool_]
    shown: int


def join_segments(plan: WindowPlan, load: Load) -> Segments:
    """Join the segments that several windows see.

    Args:
        load: Returns the segment map (h, w) of a window, 0 = none.
    """
    areas, owned, in_core = [np.zeros(1, np.int64)], [np.zeros(1, bool)], [np.zeros(1, bool)]
    offsets = [0]
    for number in range(len(plan.windows)):
        area, own, inside = _measure(plan, number, load(number))
        areas.append(area)
        owned.append(own)
        in_core.append(inside)
        offsets.append(offsets[-1] + len(area))
    union = UnionFind(offsets[-1] + 1)
    for first, second in plan.pairs():
        stacked = second - first == plan.columns
        for a, b in match(*_shared(plan, first, second, load), stacked=stacked):
            union.join(offsets[first] + a, offsets[second] + b)
    roots = union.roots()
    return Segments(
        offsets=np.array(offsets),
        roots=roots,
        areas=np.concatenate(areas),
        owned=np.concatenate(owned),
        shown=len(np.unique(roots[np.concatenate(in_core)])),
    )


class UnionFind:
    """Disjoint sets of the numbers 0 to `size` − 1; the root of each is its smallest number."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int64)

    def find(self, number: int) -> int:
        """Return the smallest number in the set of `number`."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = int(parent[number])
        return number

    def join(self, a: int, b: int) -> None:
        """Merge the sets of two numbers."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def roots(self) -> Numbers:
        """Return the smallest number in the set of every number."""
        # A parent is never larger than its child, hence a few rounds suffice.
        roots = self._parent
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        return roots


def match(
    first: NDArray[np.integer], second: NDArray[np.integer], *, stacked: bool
) -> list[tuple[int, int]]:
    """Match the segments of two overlapping windows.

    Two are the same if their intersection is at least half of their union. A segment that touches
    its window's border is only a part: it continues in the segment of the other window that holds
    half of its visible part. A segment may take several such parts unless they are adjacent: those
    have been separated by the other window.

    Args:
        first: Segment map (h, w) of the left or upper window, on the shared pixels.
        second: Segment map (h, w) of the right or lower window, on the same pixels.
        stacked: True: `first` lies above `second`; False: to its left.

    Returns:
        Pairs (number in `first`, number in `second`).
    """
    pairs, counts = _count_pairs(first, second)
    sizes = np.bincount(first.ravel()), np.bincount(second.ravel())
    a, b = pairs[:, 0], pairs[:, 1]
    same = counts >= _SAME * (sizes[0][a] + sizes[1][b] - counts)
    cut = np.unique(first[-1] if stacked else first[:, -1])
    begun = np.unique(second[0] if stacked else second[:, 0])
    part = np.isin(a, cut) & (counts >= _WITHIN * sizes[0][a])
    part |= np.isin(b, begun) & (counts >= _WITHIN * sizes[1][b])
    apart = _touching_pairs(first), _touching_pairs(second)
    of_first, of_second = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    order = np.lexsort((b, a, -counts, ~same))  # identical ones first, then the largest parts
    for n in order[(same | part)[order]]:
        x, y = int(a[n]), int(b[n])
        rivals = [p for p in of_second[y] if (min(p, x), max(p, x)) in apart[0]]
        rivals += [q for q in of_first[x] if (min(q, y), max(q, y)) in apart[1]]
        if not rivals:
            of_first[x].append(y)
            of_second[y].append(x)
    return [(x, y) for x, partners in of_first.items() for y in partners]


def _measure(
    plan: WindowPlan, number: int, labels: NDArray[np.integer]
) -> tuple[Numbers, NDArray[np.bool_], NDArray[np.bool_]]:
    """Measure a window's segments: area, whether owned, whether any pixel is in the core."""
    count = int(labels.max(initial=0))
    area = np.bincount(labels.ravel(), minlength=count + 1)
    core = labels[plan.cores[number].slices(plan.windows[number])]
    inside = np.bincount(core.ravel(), minlength=count + 1)
    owned = (area > 0) & (2 * inside >= area)
    owned[plan.cut_border(number, labels)] = False
    return area[1:].astype(np.int64), owned[1:], inside[1:] > 0


def _shared(
    plan: WindowPlan, first: int, second: int, load: Load
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    a, b = plan.windows[first], plan.windows[second]
    shared = a.intersection(b)
    assert shared is not None
    return load(first)[shared.slices(a)], load(second)[shared.slices(b)]


def _count_pairs(
    first: NDArray[np.integer], second: NDArray[np.integer]
) -> tuple[Numbers, Numbers]:
    """Return pairs of segments (n, 2) that share pixels, and the number of these (n,)."""
    both = (first > 0) & (second > 0)
    base = int(second.max(initial=0)) + 1
    keys = first[both].astype(np.int64) * base + second[both]
    found, counts = np.unique(keys, return_counts=True)
    return np.stack([found // base, found % base], axis=1), counts.astype(np.int64)


def _touching_pairs(labels: NDArray[np.integer]) -> set[tuple[int, int]]:
    """Return pairs (smaller, larger) of segments separated by at most a thin gap."""
    base = int(labels.max(initial=0)) + 1
    found = [np.empty(0, np.int64)]
    for grid in (labels.astype(np.int64), labels.T.astype(np.int64)):
        open_between = np.ones_like(grid[1:], bool)
        for step in range(1, min(_GAP_PX + 1, len(grid))):
            one, other = grid[:-step], grid[step:]
            differ = open_between & (one != other) & (one > 0) & (other > 0)
            x, y = one[differ], other[differ]
            found.append(np.unique(np.minimum(x, y) * base + np.maximum(x, y)))
            open_between = (open_between & (other == 0))[:-1]
    return {(int(key) // base, int(key) % base) for key in np.unique(np.concatenate(found))}
