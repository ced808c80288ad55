"""Attention of timm's Swin blocks in a form that a graph can hold for any size.

Reference: Liu et al., Swin transformer, ICCV 2021, arXiv 2103.14030; version 2, CVPR 2022, arXiv
2111.09883.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from terrafuse.tracing import WindowPlaces, has_symbols, window_places

_APART = -100.0  # as in timm: added to the scores of pixels that only the roll has brought together


class _Block(SwinTransformerBlock):
    def _attn(self, x: Tensor) -> Tensor:
        if not has_symbols(*x.shape[1:3]):
            return super()._attn(x)
        return _attend_traced(self, x)


class _BlockV2(SwinTransformerV2Block):
    def _attn(self, x: Tensor) -> Tensor:
        if not has_symbols(*x.shape[1:3]):
            return super()._attn(x)
        return _attend_traced(self, x)


_TRACEABLE: dict[type[nn.Module], type[nn.Module]] = {
    SwinTransformerBlock: _Block,
    SwinTransformerV2Block: _BlockV2,
}


def make_traceable(net: nn.Module) -> None:
    """Let Swin blocks of a network attend in a form for graphs when they are traced."""
    for module in net.modules():
        if type(module) in _TRACEABLE:
            module.__class__ = _TRACEABLE[type(module)]


def _attend_traced(block: Any, x: Tensor) -> Tensor:
    """Attention in shifted windows of a map (N, H, W, C), as the block's own."""
    samples, height, width, _ = x.shape
    places = window_places((height, width), block.window_size, x.device, shift=block.shift_size)
    pixels = F.pad(x.flatten(1, 2), (0, 0, 0, 1))  # (N, L + 1, C); zeros beyond the map
    found = block.attn(places.cut(pixels), mask=_mask(block, places, x))
    return places.join(found, samples).unflatten(1, (height, width))


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
    region = region.unflatten(0, (places.count, places.area))
    return (region.unsqueeze(1) != region.unsqueeze(2)).to(like.dtype) * _APART
