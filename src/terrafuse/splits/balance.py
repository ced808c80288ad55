"""Class balance of splits, and the distance between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.footprints import nearby_grids, overlapping_grids
from terrafuse.data.manifest import Manifest
from terrafuse.data.scene import Scene
from terrafuse.data.schema import SceneEntry
from terrafuse.data.statistics import class_counts
from terrafuse.progress import Progress
from terrafuse.samples import Window

#: Splits farther apart than this count as far, in pixels.
FAR_PX = 10_000.0


@dataclass(frozen=True)
class SplitReport:
    """Class balance of the splits of a data set, and the distance between them.

    Args:
        scenes: Number of scenes per split.
        counts: Per split, labelled pixels per class, int64 (K,).
        least_distance_px: Smallest distance between pixels of different splits, 0 = they touch or
            overlap; None if it exceeds 10 000 pixels or the positions are unknown.
        nearest: Ids of the two scenes at that distance.
    """

    classes: tuple[str, ...]
    scenes: Mapping[str, int]
    counts: Mapping[str, NDArray[np.int64]]
    least_distance_px: float | None
    nearest: tuple[str, str] | None = None

    @property
    def totals(self) -> NDArray[np.int64]:
        """Labelled pixels per class in all splits, int64 (K,)."""
        zero = np.zeros(len(self.classes), np.int64)
        return sum(self.counts.values(), zero)

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Return each split's share of each class (K,); NaN for classes that no split has."""
        with np.errstate(invalid="ignore"):
            return {split: np.asarray(own / self.totals) for split, own in self.counts.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        counted = {
            split: dict(zip(self.classes, own.tolist(), strict=True))
            for split, own in self.counts.items()
        }
        return {
            "scenes": dict(self.scenes),
            "pixels": counted,
            "least_distance_px": self.least_distance_px,
            "nearest": None if self.nearest is None else list(self.nearest),
        }


def report_split(manifest: Manifest, progress: Progress | None = None) -> SplitReport:
    """Count classes per split and measure the distance between splits; reads all labels.

    Args:
        manifest: The data set; scenes without a split are ignored.
        progress: Called with (scenes done, scenes in total).

    Raises:
        DataError: Labels cannot be read.
    """
    entries = [entry for entry in manifest.entries if entry.split is not None]
    scenes = [manifest.scene(entry.id) for entry in entries]
    counts = {s: np.zeros(manifest.scheme.num_classes, np.int64) for s in manifest.splits}
    for done, scene in enumerate(scenes, start=1):
        if scene.has_labels and scene.split is not None:
            counts[scene.split] += class_counts([scene], manifest.scheme)
        if progress:
            progress(done, len(scenes))
    distance, nearest = _least_distance(entries, scenes)
    return SplitReport(manifest.scheme.names, manifest.splits, counts, distance, nearest)


def least_gap(
    windows: Sequence[Window], splits: Sequence[Any]
) -> tuple[int, tuple[int, int]] | None:
    """Find the smallest gap, in pixels, between windows of one grid in different splits.

    The gap between two windows is the larger one of both axes; 0 = they touch, negative = they
    overlap.

    Returns:
        Pixels and positions of the two; None where all are in one split.
    """
    boxes = np.array([(w.row, w.col, w.row_stop, w.col_stop) for w in windows]).reshape(-1, 4)
    number = {split: i for i, split in enumerate(dict.fromkeys(splits))}
    group = np.array([number[split] for split in splits])
    best = None
    for i, (row, col, row_stop, col_stop) in enumerate(boxes):
        others = np.flatnonzero(group[i + 1 :] != group[i]) + i + 1
        if not others.size:
            continue
        top, left, bottom, right = boxes[others].T
        rows = np.maximum(top - row_stop, row - bottom)
        cols = np.maximum(left - col_stop, col - right)
        gaps = np.maximum(rows, cols)
        j = int(gaps.argmin())
        if best is None or gaps[j] < best[0]:
            best = int(gaps[j]), (i, int(others[j]))
    return best


def _least_distance(
    entries: Sequence[SceneEntry], scenes: Sequence[Scene]
) -> tuple[float | None, tuple[str, str] | None]:
    grids = [scene.grid for scene in scenes]
    apart = [(0.0, a, b) for a, b in overlapping_grids(grids)]
    apart += [(distance, a, b) for a, b, distance in nearby_grids(grids, FAR_PX)]
    apart = [pair for pair in apart if entries[pair[1]].split != entries[pair[2]].split]
    # Windows of rasters without CRS are not georeferenced, but placed relative to each other.
    for members in _windows_by_rasters(entries):
        windows = [entries[i].window for i in members]
        gap = least_gap([w for w in windows if w], [entries[i].split for i in members])
        if gap is not None:
            first, second = gap[1]
            apart.append((max(0.0, float(gap[0])), members[first], members[second]))
    if not apart:
        return None, None
    distance, a, b = min(apart)
    return distance, (entries[a].id, entries[b].id)


def _windows_by_rasters(entries: Sequence[SceneEntry]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for i, entry in enumerate(entries):
        if entry.window is not None:
            files = tuple(sorted((name, tuple(paths)) for name, paths in entry.rasters.items()))
            groups.setdefault(files, []).append(i)
    return list(groups.values())
