"""CROMA by its paper: Fuller et al., NeurIPS 2023, arXiv 2311.00566; four joint layers, UPerNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.modalities import Modality
from transcriptions.parts import UPerHead, attend, conv_norm, from_heads, resize, to_heads


def distances(rows: int, cols: int, heads: int) -> Tensor:
    """Bias (heads, L, L): minus the distance of two tokens, times 2^(−8 h / heads)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    slopes = torch.tensor([2 ** (-8 * (h + 1) / heads) for h in range(heads)])
    return -slopes[:, None, None] * torch.cdist(places, places)


class Attention(nn.Module):
    """Tokens attend to others."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        """Tokens, and those that give keys and values (N, L, D) → to add to the tokens."""
        t, others = self.norm(t), self.norm(others)
        parts = (self.q(t), self.k(others), self.v(others))
        found: Tensor = self.out(
            from_heads(attend(*(to_heads(x, self.heads) for x in parts), bias))
        )
        return found


class Layer(nn.Module):
    """Self-attention, attention to the other sensor in a joint layer, feed-forward network."""

    def __init__(self, width: int, heads: int, *, joint: bool) -> None:
        super().__init__()
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads) if joint else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
            nn.Linear(4 * width, width),
        )  # fmt: skip

    def forward(self, t: Tensor, bias: Tensor, others: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D) → the same."""
        t = t + self.own(t, t, bias)
        if self.cross is not None and others is not None:
            t = t + self.cross(t, others, bias)
        found: Tensor = t + self.mlp(t)
        return found


class Encoder(nn.Module):
    """Layers, and a norm after the last; the tokens after each."""

    def __init__(self, width: int, heads: int, depth: int, *, joint: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, joint=joint) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, t: Tensor, bias: Tensor, others: Tensor | None = None) -> list[Tensor]:
        """Tokens (N, L, D) → those after every layer, of the last normalised."""
        found = []
        for layer in self.layers:
            t = layer(t, bias, others)
            found.append(t)
        return [*found[:-1], self.norm(t)]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        found: Tensor = super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return found


def level(width: int, out: int, halvings: int) -> nn.Sequential:
    """A level of 2^halvings times the resolution of the tokens."""
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if halvings < 0 else []
    for i in range(halvings):
        layers += [ChannelNorm(width, eps=1e-6), nn.GELU()] if i else []
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
        width //= 2
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, out, 1, bias=False), ChannelNorm(out, eps=1e-6),
        nn.Conv2d(out, out, 3, padding=1, bias=False), ChannelNorm(out, eps=1e-6),
    )  # fmt: skip


class CROMA(nn.Module):
    """Radar and optical encoders, the joint one, a pyramid of it, UPerNet."""

    PATCH = 8

    def __init__(self, optical: int, radar: int, classes: int, encoder: Any, head: Any) -> None:
        super().__init__()
        width, heads, depth = (encoder[key] for key in ("embed_dim", "num_heads", "depth"))
        self.heads, out = heads, encoder["neck_channels"]
        self.embeds = nn.ModuleList(
            nn.Linear(bands * self.PATCH**2, width) for bands in (optical, radar)
        )
        self.optical = Encoder(width, heads, depth)
        self.radar = Encoder(width, heads, depth // 2)
        self.joint = Encoder(width, heads, depth // 2, joint=True)
        self.levels = nn.ModuleList(level(width, out, n) for n in (2, 1, 0, -1))
        self.head = UPerHead([out] * 4, head["channels"], classes, head["bins"])
        self.aux = nn.Sequential(
            conv_norm(out, 256, 3), nn.Dropout2d(0.1), nn.Conv2d(256, classes, 1)
        )

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images by modality → logits; main and auxiliary ones added, as their losses would be."""
        size = next(iter(images.values())).shape
        streams = []
        for image, embed in zip(images.values(), self.embeds, strict=True):
            x = ((resize(image, size) + 2) / 4).clamp(0, 1)
            streams.append(embed(nn.functional.unfold(x, self.PATCH, stride=8).transpose(1, 2)))
        rows, cols = size[2] // self.PATCH, size[3] // self.PATCH
        bias = distances(rows, cols, self.heads)
        optical = self.optical(streams[0], bias)[-1]
        joint = self.joint(self.radar(streams[1], bias)[-1], bias, optical)
        maps = [t.transpose(1, 2).reshape(len(t), -1, rows, cols) for t in joint]
        taps = [maps[max(len(maps) * (i + 1) // 4 - 1, 0)] for i in range(4)]
        found = [level(tap) for level, tap in zip(self.levels, taps, strict=True)]
        return resize(self.head(found), size) + 0.4 * resize(self.aux(found[2]), size)


def build(modalities: Sequence[Modality], classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model with the sizes of the method's options: the optical image first, then radar."""
    optical, radar = (len(m.bands) for m in modalities)
    return CROMA(optical, radar, classes, options["backbone_options"], options["decoder_options"])
