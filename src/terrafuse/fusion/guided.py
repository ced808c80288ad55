"""Parts of blocks that combine an image stream with a guiding stream (depth, structure).

DFormer and VSGNet are built from them. Maps have their channels last here, (N, H, W, C), since all
layers but two are linear in the channels.

Reference: Yin et al., "DFormer: Rethinking RGBD Representation Learning for Semantic Segmentation",
ICLR 2024, arXiv 2309.09668, section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.tracing import pool_to

#: Height and width of the grid of pooled queries.
QUERY_GRID = 7


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of the last axis, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)


class PooledQueryAttention(nn.Module):
    """Attention of 7×7 queries, pooled from both streams, to the whole image ("global" half).

    Args:
        channels: C of the image stream.
        guide_channels: C' of the guiding stream.
        num_heads: Number of heads, which share C / 2 channels.

    Raises:
        ModelError: The heads do not divide C / 2.
    """

    def __init__(self, channels: int, guide_channels: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or channels % (2 * num_heads):
            raise ModelError(
                f"{num_heads} heads cannot share half of {channels} channels; choose a number of "
                "heads of which twice as many divide the channels"
            )
        self.num_heads = num_heads
        self.query = nn.Linear(channels + guide_channels, channels // 2)
        self.key_value = nn.Linear(channels, channels)

    def forward(self, x: Tensor, guide: Tensor, context: Tensor) -> Tensor:
        """Compute the queries' results, resampled to the size of the map.

        Args:
            x: Image stream (N, H, W, C), normalised.
            guide: Guiding stream (N, H, W, C'), normalised.
            context: Source of keys and values (N, H, W, C).

        Returns:
            (N, H, W, C / 2).
        """
        both = torch.cat([x, guide], dim=-1).permute(0, 3, 1, 2)  # (N, C + C', H, W)
        pooled = pool_to(both, (QUERY_GRID, QUERY_GRID)).flatten(2).transpose(1, 2)
        q = self.query(pooled)
        q = q.view(*q.shape[:2], self.num_heads, -1).transpose(1, 2)  # (N, heads, 49, d)
        kv = self.key_value(context.flatten(1, 2))  # (N, H·W, C)
        kv = kv.view(*kv.shape[:2], 2, self.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)  # (N, heads, H·W, d) each
        found = F.scaled_dot_product_attention(q, k, v)  # (N, heads, 49, d)
        found = found.transpose(2, 3).flatten(1, 2)  # (N, C/2, 49), head by head
        found = F.interpolate(
            found.view(*found.shape[:2], QUERY_GRID, QUERY_GRID),
            (x.shape[1], x.shape[2]),
            mode="bilinear",
            align_corners=False,
        )
        return found.permute(0, 2, 3, 1)  # (N, H, W, C/2)


class GuidedGate(nn.Module):
    """The image stream times weights from a 7×7 neighbourhood of the guide ("local" half).

    Args:
        channels: C of the image stream.
        guide_channels: C' of the guiding stream.
    """

    def __init__(self, channels: int, guide_channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cut = nn.Linear(channels, half)
        self.before = nn.Linear(guide_channels, half)
        self.depthwise = nn.Conv2d(half, half, kernel_size=7, padding=3, groups=half)
        self.after = nn.Linear(half, half)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Streams (N, H, W, C) and (N, H, W, C'), normalised → (N, H, W, C / 2)."""
        gated: Tensor = self.cut(x) * self.weigh(guide)
        return gated

    def weigh(self, guide: Tensor) -> Tensor:
        """Compute weights (N, H, W, C / 2) from the guide (N, H, W, C')."""
        factors: Tensor = self.after(convolve(self.depthwise, self.before(guide)))
        return factors


class DepthwiseMlp(nn.Module):
    """Norm, two linear layers, and between them a 3×3 convolution that adds positions.

    Args:
        channels: C.
        ratio: Hidden width, relative to C.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        inner = ratio * channels
        self.norm = ChannelNorm(channels)
        self.fc1 = nn.Linear(channels, inner)
        self.depthwise = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) → (N, H, W, C)."""
        x = self.fc1(self.norm(x))
        result: Tensor = self.fc2(F.gelu(x + convolve(self.depthwise, x)))
        return result


class GuidedBlock(nn.Module):
    """Attention over both streams, then an MLP on each, with layer scale and residuals.

    Args:
        attention: Streams (N, H, W, C), (N, H, W, C') → update of each.
        channels: C of the image stream.
        guide_channels: C' of the guiding stream; None leaves it unchanged, for the last block.
        mlp_ratio: Hidden width of the MLPs, relative to the channels.
        drop_path: Probability of skipping a branch in training.
        layer_scale_init: Initial value of layer scales, one per channel.
    """

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        guide_channels: int | None,
        *,
        mlp_ratio: int,
        drop_path: float,
        layer_scale_init: float,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = DepthwiseMlp(channels, mlp_ratio)
        self.drop_path = drop_path
        self.scale_attention = _scale(channels, layer_scale_init)
        self.scale_mlp = _scale(channels, layer_scale_init)
        self.mlp_guide = None
        if guide_channels is not None:
            self.mlp_guide = DepthwiseMlp(guide_channels, mlp_ratio)
            self.scale_attention_guide = _scale(guide_channels, layer_scale_init)
            self.scale_mlp_guide = _scale(guide_channels, layer_scale_init)

    def forward(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams after the block."""
        to_x, to_guide = self.attention(x, guide)
        x = x + self._drop(self.scale_attention * to_x)
        x = x + self._drop(self.scale_mlp * self.mlp(x))
        if self.mlp_guide is not None:
            guide = guide + self._drop(self.scale_attention_guide * to_guide)
            guide = guide + self._drop(self.scale_mlp_guide * self.mlp_guide(guide))
        return x, guide

    def _drop(self, x: Tensor) -> Tensor:
        """Zero some samples and scale up the others, which keeps the mean."""
        if not (self.training and self.drop_path):
            return x
        keep = 1 - self.drop_path
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < keep
        return x * (kept / keep).to(x.dtype)


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve a map with its channels last (N, H, W, C)."""
    result: Tensor = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return result


def _scale(channels: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((channels,), value))
