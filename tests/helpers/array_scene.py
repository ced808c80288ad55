"""A scene in memory and models without weights, for tests that read no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import nn

from memory_scenes import MemoryScene
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.modalities import Modality
from terrafuse.prediction.lattice import Lattice
from terrafuse.prediction.units import UnitPlan, plan_units
from terrafuse.samples import Sample, Window
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput


class ArrayScene(MemoryScene):
    """A scene of 10 m pixels whose modalities are those of a dict of arrays (C, H_m, W_m)."""

    def __init__(
        self,
        images: Mapping[str, np.ndarray],
        labels: np.ndarray | None = None,
        *,
        labels_eroded: np.ndarray | None = None,
        scales: Mapping[str, float] | None = None,
        missing: frozenset[str] = frozenset(),
        scheme: ClassScheme | None = None,
        id: str = "a",
    ) -> None:
        modalities = [
            make_modality(name, len(image), (scales or {}).get(name, 1.0))
            for name, image in images.items()
        ]
        held = {name: image for name, image in images.items() if name not in missing}
        size = next(iter(images.values())).shape[1:]
        super().__init__(modalities, held, labels, size=size, id=id, scheme=scheme)
        transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
        self.grid = Grid(CRS.from_epsg(32633), transform, *size)
        self.windows_read: list[Window] = []
        named = {"labels": labels, "labels_eroded": labels_eroded}
        self.references = {name: x for name, x in named.items() if x is not None}

    @property
    def full_window(self) -> Window:
        height, width = (
            -(-n // self.alignment) * self.alignment for n in (self.grid.height, self.grid.width)
        )
        return Window(0, 0, height, width)

    def paths(self) -> dict[str, tuple[Path, ...]]:
        return {}

    def states(self) -> list[tuple[str | int, ...]]:
        return []

    def states_as_named(self) -> list[tuple[str | int, ...]]:
        return []

    def has_reference(self, name: str) -> bool:
        return name in self.references

    def read_labels(self, window: Window, reference: str = "labels") -> np.ndarray:
        self.labels = self.references[reference]
        return super().read_labels(window)

    def read(self, window: Window, *, labels: bool = True, arrays: bool = False) -> Sample:
        self.windows_read.append(window)
        return super().read(window, labels=labels, arrays=arrays)


class Identity(Segmenter):
    """A model whose logits are its first modality."""

    supports_missing: ClassVar[bool] = True

    def __init__(self, modalities: Any, num_classes: int | None = None) -> None:
        super().__init__(modalities, num_classes or len(modalities[0].bands))
        self.stride = 1
        self.norm = nn.BatchNorm2d(1)  # only there to have a mode
        self.batches: list[int] = []

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        image = inputs.images[self.modalities[0].name]
        self.batches.append(len(image))
        return SegmenterOutput(image)


class NeedsAll(Identity):
    """The sum of all modalities as logits; none may be absent."""

    supports_missing: ClassVar[bool] = False

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        return SegmenterOutput(torch.stack(list(inputs.images.values())).sum(dim=0))


def make_modality(name: str, bands: int, scale: float = 1.0) -> Modality:
    return Modality(name, tuple(f"B{i}" for i in range(bands)), scale=scale)


def plan_for(grid: Grid) -> UnitPlan:
    """Units of a scene whose windows do not overlap."""
    return plan_units(Lattice(grid.height, grid.width, 256, 0), 3)
