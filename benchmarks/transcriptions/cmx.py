"""CMX by its paper: Zhang et al., T-ITS 2023, arXiv 2203.04838; encoders: SegFormer's MiT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.modalities import Modality
from transcriptions.parts import attend, from_heads, resize, to_heads


class Attention(nn.Module):
    """Attention to keys and values of a map reduced by R."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, ratio, ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(width) if ratio > 1 else None

    def forward(self, t: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (N, L, C) → the same."""
        short = t
        if self.reduce is not None and self.norm is not None:
            x = self.reduce(t.transpose(1, 2).reshape(len(t), -1, *size))
            short = self.norm(x.flatten(2).transpose(1, 2))
        k, v = self.kv(short).chunk(2, dim=-1)
        x = attend(*(to_heads(x, self.heads) for x in (self.q(t), k, v)))
        found: Tensor = self.out(from_heads(x))
        return found


class Block(nn.Module):
    """Attention, then a mixing feed-forward network; whole samples skip a branch at random."""

    def __init__(self, width: int, heads: int, ratio: int, drop: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = Attention(width, heads, ratio)
        self.enter, self.leave = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mix = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.drop = drop

    def forward(self, t: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (N, L, C) → the same."""
        t = t + self._skip(self.attention(self.norms[0](t), size))
        x = self.enter(self.norms[1](t)).transpose(1, 2).reshape(len(t), -1, *size)
        x = nn.functional.gelu(self.mix(x).flatten(2).transpose(1, 2))
        return t + self._skip(self.leave(x))

    def _skip(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop:
            return x
        kept = torch.rand(len(x), 1, 1) >= self.drop
        return x * kept / (1 - self.drop)


class Stage(nn.Module):
    """Patch embedding, blocks, norm."""

    def __init__(
        self, channels: int, width: int, heads: int, ratio: int, drops: Sequence[float], first: bool
    ) -> None:
        super().__init__()
        size, stride = (7, 4) if first else (3, 2)
        self.embed = nn.Conv2d(channels, width, size, stride, padding=size // 2)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width, eps=1e-6)])
        self.blocks = nn.ModuleList(Block(width, heads, ratio, drop) for drop in drops)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → map of the stage."""
        x = self.embed(x)
        size = (x.shape[2], x.shape[3])
        t = self.norms[0](x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            t = block(t, size)
        return self.norms[1](t).transpose(1, 2).reshape(len(t), -1, *size)


class Rectification(nn.Module):
    """CM-FRM."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 2 * width)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps, corrected by each other."""
        z = torch.cat([a, b], dim=1)
        pooled = torch.cat([z.mean(dim=(2, 3)), z.flatten(2).max(dim=2).values], dim=1)
        w_a, w_b = self.channels(pooled).sigmoid()[..., None, None].chunk(2, dim=1)
        s_a, s_b = self.spatial(z).sigmoid().chunk(2, dim=1)
        return a + 0.5 * w_b * b + 0.5 * s_b * b, b + 0.5 * w_a * a + 0.5 * s_a * a


class Fusion(nn.Module):
    """FFM."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.kv = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.leave = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.residual = nn.Conv2d(2 * width, width, 1, bias=False)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.norm = nn.BatchNorm2d(width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two maps → one."""
        tokens = [x.flatten(2).transpose(1, 2) for x in (a, b)]
        kept, asked, contexts = [], [], []
        for t, enter, kv in zip(tokens, self.enter, self.kv, strict=True):
            y, u = enter(t).relu().chunk(2, dim=-1)
            k, v = (to_heads(x, self.heads) for x in kv(u).chunk(2, dim=-1))
            contexts.append((k.transpose(2, 3) @ v * k.shape[-1] ** -0.5).softmax(dim=-2))
            kept.append(y)
            asked.append(u)
        found = []
        for i in range(2):
            o = from_heads(to_heads(asked[i], self.heads) @ contexts[1 - i])
            t = self.norms[i](tokens[i] + self.leave[i](torch.cat([kept[i], o], dim=-1)))
            found.append(t.transpose(1, 2).reshape(a.shape))
        m = torch.cat(found, dim=1)
        result: Tensor = self.norm(self.residual(m) + self.mix(m))
        return result


class CMX(nn.Module):
    """Two encoders, rectification and fusion per stage, MLP decoder."""

    def __init__(self, bands: Sequence[int], classes: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        widths, depths = options["channels"], options["depths"]
        heads, ratios = (1, 2, 5, 8), (8, 4, 2, 1)
        drops = torch.linspace(0, 0.1, sum(depths)).split(list(depths))
        self.encoders = nn.ModuleList(
            nn.ModuleList(
                Stage(c, w, h, r, d.tolist(), first=i == 0)
                for i, (c, w, h, r, d) in enumerate(
                    zip([n, *widths[:-1]], widths, heads, ratios, drops, strict=True)
                )
            )
            for n in bands
        )
        self.rectify = nn.ModuleList(Rectification(w) for w in widths)
        self.fuse = nn.ModuleList(Fusion(w, h) for w, h in zip(widths, heads, strict=True))
        width = options["decoder"]
        self.linears = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.join = nn.Sequential(
            nn.Conv2d(4 * width, width, 1), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU()
        )
        self.last = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images by modality → logits."""
        a, b = images.values()
        size = a.shape
        b = resize(b, size)
        levels = []
        for one, two, rectify, fuse in zip(*self.encoders, self.rectify, self.fuse, strict=True):
            a, b = rectify(one(a), two(b))
            levels.append(fuse(a, b))
        maps = []
        for level, linear in zip(levels, self.linears, strict=True):
            t = linear(level.flatten(2).transpose(1, 2)).transpose(1, 2)
            maps.append(resize(t.reshape(len(t), -1, *level.shape[2:]), levels[0].shape))
        return resize(self.last(self.join(torch.cat(maps[::-1], dim=1))), size)


def build(modalities: Sequence[Modality], classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model with the sizes of the method's options."""
    sizes = dict(options["backbone_options"]) | {"decoder": options["decoder_options"]["channels"]}
    return CMX([len(m.bands) for m in modalities], classes, sizes)
