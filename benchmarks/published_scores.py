"""Test-time scoring of CMX's and DFormer's code: multiple scales, mirror images, windows.

For scripts that compare with the numbers of the papers. `terrafuse evaluate` scores stitched maps,
whose windows and weights are sound; here they are as published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

#: Images (N, C_m, H, W), one per modality → logits (N, K, H, W).
Network = Callable[[Sequence[Tensor]], Tensor]

#: DFormer's scaled images have sides that are multiples of this.
_SIDE = 32
#: OpenCV's pixel weights are integers in units of 1 / this.
_STEPS = 2048


def sum_exponentials(
    network: Network,
    images: Sequence[Tensor],
    crop: tuple[int, int],
    *,
    normalise: Callable[[Tensor], Tensor] = lambda image: image,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Compute scores as CMX's code does: exp(logits), summed over windows and scales.

    An image that is not larger than the crop in some direction is padded with 0 after
    normalisation, evenly on both sides, and run whole; others run in windows that share a third
    with the next. Logits of the mirror image are added before the exponential.

    Args:
        network: Function from images to logits.
        images: Per modality, uint8 (N, C_m, H, W).
        crop: Height and width of windows.
        normalise: Image in 0 to 255 → input of the network.
        scales: Scale factors of the image.
        flip: True: also run the mirror image.

    Returns:
        (N, K, H, W); not probabilities, but the class map is their arg-max.
    """
    height, width = images[0].shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        size = (round(height * scale), round(width * scale))
        scaled = [normalise(resize_bytes(image, size).float()) for image in images]
        scores = _resize(_exponentials(network, scaled, crop, flip), (height, width), corners=False)
        total = scores if total is None else total + scores
    assert total is not None, "no scales"
    return total


def _exponentials(
    network: Network, images: Sequence[Tensor], crop: tuple[int, int], flip: bool
) -> Tensor:
    def look(images: Sequence[Tensor]) -> Tensor:
        logits = network(images)
        if flip:
            logits = logits + network([image.flip(3) for image in images]).flip(3)
        return logits.exp()

    height, width = images[0].shape[-2:]
    if height <= crop[0] or width <= crop[1]:
        rows, cols = (max(c - n, 0) for c, n in zip(crop, (height, width), strict=True))
        top, left = rows // 2, cols // 2
        margins = (left, cols - left, top, rows - top)
        scores = look([F.pad(image, margins) for image in images])
        return scores[..., top : top + height, left : left + width]
    strides = (ceil(crop[0] * 2 / 3), ceil(crop[1] * 2 / 3))
    return _sum_windows(look, images, crop, strides)[0]


def sum_probabilities(
    network: Network,
    images: Sequence[Tensor],
    *,
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5),
    flip: bool = True,
    crop: tuple[int, int] | None = None,
) -> Tensor:
    """Compute scores as DFormer's code does: probabilities, summed over scales and mirror images.

    Images are resized to sides that are multiples of 32, with aligned corners.

    Args:
        network: Function from images to logits.
        images: Per modality (N, C_m, H, W), normalised.
        scales: Scale factors of the image.
        flip: True: also run the mirror image.
        crop: Height and width of windows (`average_windows`); None: the whole image at once.

    Returns:
        (N, K, H, W); the class map is their arg-max.
    """
    height, width = images[0].shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        size = (_up(int(scale * height)), _up(int(scale * width)))
        scaled = [_resize(image, size) for image in images]
        for mirrored in (False, True) if flip else (False,):
            seen = [image.flip(3) for image in scaled] if mirrored else scaled
            logits = network(seen) if crop is None else average_windows(network, seen, crop)
            logits = logits.flip(3) if mirrored else logits
            probs = _resize(logits, (height, width)).softmax(dim=1)
            total = probs if total is None else total + probs
    assert total is not None, "no scales"
    return total


def average_windows(network: Network, images: Sequence[Tensor], crop: tuple[int, int]) -> Tensor:
    """Average logits over windows that share about a third, as DFormer's code does.

    Args:
        network: Function from images to logits.
        images: Per modality (N, C_m, H, W). If a side is smaller than the crop's, they are first
            resized to the crop, and the result has that size.
        crop: Height and width of windows.

    Returns:
        (N, K, H, W).
    """
    height, width = images[0].shape[-2:]
    if height < crop[0] or width < crop[1]:
        images = [_resize(image, crop) for image in images]
    strides = (int(2 / 3 * crop[0]), int(2 / 3 * crop[1]))
    total, times = _sum_windows(network, images, crop, strides)
    return total / times


def _sum_windows(
    look: Network, images: Sequence[Tensor], crop: tuple[int, int], strides: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Sum over windows (N, K, H, W), and count the windows of each pixel (1, 1, H, W)."""
    height, width = images[0].shape[-2:]
    total: Tensor | None = None
    times = images[0].new_zeros(1, 1, height, width)
    for row in _starts(height, crop[0], strides[0]):
        for col in _starts(width, crop[1], strides[1]):
            window = (..., slice(row, row + crop[0]), slice(col, col + crop[1]))
            scores = look([image[window] for image in images])
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
            total[window] += scores
            times[window] += 1
    assert total is not None
    return total, times


def _starts(length: int, crop: int, stride: int) -> Iterator[int]:
    """Yield first rows or columns of windows; the last is moved back to end with the image."""
    for number in range(ceil((length - crop) / stride) + 1):
        yield min(number * stride, length - crop)


def resize_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a uint8 image (N, C, H, W) bilinearly, bit-identical to OpenCV.

    OpenCV computes in integers and truncates intermediate results, so that about every eighth value
    differs by 1 from the rounded exact result.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    x = image.long()
    low, high, share_low, share_high = _neighbours(x.shape[-1], size[1], inside=True)
    rows = (x[..., low] * share_low + x[..., high] * share_high) >> 4  # (N, C, H, w)
    low, high, *shares = _neighbours(x.shape[-2], size[0], inside=False)
    share_low, share_high = (share[:, None] for share in shares)
    above = (share_low * rows[..., low, :]) >> 16
    below = (share_high * rows[..., high, :]) >> 16
    return ((above + below + 2) >> 2).to(torch.uint8)  # (N, C, h, w)


def _neighbours(length: int, wanted: int, *, inside: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the two source pixels around each target pixel, and their weights.

    Args:
        length: Number of source pixels.
        wanted: Number of target pixels.
        inside: True: a position beyond the centres of the outermost pixels has one neighbour, as
            in OpenCV along rows; False: twice the same.
    """
    places = ((torch.arange(wanted).double() + 0.5) * (length / wanted) - 0.5).float()
    low = places.floor()
    share = places - low
    low = low.long()
    if inside:
        share = torch.where((low < 0) | (low >= length - 1), 0.0, share)
    shares = [(s * _STEPS).round().long() for s in (1 - share, share)]
    last = length - 1
    return low.clamp(0, last), (low + 1).clamp(0, last), shares[0], shares[1]


def _up(length: int) -> int:
    return ceil(length / _SIDE) * _SIDE


def _resize(x: Tensor, size: tuple[int, int], *, corners: bool = True) -> Tensor:
    """Resize bilinearly; with `corners`, corner pixels stay on corner pixels."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)
