"""Timing a run's training steps on synthetic batches."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from terrafuse.config import RunConfig
from terrafuse.data import Manifest
from terrafuse.methods import create_segmenter
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Batch
from terrafuse.segmenter import Segmenter
from terrafuse.training.losses import create_loss
from terrafuse.training.task import SegmentationTask
from terrafuse.weights import without_pretrained

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def time_steps(config: RunConfig, manifest: Manifest, repeats: int = 2) -> float:
    """Return the seconds per optimiser step on one device, without reading data.

    The model has random weights and is fed noise; crop, batch, losses, optimiser and precision are
    those of the run. One warm-up step precedes the timed ones.

    Args:
        repeats: Number of timed steps; the fastest counts.

    Raises:
        ModelError: The method cannot be built with these options.
    """
    training = config.training
    device = _device(training.accelerator)
    with without_pretrained():
        segmenter = create_segmenter(
            config.method.name,
            list(manifest.modalities.values()),
            manifest.scheme.num_classes,
            config.method.options,
        )
    segmenter.set_statistics({m.name: _unit_statistics(m) for m in segmenter.modalities})
    counts = torch.ones(manifest.scheme.num_classes, dtype=torch.int64)
    loss = create_loss(training.losses, manifest.scheme, counts)
    task = SegmentationTask(segmenter, loss, training, _no_batches).to(device)
    optimizer = task.configure_optimizers()["optimizer"]
    dtype = _AUTOCAST.get(training.precision)
    seconds = []
    for _ in range(repeats + 1):
        images, valid, labels = _noise(segmenter, config, manifest.scheme.num_classes, device)
        start = time.perf_counter()
        for _ in range(training.accumulate):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                terms = task.loss(segmenter(images, valid), labels, training.aux_weight)
            terms["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _no_batches(rank: int, world_size: int) -> tuple[Batch, ...]:
    del rank, world_size
    return ()


def _device(accelerator: str) -> torch.device:
    has_cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if has_cuda else "cpu")


def _unit_statistics(modality: Modality) -> BandStatistics:
    zeros, ones = (0.0,) * len(modality.bands), (1.0,) * len(modality.bands)
    return BandStatistics(zeros, ones, zeros, ones, (1,) * len(modality.bands))


def _noise(
    segmenter: Segmenter, config: RunConfig, num_classes: int, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Draw a synthetic batch: images (N, C_m, H_m, W_m), valid (N, H_m, W_m), labels (N, H, W)."""
    count, crop = config.data.batch_size, config.data.crop_size
    sizes = {m.name: m.size_at(crop) for m in segmenter.modalities}
    images = {
        m.name: torch.randn(count, len(m.bands), sizes[m.name], sizes[m.name], device=device)
        for m in segmenter.modalities
    }
    valid = {
        name: torch.ones(count, size, size, dtype=torch.bool, device=device)
        for name, size in sizes.items()
    }
    return images, valid, torch.randint(num_classes, (count, crop, crop), device=device)
