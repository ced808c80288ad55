"""Attention of timm's Swin blocks in a form that a graph can hold for any size.

Reference: Liu et al., Swin transformer, ICCV 2021, arXiv 2103.14030; version 2, CVPR 2022, arXiv
2111.09883.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.swin_transformer_v2 import PatchMerging as PatchMergingV2
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from terrafuse.tracing import WindowPlaces, has_symbols, split_dim, window_places

_APART = -100.0  # as in timm: added to the scores of pixels that only the roll has brought together


class _Block(SwinTransformerBlock):  # type: ignore[misc]  # timm has no types
    def _attn(self, x: Tensor) -> Any:
        if not has_symbols(*x.shape[1:3]):
            return super()._attn(x)
        return _attend_traced(self, x)


class _BlockV2(SwinTransformerV2Block):  # type: ignore[misc]  # timm has no types
    def _attn(self, x: Tensor) -> Any:
        if not has_symbols(*x.shape[1:3]):
            return super()._attn(x)
        return _attend_traced(self, x)


class _Merging(PatchMerging):  # type: ignore[misc]  # timm has no types
    def forward(self, x: Tensor) -> Any:
        if not has_symbols(*x.shape[1:3]):
            return super().forward(x)
        return self.reduction(self.norm(_fours(x)))


class _MergingV2(PatchMergingV2):  # type: ignore[misc]  # timm has no types
    def forward(self, x: Tensor) -> Any:
        if not has_symbols(*x.shape[1:3]):
            return super().forward(x)
        return self.norm(self.reduction(_fours(x)))


_TRACEABLE: dict[type[nn.Module], type[nn.Module]] = {
    SwinTransformerBlock: _Block,
    SwinTransformerV2Block: _BlockV2,
    PatchMerging: _Merging,
    PatchMergingV2: _MergingV2,
}


def make_traceable(net: nn.Module) -> None:
    """Let Swin blocks of a network attend in a form for graphs when they are traced."""
    for module in net.modules():
        if type(module) in _TRACEABLE:
            module.__class__ = _TRACEABLE[type(module)]


def _fours(x: Tensor) -> Tensor:
    """Map (N, H, W, C) → the four pixels of each square side by side (N, H / 2, W / 2, 4C).

    timm pads sides that are odd, which graphs do not meet: their windows are whole strides.
    """
    samples, height, width, channels = x.shape
    x = x.reshape(samples, height // 2, 2, width // 2, 2, channels)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


def _attend_traced(block: Any, x: Tensor) -> Tensor:
    """Attention in shifted windows of a map (N, H, W, C), as the block's own."""
    samples, height, width, _ = x.shape
    places = window_places((height, width), block.window_size, x.device, shift=block.shift_size)
    pixels = F.pad(x.flatten(1, 2), (0, 0, 0, 1))  # (N, L + 1, C); zeros beyond the map
    found = block.attn(places.cut(pixels), mask=_mask(block, places, x))
    return split_dim(places.join(found, samples), 1, (height, width))


def _mask(block: Any, places: WindowPlaces, like: Tensor) -> Tensor | None:
    """Scores added per pair of pixels of a window (count, area, area)."""
    if not any(block.shift_size):
        return None
    region = torch.zeros_like(places.taken)
    for place, covered, window, shift in zip(
        (places.rows, places.cols), places.covered, block.window_size, block.shift_size, strict=True
    ):
        if shift:
            part = (place >= covered - window).long() + (place >= covered - shift).long()
            region = 3 * region + part
    region = split_dim(region, 0, (places.count, places.area))
    return (region.unsqueeze(1) != region.unsqueeze(2)).to(like.dtype) * _APART
