"""Galileo's transformer: every group of channels, at every position and date, is a token.

Reference: Tseng, Fuller, Reil, Herzog, Beukema, Bastani, Green, Shelhamer, Kerner, Rolnick:
"Galileo: Learning global and local features in pretrained remote sensing models", ICML 2025,
arXiv 2502.09356. Own code, written from a description of the published model and numerically
equal to it. Patches of any size: Beyer et al., "FlexiViT: One model for all patch sizes", CVPR
2023, arXiv 2212.08013 (resized kernels).

Ours: non-square grids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from math import pi

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from terrafuse.backbones.galileo.inputs import GROUPS, KINDS, NUM_GROUPS, Group, Kind
from terrafuse.errors import InputShapeError, ModelError

#: Pixel size of the images of pre-training, in metres.
PIXEL_SIZE_M = 10.0
_EMBEDDINGS: Mapping[Kind, str] = {
    "space_time": "space_time_embed",
    "space": "space_embed",
    "time": "time_embed",
    "static": "static_embed",
}
_CHANNEL_EMBEDDINGS: Mapping[Kind, str] = {
    "space_time": "s_t_channel_embed",
    "space": "sp_channel_embed",
    "time": "t_channel_embed",
    "static": "st_channel_embed",
}


@dataclass(frozen=True)
class GalileoVariant:
    """Sizes of a Galileo.

    Args:
        embed_dim: D.
        mlp_ratio: Hidden width of the MLPs, relative to D.
        kernel_size: Side of the stored kernels, which are resized to the patch.
        max_dates: Number of dates with embeddings.
        file: Location of the published weights; None if there are none.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    kernel_size: int = 8
    max_dates: int = 24
    file: str | None = None

    def __post_init__(self) -> None:
        wrong = self.embed_dim % 16 or self.num_heads < 1 or self.embed_dim % self.num_heads
        if wrong or self.depth < 1:
            raise ModelError(
                f"a Galileo of embed_dim {self.embed_dim}, depth {self.depth} and num_heads "
                f"{self.num_heads} cannot be built; embed_dim must be a multiple of 16 and of "
                "num_heads, depth at least 1"
            )


