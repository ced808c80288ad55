"""UPerNet: pyramid pooling on the coarsest level, then a feature pyramid.

Reference: Xiao, Liu, Zhou, Jiang, Sun: Unified perceptual parsing for scene understanding, ECCV
2018, arXiv 1807.10221, figure 4. Pyramid pooling: Zhao, Shi, Qi, Wang, Jia: Pyramid scene parsing
network, CVPR 2017, arXiv 1612.01105.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.decoders.layers import ConvNormAct, NormName, resize, size_of
from terrafuse.tracing import pool_to


class PyramidPooling(nn.Module):
    """A map concatenated with its context, pooled to a few sizes ("PPM").

    Args:
        channels: Channels of each pooled map and of the result.
        bins: Sizes to which the map is pooled.
    """

    def __init__(
        self, in_channels: int, channels: int, *, bins: Sequence[int], norm: NormName
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, channels, kernel_size=1, norm=norm) for _ in self.bins
        )
        width = in_channels + len(self.bins) * channels
        self.bottleneck = ConvNormAct(width, channels, kernel_size=3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) → map (N, channels, H, W)."""
        pooled = [
            resize(branch(pool_to(x, (bins, bins))), size_of(x))
            for bins, branch in zip(self.bins, self.branches, strict=True)
        ]
        result: Tensor = self.bottleneck(torch.cat([x, *pooled], dim=1))
        return result


class UPerNetDecoder(nn.Module):
    """Levels → logits through pyramid pooling and a top-down feature pyramid.

    Args:
        level_channels: Channels per level, fine → coarse.
        num_classes: K.
        channels: Width of every map; 512 in the paper.
        bins: Sizes of the pooled maps.
        dropout: Share of channels dropped before the classifier.
        norm: Norm after every convolution.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        *fine, coarsest = level_channels
        self.pooling = PyramidPooling(coarsest, channels, bins=bins, norm=norm)
        self.laterals = nn.ModuleList(
            ConvNormAct(c, channels, kernel_size=1, norm=norm) for c in fine
        )
        self.smooths = nn.ModuleList(
            ConvNormAct(channels, channels, kernel_size=3, norm=norm) for _ in fine
        )
        self.fuse = ConvNormAct(channels * len(level_channels), channels, kernel_size=3, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the finest level's size."""
        size = size_of(levels[0])
        top = self.pooling(levels[-1])
        maps = [top]
        for level, lateral, smooth in reversed(
            list(zip(levels[:-1], self.laterals, self.smooths, strict=True))
        ):
            top = lateral(level) + resize(top, size_of(level))
            maps.insert(0, smooth(top))
        x = self.fuse(torch.cat([resize(m, size) for m in maps], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
