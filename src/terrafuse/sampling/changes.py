"""Turns and changes of values by drawn numbers, of one sample or of a batch on its device.

The numbers (`Sample.draws`) come from `Augment.prepare`: "turn", and per modality "NAME.factor" and
so on (`change_values`). A batch is changed with the numbers of its samples, so that it does not
matter but for rounding where that happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from terrafuse.samples import Batch, Sample, as_physical, flippable

#: Name of the numbers (3,) of a turn: whether rows and columns are flipped, then quarter turns.
TURN = "turn"


def change_sample(sample: Sample) -> Sample:
    """Change a sample by its numbers; images whose values do not change stay as they are."""
    draws = sample.draws
    if TURN in draws:
        rows, cols, quarters = draws[TURN].tolist()
        sample = turn_sample(sample, bool(rows), bool(cols), quarters)
    images = dict(sample.images)
    for name, image in images.items():
        if own := _of(draws, name):
            images[name] = change_values(as_physical(image, sample.valid[name]), own)
    return replace(sample, images=images, draws={})


def change_batch(batch: Batch) -> Batch:
    """Change a batch by the numbers of its samples, on the device where it lies.

    Returns:
        The batch with images in float32. If it has no numbers, nothing else is changed.
    """
    batch, draws = batch.physical(), batch.draws
    if TURN in draws:
        batch = _turn_batch(batch, draws[TURN])
    images = {m: change_values(image, _of(draws, m)) for m, image in batch.images.items()}
    return replace(batch, images=images, draws={})


def change_values(image: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """Change values of an image (C, H, W) or of images (N, C, H, W); NaN stays NaN.

    Args:
        draws: `factor` (1, 1, 1), `band_factor` (C, 1, 1), `shift` (C or 1, 1, 1),
            `blur_sigma_px` (), `noise` (C, H, W), which is added, and `log_noise` (C, H, W), the
            logarithm of a factor; of images (N, …). Made in this order, those that are there.
    """
    for name in ("factor", "band_factor"):
        if name in draws:
            image = image * draws[name]
    if "shift" in draws:
        image = image + draws["shift"]
    if "blur_sigma_px" in draws:
        image = _blur_each(image, draws["blur_sigma_px"])
    if "noise" in draws:
        image = image + draws["noise"]
    if "log_noise" in draws:
        image = image * torch.exp(draws["log_noise"])
    return image


def turn_sample(sample: Sample, flip_rows: bool, flip_cols: bool, quarters: int) -> Sample:
    """Flip a sample, then turn it counter-clockwise by quarters; exact."""
    axes = [axis for axis, flip in ((-2, flip_rows), (-1, flip_cols)) if flip]
    if not axes and not quarters:
        return sample

    def turn(x: Tensor) -> Tensor:
        turned = torch.rot90(flippable(x).flip(axes), quarters, (-2, -1))
        return turned.contiguous().view(x.dtype)

    return replace(
        sample,
        images={name: turn(image) for name, image in sample.images.items()},
        valid={name: turn(valid) for name, valid in sample.valid.items()},
        labels=None if sample.labels is None else turn(sample.labels),
    )


def _turn_batch(batch: Batch, turns: Tensor) -> Batch:
    """Turn each sample as `turn_sample` does.

    Any such turn is a transposition or none, then flips: all samples go through the same few
    operations, and none waits for a number to come from the device.

    Args:
        turns: Integers (N, 3): rows flipped, columns flipped, quarter turns.
    """
    flip_rows, flip_cols, quarters = turns.unbind(dim=1)
    transposed = quarters % 2 == 1
    # Of a transposed image the rows are what the columns were.
    rows = torch.where(transposed, flip_cols, flip_rows) + ((quarters == 1) | (quarters == 2))
    cols = torch.where(transposed, flip_rows, flip_cols) + (quarters >= 2)

    def turn(x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        if x.shape[-2] == x.shape[-1]:  # others are turned by halves only
            x = torch.where(transposed.view(shape), x.transpose(-2, -1), x)
        x = torch.where((rows % 2 == 1).view(shape), x.flip(-2), x)
        return torch.where((cols % 2 == 1).view(shape), x.flip(-1), x)

    return replace(
        batch,
        images={name: turn(image) for name, image in batch.images.items()},
        valid={name: turn(valid) for name, valid in batch.valid.items()},
        labels=None if batch.labels is None else turn(batch.labels),
    )


def _of(draws: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Numbers of one modality, by the name of the change."""
    start = f"{modality}."
    return {name.removeprefix(start): x for name, x in draws.items() if name.startswith(start)}


def _blur_each(image: Tensor, sigmas_px: Tensor) -> Tensor:
    """Blur an image (C, H, W) by one sigma (), or images (N, C, H, W) by theirs (N,)."""
    if sigmas_px.ndim == 0:
        return blur(image, sigmas_px.item())
    return torch.stack(
        [blur(one, sigma_px) for one, sigma_px in zip(image, sigmas_px.tolist(), strict=True)]
    )


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Blur an image (C, H, W) with a Gaussian over pixels with data; NaN stays NaN."""
    # The kernel ends at three sigmas; the mirrored border must be shorter than the image.
    radius = min(math.ceil(3 * sigma_px), min(image.shape[-2:]) - 1)
    if sigma_px <= 0 or radius < 1:
        return image
    kernel, sigmas = [2 * radius + 1] * 2, [sigma_px] * 2
    from torchvision.transforms.v2.functional import gaussian_blur  # seconds to import

    blurred, _ = filter_known(image, lambda x: gaussian_blur(x, kernel, sigmas))
    return torch.where(image.isnan(), torch.nan, blurred)


def filter_known(image: Tensor, linear: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Apply a linear filter over pixels with data; return the share of its weight on them too."""
    known = ~image.isnan()
    if bool(known.all()):
        return linear(image), torch.ones(())
    weight = linear(known.to(image.dtype))
    filtered = linear(torch.where(known, image, 0.0))
    return filtered / weight.clamp_min(1e-6), weight