class GalileoAttention(nn.Module):
    """Self-attention with separate layers for queries, keys and values.

    Inert parts carry timm's names, so that prompts of other modalities work.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(embed_dim, embed_dim) for _ in range(3))
        self.q_norm, self.k_norm, self.norm = (nn.Identity() for _ in range(3))
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Identity()
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D) → tokens (N, L, D).

        Args:
            seen: Bool (N, L): tokens that serve as keys; None: all.
        """
        q, k, v = (
            layer(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )  # (N, heads, L, d)
        mask = None
        if seen is not None:
            # A fully masked sample sees everything instead: a softmax over nothing is NaN.
            mask = (seen | ~seen.any(dim=1, keepdim=True))[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class GalileoBlock(nn.Module):
    """x + Attn(LN(x)), then x + MLP(LN(x)).

    Args:
        embed_dim: D.
        mlp_ratio: Hidden width of the MLP, relative to D.
        drop_path_rate: Probability of skipping a branch in training.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.attn = GalileoAttention(embed_dim, num_heads)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        self.drop_path1, self.drop_path2 = DropPath(drop_path_rate), DropPath(drop_path_rate)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D) → tokens (N, L, D); only tokens in `seen`, bool (N, L), are keys."""
        x = x + self.drop_path1(self.attn(self.norm1(x), seen))
        result: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return result


class PatchKernel(nn.Module):
    """Patches of channels → tokens; the kernel is resized to the patch.

    Args:
        in_channels: C.
        embed_dim: D.
        kernel_size: Side of the stored kernel.
    """

    def __init__(self, in_channels: int, embed_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size, kernel_size)

    def forward(self, x: Tensor, patch_size: int) -> Tensor:
        """Image (N, C, H, W), sides multiples of the patch → map (N, D, h, w)."""
        kernel = resize_kernel(self.proj.weight, patch_size)
        return F.conv2d(x, kernel, self.proj.bias, stride=patch_size)


class GalileoEncoder(nn.Module):
    """Content of the published files: group embeddings, blocks, final norm.

    Args:
        groups: Names of the groups to build; None: all.
        depth: Number of blocks built, from the first; None: all.
        drop_path_rate: Probability of skipping a branch of a block in training.
    """

    def __init__(
        self,
        variant: GalileoVariant,
        groups: Collection[str] | None = None,
        depth: int | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        width = variant.embed_dim
        self.variant = variant
        self.groups = tuple(g for g in GROUPS.values() if groups is None or g.name in groups)
        for kind in KINDS:
            own = {g.name: _embedding(g, variant) for g in self.groups if g.kind == kind}
            if own:
                setattr(self, _EMBEDDINGS[kind], nn.ModuleDict(own))
                codes = nn.Parameter(torch.empty(NUM_GROUPS[kind], width // 4))
                setattr(self, _CHANNEL_EMBEDDINGS[kind], codes)
        self.blocks = nn.ModuleList(
            GalileoBlock(width, variant.num_heads, variant.mlp_ratio, drop_path_rate)
            for _ in range(variant.depth if depth is None else depth)
        )
        self.norm = nn.LayerNorm(width)
        # Fixed by formulas, so not part of the state dict.
        dates = torch.arange(variant.max_dates)
        self.register_buffer("dates", sine_code(dates, width // 4), persistent=False)
        self.register_buffer("months", month_codes(width // 4), persistent=False)
        self.apply(_start)
        for name, parameter in self.named_parameters(recurse=False):
            assert name in _CHANNEL_EMBEDDINGS.values()
            nn.init.normal_(parameter, std=0.02)

    def project(self, group: Group, values: Tensor, patch_size: int = 1) -> Tensor:
        """Project the values of a group to tokens, without any code.

        Args:
            group: One of `groups`.
            values: (…, C) for time and static groups; else images (N, C, H, W).
            patch_size: p; sides of images are multiples of it.

        Returns:
            (…, D), or maps (N, D, h, w).
        """
        embedding = self.get_submodule(f"{_EMBEDDINGS[group.kind]}.{group.name}")
        spatial = isinstance(embedding, PatchKernel)
        tokens: Tensor = embedding(values, patch_size) if spatial else embedding(values)
        return tokens

    def code(self, group: Group, date: int | None, month: Tensor | int | None) -> Tensor:
        """Code added to every token of a group, without its position: (D), or (N, D) by month.

        Args:
            group: One of `groups`.
            date: Index of the date, from 0; None for groups without dates.
            month: January = 0, one for all samples or int64 (N); None likewise.
        """
        quarter = self.variant.embed_dim // 4
        codes: Tensor = self.get_parameter(_CHANNEL_EMBEDDINGS[group.kind])
        channel, nothing = codes[group.index], codes.new_zeros(quarter)
        if date is None or month is None:
            return torch.cat([channel, nothing, nothing, nothing])
        months: Tensor = self.get_buffer("months")[month].to(codes.dtype)  # (…, D / 4)
        fixed = torch.cat([channel, self.get_buffer("dates")[date].to(codes.dtype)])
        return torch.cat(
            [fixed.expand(*months.shape[:-1], -1), months, nothing.expand_as(months)], dim=-1
        )

    def places(self, grid: tuple[int, int], patch_size_m: Tensor) -> Tensor:
        """Position codes added to tokens: (D, h, w), 0 except in the last quarter.

        Args:
            grid: h and w.
            patch_size_m: Side of a patch on the ground in metres, ().
        """
        last = place_codes(grid, patch_size_m / PIXEL_SIZE_M, self.variant.embed_dim // 4)
        return F.pad(last.movedim(2, 0), (0, 0, 0, 0, 3 * self.variant.embed_dim // 4, 0))

    def check_grid(self, height: int, width: int, patch_size: int, dates: int) -> None:
        """Refuse sides not divisible by the patch size, and too many dates.

        Raises:
            InputShapeError: Says which of the two.
        """
        if height % patch_size or width % patch_size:
            raise InputShapeError(
                f"the image has {height} × {width} pixels; Galileo with patches of {patch_size} "
                f"takes multiples of {patch_size}. Pad the image"
            )
        if dates > self.variant.max_dates:
            raise InputShapeError(
                f"the image has {dates} dates; Galileo takes up to {self.variant.max_dates}"
            )


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Resize a kernel (D, C, k, k) to patches of another size (D, C, size, size).

    It is the kernel of least norm that gives the same tokens for patches resized from k × k.
    """
    side = kernel.shape[-1]
    if size == side:
        return kernel
    device = kernel.device
    is_cast = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type, enabled=False) if is_cast else nullcontext():
        matrix = resize_matrix(side, size).to(device, kernel.dtype)  # (size², k²)
        return (kernel.flatten(2) @ matrix.T).reshape(*kernel.shape[:2], size, size)


@cache
def resize_matrix(side: int, size: int) -> Tensor:
    """Matrix (size², side²) that resizes flattened kernels: the pseudo-inverse of image resizing.

    Float64, on the CPU.
    """
    # Cached for all later calls: it must not be an inference or a meta tensor.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        units = torch.eye(side**2, dtype=torch.float64).view(-1, 1, side, side)
        resized = F.interpolate(
            units, (size, size), mode="bicubic", antialias=True, align_corners=False
        )
        inverse: Tensor = torch.linalg.pinv(resized.flatten(1))
        return inverse


def sine_code(x: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of x w_i with w_i = 10000^(−i / 2d), d = width: (…, width), float32.

    The exponents stay below 1/4, as published; the usual table has 2i / d.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=x.device)
    angles = x.float()[..., None] * 10_000 ** (-steps / (2 * width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def month_codes(width: int) -> Tensor:
    """Sine and cosine of the month on a circle, repeated: (12, width)."""
    angles = 2 * pi * torch.arange(12, dtype=torch.float64) / 12
    both = torch.stack([angles.sin(), angles.cos()], dim=1)  # (12, 2)
    return both.repeat_interleave(width // 2, dim=1).float()


def place_codes(grid: tuple[int, int], step: Tensor, width: int) -> Tensor:
    """Position codes (h, w, width): of the column in the first half, of the row in the second.

    Args:
        grid: h and w.
        step: Distance of neighbours in units of 10 m, ().
    """
    rows, cols = (
        sine_code(torch.arange(length, device=step.device) * step, width // 2) for length in grid
    )
    return torch.cat(
        [cols[None].expand(grid[0], -1, -1), rows[:, None].expand(-1, grid[1], -1)], dim=2
    )


def _embedding(group: Group, variant: GalileoVariant) -> nn.Module:
    count, width = len(group.channels), variant.embed_dim
    if group.kind in ("space_time", "space"):
        return PatchKernel(count, width, variant.kernel_size)
    return nn.Linear(count, width)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
