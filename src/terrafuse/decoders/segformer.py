"""The all-MLP decoder of SegFormer.

Reference: Xie, Wang, Yu, Anandkumar, Alvarez, Luo: SegFormer: simple and efficient design for
semantic segmentation with transformers, NeurIPS 2021, arXiv 2105.15203, equation 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.layers import NormName, create_norm, resize, size_of


class SegFormerDecoder(nn.Module):
    """Levels → logits: a linear layer per level, all upsampled, fused by one more linear layer.

    Args:
        level_channels: Channels per level, fine → coarse.
        num_classes: K.
        channels: Width; the paper has 256 for its two small models, 768 for the others.
        dropout: Share of channels dropped before the classifier.
        norm: Norm after the fusion.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in level_channels)
        self.fuse = nn.Conv2d(channels * len(level_channels), channels, kernel_size=1, bias=False)
        self.norm = create_norm(norm, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the finest level's size."""
        size = size_of(levels[0])
        # A 1×1 convolution of concatenated maps is a sum of one per map, and commutes with
        # resizing: before it, at each level's own size, it costs a third.
        weights = self.fuse.weight.chunk(len(self.linears), dim=1)
        projected = [
            resize(F.conv2d(linear(level), weight), size)  # (N, channels, H, W)
            for linear, level, weight in zip(self.linears, levels, weights, strict=True)
        ]
        x = F.relu(self.norm(sum(projected[1:], projected[0])))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


_LEVEL = re.compile(r"^linear_c(\d)\.proj\.")


def convert_segformer_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the published decoder ("linear_c1.proj.weight" …).

    Its levels are stacked coarse → fine, and its fusion layer has a bias before a norm, which is
    merged into the norm's running mean.

    Args:
        state: Names of the published code. Others are kept, for `load_strict` to report.
    """
    converted = {}
    for name, value in state.items():
        if found := _LEVEL.match(name):
            value = value[:, :, None, None] if value.ndim == 2 else value
            name = name.replace(found[0], f"linears.{int(found[1]) - 1}.")
        elif name == "linear_fuse.0.weight":
            levels = sum(bool(_LEVEL.match(other)) for other in state if other.endswith("weight"))
            value = torch.cat(value.chunk(levels, dim=1)[::-1], dim=1)
            name = "fuse.weight"
        elif name == "linear_fuse.1.running_mean":
            value = value - state.get("linear_fuse.0.bias", 0)
        if name != "linear_fuse.0.bias":
            name = name.replace("linear_fuse.1.", "norm.").replace("linear_pred.", "classifier.")
            converted[name] = value
    return converted
