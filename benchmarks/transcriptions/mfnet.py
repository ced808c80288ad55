"""MFNet with adapters by its paper: Ma et al., TGRS 2025, 10.1109/TGRS.2025.3585238.

Encoder: SAM (Kirillov et al., ICCV 2023), frozen; decoder: UNetFormer (Wang et al., ISPRS 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from terrafuse.modalities import Modality
from transcriptions.parts import conv_norm, resize


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def relative(table: Tensor, size: int) -> Tensor:
    """Rows of a table for all pairs of positions: (size, size, d)."""
    if len(table) != 2 * size - 1:
        table = interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    places = torch.arange(size)
    return table[places[:, None] - places[None] + size - 1]


class Attention(nn.Module):
    """SAM's attention with decomposed relative positions."""

    def __init__(self, width: int, heads: int, table: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rows = nn.Parameter(torch.zeros(2 * table - 1, width // heads))
        self.cols = nn.Parameter(torch.zeros(2 * table - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) → the same."""
        n, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, n * self.heads, h * w, -1)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        places = q.reshape(-1, h, w, q.shape[-1])
        by_row = torch.einsum("bhwc,hkc->bhwk", places, relative(self.rows, h))
        by_col = torch.einsum("bhwc,wkc->bhwk", places, relative(self.cols, w))
        scores = scores.view(-1, h, w, h, w) + by_row[..., None] + by_col[:, :, :, None]
        y = scores.view(-1, h * w, h * w).softmax(dim=-1) @ v
        found: Tensor = self.out(y.view(n, self.heads, h, w, -1).permute(0, 2, 3, 1, 4).flatten(3))
        return found


def adapter(width: int) -> nn.Sequential:
    """Bottleneck of a quarter."""
    return nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))


class Block(nn.Module):
    """A block of SAM with MMAdapter."""

    def __init__(self, width: int, heads: int, window: int, table: int) -> None:
        super().__init__()
        self.window = window
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = Attention(width, heads, window or table)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.image_adapter, self.dsm_adapter = adapter(width), adapter(width)
        self.mlp_x_adapter, self.mlp_y_adapter = adapter(width), adapter(width)
        self.wx_adapter = nn.Parameter(torch.full((1,), 0.5))
        self.wy_adapter = nn.Parameter(torch.full((1,), 0.5))

    def _attend(self, x: Tensor, adapter: nn.Module) -> Tensor:
        n, h, w, c = x.shape
        s = self.window
        y = self.norms[0](x)
        if s:
            y = pad(y, (0, 0, 0, -w % s, 0, -h % s))
            down, across = y.shape[1] // s, y.shape[2] // s
            y = y.view(n, down, s, across, s, c).transpose(2, 3).reshape(-1, s, s, c)
        y = self.attention(y)
        y = y + adapter(y)
        if s:
            y = y.view(n, down, across, s, s, c).transpose(2, 3)
            y = y.reshape(n, down * s, across * s, c)[:, :h, :w]
        return x + y

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams (N, h, w, C)."""
        x, y = self._attend(x, self.image_adapter), self._attend(y, self.dsm_adapter)
        xn, yn = self.norms[1](x), self.norms[1](y)
        ax, ay = self.mlp_x_adapter(xn), self.mlp_y_adapter(yn)
        x = x + self.mlp(xn) + self.wx_adapter * ax + (1 - self.wx_adapter) * ay
        y = y + self.mlp(yn) + self.wy_adapter * ay + (1 - self.wy_adapter) * ax
        return x, y


class Pyramid(nn.Module):
    """One map → four levels."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        up = [nn.ConvTranspose2d(width, width, 2, 2) for _ in range(3)]
        self.first = nn.Sequential(up[0], norm(width), nn.GELU(), up[1])
        self.second = up[2]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Levels of strides 4, 8, 16, 32."""
        return [self.first(x), self.second(x), x, max_pool2d(x, 2)]


def gate(width: int) -> nn.Sequential:
    """Squeeze and excitation."""
    inner = max(1, width // 16)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), nn.ReLU(),
        nn.Conv2d(inner, width, 1), nn.Sigmoid(),
    )  # fmt: skip


class GlobalLocal(nn.Module):
    """UNetFormer's global-local attention."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.local = nn.ModuleList(conv_norm(width, width, size, None) for size in (1, 3))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.out = nn.Sequential(
            nn.Conv2d(width, width, window, padding=(window - 1) // 2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1, bias=False),
        )
        grid = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        apart = grid[:, :, None] - grid[:, None] + window - 1
        self.register_buffer("places", apart[0] * (2 * window - 1) + apart[1])

    def forward(self, u: Tensor) -> Tensor:
        """Map → map."""
        n, c, h, w = u.shape
        s, heads = self.window, self.heads
        local = self.local[0](u) + self.local[1](u)
        x = pad(u, (0, -w % s, 0, -h % s), mode="reflect")
        down, across = x.shape[2] // s, x.shape[3] // s
        qkv = self.qkv(x).view(n, 3, heads, c // heads, down, s, across, s)
        q, k, v = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(3, -1, heads, s * s, c // heads)
        bias = self.table[self.places.flatten()].view(s * s, s * s, heads).permute(2, 0, 1)
        scores = (q @ k.transpose(-2, -1)) * (c // heads) ** -0.5 + bias
        y = scores.softmax(dim=-1) @ v
        y = y.view(n, down, across, heads, s, s, c // heads).permute(0, 3, 6, 1, 4, 2, 5)
        y = y.reshape(n, c, down * s, across * s)[:, :, :h, :w]
        half = s // 2 - 1
        rows = avg_pool2d(pad(pad(y, (0, 0, 0, 1), mode="reflect"), (0, 0, half, half)), (s, 1), 1)
        cols = avg_pool2d(pad(pad(y, (0, 1, 0, 0), mode="reflect"), (half, half, 0, 0)), (1, s), 1)
        found: Tensor = self.out(pad(rows + cols + local, (0, 1, 0, 1), mode="reflect"))
        return found[:, :, :h, :w]


class DecoderBlock(nn.Module):
    """Global-local attention and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.attention = GlobalLocal(width, heads, window)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1), nn.ReLU6(), nn.Conv2d(4 * width, width, 1)
        )

    def forward(self, u: Tensor) -> Tensor:
        """Map → map."""
        u = u + self.attention(self.norms[0](u))
        return u + self.mlp(self.norms[1](u))


class WeightedSum(nn.Module):
    """Fusion of a level with what comes from below."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))
        self.enter = nn.Conv2d(channels, width, 1, bias=False)
        self.smooth = conv_norm(width, width, 3, nn.ReLU6)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Coarse map and finer level → map of the level's size."""
        w = self.weights.relu()
        w = w / (w.sum() + 1e-8)
        found: Tensor = self.smooth(w[0] * self.enter(level) + w[1] * resize(x, level.shape))
        return found


class Refinement(nn.Module):
    """Gates by position and channel on the finest level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 16)
        self.shortcut = conv_norm(width, width, 1, None)
        self.place = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1, bias=False), nn.ReLU6(),
            nn.Conv2d(inner, width, 1, bias=False),
        )  # fmt: skip
        self.out = nn.Sequential(
            conv_norm(width, width, 3, None, groups=width), nn.Conv2d(width, width, 1, bias=False)
        )

    def forward(self, f: Tensor) -> Tensor:
        """Map → map."""
        g = self.place(f).sigmoid() * f + self.channel(f).sigmoid() * f
        return nn.functional.relu6(self.out(g) + self.shortcut(f))


class MFNet(nn.Module):
    """Frozen encoder with adapters, pyramids, gated sums, decoder."""

    def __init__(self, classes: int, encoder: Mapping[str, Any], decoder: Any) -> None:
        super().__init__()
        width, heads, table = encoder["embed_dim"], encoder["num_heads"], encoder["img_size"] // 16
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.position = nn.Parameter(torch.zeros(1, width, table, table))
        whole = set(encoder["global_attn_indexes"])
        self.blocks = nn.ModuleList(
            Block(width, heads, 0 if i in whole else encoder["window_size"], table)
            for i in range(encoder["depth"])
        )
        out = encoder["neck_channels"]
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False), ChannelNorm(out, eps=1e-6),
            nn.Conv2d(out, out, 3, padding=1, bias=False), ChannelNorm(out, eps=1e-6),
        )  # fmt: skip
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("adapter" in name)
        self.pyramids = nn.ModuleList([Pyramid(out, ChannelNorm), Pyramid(out, nn.BatchNorm2d)])
        self.gates = nn.ModuleList(nn.ModuleList(gate(out) for _ in range(4)) for _ in range(2))
        inner, sizes = decoder["channels"], (decoder["num_heads"], decoder["window_size"])
        self.enter = conv_norm(out, inner, 1, None)
        self.mixers = nn.ModuleList(DecoderBlock(inner, *sizes) for _ in range(3))
        self.sums = nn.ModuleList(WeightedSum(out, inner) for _ in range(3))
        self.refine = Refinement(inner)
        self.last = nn.Sequential(
            conv_norm(inner, inner, 3, nn.ReLU6), nn.Dropout2d(0.1),
            nn.Conv2d(inner, classes, 1, bias=False),
        )  # fmt: skip

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images by modality → logits."""
        first, second = images.values()
        size = first.shape
        streams = []
        second = resize(second, size).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        for image in (first, second):
            x = self.embed(image)
            position = interpolate(self.position, x.shape[2:], mode="bicubic")
            streams.append((x + position).permute(0, 2, 3, 1))
        x, y = streams
        for block in self.blocks:
            x, y = block(x, y)
        deep = [self.neck(t.permute(0, 3, 1, 2)) for t in (x, y)]
        both = [pyramid(t) for pyramid, t in zip(self.pyramids, deep, strict=True)]
        levels = [
            of_x(a) * a + of_y(b) * b for of_x, of_y, a, b in zip(*self.gates, *both, strict=True)
        ]
        x = self.mixers[0](self.enter(levels[3]))
        x = self.mixers[1](self.sums[0](x, levels[2]))
        x = self.mixers[2](self.sums[1](x, levels[1]))
        x = self.refine(self.sums[2](x, levels[0]))
        return resize(self.last(x), size)


def build(modalities: Sequence[Modality], classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model with the sizes of the method's options: three bands, and one copied to three."""
    assert len(modalities[0].bands) == 3
    return MFNet(classes, options["backbone_options"], options["decoder_options"])
