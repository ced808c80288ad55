"""Attention of DFormerv2, with a bias from the distances of pixels on the grid and in X.

Reference: Yin, Cao, Cheng, Hou: "DFormerv2: Geometry self-attention for RGBD semantic
segmentation", CVPR 2025, arXiv 2504.04701. Maps inside blocks have their channels last
(N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.fusion.guided import convolve
from terrafuse.tracing import split_dim

#: A head's decay is 1 − 2^−(2 + …) per pixel of distance.
_FIRST_DECAY = 2.0


@dataclass(frozen=True)
class Distances:
    """Distances between pixels of a map, on the grid and in X.

    Args:
        grid: |Δrow| + |Δcolumn|, for pixels that attend to each other.
        depth: Mean of |ΔX| over the bands, for the same pixels and each sample.
    """

    grid: Tensor
    depth: Tensor


def measure(x: Tensor) -> tuple[Distances, Distances]:
    """Measure distances along rows and along columns.

    Args:
        x: X at the size of the map (N, C, H, W).

    Returns:
        Along rows: grid (W, W), depth (N, 1, H, W, W). Along columns: (H, H), (N, 1, W, H, H).
    """
    height, width = x.shape[-2:]
    return (
        Distances(_along(width, x), _differences(x)),
        Distances(_along(height, x), _differences(x.transpose(2, 3))),
    )


def measure_all(x: Tensor) -> Distances:
    """Measure distances between all pixels of X: grid (H·W, H·W), depth (N, 1, H·W, H·W)."""
    height, width = x.shape[-2:]
    rows, cols = _along(height, x), _along(width, x)
    grid = rows[:, None, :, None] + cols[None, :, None, :]  # (H, W, H, W)
    return Distances(grid.reshape(height * width, -1), _differences(x.flatten(2)))


def _along(size: int, like: Tensor) -> Tensor:
    places = torch.arange(size, device=like.device, dtype=torch.float32)
    return (places[:, None] - places[None]).abs()


def _differences(x: Tensor) -> Tensor:
    """Mean absolute differences of all values on the last axis: (N, C, …, L) → (N, 1, …, L, L)."""
    parts = [(x[:, c, ..., :, None] - x[:, c, ..., None, :]).abs() for c in range(x.shape[1])]
    return (torch.stack(parts).mean(dim=0) if len(parts) > 1 else parts[0]).unsqueeze(1)


class GeometryPrior(nn.Module):
    """Attention bias of two pixels, decreasing with their distance.

        w_p · decay_h · grid distance + w_d · decay_h · distance in X

    with decay_h = ln(1 − 2^−(2 + range · h / heads)) for head h.

    Args:
        heads_range: Spread of the decays over the heads.
    """

    decay: Tensor

    def __init__(self, num_heads: int, heads_range: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        exponents = _FIRST_DECAY + heads_range * torch.arange(num_heads).float() / num_heads
        self.register_buffer("decay", torch.log1p(-(2.0**-exponents)), persistent=False)

    def forward(self, distances: Distances) -> Tensor:
        """Mask (N, heads, …, L, L)."""
        of_grid, of_depth = self.weight
        depth = distances.depth  # (N, 1, …, L, L)
        decay = self.decay.view(-1, *[1] * (depth.ndim - 2))  # (heads, 1, …)
        mask: Tensor = decay * (of_grid * distances.grid + of_depth * depth)
        return mask


class Rotation:
    """Rotation of channel pairs by angles that grow with the raster index of the pixel.

    Args:
        height: H.
        width: W.
        head_dim: d, even.
    """

    def __init__(self, height: int, width: int, head_dim: int, device: torch.device) -> None:
        speeds = 10000 ** -torch.linspace(0, 1, head_dim // 2, device=device)
        index = torch.arange(height * width, device=device, dtype=torch.float32)
        angles = (index[:, None] * speeds.repeat_interleave(2)).view(height, width, head_dim)
        self.sin, self.cos = angles.sin(), angles.cos()  # (H, W, d)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (N, heads, H, W, d)."""
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)


class GeometryAttention(nn.Module):
    """Self-attention with a `GeometryPrior`: along rows, then columns, or over all pixels.

    Args:
        channels: C.
        num_heads: C / num_heads must be an even number.
        split: Whether to attend along rows, then columns ("decomposed"), not over all pixels.

    Raises:
        ModelError: The channels per head are not an even number.
    """

    def __init__(self, channels: int, num_heads: int, *, split: bool) -> None:
        super().__init__()
        if channels % (2 * num_heads):
            raise ModelError(
                f"{num_heads} heads cannot share {channels} channels; choose num_heads whose "
                "double divides the channels of each stage"
            )
        self.num_heads = num_heads
        self.split = split
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.local = nn.Conv2d(channels, channels, kernel_size=5, padding=2, groups=channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, rotate: Rotation, masks: Sequence[Tensor]) -> Tensor:
        """Map (N, H, W, C) → map (N, H, W, C).

        Args:
            rotate: Rotation for its size.
            masks: Along rows (N, heads, H, W, W) and columns (N, heads, W, H, H); or for all pixels
                (N, heads, H·W, H·W).
        """
        value = self.v_proj(x)
        q, k = rotate(self._to_heads(self.q_proj(x))), rotate(self._to_heads(self.k_proj(x)))
        v = self._to_heads(value)  # (N, heads, H, W, d)
        if self.split:
            by_row, by_col = (mask.to(q.dtype) for mask in masks)
            v = _attend_lines(q, k, v, by_row)
            q, k, v = (t.transpose(2, 3) for t in (q, k, v))  # (N, heads, W, H, d)
            v = _attend_lines(q, k, v, by_col).transpose(2, 3)
        else:
            q, k, flat = (t.flatten(2, 3) for t in (q, k, v))  # (N, heads, H·W, d)
            v = _attend(q, k, flat, masks[0].to(q.dtype)).view(v.shape)
        y = v.permute(0, 2, 3, 1, 4).flatten(3)  # (N, H, W, C)
        result: Tensor = self.proj(y + convolve(self.local, value))
        return result

    def _to_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:3], self.num_heads, -1).permute(0, 3, 1, 2, 4)


def _attend_lines(q: Tensor, k: Tensor, v: Tensor, masks: Tensor) -> Tensor:
    """Attend within each line (N, heads, lines, L, d), with masks (N, heads, lines, L, L)."""
    # Fused kernels and ONNX have four dimensions.
    found = _attend(*(x.flatten(1, 2) for x in (q, k, v, masks)))
    return split_dim(found, 1, (v.shape[1], v.shape[2]))


def _attend(q: Tensor, k: Tensor, v: Tensor, masks: Tensor) -> Tensor:
    # A graph is recorded with the strides of one kernel, and run with those of another.
    return F.scaled_dot_product_attention(q, k, v, masks).contiguous()
