"""A linear read-out, which measures the levels themselves and not what a decoder adds.

As in the linear evaluation of Oquab et al., "DINOv2", TMLR 2024, arXiv 2304.07193, section 7.4,
there on one level.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from terrafuse.decoders.layers import NormName, create_norm, resize, size_of


class LinearDecoder(nn.Module):
    """Levels → logits: norm and 1×1 convolution per level, upsampled and summed.

    Args:
        level_channels: Channels per level, fine → coarse.
        num_classes: K.
        norm: Norm before the convolutions; with "batch" the trained decoder is linear.
    """

    def __init__(
        self, level_channels: Sequence[int], num_classes: int, *, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(create_norm(norm, c) for c in level_channels)
        self.classifiers = nn.ModuleList(
            nn.Conv2d(c, num_classes, kernel_size=1, bias=level == 0)
            for level, c in enumerate(level_channels)
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the finest level's size."""
        size = size_of(levels[0])
        logits = [
            resize(classifier(norm(level)), size)
            for norm, classifier, level in zip(self.norms, self.classifiers, levels, strict=True)
        ]
        return sum(logits[1:], logits[0])
