"""Encoder of DFormerv2: one image stream, with attention biased by distances of pixels and in X.

Reference: Yin, Cao, Cheng, Hou: "DFormerv2: Geometry self-attention for RGBD semantic
segmentation", CVPR 2025, arXiv 2504.04701. Maps inside blocks have their channels last
(N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.decoders.layers import NormName, create_norm, full_precision, resize
from terrafuse.fusion import ChannelNorm
from terrafuse.fusion.guided import convolve
from terrafuse.methods.dformer.geometry import (
    Distances,
    GeometryAttention,
    GeometryPrior,
    Rotation,
    measure,
    measure_all,
)
from terrafuse.methods.dformer.v1 import spread_rates


class ConvFeedForward(nn.Module):
    """Two linear layers; between them GELU, then a 3×3 convolution with a residual."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, inner)
        self.depthwise = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) → map (N, H, W, C)."""
        x = F.gelu(self.fc1(x))
        result: Tensor = self.fc2(x + convolve(self.depthwise, x))
        return result


class GeometryBlock(nn.Module):
    """Positional convolution, attention with a prior, feed-forward.

    Args:
        channels: C.
        heads_range: See `GeometryPrior`.
        mlp_ratio: Hidden width of the feed-forward, relative to the channels.
        split: See `GeometryAttention`.
        drop_path: Probability of skipping a branch in training.
        layer_scale_init: Initial value of layer scales, one per channel; None: no layer scale.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        heads_range: float,
        mlp_ratio: int,
        split: bool,
        drop_path: float = 0.0,
        layer_scale_init: float | None = None,
    ) -> None:
        super().__init__()
        self.positions = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        self.prior = GeometryPrior(num_heads, heads_range)
        self.norm1 = ChannelNorm(channels)
        self.attn = GeometryAttention(channels, num_heads, split=split)
        self.norm2 = ChannelNorm(channels)
        self.mlp = ConvFeedForward(channels, mlp_ratio * channels)
        self.drop = DropPath(drop_path)
        self.scale1 = self.scale2 = None
        if layer_scale_init is not None:
            self.scale1 = nn.Parameter(torch.full((channels,), layer_scale_init))
            self.scale2 = nn.Parameter(torch.full((channels,), layer_scale_init))

    def forward(self, x: Tensor, rotate: Rotation, distances: Sequence[Distances]) -> Tensor:
        """Map (N, H, W, C) → map (N, H, W, C)."""
        x = x + convolve(self.positions, x)
        masks = [self.prior(own) for own in distances]
        y = self.attn(self.norm1(x), rotate, masks)
        x = x + self.drop(y if self.scale1 is None else self.scale1 * y)
        y = self.mlp(self.norm2(x))
        result: Tensor = x + self.drop(y if self.scale2 is None else self.scale2 * y)
        return result


class GeometryEncoder(Backbone):
    """Image and X, stacked as one image → levels of the image.

    Args:
        bands: Number of bands of the image, then of X, of which only differences matter.
        channels: Per stage.
        depths: Blocks per stage.
        num_heads: Per stage.
        heads_ranges: Spread of the priors' decays, per stage.
        mlp_ratios: Hidden width of the feed-forward per stage, relative to the channels.
        layer_scales: Whether blocks have layer scale, per stage.
        drop_path_rate: Stochastic depth: probability of skipping a branch of the last block,
            decreasing to 0 at the first.
        layer_scale_init: Initial value of layer scales.
        norm: Norm of stem and downsampling.
    """

    def __init__(
        self,
        bands: tuple[int, int],
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        heads_ranges: Sequence[float],
        mlp_ratios: Sequence[int],
        layer_scales: Sequence[bool],
        drop_path_rate: float,
        layer_scale_init: float,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.bands = bands
        self.channels = tuple(channels)
        self.strides = tuple(4.0 * 2**i for i in range(len(self.channels)))
        self.stride = int(self.strides[-1])
        self.head_dims = [c // heads for c, heads in zip(channels, num_heads, strict=True)]
        self.stem = _stem(bands[0], channels[0], norm)
        rates = spread_rates(drop_path_rate, depths)
        last = len(channels) - 1
        self.stages = nn.ModuleList(
            nn.ModuleList(
                GeometryBlock(
                    c,
                    num_heads[stage],
                    heads_range=heads_ranges[stage],
                    mlp_ratio=mlp_ratios[stage],
                    split=stage < last,
                    drop_path=rate,
                    layer_scale_init=layer_scale_init if layer_scales[stage] else None,
                )
                for rate in rates[stage]
            )
            for stage, c in enumerate(channels)
        )
        self.downs = nn.ModuleList(
            _halve(before, after, norm) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels[1:])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels (N, C_l, h_l, w_l), fine → coarse, of image and X stacked (N, C, H, W)."""
        x, depth = image.split(self.bands, dim=1)  # type: ignore[no-untyped-call]
        x = self.stem(x)
        levels = []
        for stage, blocks in enumerate(self.stages.children()):
            if stage:
                x = self.downs[stage - 1](x)
            rotate, distances = self._geometry(stage, depth, (x.shape[-2], x.shape[-1]))
            x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
            for block in blocks.children():
                x = self._run(block, x, rotate, distances)
            level = self.norms[stage - 1](x) if stage else x
            levels.append(level.permute(0, 3, 1, 2))  # (N, C, H, W)
            x = x.permute(0, 3, 1, 2)
        return levels

    def _geometry(
        self, stage: int, depth: Tensor, size: tuple[int, int]
    ) -> tuple[Rotation, tuple[Distances, ...]]:
        """Rotation and distances shared by all blocks of a stage."""
        with full_precision(depth):
            rotate = Rotation(*size, self.head_dims[stage], depth.device)
            depth = resize(depth.float(), size)
            last = stage == len(self.stages) - 1
            return rotate, (measure_all(depth),) if last else measure(depth)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem, then each stage with the downsampling before and the norm after it."""
        first, *stages = self.stages
        groups: list[list[nn.Module]] = [[self.stem], [first]]
        groups += [[*parts] for parts in zip(self.downs, stages, self.norms, strict=True)]
        return [[p for part in group for p in part.parameters()] for group in groups]


def _stem(bands: int, channels: int, norm: NormName) -> nn.Sequential:
    """Image → map of a quarter of its size, by four convolutions."""
    half = channels // 2
    steps = [(bands, half, 2), (half, half, 1), (half, channels, 2), (channels, channels, 1)]
    layers: list[nn.Module] = []
    for before, after, stride in steps:
        conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1)
        layers += [conv, create_norm(norm, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _halve(in_channels: int, out_channels: int, norm: NormName) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1),
        create_norm(norm, out_channels),
    )
