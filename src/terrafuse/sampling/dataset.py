"""Training samples by number, and the loader that batches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from terrafuse.config import AugmentPlace, DataConfig
from terrafuse.cores import usable_cores
from terrafuse.data.handles import block_cache, cache_limit, limit_resources
from terrafuse.data.scene import Scene
from terrafuse.errors import TerrafuseError
from terrafuse.memory import free_memory
from terrafuse.modalities import BandStatistics, Modality, window_alignment
from terrafuse.progress import Progress
from terrafuse.samples import Batch, Sample, Window, collate
from terrafuse.sampling.augment import Augment, ModalityDropout
from terrafuse.sampling.crops import CropIndexing, KeptIndexes, WindowSampler
from terrafuse.sampling.near_order import NearOrder
from terrafuse.stopping import shield_worker, starting_workers

_T = TypeVar("_T")
_B = TypeVar("_B")
_MOST_WORKERS = 4
# Least cache of decoded blocks of a reading process: those under one crop, with some room.
_LEAST_CACHE_MB = 64
# Part of the free memory for such caches: the model, the system's own cache of files and other
# programs need the rest.
_CACHED_PART = 4


class CropDataset(Dataset[_T]):
    """A data set of crops of scenes. Item `index` depends on the seed and on `index` only.

    Batches take the items in another order where `order` is set.

    Args:
        config: Crop size, sampling, augmentation.
        augment_on: "device": samples are not changed yet, but carry the numbers for `change_batch`.
        **wanted: Requirements on crops, see `WindowSampler`.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        modalities: Sequence[Modality],
        statistics: Mapping[str, BandStatistics],
        config: DataConfig,
        *,
        seed: int,
        augment_on: AugmentPlace = "reader",
        **wanted: Any,
    ) -> None:
        self.scenes, self.modalities = list(scenes), tuple(modalities)
        self.config, self.seed = config, seed
        self.augment_on = augment_on
        #: Position in the training → item; None: they are the same.
        self.order: Callable[[int], int] | None = None
        self._block_shapes: dict[int, tuple[int, int]] = {}
        self.alignment = window_alignment(list(modalities))
        self.augment = Augment(config.augment, modalities, statistics, crop_size=config.crop_size)
        self.sampler = WindowSampler(
            self.scenes,
            crop_size=config.crop_size,
            mode=config.sampling,
            seed=seed,
            smallest=_read_size(config, self.alignment, config.augment.scale[1]),
            **wanted,
        )

    def __getitem__(self, index: int) -> _T:
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> list[_T | TerrafuseError]:
        """Return the items of a batch, or the error raised: torch calls this in its workers."""
        # As a value: torch would turn the worker's traceback into the message of an exception.
        try:
            items = map(self.order, indices) if self.order else indices
            return [self[index] for index in items]
        except TerrafuseError as error:
            return [error]

    def draw(self, index: int, generator: Generator) -> tuple[Scene, Window, int]:
        """Draw a scene, a window of it, and the number of scene pixels of the crop that show it.

        That is the whole crop, unless a zoom below 1 shows the window inside a border.
        """
        scene, window, shown = self._draw_window(index, generator)
        return self.scenes[scene], window, shown

    def place_of(self, index: int) -> tuple[int, int, int]:
        """Return the position of an item's scene, and row and column of the block at its centre.

        A block is one of the scene's files; a scene no larger than a crop counts as one.
        """
        scene, window, _ = self._draw_window(index, sample_generator(self.seed, index))
        crop_index = self.sampler.crop_indexes[scene]
        if max(crop_index.height, crop_index.width) <= self.config.crop_size:
            return scene, 0, 0
        if scene not in self._block_shapes:
            self._block_shapes[scene] = self.scenes[scene].block_shape
        height, width = self._block_shapes[scene]
        row, col = window.row + window.height // 2, window.col + window.width // 2
        return scene, row // height, col // width

    def _draw_window(self, index: int, generator: Generator) -> tuple[int, Window, int]:
        zoom, shown = _draw_zoom(self.config.augment.scale, generator), self.config.crop_size
        if zoom < 1 and self.config.augment.zoom_out == "pad":
            zoom, shown = 1.0, self._align(shown * zoom)
        scene, window = self.sampler.draw(index, self._read_size(zoom))
        return scene, window, shown

    def augmented(self, sample: Sample, generator: Generator, shown: int) -> Sample:
        """Augment a sample, as far as that is not left to the device."""
        if self.augment_on == "device":
            return self.augment.prepare(sample, generator, shown=shown)
        return self.augment(sample, generator, shown=shown)

    def _read_size(self, zoom: float) -> int:
        return _read_size(self.config, self.alignment, zoom)

    def _align(self, pixels: float) -> int:
        return _align(pixels, self.alignment)


