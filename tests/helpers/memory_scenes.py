"""Scenes held in memory, with the interface of `terrafuse.data.Scene`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from affine import Affine

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import Grid
from terrafuse.data.label_files import LabelMask
from terrafuse.modalities import Modality, window_alignment
from terrafuse.samples import IGNORE_INDEX, Sample, Window


class MemoryScene:
    """A scene of arrays (C_m, H_m, W_m) and labels (H, W)."""

    def __init__(
        self,
        modalities: Sequence[Modality],
        images: Mapping[str, Any],
        labels: np.ndarray | None = None,
        *,
        size: tuple[int, int] | None = None,
        id: str = "scene",
        split: str | None = "train",
        scheme: ClassScheme | None = None,
    ) -> None:
        self.id, self.split, self.scheme = id, split, scheme
        self.modalities = tuple(modalities)
        self.images = {name: np.asarray(x, np.float32) for name, x in images.items()}
        self.labels = labels
        height, width = size or (self.labels.shape if labels is not None else self._fine_size())
        self.grid = Grid(None, Affine.identity(), height, width)
        self.alignment = window_alignment(self.modalities)
        self.has_labels = labels is not None
        self.missing = frozenset(m.name for m in self.modalities) - set(self.images)
        self.files: dict[str, Any] = {}
        self.place: str | None = None
        self.image_reads = 0

    @property
    def full_window(self) -> Window:
        return self.grid.window

    def is_surely_empty(self, window: Window, names: Any) -> bool:
        """An array has to be looked at."""
        return False

    def read(self, window: Window, *, labels: bool = True, arrays: bool = False) -> Sample:
        self.image_reads += 1
        images = {}
        for modality in self.modalities:
            place = [modality.size_at(n) for n in (window.row, window.col)]
            shape = tuple(modality.size_at(n) for n in (window.height, window.width))
            array = self.images.get(modality.name)
            if array is None:
                array = np.full((len(modality.bands), 0, 0), np.nan, np.float32)
            images[modality.name] = _cut(array, place, shape, np.nan)
        with_labels = labels and self.has_labels
        give = np.asarray if arrays else torch.from_numpy
        return Sample(
            images={name: give(x) for name, x in images.items()},
            valid={name: give(~np.isnan(x).all(axis=0)) for name, x in images.items()},
            labels=give(self.read_labels(window).astype(np.int64)) if with_labels else None,
            window=window,
            scene_id=self.id,
        )

    def read_labels(self, window: Window) -> np.ndarray:
        place, shape = [window.row, window.col], (window.height, window.width)
        return _cut(self.labels[None].astype(np.uint8), place, shape, IGNORE_INDEX)[0]

    def keep_labels(self, area: LabelMask) -> MemoryScene:
        kept = copy(self)
        everywhere = area.mask(Window(0, 0, *self.labels.shape))
        kept.labels = np.where(everywhere, self.labels, IGNORE_INDEX).astype(np.uint8)
        return kept

    def close(self) -> None:
        pass

    def _fine_size(self) -> tuple[int, int]:
        modality = self.modalities[0]
        height, width = self.images[modality.name].shape[1:]
        return round(height * modality.scale), round(width * modality.scale)


def _cut(array: np.ndarray, place: Sequence[int], shape: Sequence[int], fill: float) -> np.ndarray:
    out = np.full((array.shape[0], *shape), fill, array.dtype)
    part = array[:, place[0] : place[0] + shape[0], place[1] : place[1] + shape[1]]
    out[:, : part.shape[1], : part.shape[2]] = part
    return out
