"""Summary of one scene, collected in one pass over its pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import ceil, floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import Grid
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.scene import Scene
from terrafuse.data.schema import SceneEntry
from terrafuse.errors import exact_number
from terrafuse.modalities import Modality
from terrafuse.samples import Window
from terrafuse.splits.content import Sketch

#: Percentiles kept of every band, for comparisons between scenes.
PERCENTS = (0.5, 5.0, 50.0, 90.0, 99.0)

# Enough to find the half percent at either end within a twentieth of itself.
_PERCENTILE_PIXELS = 1 << 16
# Larger whole numbers are floats that happen to be whole.
_MOST_WHOLE = 1e15

Side = Literal["top", "bottom", "left", "right"]


@dataclass(frozen=True)
class Splits:
    """Roles of the splits of a data set.

    Args:
        train: Splits to train on.
        validation: Split by which the best weights are chosen.
    """

    train: tuple[str, ...]
    validation: str

    @property
    def name(self) -> str:
        """Name of the training splits in messages."""
        listed = ", ".join(f"'{split}'" for split in self.train)
        return f"split {listed}" if len(self.train) == 1 else f"splits {listed}"


@dataclass
class ModalitySummary:
    """Summary of one modality of one scene; positions are in pixels of the modality.

    Args:
        low: Minimum per band, float32 (C,); +inf without data.
        high: Maximum per band; -inf without data.
        at_low: Number of pixels that have exactly the minimum, int64 (C,).
        at_high: Number of pixels that have exactly the maximum, int64 (C,).
        low_at: Position of a pixel with the minimum, int64 (C, 2): row, column.
        high_at: Position of a pixel with the maximum, likewise.
        known: Pixels with data per band, int64 (C,).
        valid: Pixels where any band has data.
        pixels: Number of pixels of the scene.
        mini: Every `step`-th pixel of every `step`-th row, float32 (C, h, w), NaN without data.
        step: Sampling step of `mini`, in pixels.
        frame: Outermost line of pixels on each side, float32 (C, n).
        dtypes: Of the bands in the files.
        partly: Pixels with data per band where this band has no data or, by `nodata_rule: all`, its
            nodata value, and another has a value, int64 (C,).
        partly_any: Pixels where some band is so.
        fill: Physical value per band that `partly` counts by rule "all"; NaN by rule "each".
        tags: Scale and offset that stored values are read with (C, 2).
        nodata: Value that means no data now, by the manifest or else the files; None: there is
            none.
        numbers: 1-based numbers of the bands read, as `read_bands` has them.
        is_named: Whether the files' names of bands tell which these are.
        jumps: Pairs of neighbours that differ by nearly all of what a byte holds, and by about
            half of it, int64 (2, C); counted in optical images of bytes only.
    """

    modality: Modality
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    at_low: NDArray[np.int64]
    at_high: NDArray[np.int64]
    low_at: NDArray[np.int64]
    high_at: NDArray[np.int64]
    known: NDArray[np.int64]
    valid: int
    pixels: int
    mini: NDArray[np.float32]
    step: int
    frame: dict[Side, NDArray[np.float32]] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    partly: NDArray[np.int64] | None = None
    partly_any: int = 0
    fill: NDArray[np.float32] | None = None
    tags: NDArray[np.float64] | None = None
    nodata: float | None = None
    numbers: tuple[int, ...] = ()
    is_named: bool = False
    jumps: NDArray[np.int64] | None = None

    @property
    def name(self) -> str:
        """Name of the modality."""
        return self.modality.name

    @cached_property
    def percentiles(self) -> NDArray[np.float32]:
        """Percentiles `PERCENTS` of each band, float32 (P, C); NaN without data."""
        flat = self.mini.reshape(len(self.mini), -1)
        flat = flat[:, :: max(1, flat.shape[1] // _PERCENTILE_PIXELS)]
        rows = [
            np.percentile(band[~np.isnan(band)], PERCENTS)
            if not np.isnan(band).all()
            else np.full(len(PERCENTS), np.nan)
            for band in flat
        ]
        return np.array(rows, np.float32).T

    def stored(self, band: int, value: float) -> float:
        """Return the number in the file that is read as `value`, as nodata values are given.

        The shortest of those that are: reading rounds to float32.
        """
        scale, offset = (float(number) for number in self._tags[band])
        if (scale, offset) == (1, 0):
            return value
        raw = (value - offset) / scale
        texts = (f"{raw:.{digits}g}" for digits in range(1, 17))
        read = (float(text) for text in texts if self._read_as(band, float(text)) == value)
        return next(read, raw)

    def physical(self, stored: float) -> NDArray[np.float32]:
        """Return what a number in the file is read as in each band, float32 (C, 1, 1)."""
        bands = range(len(self.low))
        return np.array([self._read_as(band, stored) for band in bands])[:, None, None]

    def _read_as(self, band: int, stored: float) -> np.float32:
        scale, offset = self._tags[band].astype(np.float32)
        return np.float32(np.float32(stored) * scale + offset)

    @property
    def _tags(self) -> NDArray[np.float64]:
        """Scale and offset per band; of what is encoded from other bands, 1 and 0."""
        if self.tags is None or len(self.tags) != len(self.low):
            return np.array([[1.0, 0.0]] * len(self.low))
        return self.tags

    def declare(self, stored: float, also: str = "") -> tuple[str, dict[str, float | int]]:
        """Say how a number in the files becomes nodata: remedy, and fix of the manifest.

        A modality has one nodata value: where it has another, which hides pixels, this one has to
        be written in place of the new one.

        Args:
            stored: The number.
            also: What else mends it, with its conjunction.
        """
        if self.nodata is not None and self.nodata != stored and self.valid < self.pixels:
            number = exact_number(self.nodata)
            return f"In the file, write the nodata value {number} in its place{also}", {}
        whole = float(stored).is_integer() and abs(stored) < _MOST_WHOLE
        fix = {f"modalities.{self.name}.nodata": int(stored) if whole else stored}
        return f"Set 'nodata: {exact_number(stored)}' on the modality{also}", fix

    def scene_window(self, row: int, col: int, height: int, width: int) -> Window:
        """Convert a rectangle of the modality's pixels to scene pixels."""
        ratio: Fraction = self.modality.scale_ratio
        first = floor(row * ratio), floor(col * ratio)
        last = ceil((row + height) * ratio), ceil((col + width) * ratio)
        return Window(*first, max(1, last[0] - first[0]), max(1, last[1] - first[1]))

    def mini_window(self, mask: NDArray[np.bool_]) -> Window:
        """Return the bounding box of a mask on `mini` (h, w), in scene pixels."""
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]) * self.step, int(cols[0]) * self.step
        height = (int(rows[-1]) + 1) * self.step - top
        width = (int(cols[-1]) + 1) * self.step - left
        return self.scene_window(top, left, height, width)


