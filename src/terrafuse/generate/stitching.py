"""Windows → one raster, strip by strip from the top."""

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

# Rows of depth that are put together at once.
_ROWS = 512


def stitch_labels(plan: WindowPlan, load: Load, segments: Segments) -> Iterator[NDArray[np.uint32]]:
    """The map of segments in strips (rows, width), numbered from 1 on in order of appearance.

    A segment that is complete in its window is drawn as a whole by the window that holds most of
    it, the smallest on top; all others up to the middle of the overlaps. Segments that were joined
    have one number, hence none ends where a window does.

    Args:
        plan: The windows.
        load: Map of segments (h, w) of a window, 0 = none.
        segments: What `join_segments` found.

    Raises:
        DataError: There are more segments than can be told apart.
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
                f"there are more than {MOST_SEGMENTS} segments in one raster; cut it into several, "
                "or ask for larger segments"
            )
        yield strip


def _compose(plan: WindowPlan, number: int, load: Load, segments: Segments) -> NDArray[np.int64]:
    """Segments of the core of a window, numbered through all windows."""
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
    """The map of depth in strips (rows, width): aligned windows, blended over their overlaps.

    Args:
        plan: The windows.
        load: Depth (h, w) of a window, NaN without data.
        alignment: How each is brought to the level of the others.
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
    """Weights (h, w) of a window: falling over the overlap towards sides inside the photo."""
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
