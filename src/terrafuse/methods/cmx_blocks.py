"""Blocks of CMX: two modalities correct each other's maps, then become one map.

Reference: Zhang, Liu, Yang, Hu, Liu, Stiefelhagen: "CMX: Cross-modal fusion for RGB-X semantic
segmentation with transformers", IEEE T-ITS 24(12), 2023, DOI 10.1109/TITS.2023.3300537, arXiv
2203.04838, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.decoders.layers import NormName, create_norm, full_precision
from terrafuse.errors import ModelError


class FeatureRectification(nn.Module):
    """Each map plus what the other holds, weighted by channels and by pixels ("CM-FRM").

        a' = a + λ_c w_b b + λ_s s_b b        b' = b + λ_c w_a a + λ_s s_a a

    with w = sigmoid(MLP [mean; max] of both) per channel and s = sigmoid(MLP of both) per pixel.

    Args:
        channels: C of both maps.
        channel_weight: λ_c.
        spatial_weight: λ_s.
        reduction: Inside the MLPs, the input's channels divided by it (of pixels: C).
    """

    def __init__(
        self,
        channels: int,
        *,
        channel_weight: float = 0.5,
        spatial_weight: float = 0.5,
        reduction: int = 1,
    ) -> None:
        super().__init__()
        self.channel_weight = channel_weight
        self.spatial_weight = spatial_weight
        self.channel_mlp = nn.Sequential(
            nn.Linear(4 * channels, 4 * channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(4 * channels // reduction, 2 * channels),
        )
        self.spatial_mlp = nn.Sequential(
            nn.Conv2d(2 * channels, channels // reduction, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, 2, kernel_size=1),
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, H, W) → the same, corrected by each other."""
        both = torch.cat([a, b], dim=1)  # (N, 2C, H, W)
        pooled = torch.cat([both.mean(dim=(2, 3)), both.amax(dim=(2, 3))], dim=1)  # (N, 4C)
        of_channels = self.channel_mlp(pooled).sigmoid()[:, :, None, None]  # (N, 2C, 1, 1)
        from_a, from_b = (self.channel_weight * of_channels).chunk(2, dim=1)
        at_a, at_b = (self.spatial_weight * self.spatial_mlp(both).sigmoid()).chunk(2, dim=1)
        return a + (from_b + at_b) * b, b + (from_a + at_a) * a


class ContextExchange(nn.Module):
    """Each modality reads the other's global context, a matrix of channels by channels.

    With queries u_m as they come, keys k_m and values v_m linear in u_m:

        G_m = softmax over k's channels of (k_mᵀ v_m / √d)        o_a = u_a G_b,  o_b = u_b G_a

    The sum over pixels in kᵀv is no mean, so that larger images sharpen the softmax, as published.
    It is taken in float32: it leaves the range of float16 at a few thousand pixels.

    Args:
        channels: C of both.
        num_heads: Heads of d = C / num_heads channels.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.key_value = nn.ModuleList(
            nn.Linear(channels, 2 * channels, bias=False) for _ in range(2)
        )

    def context(self, which: int, u: Tensor) -> Tensor:
        """Context matrices (N, heads, d, d) of a modality's tokens (N, L, C)."""
        k, v = self.key_value[which](u).chunk(2, dim=-1)
        with full_precision(u):
            k, v = self._to_heads(k.float()), self._to_heads(v.float())
            context: Tensor = ((k.transpose(2, 3) @ v) * self.scale).softmax(dim=2)
            return context

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, C) → what each found with the other (N, L, C)."""
        of_a, of_b = self.context(0, a), self.context(1, b)
        return self._read(a, of_b), self._read(b, of_a)

    def _read(self, u: Tensor, context: Tensor) -> Tensor:
        found = self._to_heads(u) @ context.to(u.dtype)  # (N, heads, L, d)
        return found.transpose(1, 2).flatten(2)  # (N, L, C)

    def _to_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (N, heads, L, d)


class FeatureExchange(nn.Module):
    """Tokens of both modalities, each with what it found in the other ("FFM", first stage).

    Args:
        channels: C of both.
        num_heads: Of the `ContextExchange`.
        reduction: Channels inside are C divided by it.
    """

    def __init__(self, channels: int, num_heads: int, *, reduction: int = 1) -> None:
        super().__init__()
        inner = channels // reduction
        self.enter = nn.ModuleList(nn.Linear(channels, 2 * inner) for _ in range(2))
        self.exchange = ContextExchange(inner, num_heads)
        self.leave = nn.ModuleList(nn.Linear(2 * inner, channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, C) of both → the same."""
        entered = [layer(x).relu() for layer, x in zip(self.enter, (a, b), strict=True)]
        kept, asked = zip(*(x.chunk(2, dim=-1) for x in entered), strict=True)
        found = self.exchange(*asked)
        outputs = [
            norm(x + leave(torch.cat([own, other], dim=-1)))
            for norm, x, leave, own, other in zip(
                self.norms, (a, b), self.leave, kept, found, strict=True
            )
        ]
        return outputs[0], outputs[1]


class ChannelEmbedding(nn.Module):
    """Maps of both modalities, stacked → one map ("FFM", second stage).

    Args:
        in_channels: Of the stacked maps.
        channels: C of the result.
        reduction: Channels inside are C divided by it.
        norm: Of the result; published is "batch".
    """

    def __init__(
        self, in_channels: int, channels: int, *, reduction: int = 1, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        inner = channels // reduction
        self.residual = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(in_channels, inner, kernel_size=1),
            nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, kernel_size=1),
            create_norm(norm, channels),
        )
        self.norm = create_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) → map (N, C, H, W)."""
        result: Tensor = self.norm(self.residual(x) + self.embed(x))
        return result


class FeatureFusion(nn.Module):
    """Maps of both modalities → one map: context exchanged, then mixed ("FFM").

    Args:
        channels: C of all maps.
        num_heads: Of the `ContextExchange`; must divide C / reduction.
        reduction: Channels inside are C divided by it.
        norm: Of the mixed map.

    Raises:
        ModelError: The heads do not divide the channels.
    """

    def __init__(
        self, channels: int, num_heads: int, *, reduction: int = 1, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % (reduction * num_heads):
            raise ModelError(
                f"{num_heads} heads cannot share {channels // reduction} channels; choose "
                "fusion_heads that divide the channels of each level"
            )
        self.exchange = FeatureExchange(channels, num_heads, reduction=reduction)
        self.embedding = ChannelEmbedding(2 * channels, channels, reduction=reduction, norm=norm)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Maps (N, C, H, W) → one map (N, C, H, W)."""
        tokens = self.exchange(*(x.flatten(2).transpose(1, 2) for x in (a, b)))  # (N, H·W, C)
        maps = [x.transpose(1, 2).reshape(a.shape) for x in tokens]  # (N, C, H, W)
        fused: Tensor = self.embedding(torch.cat(maps, dim=1))
        return fused


def stage_heads(stages: Sequence[nn.Module]) -> list[int]:
    """Heads of each stage's own attention; 1 where it has none."""
    names = ("num_attention_heads", "num_heads")
    return [
        next(
            (int(found) for m in stage.modules() for n in names if (found := getattr(m, n, None))),
            1,
        )
        for stage in stages
    ]
