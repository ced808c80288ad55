"""Samples for pretraining without labels: one view of a place, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Generator

from terrafuse.config import AugmentPlace, DataConfig
from terrafuse.data.grid import own_window
from terrafuse.data.scene import Scene
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.progress import Progress
from terrafuse.samples import Batch, Sample, Window, collate
from terrafuse.sampling.dataset import (
    CropDataset,
    TrainingLoader,
    create_loader,
    sample_generator,
)

#: Parts of a window tried until one has the data required.
_MOST_DRAWS = 10


@dataclass(frozen=True)
class Views:
    """Views that make up a sample without labels.

    Args:
        count: Views of each place, augmented independently.
        area: Range of the share of the window's area that a view shows; drawn for each view.
        require_all: Whether each view needs data of every modality; otherwise of any.
    """

    count: int = 1
    area: tuple[float, float] = (1.0, 1.0)
    require_all: bool = False


class ViewsDataset(CropDataset[tuple[Sample, ...]]):
    """Views of windows; no labels are read.

    Args:
        scenes: Training scenes, with or without labels.
        config: Crop size, sampling, augmentation.
        progress: Called with (scenes done, scenes in total) while looking for usable pixels.

    Raises:
        ConfigError: A setting does not fit the modalities.
        DataError: There is nothing to train on.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        modalities: Sequence[Modality],
        statistics: Mapping[str, BandStatistics],
        config: DataConfig,
        views: Views,
        *,
        seed: int,
        augment_on: AugmentPlace = "reader",
        progress: Progress | None = None,
    ) -> None:
        self.views = views
        super().__init__(
            scenes, modalities, statistics, config, seed=seed, augment_on=augment_on,
            require_all=views.require_all, use_labels=False, progress=progress,
        )  # fmt: skip

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        generator = sample_generator(self.seed, index)
        scene, window, shown = self.draw(index, generator)
        sample = scene.read(window, labels=False)
        return tuple(
            self.augmented(self._draw_part(sample, generator), generator, shown)
            for _ in range(self.views.count)
        )

    def _draw_part(self, sample: Sample, generator: Generator) -> Sample:
        """Draw a square part of the sample with the data required; if none is found, return all."""
        low, high = self.views.area
        if low == high == 1:
            return sample
        for _ in range(_MOST_DRAWS):
            share, *place = torch.rand(3, generator=generator).tolist()
            side = sqrt(low + (high - low) * share) * sample.window.height
            side = max(1, round(side / self.alignment)) * self.alignment
            spare = (sample.window.height - side) // self.alignment
            row, col = (int(p * (spare + 1)) * self.alignment for p in place)
            part = crop_sample(sample, self.modalities, Window(row, col, side, side))
            needed = all if self.views.require_all else any
            if needed(bool(valid.any()) for valid in part.valid.values()):
                return part
        return sample


def crop_sample(sample: Sample, modalities: Sequence[Modality], part: Window) -> Sample:
    """Crop a sample, without its labels.

    Args:
        part: Window relative to the sample's, in scene pixels; a multiple of the alignment.
    """
    slices = {m.name: own_window(m, part).slices() for m in modalities}
    return replace(
        sample,
        images={name: image[(..., *slices[name])] for name, image in sample.images.items()},
        valid={name: valid[slices[name]] for name, valid in sample.valid.items()},
        labels=None,
        window=replace(part, row=sample.window.row + part.row, col=sample.window.col + part.col),
    )


def views_loader(
    scenes: Sequence[Scene],
    modalities: Sequence[Modality],
    statistics: Mapping[str, BandStatistics],
    config: DataConfig,
    views: Views,
    *,
    seed: int,
    steps: int,
    accumulate: int = 1,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    augment_on: AugmentPlace = "reader",
    progress: Progress | None = None,
) -> TrainingLoader[tuple[Batch, ...]]:
    """Create a loader of all pretraining batches from `start_step` on: a `Batch` per view.

    Args:
        scenes: Training scenes, with or without labels.
        config: Crops, batches, workers, sampling, augmentation.
        steps: Optimiser steps of the whole training.
        accumulate: Batches per optimiser step.
        start_step: Optimiser steps already done.
        rank: Number of the process that the loader is for.
        augment_on: See `CropDataset`.
        progress: See `ViewsDataset`.
    """
    dataset = ViewsDataset(
        scenes, modalities, statistics, config, views, seed=seed, augment_on=augment_on,
        progress=progress,
    )  # fmt: skip
    batches = range(start_step * accumulate, steps * accumulate)
    return create_loader(dataset, batches, config, collate_views, rank=rank, world_size=world_size)


def collate_views(samples: list[tuple[Sample, ...]]) -> tuple[Batch, ...]:
    """Stack samples of several views into a batch per view."""
    return tuple(collate(list(view)) for view in zip(*samples, strict=True))
