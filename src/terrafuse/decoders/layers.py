"""Building blocks of decoders: convolution with norm, resizing and padding."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.tracing import mirror, same_size

NormName = Literal["batch", "group"]

_GROUPS = 32  # Wu and He, Group normalization, ECCV 2018


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that accepts a single value per channel.

    A single value has no variance, and torch refuses to train on it. It occurs where context is
    pooled to one pixel (UPerNet's pooling bin 1) and the batch is one sample. Such a map is
    normalised by the running statistics instead, which it does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised map (N, C, H, W)."""
        if self.training and input[:, 0].numel() == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def create_norm(name: NormName, channels: int) -> nn.Module:
    """Create the norm of a map: over the batch, or over channel groups of each sample.

    "group" does not depend on the batch and suits batches of one or two samples.
    """
    if name == "batch":
        return BatchNorm2d(channels)
    # At least two channels per group, else a map of one pixel would have no variance.
    return nn.GroupNorm(gcd(_GROUPS, max(channels // 2, 1)), channels)


class ConvNorm(nn.Sequential):
    """Convolution without bias, norm; the size is kept.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: 1 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        norm: NormName,
        dilation: int = 1,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        )
        super().__init__(conv, create_norm(norm, out_channels))


class ConvNormAct(nn.Sequential):
    """Convolution without bias, norm, activation; the size is kept.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: 1 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        norm: NormName,
        activation: type[nn.ReLU | nn.ReLU6] = nn.ReLU,
        dilation: int = 1,
    ) -> None:
        super().__init__(
            *ConvNorm(
                in_channels, out_channels, kernel_size=kernel_size, norm=norm, dilation=dilation
            ),
            activation(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """Depthwise convolution, norm, pointwise convolution, all without bias.

    Zero padding is (kernel_size - 1) // 2 on each side: an odd kernel keeps the size, an even one
    loses a row and a column.

    Args:
        channels: C.
        kernel_size: Kernel of the depthwise convolution.
    """

    def __init__(self, channels: int, *, kernel_size: int, norm: NormName) -> None:
        padding = (kernel_size - 1) // 2
        super().__init__(
            nn.Conv2d(
                channels, channels, kernel_size, padding=padding, groups=channels, bias=False
            ),
            create_norm(norm, channels),
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        )


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Disable autocast, where the tensor's device supports it."""
    kind = like.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (N, C, H, W) bilinearly."""
    if same_size(x.shape[-2:], size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def size_of(x: Tensor) -> tuple[int, int]:
    """Return height and width of a map."""
    return x.shape[-2], x.shape[-1]


def reflect_pad(x: Tensor, bottom: int, right: int) -> Tensor:
    """Pad a map (N, C, H, W) to (N, C, H + bottom, W + right), mirrored at its last row and column.

    Where the map is smaller than the padding, which torch refuses, mirror images alternate as with
    numpy's mode "reflect"; a single row or column is repeated.
    """
    height, width = size_of(x)
    if not (bottom or right):
        return x
    if bottom < height and right < width:
        return F.pad(x, (0, right, 0, bottom), mode="reflect")
    rows = mirror(torch.arange(height + bottom, device=x.device), height)
    cols = mirror(torch.arange(width + right, device=x.device), width)
    return x.index_select(-2, rows).index_select(-1, cols)
