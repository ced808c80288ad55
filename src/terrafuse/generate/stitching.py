"""Stitching windows into one raster, strip by strip from the top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.encoding import MOST_SEGMENTS
from terrafuse.errors import DataError
from terrafuse.generate.alignment import Alignment
from terrafuse.generate.joining import Load, Segments
from terrafuse.generate.windows import WindowPlan
from terrafuse.samples import Window

# Rows of depth that are stitched at once.
_ROWS = 512


def stitch_labels(plan: WindowPlan, load: Load, segments: Segments) -> Iterator[NDArray[np.uint32]]:
    """Yield the segment map in strips (rows, width), numbered from 1 in order of appearance.

    A segment that is complete in its window is drawn whole by the window that holds most of it,
    the smallest on top; all others up to the middle of the overlaps. Joined segments share one
    number, hence none ends at a window's border.

    Args:
        load: Returns the segment map (h, w) of a window, 0 = none.
        segments: Result of `join_segments`.

    Raises:
        DataError: There are too many segments for one raster.
    """
    names = np.zeros(len(segments.roots), np.uint32)  # root → number in the raster
    count = 0
    for row in plan.rows():
        first = plan.cores[row[0]]
        strip = np.empty((first.height, plan.width), np.uint32)
        for number in row:
            core = plan.cores[number]
            roots = segments.roots[_compose(plan, number, load, segments)]
            present = np.unique(roots)
            new = present[(present > 0) & (names[present] == 0)]
            names[new] = np.arange(count + 1, count + 1 + len(new))
            count += len(new)
            strip[:, core.col : core.col_stop] = names[roots]
        if count > MOST_SEGMENTS:
            raise DataError(
                f"there are more than {MOST_SEGMENTS} segments in one raster; split it into "
                "several, or request larger segments"
            )
        yield strip


def _compose(plan: WindowPlan, number: int, load: Load, segments: Segments) -> NDArray[np.int64]:
    """Return the segments in a window's core, by their numbers over all windows."""
    core = plan.cores[number]
    composed = np.zeros((core.height, core.width), np.int64)
    area = np.full(composed.shape, np.iinfo(np.int64).max)
    for other in plan.touching(core):
        window = plan.windows[other]
        part = window.intersection(core)
        assert part is not None
        here, there = part.slices(core), part.slices(window)
        labels = load(other)[there].astype(np.int64)
        numbers = np.where(labels > 0, labels + segments.offsets[other], 0)
        drawn = segments.owned[numbers] & (segments.areas[numbers] < area[here])
        composed[here][drawn] = numbers[drawn]
        area[here][drawn] = segments.areas[numbers[drawn]]
        if other == number:
            own = numbers
    return np.where(composed > 0, composed, own)


def stitch_depth(
    plan: WindowPlan, load: Callable[[int], NDArray[np.float32]], alignment: Alignment
) -> Iterator[NDArray[np.float32]]:
    """Yield the depth map in strips (rows, width): aligned windows, blended over their overlaps.

    Args:
        load: Returns the depth (h, w) of a window, NaN without data.
        alignment: Scale and shift of each window.
    """
    for top in range(0, plan.height, _ROWS):
        strip = Window(top, 0, min(_ROWS, plan.height - top), plan.width)
        total = np.zeros((strip.height, strip.width))
        weight = np.zeros_like(total)
        for number in plan.touching(strip):
            window = plan.windows[number]
            part = window.intersection(strip)
            assert part is not None
            here, there = part.slices(strip), part.slices(window)
            aligned = alignment.apply(number, load(number)[there])
            known = np.isfinite(aligned)
            share = np.where(known, _feather(plan, number)[there], 0)
            total[here] += np.where(known, aligned, 0) * share
            weight[here] += share
        with np.errstate(invalid="ignore"):
            yield (total / weight).astype(np.float32)


def _feather(plan: WindowPlan, number: int) -> NDArray[Any]:
    """Return a window's weights (h, w), which fall over the overlap towards its inner sides."""
    window = plan.windows[number]
    rows = _ramp(window.height, plan.overlap, window.row > 0, window.row_stop < plan.height)
    cols = _ramp(window.width, plan.overlap, window.col > 0, window.col_stop < plan.width)
    return np.outer(rows, cols)


def _ramp(length: int, overlap: int, begins: bool, ends: bool) -> NDArray[np.float64]:
    ramp = np.ones(length)
    rising = (np.arange(length) + 0.5) / max(1, overlap)
    if begins:
        ramp = np.minimum(ramp, rising)
    if ends:
        ramp = np.minimum(ramp, rising[::-1])
    return ramp
