"""CROMA's transformers: one per sensor, and one in which radar attends to optical.

Reference: Fuller, Millard, Green: "CROMA: Remote sensing representations with contrastive
radar-optical masked autoencoders", NeurIPS 2023, arXiv 2311.00566. Position bias: Press, Smith,
Lewis: "Train short, test long: attention with linear biases enables input length extrapolation"
(ALiBi), ICLR 2022, arXiv 2108.12409, here with distances in the plane. Own code, written from a
description of the published model and numerically equal to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from terrafuse.errors import InputShapeError, ModelError
from terrafuse.tracing import is_traced


@dataclass(frozen=True)
class CROMAVariant:
    """Sizes of a CROMA.

    Args:
        embed_dim: D.
        depth: Layers of the optical transformer; the two others have half as many.
        patch_size: p.
        file: Location of the published weights; None if there are none.
    """

    embed_dim: int
    depth: int
    num_heads: int = 16
    patch_size: int = 8
    file: str | None = None

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.embed_dim % self.num_heads or self.depth < 2:
            raise ModelError(
                f"a CROMA of embed_dim {self.embed_dim}, depth {self.depth} and num_heads "
                f"{self.num_heads} cannot be built; embed_dim must be a multiple of num_heads, "
                "depth at least 2"
            )

    def layers(self, part: str) -> int:
        """Number of layers of "optical", "sar" or "joint"."""
        return self.depth if part == "optical" else self.depth // 2


def head_slopes(num_heads: int) -> Tensor:
    """Slopes by which attention falls with distance, (heads,).

    2^(−8 h / n) for h = 1 … n where the number of heads n is a power of two; else those of the next
    smaller power, then every second one of the next larger.
    """
    power = 2 ** int(log2(num_heads))
    slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2.0 ** (-8 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
    return torch.tensor(slopes + between[: num_heads - power])


def distance_bias(grid: tuple[int, int], num_heads: int) -> Tensor:
    """Attention bias of each pair of tokens, (1, heads, L, L), float32.

    − slope_h · distance of the two tokens in the plane, in tokens.

    Args:
        grid: Rows and columns of tokens; L = rows · columns.
    """
    down, across = (torch.arange(length, dtype=torch.float32) for length in grid)
    down, across = ((x[:, None] - x[None, :]).square() for x in (down, across))  # (h, h), (w, w)
    apart = (down[:, None, :, None] + across[None, :, None, :]).sqrt()  # (h, w, h, w)
    apart = apart.reshape(grid[0] * grid[1], -1)
    return -head_slopes(num_heads)[None, :, None, None] * apart


class DistanceBias(nn.Module):
    """`distance_bias`, cached for the last grid.

    It grows with the square of the tokens: 64 MiB for 16 heads and 32 × 32 tokens (256 px), 1 GiB
    for 64 × 64. It is not part of the state dict, since it follows from the grid.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._kept: tuple[object, Tensor] | None = None

    def forward(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Bias (1, heads, L, L) on the device of `like`, in the dtype of its attention."""
        kind = like.device.type
        is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_cast else like.dtype
        if is_traced():
            return distance_bias(grid, self.num_heads).to(like.device, dtype)
        key = (grid, like.device, dtype)
        if self._kept is None or self._kept[0] != key:
            # A bias cached during prediction may serve a training step later.
            with torch.inference_mode(False), torch.no_grad():
                bias = distance_bias(grid, self.num_heads).to(like.device, dtype)
            self._kept = (key, bias)
        return self._kept[1]


class _Attention(nn.Module):
    """Attention with a bias per pair of tokens; queries, keys and values have no offset."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.proj = nn.Linear(dim, dim)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = None if bias is None else bias.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (N, heads, L, d)
        result: Tensor = self.proj(x.transpose(1, 2).flatten(2))  # (N, L, D)
        return result


class SelfAttention(_Attention):
    """Self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens (N, L, D), bias broadcast to (N, heads, L, L) or none → (N, L, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self._attend(q, k, v, bias)


class CrossAttention(_Attention):
    """Cross-attention: one sequence gives the queries, another keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Queries of (N, L, D), keys of (N, S, D), bias (N, heads, L, S) → (N, L, D)."""
        return self._attend(self.q(x), self.k(context), self.v(context), bias)


class EncoderLayer(nn.Module):
    """t += attention(LN t); t += MLP(LN t)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens (N, L, D), bias (1 or N, heads, L, L) or none → (N, L, D)."""
        x = x + self.attn(self.norm1(x), bias)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class JointLayer(nn.Module):
    """Self-attention, cross-attention to the other sensor, then an MLP, all with residuals.

    One norm serves both sides of the cross-attention, as published.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(
        self, x: Tensor, context: Tensor, bias: Tensor, cross_bias: Tensor | None = None
    ) -> Tensor:
        """Tokens (N, L, D) that attend to the other sensor's (N, S, D); biases as above.

        `cross_bias` (N, heads, L, S) may be omitted where both sides have the same positions.
        """
        x = x + self.attn(self.norm1(x), bias)
        between = bias if cross_bias is None else cross_bias
        x = x + self.cross(self.norm2(x), self.norm2(context), between)
        result: Tensor = x + self.mlp(self.norm3(x))
        return result


class SensorEncoder(nn.Module):
    """Transformer of one sensor: linear patch embedding, layers, final norm.

    Args:
        bands: C.
        depth: Number of layers built, from the first.
    """

    def __init__(self, bands: int, variant: CROMAVariant, depth: int) -> None:
        super().__init__()
        self.patch_size = variant.patch_size
        dim = variant.embed_dim
        self.patch_embed = nn.Linear(bands * self.patch_size**2, dim)
        self.blocks = nn.ModuleList(EncoderLayer(dim, variant.num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Image (N, C, H, W) → tokens (N, L, D), row by row, and the grid (h, w).

        Raises:
            InputShapeError: Wrong number of bands, or sides not divisible by the patch size.
        """
        p, bands = self.patch_size, self.patch_embed.in_features // self.patch_size**2
        height, width = image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != bands or height % p or width % p:
            raise InputShapeError(
                f"the image has shape {tuple(image.shape)}; CROMA takes (N, {bands}, H, W) with H "
                f"and W multiples of {p}. Pad the image"
            )
        tokens: Tensor = self.patch_embed(cut_patches(image, p))
        return tokens, (height // p, width // p)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Tokens (N, L, D) → encodings (N, L, D), normalised."""
        for block in self.blocks:
            tokens = block(tokens, bias)
        result: Tensor = self.norm(tokens)
        return result


class JointEncoder(nn.Module):
    """Joint transformer: radar encodings attend to optical ones.

    Args:
        depth: Number of layers built, from the first.
    """

    def __init__(self, variant: CROMAVariant, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            JointLayer(variant.embed_dim, variant.num_heads) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(variant.embed_dim)

    def forward(
        self, sar: Tensor, optical: Tensor, bias: Tensor, cross_bias: Tensor | None = None
    ) -> Tensor:
        """Encodings (N, L, D) of radar and (N, S, D) of optical → joint ones (N, L, D)."""
        for block in self.blocks:
            sar = block(sar, optical, bias, cross_bias)
        result: Tensor = self.norm(sar)
        return result


class PooledHead(nn.Module):
    """Mean of the tokens through a norm and an MLP: one vector per image ("GAP-FFN")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodings (N, L, D) → (N, D)."""
        result: Tensor = self.mlp(self.norm(tokens.mean(dim=1)))
        return result


def cut_patches(image: Tensor, size: int) -> Tensor:
    """Image (N, C, H, W) → patches, row-major (N, L, C · p²); within: channel, row, column."""
    return F.pixel_unshuffle(image, size).flatten(2).transpose(1, 2)


def even_layers(depth: int, count: int) -> Sequence[int]:
    """Last layer of each of `count` parts of equal depth."""
    return [max(depth * (i + 1) // count - 1, 0) for i in range(count)]
