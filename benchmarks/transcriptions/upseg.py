"""UPSeg as reconstructed: Sun et al., Acta Aeronaut. Astronaut. Sin. 47(10), 2026.

A frozen plain transformer, a stream per modality; unique parts, aligned and prefix prompts and
gates at the entrance of every stage but the first; gated means; UPerNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from terrafuse.modalities import Modality
from transcriptions.parts import UPerHead, attend, conv_norm, from_heads, resize, to_heads


class Block(nn.Module):
    """A pre-norm block that also attends to prompts, by a gate per head and modality."""

    def __init__(self, width: int, heads: int, modalities: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.gates = nn.Parameter(torch.zeros(modalities, heads))

    def forward(self, t: Tensor, prompts: Tensor | None, host: int) -> Tensor:
        """Tokens (N, L, D) and prompts (N, K, D) of the others → tokens."""
        q, k, v = (to_heads(x, self.heads) for x in self.qkv(self.norms[0](t)).chunk(3, dim=-1))
        o = attend(q, k, v)
        if prompts is not None:
            _, k, v = (
                to_heads(x, self.heads) for x in self.qkv(self.norms[0](prompts)).chunk(3, dim=-1)
            )
            o = o + self.gates[host].tanh()[:, None, None] * attend(q, k, v)
        t = t + self.out(from_heads(o))
        found: Tensor = t + self.mlp(self.norms[1](t))
        return found


class Site(nn.Module):
    """VEM and both kinds of prompts."""

    def __init__(self, width: int, dim: int, heads: int, modalities: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, dim) for _ in range(3))
        self.o = nn.Linear(dim, width)
        self.scale = nn.Parameter(torch.ones(1))
        self.align = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))
        self.prompt = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.names = nn.Parameter(torch.zeros(modalities, width))
        for last in (self.align[-1], self.prompt[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Tokens X per modality → hints to add, prompts for each, loss of the predictor."""
        own = [self.norm(x) for x in maps]
        uniques, losses = [], []
        for m, x in enumerate(own):
            others = [y.detach() for n, y in enumerate(own) if n != m]
            mean = torch.stack(others).mean(dim=0)
            y = torch.cat(others, dim=1)
            q, k, v = (to_heads(x, self.heads) for x in (self.q(mean), self.k(y), self.v(y)))
            common = self.o(from_heads(attend(q, k, v)) + self.v(mean))
            losses.append((x.detach() - common).square().mean())
            uniques.append(x - self.scale * common)
        offered = [u + self.prompt(u) + self.names[m] for m, u in enumerate(uniques)]
        hints, prompts = [], []
        for m in range(len(maps)):
            others = [u for n, u in enumerate(uniques) if n != m]
            hints.append(self.align(torch.stack(others).mean(dim=0)))
            prompts.append(torch.cat([p for n, p in enumerate(offered) if n != m], dim=1))
        return hints, prompts, torch.stack(losses).mean()


class GatedMean(nn.Module):
    """F = Σ softmax_m(w · LN(X_m) + b_m) X_m."""

    def __init__(self, width: int, modalities: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(modalities))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Tokens per modality → tokens."""
        scores = [self.norm(x) @ self.weight + b for x, b in zip(maps, self.bias, strict=True)]
        shares = torch.stack(scores).softmax(dim=0)
        return (shares[..., None] * torch.stack(list(maps))).sum(dim=0)


class UPSeg(nn.Module):
    """The model. In training it adds its auxiliary losses to `losses`."""

    def __init__(
        self, bands: Sequence[int], classes: int, encoder: Mapping[str, Any], sizes: Any
    ) -> None:
        super().__init__()
        width, heads, depth = (encoder[key] for key in ("embed_dim", "num_heads", "depth"))
        count, stages = len(bands), min(4, depth)
        self.to_rgb = nn.ModuleList(
            nn.Identity() if n in (1, 3) else nn.Conv2d(n, 3, 1) for n in bands
        )
        self.embed = nn.Conv2d(3, width, 16, 16)
        side = encoder["img_size"] // 16
        self.position = nn.Parameter(torch.zeros(1, width, side, side))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, count) for _ in range(depth))
        for part in (self.embed, *self.blocks):
            part.requires_grad_(False)
        for parameter in (self.position, self.token):
            parameter.requires_grad_(False)
        for block in self.blocks[depth // stages :]:
            block.gates.requires_grad_(True)
        self.ends = [depth * (s + 1) // stages for s in range(stages)]
        self.sites = nn.ModuleList(
            Site(width, sizes["dim"], sizes["heads"], count) for _ in range(stages - 1)
        )
        self.fusions = nn.ModuleList(GatedMean(width, count) for _ in range(stages))
        inner = sizes["neck"]
        self.laterals = nn.ModuleList(nn.Conv2d(width, inner, 1) for _ in range(4))
        self.smooth = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=1) for _ in range(4))
        self.head = UPerHead([inner] * 4, sizes["channels"], classes, sizes["bins"])
        self.aux = nn.Sequential(conv_norm(inner, 256, 3), nn.Conv2d(256, classes, 1))

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Images by modality → logits; main and auxiliary ones added, as their losses would be."""
        size = next(iter(images.values())).shape
        streams = []
        for image, to_rgb in zip(images.values(), self.to_rgb, strict=True):
            x = self.embed(to_rgb(resize(image, size)).expand(-1, 3, -1, -1))
            grid = x.shape[2:]
            x = x + interpolate(self.position, grid, mode="bicubic")
            x = x.flatten(2).transpose(1, 2)
            streams.append(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1))
        taps, losses, start = [], [], 0
        prompts: list[Tensor | None] = [None] * len(streams)
        for stage, end in enumerate(self.ends):
            if stage:
                found = self.sites[stage - 1]([x[:, 1:] for x in streams])
                hints, given, loss = found
                prompts = list(given)
                losses.append(loss)
                streams = [
                    torch.cat([x[:, :1], x[:, 1:] + hint], dim=1)
                    for x, hint in zip(streams, hints, strict=True)
                ]
            for block in self.blocks[start:end]:
                streams = [
                    block(x, p, m) for m, (x, p) in enumerate(zip(streams, prompts, strict=True))
                ]
            start = end
            fused = self.fusions[stage]([x[:, 1:] for x in streams])
            taps.append(fused.transpose(1, 2).reshape(len(fused), -1, *grid))
        levels = []
        for i, factor in enumerate((4, 2, 1, 0.5)):
            x = self.laterals[i](taps[i * len(taps) // 4])
            levels.append(self.smooth[i](resize(x, [max(1, int(n * factor)) for n in grid])))
        logits = resize(self.head(levels), size)
        return logits + 0.4 * resize(self.aux(levels[-1]), size) + 0.1 * torch.stack(losses).mean()


def build(modalities: Sequence[Modality], classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model with the sizes of the method's options."""
    sizes = {**options["vem"], **options["decoder_options"], "neck": options["neck_channels"]}
    return UPSeg([len(m.bands) for m in modalities], classes, options["backbone_options"], sizes)