@dataclass(frozen=True)
class ModalityRecord:
    """Values kept of a modality of a scene, for comparisons between scenes.

    Args:
        low: Minimum per band, float32 (C,).
        high: Maximum per band, float32 (C,).
        known: Pixels with data per band, int64 (C,).
        percentiles: Float32 (P, C).
        whole: Whether all values looked at are whole numbers.
        tags: Scale and offset that stored values are read with (C, 2); None: 1 and 0.
        numbers: 1-based numbers of the bands read, as `read_bands` has them.
        is_named: Whether the files' names of bands tell which these are.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    known: NDArray[np.int64]
    percentiles: NDArray[np.float32]
    whole: bool
    tags: NDArray[np.float64] | None = None
    numbers: tuple[int, ...] = ()
    is_named: bool = False

    @classmethod
    def of(cls, seen: ModalitySummary) -> ModalityRecord:
        """Create the record of a summary."""
        values = seen.mini[~np.isnan(seen.mini)]
        whole = bool((values == np.round(values)).all())
        return cls(
            seen.low, seen.high, seen.known, seen.percentiles, whole, seen.tags, seen.numbers,
            seen.is_named,
        )  # fmt: skip


@dataclass
class SceneRecord:
    """Values kept of a scene until all have been checked.

    Args:
        has_labels: Whether there are labels to train on.
        counts: Labelled pixels per class, int64 (K,).
        with_data: Per modality, whether any pixel has data.
        summaries: Per modality that has data, if every pixel was looked at.
        astray: Why none of the polygons of its labels lies within it, or "".
        sketch: What tells it from others where it has no CRS, if every pixel was looked at.
    """

    entry: SceneEntry
    grid: Grid
    has_labels: bool
    counts: NDArray[np.int64]
    with_data: dict[str, bool] = field(default_factory=dict)
    summaries: dict[str, ModalityRecord] = field(default_factory=dict)
    astray: str = ""
    sketch: Sketch | None = None

    @property
    def id(self) -> str:
        """Name of the scene."""
        return self.entry.id

    @property
    def split(self) -> str | None:
        """Split that the scene belongs to."""
        return self.entry.split


@dataclass
class SceneSummary:
    """Summary of a scene after one pass over its pixels, for the topics to judge.

    Args:
        rules: Reading rules per modality.
        seen: Summary per modality with a raster.
        counts: Labelled pixels per class, int64 (K,).
        ignored: Pixels of the scene without a label.
        labels: Every `label_step`-th pixel, uint8 (h, w), 255 = ignore; None without labels.
        label_step: Sampling step of `labels`, in scene pixels.
        eroded_known: Whether the labels for scoring have a class anywhere; None without them.
    """

    scene: Scene
    scheme: ClassScheme
    rules: dict[str, ReadingRules]
    seen: dict[str, ModalitySummary]
    counts: NDArray[np.int64]
    ignored: int = 0
    labels: NDArray[np.uint8] | None = None
    label_step: int = 1
    eroded_known: bool | None = None

    @property
    def id(self) -> str:
        """Name of the scene."""
        return self.scene.id

    def labels_on(self, seen: ModalitySummary) -> NDArray[np.uint8] | None:
        """Return the labels at the pixels of `seen.mini`, uint8 (h, w); None without labels."""
        if self.labels is None:
            return None
        scale = float(seen.modality.scale_ratio)
        rows, cols = (
            # The label under the middle of each pixel.
            np.minimum(
                ((np.arange(n) * seen.step + 0.5) * scale / self.label_step).astype(np.intp),
                most - 1,
            )
            for n, most in zip(seen.mini.shape[1:], self.labels.shape, strict=True)
        )
        found: NDArray[np.uint8] = self.labels[np.ix_(rows, cols)]
        return found
