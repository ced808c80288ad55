"""Encoder of DFormer: an image stream, guided in every block by a narrower stream of X.

Reference: Yin, Zhang, Li, Liu, Cheng, Hou: "DFormer: Rethinking RGBD representation learning for
semantic segmentation", ICLR 2024, arXiv 2309.09668, section 3.1. Maps inside blocks have their
channels last, (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.decoders.layers import NormName
from terrafuse.errors import ModelError
from terrafuse.fusion import (
    ChannelNorm,
    GuidedBlock,
    GuidedGate,
    PooledQueryAttention,
)
from terrafuse.fusion.guided import convolve
from terrafuse.methods.parts import HalvingConv, QuarterStem


class GuidedAttention(nn.Module):
    """Large-kernel gating, global attention and gating by X, in parallel.

    Args:
        channels: C of the image stream; X has C / 2.
        num_heads: 0: no attention, as in the first stage.
        last: The stream of X ends here, so that no update for it is computed.
    """

    def __init__(self, channels: int, num_heads: int, *, last: bool = False) -> None:
        super().__init__()
        half = channels // 2
        self.norm = ChannelNorm(channels)
        self.norm_guide = ChannelNorm(half)
        self.query = nn.Linear(channels, channels)
        self.context = nn.Linear(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.after = nn.Linear(channels, channels)
        self.gate = GuidedGate(channels, half)
        self.attention = PooledQueryAttention(channels, half, num_heads) if num_heads else None
        width = channels + half + (half if num_heads else 0)
        self.project = nn.Linear(width, channels)
        self.project_guide = None if last else nn.Linear(width, half)

    def forward(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor | None]:
        """Streams (N, H, W, C), (N, H, W, C / 2) → update of each."""
        x, guide = self.norm(x), self.norm_guide(guide)
        context = F.gelu(self.context(x))
        parts = [self.query(x) * self.after(convolve(self.depthwise, context))]
        if self.attention is not None:
            parts.append(self.attention(x, guide, context))
        y = torch.cat([*parts, self.gate(x, guide)], dim=-1)  # (N, H, W, 2C or 3C/2)
        return self.project(y), None if self.project_guide is None else self.project_guide(y)


class GuidedEncoder(Backbone):
    """Image and X, stacked as one image → levels of the image stream.

    Args:
        bands: Number of bands of the image, then of X.
        channels: Per stage; X has half.
        depths: Blocks per stage.
        num_heads: Per stage; the first stage has no attention.
        mlp_ratios: Hidden width of the MLPs per stage, relative to the channels.
        drop_path_rate: Stochastic depth: probability of skipping a branch of the last block,
            decreasing to 0 at the first.
        layer_scale_init: Initial value of layer scales.
        norm: Norm of stems and downsampling.
    """

    def __init__(
        self,
        bands: tuple[int, int],
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[int],
        drop_path_rate: float,
        layer_scale_init: float,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.bands = bands
        self.channels = tuple(channels)
        self.strides = tuple(4.0 * 2**i for i in range(len(self.channels)))
        self.stride = int(self.strides[-1])
        self.downs = nn.ModuleList(
            _two(QuarterStem(bands[0], channels[0], norm=norm),
                 QuarterStem(bands[1], channels[0] // 2, norm=norm))
            if i == 0
            else _two(HalvingConv(channels[i - 1], c, norm=norm),
                      HalvingConv(channels[i - 1] // 2, c // 2, norm=norm))
            for i, c in enumerate(channels)
        )  # fmt: skip
        rates = spread_rates(drop_path_rate, depths)
        ends = (len(channels) - 1, depths[-1] - 1)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                _block(
                    c,
                    heads if stage else 0,
                    last=(stage, i) == ends,
                    mlp_ratio=ratio,
                    drop_path=rates[stage][i],
                    layer_scale_init=layer_scale_init,
                )
                for i in range(depth)
            )
            for stage, (c, depth, heads, ratio) in enumerate(
                zip(channels, depths, num_heads, mlp_ratios, strict=True)
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels (N, C_l, h_l, w_l), fine → coarse, of image and X stacked (N, C, H, W)."""
        x, guide = image.split(self.bands, dim=1)  # type: ignore[no-untyped-call]
        levels = []
        for downs, blocks in zip(self.downs, self.stages, strict=True):
            x, guide = (down(t) for down, t in zip(downs.children(), (x, guide), strict=True))
            x, guide = (t.permute(0, 2, 3, 1) for t in (x, guide))  # (N, H, W, C)
            for block in blocks.children():
                x, guide = self._run(block, x, guide)
            x, guide = (t.permute(0, 3, 1, 2) for t in (x, guide))  # (N, C, H, W)
            levels.append(x)
        return levels

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stems, then each stage with the downsampling before it."""
        stem, *downs = self.downs
        first, *stages = self.stages
        groups = [[stem], [first], *([d, s] for d, s in zip(downs, stages, strict=True))]
        return [[p for part in group for p in part.parameters()] for group in groups]


def spread_rates(highest: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth per stage and block, rising evenly from 0 to the highest."""
    # On the CPU even if the model is built on the meta device: these are settings.
    rates = iter(torch.linspace(0, highest, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def check_sizes(sizes: Mapping[str, Sequence[Any]], drop_path_rate: float) -> None:
    """Refuse impossible sizes per stage.

    Raises:
        ModelError: Other than four values, or values below 1, or a rate out of range.
    """
    wrong = {k: list(v) for k, v in sizes.items() if len(v) != 4 or min(v) < (k != "layer_scales")}
    if wrong:
        raise ModelError(
            "options of method 'dformer' need four values of at least 1, one per stage; got "
            f"{wrong}"
        )
    if not 0 <= drop_path_rate < 1:
        raise ModelError(
            f"option 'drop_path_rate' of method 'dformer' is {drop_path_rate:g}; allowed is 0 to "
            "less than 1"
        )


def _two(image: nn.Module, guide: nn.Module) -> nn.ModuleList:
    return nn.ModuleList([image, guide])


def _block(channels: int, num_heads: int, *, last: bool, **settings: Any) -> nn.Module:
    attention = GuidedAttention(channels, num_heads, last=last)
    return GuidedBlock(attention, channels, None if last else channels // 2, **settings)
