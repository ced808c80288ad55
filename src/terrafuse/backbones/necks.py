"""Necks of transformers: a pyramid, or one level, from maps of one resolution.

Reference: Li, Mao, Girshick, He: Exploring plain vision transformer backbones for object detection
(ViTDet), ECCV 2022, arXiv 2203.16527, figure 2c.
"""

from __future__ import annotations

from typing import ClassVar

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimpleFeaturePyramid(nn.Module):
    """Maps (N, D, h, w) → levels of 4, 2, 1 and 1/2 times their resolution.

    The paper makes all levels from the last map. With several maps each level takes the one of its
    depth: fine levels the early maps, coarse levels the late ones; with one map it is the paper's.

    Args:
        in_channels: D.
        out_channels: Channels of every level.
        num_maps: Maps there are, from early to late.
    """

    #: Resolution of the levels relative to the maps.
    SCALES: ClassVar[tuple[float, ...]] = (4, 2, 1, 0.5)

    def __init__(self, in_channels: int, out_channels: int, num_maps: int) -> None:
        super().__init__()
        self.sources = [i * num_maps // len(self.SCALES) for i in range(len(self.SCALES))]
        self.sources[-1] = num_maps - 1  # the last map, which has seen most, is always used
        self.levels = nn.ModuleList(
            nn.Sequential(
                *_resample(in_channels, scale), *_project(_width(in_channels, scale), out_channels)
            )
            for scale in self.SCALES
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels (N, out_channels, h · scale, w · scale), fine → coarse."""
        return [
            level(maps[source]) for level, source in zip(self.levels, self.sources, strict=True)
        ]


class ConvolutionNeck(nn.Module):
    """Map (N, D, h, w) → one level of the same size: the convolutions that end SAM's encoder.

    Args:
        in_channels: D.
        out_channels: Channels of the level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_project(in_channels, out_channels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One level (N, out_channels, h, w) per map."""
        return [self.layers(x) for x in maps]


def _width(in_channels: int, scale: float) -> int:
    return {4: in_channels // 4, 2: in_channels // 2}.get(int(scale), in_channels)


def _resample(in_channels: int, scale: float) -> list[nn.Module]:
    if scale == 4:
        return [
            nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2),
            LayerNorm2d(in_channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(in_channels // 2, in_channels // 4, kernel_size=2, stride=2),
        ]
    if scale == 2:
        return [nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)]
    return [nn.MaxPool2d(kernel_size=2, stride=2)] if scale < 1 else []


def _project(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    ]
