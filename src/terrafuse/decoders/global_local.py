"""The global-local block of UNetFormer: window attention in parallel to a convolutional branch.

Reference: Wang, Li, Zhang, Fang, Duan, Meng, Atkinson: UNetFormer: a UNet-like transformer for
efficient semantic segmentation of remote sensing urban scene imagery, ISPRS Journal of
Photogrammetry and Remote Sensing 190, 2022, arXiv 2109.08937. Position bias: Liu et
al.: Swin transformer, ICCV 2021, arXiv 2103.14030, equation 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.layers import (
    ConvNorm,
    NormName,
    SeparableConv,
    create_norm,
    reflect_pad,
    size_of,
)
from terrafuse.errors import ModelError
from terrafuse.tracing import has_symbols, join_heads, split_dim, split_heads, window_places

_MLP_RATIO = 4


class GlobalLocalAttention(nn.Module):
    """Attention in windows, exchanged between windows by pooling, plus convolutions ("GLTA").

    Args:
        channels: C.
        num_heads: Heads; must divide C.
        window_size: Side of a window, also the extent of the pooling and of the last convolution.

    Raises:
        ModelError: The heads do not divide the channels, or the window size is below 1.
    """

    position_index: Tensor

    def __init__(
        self, channels: int, *, num_heads: int = 8, window_size: int = 8, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ModelError(
                f"num_heads is {num_heads}, which does not divide the {channels} channels; choose "
                f"a divisor of {channels}"
            )
        if window_size < 1:
            raise ModelError(f"window_size is {window_size}; it must be at least 1")
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.local3 = ConvNorm(channels, channels, kernel_size=3, norm=norm)
        self.local1 = ConvNorm(channels, channels, kernel_size=1, norm=norm)
        self.project = SeparableConv(channels, kernel_size=window_size, norm=norm)
        self.bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        # Not saved, since it follows from the window size.
        self.register_buffer("position_index", create_position_index(window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) of any size → map of the same size."""
        local = self.local3(x) + self.local1(x)
        x = self._pool_cross(self._attend(x)) + local
        # A window of even size has no centre pixel: the missing row and column are mirrored.
        end = 1 - self.window_size % 2
        result: Tensor = self.project(reflect_pad(x, end, end))
        return result

    def _attend(self, x: Tensor) -> Tensor:
        """Attend within windows of a map (N, C, H, W)."""
        s, heads = self.window_size, self.num_heads
        height, width = size_of(x)
        if has_symbols(height, width):
            return self._attend_traced(x)
        # The 1×1 convolution commutes with padding, and is cheaper before it.
        qkv = reflect_pad(self.qkv(x), -height % s, -width % s)
        rows, columns = qkv.shape[-2] // s, qkv.shape[-1] // s
        qkv = qkv.view(len(x), 3, heads, -1, rows, s, columns, s)
        qkv = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3)  # (3, N, rows, columns, heads, s, s, d)
        q, k, v = qkv.reshape(3, -1, heads, s * s, qkv.shape[-1])  # (N·windows, heads, s², d)
        # Without a batch dimension torch uses no fused kernel on the CPU.
        bias = self.position_bias().to(q.dtype).unsqueeze(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x.view(-1, rows, columns, heads, s, s, x.shape[-1]).permute(0, 3, 6, 1, 4, 2, 5)
        x = x.reshape(len(x), -1, rows * s, columns * s)
        return x[..., :height, :width]

    def _attend_traced(self, x: Tensor) -> Tensor:
        """As `_attend`, in a form that a graph can hold for any size."""
        samples, _, height, width = x.shape
        places = window_places(
            (height, width), (self.window_size, self.window_size), x.device, mirrored=True
        )
        windows = places.cut(self.qkv(x).flatten(2).transpose(1, 2))  # (N · windows, s², 3C)
        q, k, v = split_heads(windows, self.num_heads).unbind(0)  # (N · windows, heads, s², d)
        bias = self.position_bias().to(q.dtype).unsqueeze(0)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        found = places.join(join_heads(found), samples)  # (N, L, C)
        return split_dim(found.transpose(1, 2), 2, (height, width))

    def position_bias(self) -> Tensor:
        """Attention bias of a query and a key by their offset (heads, s², s²)."""
        return self.bias_table[self.position_index].permute(2, 0, 1).contiguous()

    def _pool_cross(self, x: Tensor) -> Tensor:
        """Mean over a column of `window_size` pixels plus mean over a row (N, C, H, W)."""
        # Zeros beyond the border count as pixels; at the end the first one is mirrored instead.
        s, end = self.window_size, 1 - self.window_size % 2
        zeros = (s - 1) // 2
        columns = F.avg_pool2d(reflect_pad(x, end, 0), (s, 1), stride=1, padding=(zeros, 0))
        rows = F.avg_pool2d(reflect_pad(x, 0, end), (1, s), stride=1, padding=(0, zeros))
        return columns + rows


class GlobalLocalBlock(nn.Module):
    """Attention and a pointwise MLP, each with a norm before it and a residual ("GLTB").

    Args:
        channels: C.
        num_heads: Heads of the attention.
        window_size: Window of the attention.
        norm: Norm before both parts and inside the attention.
    """

    def __init__(
        self, channels: int, *, num_heads: int = 8, window_size: int = 8, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        self.norm1 = create_norm(norm, channels)
        self.attention = GlobalLocalAttention(
            channels, num_heads=num_heads, window_size=window_size, norm=norm
        )
        self.norm2 = create_norm(norm, channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, _MLP_RATIO * channels, kernel_size=1),
            nn.ReLU6(inplace=True),
            nn.Conv2d(_MLP_RATIO * channels, channels, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) of any size → map of the same size."""
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


def create_position_index(window_size: int) -> Tensor:
    """Compute the row of the bias table for each query and key of a window, both row-major.

    Returns:
        Int64 (s², s²): (dy + s - 1)(2s - 1) + dx + s - 1, where dy, dx is query minus key.
    """
    s = window_size
    y, x = torch.arange(s).repeat_interleave(s), torch.arange(s).repeat(s)  # (s²,)
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + s - 1) * (2 * s - 1) + dx + s - 1
