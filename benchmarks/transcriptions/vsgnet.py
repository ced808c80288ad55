"""VSGNet by its figure: Pan et al., JSTARS 2025; frozen encoders: DINOv2 with registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, interpolate, pixel_shuffle

from terrafuse.modalities import Modality
from transcriptions.parts import attend, from_heads, resize, to_heads


class FrozenBlock(nn.Module):
    """A pre-norm block with layer scales."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scales = nn.Parameter(torch.full((2, width), 1e-5))

    def forward(self, t: Tensor) -> Tensor:
        """Tokens (N, L, D) → the same."""
        parts = (to_heads(x, self.heads) for x in self.qkv(self.norms[0](t)).chunk(3, dim=-1))
        t = t + self.scales[0] * self.out(from_heads(attend(*parts)))
        found: Tensor = t + self.scales[1] * self.mlp(self.norms[1](t))
        return found


class FrozenEncoder(nn.Module):
    """Image → tokens, laid out as pixels by a factor of 8."""

    PATCH = 14

    def __init__(self, bands: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        width, side = sizes["embed_dim"], sizes["img_size"] // self.PATCH
        self.embed = nn.Conv2d(bands, width, self.PATCH, self.PATCH)
        self.position = nn.Parameter(torch.zeros(1, width, side, side))
        self.tokens = nn.Parameter(torch.zeros(1, 5, width))  # of the class, and four registers
        self.blocks = nn.Sequential(
            *(FrozenBlock(width, sizes["num_heads"]) for _ in range(sizes["depth"]))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) → (N, D / 64, H, W)."""
        size = [self.PATCH * -(-n // self.PATCH) for n in image.shape[-2:]]
        x = self.embed(resize(image, size))
        x = x + interpolate(self.position, x.shape[2:], mode="bicubic")
        t = torch.cat([self.tokens.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        t = self.norm(self.blocks(t))[:, 5:]
        return resize(pixel_shuffle(t.transpose(1, 2).reshape(x.shape), 8), image.shape)


def stem(bands: int, width: int) -> nn.Sequential:
    """Image → map of a quarter of its size."""
    return nn.Sequential(
        nn.Conv2d(bands, width // 2, 3, 2, padding=1), nn.BatchNorm2d(width // 2), nn.GELU(),
        nn.Conv2d(width // 2, width, 3, 2, padding=1), nn.BatchNorm2d(width),
    )  # fmt: skip


def on_map(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of maps on one whose channels are last."""
    found: Tensor = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return found


class Mlp(nn.Module):
    """Feed-forward network with a 3 × 3 convolution inside."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        inner = ratio * width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.enter, self.leave = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) → the same."""
        x = self.enter(self.norm(x))
        found: Tensor = self.leave(gelu(x + on_map(self.mix, x)))
        return found


class Enhancement(nn.Module):
    """FE: 49 pooled queries that attend to the image, beside a gate made of the structure."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, half = heads, width // 2
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.context, self.kv = nn.Linear(width, width), nn.Linear(width, width)
        self.q = nn.Linear(2 * width, half)
        self.cut, self.before = nn.Linear(width, half), nn.Linear(width, half)
        self.deep = nn.Conv2d(half, half, 7, padding=3, groups=half)
        self.after = nn.Linear(half, half)
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (N, H, W, C) → what is added to each."""
        x, e = (norm(t) for norm, t in zip(self.norms, (x, e), strict=True))
        both = torch.cat([x, e], dim=-1).permute(0, 3, 1, 2)
        q = self.q(adaptive_avg_pool2d(both, 7).flatten(2).transpose(1, 2))
        k, v = self.kv(gelu(self.context(x)).flatten(1, 2)).chunk(2, dim=-1)
        a = from_heads(attend(*(to_heads(t, self.heads) for t in (q, k, v))))  # (N, 49, C / 2)
        a = a.transpose(1, 2).reshape(len(a), -1, 7, 7)
        a = resize(a, x.shape[1:3]).permute(0, 2, 3, 1)
        g = self.cut(x) * self.after(on_map(self.deep, self.before(e)))
        y = torch.cat([a, g], dim=-1)
        return self.outs[0](y), self.outs[1](y)


class Block(nn.Module):
    """FE, then a feed-forward network per stream; samples skip a branch at random."""

    def __init__(self, width: int, heads: int, ratio: int, drop: float) -> None:
        super().__init__()
        self.enhance, self.drop = Enhancement(width, heads), drop
        self.mlps = nn.ModuleList(Mlp(width, ratio) for _ in range(2))
        self.scales = nn.Parameter(torch.full((4, width), 1e-2))

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (N, H, W, C) → the same."""
        u, v = self.enhance(x, e)
        x = x + self._skip(self.scales[0] * u)
        x = x + self._skip(self.scales[1] * self.mlps[0](x))
        e = e + self._skip(self.scales[2] * v)
        return x, e + self._skip(self.scales[3] * self.mlps[1](e))

    def _skip(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) >= self.drop) / (1 - self.drop)


def pool(a: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Σ S(a) a with S = softmax(exp(a)), in the form that does not overflow."""
    top = a.amax(dims, keepdim=True)
    exponent = top.clamp(max=80).exp() * (a - top).expm1()
    weights = exponent.flatten(dims[0], dims[-1]).softmax(dims[0]).view_as(a)
    return (weights * a).sum(dims, keepdim=True)


class Recalibration(nn.Module):
    """FR: a gate per channel, then one per pixel, across the streams."""

    def __init__(self, width: int, outs: int) -> None:
        super().__init__()
        self.mixes = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(2))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)) for _ in range(2)
        )
        self.outs = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(outs))

    def forward(self, x: Tensor, e: Tensor, f: Tensor, h: Tensor) -> list[Tensor]:
        """Streams at entry and after the blocks (N, C, H, W) → those of the next scale."""
        both = torch.cat([x, e], dim=1)
        of_x, of_e = (
            gate(pool(mix(both), (2, 3))).sigmoid()
            for mix, gate in zip(self.mixes, self.gates, strict=True)
        )
        r, s = x * of_x + e, e * of_e + x
        y = torch.cat([x * pool(r, (1,)) + e + f, e * pool(s, (1,)) + x + h], dim=1)
        return [out(y) for out in self.outs]


