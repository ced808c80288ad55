"""Layers that several transcriptions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, to a height and width."""
    return interpolate(x, tuple(size[-2:]), mode="bilinear", align_corners=False)


def to_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, C) → (N, heads, L, C / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def from_heads(x: Tensor) -> Tensor:
    """(N, heads, L, d) → (N, L, C)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ v


def conv_norm(
    channels: int, out: int, size: int = 1, act: type[nn.Module] | None = nn.ReLU, **options: Any
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, size, padding=size // 2, bias=False, **options),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class UPerHead(nn.Module):
    """UPerNet (Xiao et al., ECCV 2018)."""

    def __init__(self, channels: Sequence[int], width: int, classes: int, bins: Sequence[int]):
        super().__init__()
        self.bins = bins
        self.pools = nn.ModuleList(conv_norm(channels[-1], width) for _ in bins)
        self.bottleneck = conv_norm(channels[-1] + len(bins) * width, width, 3)
        self.laterals = nn.ModuleList(conv_norm(c, width) for c in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm(width, width, 3) for _ in channels[:-1])
        self.fuse = conv_norm(width * len(channels), width, 3)
        self.last = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels, fine to coarse → logits at the finest one's size."""
        top = levels[-1]
        pooled = [
            resize(conv(adaptive_avg_pool2d(top, size)), top.shape)
            for conv, size in zip(self.pools, self.bins, strict=True)
        ]
        maps = [self.bottleneck(torch.cat([top, *pooled], dim=1))]
        x = maps[0]
        for i in reversed(range(len(levels) - 1)):
            x = self.laterals[i](levels[i]) + resize(x, levels[i].shape)
            maps.insert(0, self.smooth[i](x))
        maps = [resize(m, maps[0].shape) for m in maps]
        logits: Tensor = self.last(self.fuse(torch.cat(maps, dim=1)))
        return logits
