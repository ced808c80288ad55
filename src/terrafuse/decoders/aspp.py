"""Atrous spatial pyramid pooling ("ASPP"): parallel views of a map at several dilations.

Reference: Chen, Papandreou, Schroff, Adam: Rethinking atrous convolution for semantic image
segmentation, 2017, arXiv 1706.05587, figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.decoders.layers import ConvNormAct, NormName, size_of


class PooledContext(ConvNormAct):
    """The mean of a map through a 1×1 convolution, norm and ReLU, at every pixel."""

    def __init__(self, in_channels: int, channels: int, *, norm: NormName) -> None:
        super().__init__(in_channels, channels, kernel_size=1, norm=norm)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) → (N, C', H, W), the same at every pixel."""
        x = input.mean(dim=(-2, -1), keepdim=True)  # (N, C, 1, 1)
        for layer in self:
            x = layer(x)
        return x.expand(-1, -1, *size_of(input))


class AtrousBranches(nn.Module):
    """The mean, the pixel itself and its surroundings at several dilations, concatenated.

    Args:
        in_channels: C.
        channels: C' of each branch.
        rates: Dilations of the 3×3 convolutions.
    """

    def __init__(
        self, in_channels: int, channels: int, *, rates: Sequence[int], norm: NormName
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                PooledContext(in_channels, channels, norm=norm),
                ConvNormAct(in_channels, channels, kernel_size=1, norm=norm),
                *(
                    ConvNormAct(in_channels, channels, kernel_size=3, norm=norm, dilation=rate)
                    for rate in rates
                ),
            ]
        )
        self.out_channels = channels * len(self.branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → (N, (2 + rates) · C', H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)