def training_indexing(
    config: DataConfig, modalities: Sequence[Modality], scenes: int, *, require_all: bool
) -> CropIndexing:
    """Return the settings by which `TrainingDataset` indexes its scenes.

    Args:
        scenes: Their number.
        require_all: As of `TrainingDataset`.
    """
    smallest = _read_size(config, window_alignment(list(modalities)), config.augment.scale[1])
    return CropIndexing(
        config.crop_size, smallest, config.sampling, require_all, use_labels=True, scenes=scenes
    )


class TrainingDataset(CropDataset[Sample]):
    """Augmented crops with labels; images that nothing changes the values of stay as stored.

    Args:
        config: Crop size, sampling, augmentation, modality dropout. With a `label_share` below 1,
            which `share_labels` applies to the scenes, every crop has labels.
        require_all: Crops have pixels with data of every modality, for methods that need all.
        kept: Crop indexes of the same scenes from before.
        progress: Called with (scenes done, scenes in total) while looking for usable pixels.

    Raises:
        ConfigError: A setting does not fit the modalities.
        DataError, LabelError: There is nothing to train on.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        modalities: Sequence[Modality],
        statistics: Mapping[str, BandStatistics],
        config: DataConfig,
        *,
        seed: int,
        augment_on: AugmentPlace = "reader",
        require_all: bool = False,
        kept: KeptIndexes | None = None,
        progress: Progress | None = None,
    ) -> None:
        names = [modality.name for modality in modalities]
        self.dropout = ModalityDropout(config.modality_dropout, names)
        super().__init__(
            scenes, modalities, statistics, config, seed=seed, augment_on=augment_on,
            require_all=require_all, require_usable=config.label_share < 1, kept=kept,
            progress=progress,
        )  # fmt: skip

    def __getitem__(self, index: int) -> Sample:
        generator = sample_generator(self.seed, index)
        scene, window, shown = self.draw(index, generator)
        sample = self.dropout(scene.read(window, stored=True), generator)
        return self.augmented(sample, generator, shown)


class BatchIndices(Sampler[list[int]]):
    """Sample numbers of each batch of one process.

    Batch b of process r of w holds n samples from number (b·w + r)·n on: over all processes every
    number occurs once, and the content of a batch does not depend on where training was resumed.

    Args:
        start: First batch.
        stop: Batch after the last.
        batch_size: n.
        rank: r.
        world_size: w.
    """

    def __init__(
        self, start: int, stop: int, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batches = range(start, max(start, stop))
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


class TrainingLoader(DataLoader[_B]):
    """`DataLoader` that raises a user error as the worker did, without torch's traceback.

    Args:
        cache_mb: Cache of decoded blocks of each process that reads, in MB.
        **settings: Of `DataLoader`.
    """

    def __init__(self, dataset: Any, *, cache_mb: int, **settings: Any) -> None:
        prepare = partial(_prepare_worker, cache_mb)
        super().__init__(dataset, worker_init_fn=prepare, **settings)
        self.cache_mb = cache_mb

    def __iter__(self) -> Any:
        """Yield batches."""
        with starting_workers():
            batches = super().__iter__()
        own = nullcontext() if self.num_workers else block_cache(self.cache_mb << 20, enlarge=True)
        with own:
            for batch in batches:
                if isinstance(batch, TerrafuseError):
                    raise batch
                yield batch


def training_loader(
    scenes: Sequence[Scene],
    modalities: Sequence[Modality],
    statistics: Mapping[str, BandStatistics],
    config: DataConfig,
    *,
    seed: int,
    steps: int,
    accumulate: int = 1,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    augment_on: AugmentPlace = "reader",
    require_all: bool = False,
    kept: KeptIndexes | None = None,
    progress: Progress | None = None,
) -> TrainingLoader[Batch]:
    """Create a loader of all training batches from `start_step` on, for one process.

    It distributes samples over processes itself; Lightning needs `use_distributed_sampler=False`.

    Args:
        config: Crops, batches, workers, sampling, augmentation, modality dropout.
        steps: Optimiser steps of the whole training.
        accumulate: Batches per optimiser step.
        start_step: Optimiser steps already done.
        augment_on: See `CropDataset`.
        require_all: See `TrainingDataset`.
        kept: See `TrainingDataset`.
        progress: See `TrainingDataset`.

    Returns:
        `(steps - start_step) * accumulate` batches.

    Raises:
        ConfigError: A setting does not fit the modalities.
        DataError, LabelError: There is nothing to train on.
    """
    dataset = TrainingDataset(
        scenes, modalities, statistics, config, seed=seed, augment_on=augment_on,
        require_all=require_all, kept=kept, progress=progress,
    )  # fmt: skip
    batches = range(start_step * accumulate, steps * accumulate)
    return create_loader(dataset, batches, config, collate, rank=rank, world_size=world_size)


def create_loader(
    dataset: CropDataset[_T],
    batches: range,
    config: DataConfig,
    join: Callable[[list[_T]], _B],
    *,
    rank: int,
    world_size: int,
) -> TrainingLoader[_B]:
    """Create the loader of one process.

    Args:
        batches: Numbers of the batches within the whole training.
        config: Samples per batch, their order, workers.
        join: Samples → batch.
    """
    size = config.batch_size
    if config.crop_order == "near":
        total = batches.stop * size * world_size
        dataset.order = NearOrder(dataset.place_of, total, dataset.seed)
    indices = BatchIndices(batches.start, batches.stop, size, rank=rank, world_size=world_size)
    workers = default_workers() if config.workers is None else config.workers
    return TrainingLoader(
        dataset,
        cache_mb=cache_per_process(config, workers, world_size=world_size),
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=partial(_join, join),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # Without it the loader would advance the global generator, which the model draws from.
        generator=torch.Generator(),
    )


def default_workers() -> int:
    """Return the reading processes for one device: one core is left to training, four suffice."""
    return max(0, min(_MOST_WORKERS, usable_cores() - 1))


def cache_per_process(config: DataConfig, workers: int, *, world_size: int = 1) -> int:
    """Return the cache of decoded blocks of each process that reads, in MB, 64 or more.

    By default a quarter of the free memory is divided by the number of such processes that this
    machine may have: one per core, or all workers of the run if they are more.

    Args:
        workers: Of one device; 0: the training process itself reads, and keeps the limit it has if
            that is larger than the default.
        world_size: Number of devices, taken to be on this machine.
    """
    if config.block_cache_mb is not None:
        return max(_LEAST_CACHE_MB, config.block_cache_mb // max(1, workers))
    processes = max(max(1, workers) * world_size, usable_cores())
    share = (free_memory() or 0) // (_CACHED_PART * processes)
    return max(_LEAST_CACHE_MB, share >> 20, 0 if workers else cache_limit() >> 20)


def sample_generator(seed: int, index: int) -> Generator:
    """Create the random generator of one sample, from the run's seed and its number."""
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _read_size(config: DataConfig, alignment: int, zoom: float) -> int:
    """Return the scene pixels to read so that a crop shows the ground `zoom` times as large."""
    return config.crop_size if zoom == 1 else _align(config.crop_size / zoom, alignment)


def _align(pixels: float, alignment: int) -> int:
    return max(1, round(pixels / alignment)) * alignment


def _draw_zoom(scale: tuple[float, float], generator: Generator) -> float:
    """Draw a zoom factor, uniform in the logarithm: halving is as likely as doubling."""
    low, high = np.log(scale)
    return float(np.exp(low + (high - low) * float(torch.rand((), generator=generator))))


def _prepare_worker(cache_mb: int, _: int) -> None:
    shield_worker()
    torch.set_num_threads(1)
    limit_resources(cache_mb=cache_mb)


def _join(
    join: Callable[[list[_T]], _B], samples: list[_T | TerrafuseError]
) -> _B | TerrafuseError:
    fault = next((sample for sample in samples if isinstance(sample, TerrafuseError)), None)
    return fault or join([s for s in samples if not isinstance(s, TerrafuseError)])
