"""Forms of operations that a graph can hold: of any pixel values, and of sizes that are symbols."""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor


def is_traced() -> bool:
    """Whether what runs now is recorded: compiled, exported, or traced.

    Code that asks for pixel values, to leave out work that they make needless, must do the work
    then: what is absent is masked, not skipped.
    """
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def divided(length: int, stride: float) -> int:
    """Pixels of a map of this stride over `length` pixels, which may be a symbol."""
    if not is_traced():
        return round(length / stride)
    ratio = Fraction(stride).limit_denominator()
    return length * ratio.denominator // ratio.numerator


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the pixels of `x` (N, C, H, W) in each of a map of `size`: (N, C, h, w).

    As `adaptive_avg_pool2d`, which graphs hold for constant sizes only; traced, two products with
    matrices of shares.
    """
    if not is_traced():
        return F.adaptive_avg_pool2d(x, size)
    rows, cols = (_pooling(own, wanted, x) for own, wanted in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ cols.T


def resize_traced(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (N, C, H, W) bilinearly, antialiased where it shrinks, in a graph.

    As `interpolate`, whose antialiasing few graphs hold: where it shrinks, two products with the
    matrices of its weights.
    """
    if size[0] >= x.shape[-2] and size[1] >= x.shape[-1]:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    rows, cols = (
        _triangles(own, wanted, x) for own, wanted in zip(x.shape[-2:], size, strict=True)
    )
    return (rows @ x.float() @ cols.T).to(x.dtype)


def _pooling(own: int, wanted: int, like: Tensor) -> Tensor:
    """Shares of `own` pixels in the mean of each of `wanted`, (wanted, own)."""
    place = torch.arange(wanted, device=like.device).unsqueeze(1)
    pixel = torch.arange(own, device=like.device).unsqueeze(0)
    first = place * own // wanted
    after = ((place + 1) * own + wanted - 1) // wanted
    inside = ((pixel >= first) & (pixel < after)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _triangles(own: int, wanted: int, like: Tensor) -> Tensor:
    """Weights of `own` pixels in each of `wanted`, (wanted, own), as of antialiased `interpolate`."""
    place = torch.arange(wanted, device=like.device, dtype=torch.float32).unsqueeze(1)
    pixel = torch.arange(own, device=like.device, dtype=torch.float32).unsqueeze(0)
    scale = torch.full((), own, device=like.device, dtype=torch.float32) / wanted
    distance = (pixel + 0.5 - (place + 0.5) * scale) / scale.clamp(min=1)
    weights = (1 - distance.abs()).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)
