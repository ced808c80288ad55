"""Timing a model's forward pass."""

from __future__ import annotations

import os
import platform
import time

import torch

from terrafuse.prediction.devices import find_device
from terrafuse.segmenter import Segmenter, evaluating


def forward_seconds(
    segmenter: Segmenter, crop_size: int, *, device: torch.device | str = "auto", passes: int = 5
) -> float:
    """Return the seconds of one sample's forward pass: the fastest of several, after a warm-up.

    Args:
        segmenter: The model; it is moved to `device`.
        crop_size: Height and width of the sample in scene pixels; a whole number of pixels of every
            modality.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …
        passes: Number of timed passes.

    Raises:
        ConfigError: The device does not exist.
    """
    place = find_device(device)
    segmenter.to(place)
    generator = torch.Generator().manual_seed(0)
    images = {}
    for m in segmenter.modalities:
        size = m.size_at(crop_size)
        noise = torch.randn(1, len(m.bands), size, size, generator=generator).to(place)
        mean, std = (segmenter.get_buffer(f"{key}_{m.name}") for key in ("mean", "std"))
        images[m.name] = mean[:, None, None] + std[:, None, None] * noise
    seconds = []
    with evaluating(segmenter), torch.inference_mode():
        for _ in range(passes + 1):
            start = time.perf_counter()
            segmenter(images)
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def describe_device(device: torch.device | str = "auto") -> str:
    """Describe the hardware of a device: the GPU's name, or the processor and its cores.

    Raises:
        ConfigError: The device does not exist.
    """
    place = find_device(device)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