class VSGNet(nn.Module):
    """Stems and frozen encoders, scales of FE and FR, an all-MLP decoder."""

    def __init__(self, bands: Sequence[int], classes: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        widths, depths = options["channels"], options["depths"]
        self.frozen = nn.ModuleList(FrozenEncoder(n, options["backbone_options"]) for n in bands)
        self.stems = nn.ModuleList(stem(n, widths[0]) for n in bands)
        maps = options["backbone_options"]["embed_dim"] // 64
        self.token_stems = nn.ModuleList(stem(maps, widths[0]) for _ in bands)
        self.downs = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, b, 3, 2, padding=1)) for _ in bands
            )
            for a, b in pairwise(widths)
        )
        drops = iter(torch.linspace(0, 0.2, sum(depths)).tolist())
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(width, heads, ratio, next(drops)) for _ in range(depth))
            for width, depth, heads, ratio in zip(
                widths, depths, options["num_heads"], options["mlp_ratios"], strict=True
            )
        )
        last = len(widths) - 1
        self.mixes = nn.ModuleList(
            Recalibration(width, 1 if i == last else 2) for i, width in enumerate(widths)
        )
        inner = options["decoder_options"]["channels"]
        self.laterals = nn.ModuleList(nn.Conv2d(width, inner, 1) for width in widths)
        self.fuse = nn.Sequential(
            nn.Conv2d(inner * len(widths), inner, 1, bias=False), nn.BatchNorm2d(inner, eps=1e-3),
            nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(inner, classes, 1),
        )  # fmt: skip

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images by modality → logits."""
        size = next(iter(images.values())).shape
        streams = []
        for i, image in enumerate(images.values()):
            image = resize(image, size)
            streams.append(self.stems[i](image) + self.token_stems[i](self.frozen[i](image)))
        levels = []
        for i, blocks in enumerate(self.blocks):
            if i:
                streams = [down(x) for down, x in zip(self.downs[i - 1], streams, strict=True)]
            x, e = (s.permute(0, 2, 3, 1) for s in streams)
            for block in blocks:
                x, e = block(x, e)
            streams = self.mixes[i](*streams, x.permute(0, 3, 1, 2), e.permute(0, 3, 1, 2))
            levels.append(streams[0])
        maps = [
            resize(lateral(x), levels[0].shape)
            for lateral, x in zip(self.laterals, levels, strict=True)
        ]
        return resize(self.fuse(torch.cat(maps[::-1], dim=1)), size)


def build(modalities: Sequence[Modality], classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model with the sizes of the method's options: an image, and its structure."""
    return VSGNet([len(m.bands) for m in modalities], classes, options)
