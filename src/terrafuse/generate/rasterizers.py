"""Rasterizers: strips of a generated raster, and statistics collected on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.encoding import LIMITS_TAG, MOST_SEGMENTS
from terrafuse.data.streaming import Reservoir
from terrafuse.generate.alignment import Alignment, align_windows
from terrafuse.generate.cache import WindowCache
from terrafuse.generate.joining import join_segments
from terrafuse.generate.photos import PhotoSummary, Picture
from terrafuse.generate.segments import smallest_dtype
from terrafuse.generate.stitching import stitch_depth, stitch_labels
from terrafuse.generate.windows import WindowPlan
from terrafuse.samples import Window

_RESERVOIR = 1 << 16
_PERCENTILES = (2, 98)
# Columns of a strip that are processed together.
_COLUMNS = 2048


class SegmentRasterizer:
    """Rasterizer of segments, numbered from 1; 0 = in no segment.

    Args:
        cache: Segment map of each window.
    """

    smooth = False

    def __init__(self, found: PhotoSummary, plan: WindowPlan, cache: WindowCache) -> None:
        self._found, self._plan, self._cache = found, plan, cache
        self._segments = join_segments(plan, cache.load)
        self.dtype = np.dtype(smallest_dtype(self._segments.shown)).name
        self.nodata = 65535 if self.dtype == "uint16" else MOST_SEGMENTS + 1
        self.small = _empty_preview(found)
        self._sums = np.zeros((self._segments.shown + 1, 3))
        self._counts = np.zeros(self._segments.shown + 1, np.int64)

    def strips(self) -> Iterator[NDArray[Any]]:
        """Yield rows (n, width) from the top."""
        row = 0
        for strip in stitch_labels(self._plan, self._cache.load, self._segments):
            known = np.empty(strip.shape, bool)
            for col in range(0, strip.shape[1], _COLUMNS):
                part = strip[:, col : col + _COLUMNS]
                picture, valid = self._found.photo.read(Window(row, col, *part.shape))
                known[:, col : col + _COLUMNS] = valid
                self._count(part[valid], picture[valid])
            _add_to_preview(self.small, np.where(known, strip, np.nan), row, self._found.step)
            yield np.where(known, strip, self.nodata).astype(self.dtype)
            row += len(strip)

    def result(self) -> dict[str, Any]:
        """Return the number of segments and the share of the photo that they cover."""
        return {
            "segments": int(np.count_nonzero(self._counts[1:])),
            "covered": float(self._counts[1:].sum() / self._counts.sum()),
        }

    def tags(self) -> dict[str, str]:
        """Return the tags of the result; segments have none."""
        return {}

    def fault(self) -> str:
        """Return a warning if there is no segment, else ""."""
        if self._counts[1:].any():
            return ""
        return (
            "no segments were found: the raster is 0 everywhere. Lower --iou and --stability, or "
            "choose smaller windows"
        )

    def save_colors(self, path: Path) -> None:
        """Write the mean colour of every segment, uint8 (segments + 1, 3)."""
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        means[0] = 0
        last = int(np.flatnonzero(self._counts).max(initial=0))
        with path.open("wb") as file:
            np.save(file, np.rint(means[: last + 1]).astype(np.uint8), allow_pickle=False)

    def _count(self, numbers: NDArray[np.uint32], colors: Picture) -> None:
        """Add pixels (n,) and their colours (n, 3)."""
        present, place = np.unique(numbers, return_inverse=True)
        self._counts[present] += np.bincount(place, minlength=len(present))
        for channel in range(3):
            weights = colors[:, channel].astype(np.float64)
            self._sums[present, channel] += np.bincount(place, weights, len(present))


class DepthRasterizer:
    """Rasterizer of depth, high where near.

    Args:
        cache: Depth of each window.
        aligned: True: each window has its own scale and shift, which are aligned.
    """

    dtype = "float32"
    nodata = float("nan")
    smooth = True

    def __init__(
        self, found: PhotoSummary, plan: WindowPlan, cache: WindowCache, *, aligned: bool
    ) -> None:
        self._found, self._plan, self._cache = found, plan, cache
        self._alignment = (
            align_windows(plan, cache.load) if aligned else Alignment.identity(len(plan.windows))
        )
        self.small = _empty_preview(found)
        self._reservoir = Reservoir(_RESERVOIR, np.random.default_rng(0))
        self._least, self._most = np.inf, -np.inf

    def strips(self) -> Iterator[NDArray[Any]]:
        """Yield rows (n, width) from the top."""
        row = 0
        for strip in stitch_depth(self._plan, self._cache.load, self._alignment):
            known = strip[np.isfinite(strip)]
            self._reservoir.add(known)
            self._least = min(self._least, float(known.min(initial=np.inf)))
            self._most = max(self._most, float(known.max(initial=-np.inf)))
            _add_to_preview(self.small, strip, row, self._found.step)
            yield strip
            row += len(strip)

    def result(self) -> dict[str, Any]:
        """Return range and percentiles of depth, and the range of the windows' scales."""
        low, high = self._limits()
        scales = self._alignment.scales
        return {
            "min": self._least,
            "max": self._most,
            "low": low,
            "high": high,
            "scales": [float(scales.min()), float(scales.max())],
        }

    def tags(self) -> dict[str, str]:
        """Return the tag with the limits of the display stretch."""
        return {LIMITS_TAG: " ".join(map(repr, self._limits()))}

    def fault(self) -> str:
        """Return a warning if depth is constant, else ""."""
        if self._most > self._least:
            return ""
        return f"depth is {self._least:g} everywhere: the model sees none in this photo"

    def _limits(self) -> tuple[float, float]:
        low, high = np.percentile(self._reservoir.items.astype(np.float64), _PERCENTILES)
        return float(low), float(high)


def _empty_preview(found: PhotoSummary) -> NDArray[np.float32]:
    return np.full((1, *found.preview.shape[:2]), np.nan, np.float32)


def _add_to_preview(small: NDArray[np.float32], strip: NDArray[Any], row: int, step: int) -> None:
    part = strip[-row % step :: step, ::step]
    first = -(-row // step)
    small[0, first : first + len(part)] = part
