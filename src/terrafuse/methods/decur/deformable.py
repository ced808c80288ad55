"""Deformable attention: each group of channels samples points that it chooses itself.

Reference: Xia, Pan, Song, Li, Huang: "Vision transformer with deformable attention", CVPR 2022,
arXiv 2201.00520; as used after stages of a ResNet by Wang et al., "Decoupling common and unique
representations for multimodal self-supervised learning" (DeCUR), ECCV 2024, there "RDA". Own code,
written from a description of the latter and numerically equal to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from terrafuse.errors import ModelError


class DeformableAttention(nn.Module):
    """Every pixel attends to points of the map whose positions depend on its content.

    For each group of channels, a small network shifts the points of a regular grid; keys and values
    are the map sampled there. The bias of a pixel and a point is interpolated from a table of their
    offset, so that maps may have any size.

    Args:
        channels: C.
        num_groups: Groups of channels with points of their own; must divide the heads.
        kernel_size: Kernel of the convolution that shifts points.
        stride: Stride of this convolution: a point per `stride` pixels in rows and columns.
        table_size: Side of the maps for which the table has a value per offset.

    Raises:
        ModelError: Heads do not divide the channels, or groups the heads.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_groups: int,
        kernel_size: int,
        stride: int,
        table_size: int,
    ) -> None:
        super().__init__()
        if channels % num_heads or num_heads % num_groups:
            raise ModelError(
                f"deformable attention of {channels} channels cannot have {num_heads} heads in "
                f"{num_groups} groups; heads must divide channels, and groups heads"
            )
        self.num_heads, self.num_groups = num_heads, num_groups
        self.query, self.key, self.value, self.project = (
            nn.Conv2d(channels, channels, kernel_size=1) for _ in range(4)
        )
        width = channels // num_groups
        padding = kernel_size // 2 if kernel_size != stride else 0
        self.offset = nn.Sequential(
            nn.Conv2d(width, width, kernel_size, stride=stride, padding=padding, groups=width),
            LayerNorm2d(width, eps=1e-5),
            nn.GELU(),
            nn.Conv2d(width, 2, kernel_size=1, bias=False),
        )
        side = 2 * table_size - 1
        self.position_table = nn.Parameter(torch.empty(num_heads, side, side))
        nn.init.trunc_normal_(self.position_table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → map of the same size."""
        samples, channels, height, width = x.shape
        q = self.query(x)
        points = self.place(q)  # (N · groups, h, w, 2)
        groups = x.reshape(samples * self.num_groups, -1, height, width)
        sampled = _sample(groups, points).reshape(samples, channels, *points.shape[1:3])
        q, k, v = (
            y.reshape(samples, self.num_heads, -1, y.shape[2] * y.shape[3]).transpose(2, 3)
            for y in (q, self.key(sampled), self.value(sampled))
        )  # (N, heads, H · W, d), (N, heads, h · w, d)
        bias = self._bias((height, width), points.flatten(1, 2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        result: Tensor = self.project(y.transpose(2, 3).reshape(x.shape))
        return result

    def place(self, q: Tensor) -> Tensor:
        """Place the points of each group (N · groups, h, w, 2): row, column in [−1, 1].

        Args:
            q: Queries (N, C, H, W).
        """
        moved = self.offset(q.reshape(q.shape[0] * self.num_groups, -1, *q.shape[2:]))
        # In float32: half precision is too coarse for positions on maps of 256 pixels.
        moved = moved.float().permute(0, 2, 3, 1)
        # Half a step beyond the centre of each cell, as published.
        rows, cols = (
            2 * (torch.arange(n, device=q.device) + 0.5) / max(n - 1, 1) - 1
            for n in moved.shape[1:3]
        )
        regular = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=2)
        points: Tensor = regular + moved
        return points.clamp(-1, 1)

    def _bias(self, size: tuple[int, int], points: Tensor) -> Tensor:
        """Bias of each pixel and point (N, heads, H · W, h · w); points (N · groups, h · w, 2)."""
        rows, cols = (2 * torch.arange(n, device=points.device) / max(n - 1, 1) - 1 for n in size)
        pixels = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=2).reshape(-1, 1, 2)
        apart = (pixels - points.unsqueeze(1)) / 2  # (N · groups, H · W, h · w, 2)
        samples = points.shape[0] // self.num_groups
        tables = self.position_table.reshape(
            self.num_groups, -1, *self.position_table.shape[1:]
        ).repeat(samples, 1, 1, 1)
        found = _sample(tables, apart)  # (N · groups, heads / groups, H · W, h · w)
        return found.reshape(samples, self.num_heads, *found.shape[2:])


class AttendedStage(nn.Module):
    """A stage of a backbone, followed by attention with a residual.

    Args:
        stage: Map → map.
        attention: Map → map of the same size.
    """

    def __init__(self, stage: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.stage, self.attention = stage, attention

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → map (N, C', H', W')."""
        x = self.stage(x)
        result: Tensor = x + self.attention(x)
        return result


def _sample(maps: Tensor, places: Tensor) -> Tensor:
    """Sample maps (B, C, H, W) bilinearly at (B, h, w, 2), row and column in [−1, 1]."""
    sampled = F.grid_sample(maps.float(), places.flip(3), mode="bilinear", align_corners=True)
    return sampled.to(maps.dtype)
