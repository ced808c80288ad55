"""Scan of a scene's pixels in one pass, collecting what the topics judge by."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import own_window
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.scene import Scene
from terrafuse.data.streaming import cover
from terrafuse.doctor.summary import ModalitySummary, SceneSummary, Side
from terrafuse.modalities import Modality
from terrafuse.samples import IGNORE_INDEX, Window

_BLOCK = 512
# Pixels of a scene kept at low resolution, and values of a modality with many bands.
_MINI_PIXELS = 1 << 18
_MINI_VALUES = 1 << 22
# Steps from pixel to pixel: half the range of a byte, nearly all of it, more than all.
_JUMPS = (112, 192, 256)

Float = NDArray[np.float32]


def observe(scene: Scene, scheme: ClassScheme, rules: dict[str, ReadingRules]) -> SceneSummary:
    """Read every pixel of a scene once, block by block.

    Memory does not grow with the scene, except for a line of pixels along each of its sides.

    Raises:
        RasterReadError: Pixels cannot be decoded.
        LabelError: Label values outside the class scheme.
    """
    held = [m for m in scene.modalities if m.name not in scene.missing]
    notes = [ModalityScan(scene, m, rules.get(m.name, ReadingRules())) for m in held]
    labels = LabelScan(scene) if scene.has_labels else None
    for window in cover(scene, _BLOCK):
        sample = scene.read(window, labels=False)
        for note in notes:
            own = own_window(note.modality, window)
            note.see(sample.images[note.modality.name].numpy(), own)
        if labels is not None:
            labels.see(scene.read_labels(window), window)
    summary = SceneSummary(
        scene=scene,
        scheme=scheme,
        rules=rules,
        seen={note.modality.name: note.result() for note in notes},
        counts=np.zeros(scheme.num_classes, np.int64),
    )
    if labels is not None:
        summary.counts = labels.counts[: scheme.num_classes]
        summary.ignored = int(labels.counts[IGNORE_INDEX])
        summary.labels, summary.label_step = labels.mini, labels.step
    return summary


def _mini_step(height: int, width: int, bands: int) -> int:
    return max(1, ceil(sqrt(height * width / min(_MINI_PIXELS, _MINI_VALUES / bands))))


def _on_lattice(start: int, stop: int, step: int) -> tuple[slice, slice]:
    """Return slices of every `step`-th pixel from start to stop: in the lattice, in the part."""
    first = -(-start // step)
    last = -(-stop // step)
    return slice(first, last), slice(first * step - start, None, step)


def _count_jumps(one: Float, other: Float) -> NDArray[np.int64]:
    """Count neighbours that differ by nearly all, and by half, of a byte's range, int64 (2, C).

    Pairs with fill (0, 1, 255) are left out: its edge is as sharp.
    """
    low, high = np.fmin(one, other), np.fmax(one, other)
    away = np.where((low >= 2) & (high <= 254), high - low, 0)
    counts = [((away >= a) & (away < b)).sum(axis=(1, 2)) for a, b in (_JUMPS[1:], _JUMPS[:2])]
    return np.array(counts, np.int64)


class ModalityScan:
    """Running summary of one modality."""

    def __init__(self, scene: Scene, modality: Modality, rules: ReadingRules) -> None:
        self.modality = modality
        grid = scene.grid.scaled(modality.scale_ratio)
        self.whole = Window(0, 0, grid.height, grid.width)
        bands = len(modality.bands)
        self.low = np.full(bands, np.inf, np.float32)
        self.high = np.full(bands, -np.inf, np.float32)
        self.at_low, self.at_high = np.zeros(bands, np.int64), np.zeros(bands, np.int64)
        self.low_at, self.high_at = (np.zeros((bands, 2), np.int64) for _ in range(2))
        self.known = np.zeros(bands, np.int64)
        self.valid = 0
        self.step = _mini_step(grid.height, grid.width, bands)
        shape = (bands, -(-grid.height // self.step), -(-grid.width // self.step))
        self.mini = np.full(shape, np.nan, np.float32)
        self.frame: dict[Side, Float] = {
            "top": np.full((bands, grid.width), np.nan, np.float32),
            "bottom": np.full((bands, grid.width), np.nan, np.float32),
            "left": np.full((bands, grid.height), np.nan, np.float32),
            "right": np.full((bands, grid.height), np.nan, np.float32),
        }
        files = scene.files.get(modality.name, ())
        self.dtypes = tuple(dtype for file in files for dtype in file.dtypes)
        scaled = any(scale != 1 for file in files for scale in file.scales)
        is_bytes = set(self.dtypes) == {"uint8"} and not scaled and modality.kind == "optical"
        self.jumps = np.zeros((2, bands), np.int64) if is_bytes else None
        source = scene.source(modality.name)
        self.tags, self.fill = source.tags, source.fill
        tagged = (t for file in files for t in file.nodata if t is not None and not np.isnan(t))
        nodata = next(tagged, None) if rules.nodata is None else rules.nodata
        self.nodata = nodata if source.has_nodata else None
        self.numbers, self.is_named = tuple(source.numbers), source.choice.is_named
        is_judged = bands > 1 and source.has_nodata and len(source.tags) == bands
        self.partly = np.zeros(bands, np.int64) if is_judged else None
        self.partly_any = 0

    def see(self, image: Float, window: Window) -> None:
        """Add a window (C, h, w) of the modality's own pixels."""
        inner = window.intersection(self.whole)
        if inner is None:
            return
        image = image[:, *inner.slices(window)]
        empty = np.isnan(image)
        self.known += image[0].size - empty.sum(axis=(1, 2))
        self.valid += image[0].size - int(empty.all(axis=0).sum())
        self._note_partly(image, empty)
        self._note_extremes(image, inner)
        rows, own_rows = _on_lattice(inner.row, inner.row_stop, self.step)
        cols, own_cols = _on_lattice(inner.col, inner.col_stop, self.step)
        self.mini[:, rows, cols] = image[:, own_rows, own_cols]
        if self.jumps is not None:
            self.jumps += _count_jumps(image[:, 1:], image[:, :-1])
            self.jumps += _count_jumps(image[:, :, 1:], image[:, :, :-1])
        for side, line, span in self._lines(image, inner):
            self.frame[side][:, span] = line

    def _note_partly(self, image: Float, empty: NDArray[np.bool_]) -> None:
        if self.partly is None:
            return
        by_each = np.isnan(self.fill).all()
        lacking = empty & ~empty.all(axis=0) if by_each else image == self.fill[:, None, None]
        self.partly += lacking.sum(axis=(1, 2))
        self.partly_any += int(lacking.any(axis=0).sum())

    def _note_extremes(self, image: Float, window: Window) -> None:
        for keep, count, place, reduce, pick in (
            (self.low, self.at_low, self.low_at, np.fmin, np.nanargmin),
            (self.high, self.at_high, self.high_at, np.fmax, np.nanargmax),
        ):
            found = reduce.reduce(image, axis=(1, 2))
            beyond = reduce(found, keep) == found  # NaN where the window has no data
            for band in np.flatnonzero(beyond):
                hits = int((image[band] == found[band]).sum())
                if keep[band] == found[band]:
                    count[band] += hits
                    continue
                keep[band], count[band] = found[band], hits
                row, col = np.unravel_index(int(pick(image[band])), image[band].shape)
                place[band] = window.row + row, window.col + col

    def _lines(self, image: Float, window: Window) -> Iterator[tuple[Side, Float, slice]]:
        rows = slice(window.row, window.row_stop)
        cols = slice(window.col, window.col_stop)
        if window.row == 0:
            yield "top", image[:, 0], cols
        if window.row_stop == self.whole.height:
            yield "bottom", image[:, -1], cols
        if window.col == 0:
            yield "left", image[:, :, 0], rows
        if window.col_stop == self.whole.width:
            yield "right", image[:, :, -1], rows

    def result(self) -> ModalitySummary:
        """Return the summary."""
        return ModalitySummary(
            modality=self.modality,
            low=self.low,
            high=self.high,
            at_low=self.at_low,
            at_high=self.at_high,
            low_at=self.low_at,
            high_at=self.high_at,
            known=self.known,
            valid=self.valid,
            pixels=self.whole.height * self.whole.width,
            mini=self.mini,
            step=self.step,
            frame=self.frame,
            dtypes=self.dtypes,
            partly=self.partly,
            partly_any=self.partly_any,
            fill=self.fill,
            tags=self.tags,
            nodata=self.nodata,
            numbers=self.numbers,
            is_named=self.is_named,
            jumps=self.jumps,
        )


class LabelScan:
    """Running summary of the labels."""

    def __init__(self, scene: Scene) -> None:
        self.whole = scene.grid.window
        self.counts = np.zeros(256, np.int64)
        self.step = _mini_step(self.whole.height, self.whole.width, 1)
        shape = (-(-self.whole.height // self.step), -(-self.whole.width // self.step))
        self.mini = np.full(shape, IGNORE_INDEX, np.uint8)

    def see(self, labels: NDArray[np.uint8], window: Window) -> None:
        """Add a window (h, w) of class indices."""
        inner = window.intersection(self.whole)
        if inner is None:
            return
        labels = labels[inner.slices(window)]
        self.counts += np.bincount(labels.ravel(), minlength=256)
        rows, own_rows = _on_lattice(inner.row, inner.row_stop, self.step)
        cols, own_cols = _on_lattice(inner.col, inner.col_stop, self.step)
        self.mini[rows, cols] = labels[own_rows, own_cols]
