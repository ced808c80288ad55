"""A small fully convolutional head, used as an auxiliary head on a middle level.

Reference: Long, Shelhamer, Darrell: Fully convolutional networks for semantic segmentation, CVPR
2015, arXiv 1411.4038; as auxiliary loss: Zhao et al., arXiv 1612.01105, section 3.3.
"""

from __future__ import annotations

from torch import nn

from terrafuse.decoders.layers import ConvNormAct, NormName


class FCNHead(nn.Sequential):
    """One level → logits at its own size.

    Args:
        in_channels: Channels of the level.
        num_classes: K.
        channels: Width before the classifier.
        dropout: Share of channels dropped before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__(
            ConvNormAct(in_channels, channels, kernel_size=3, norm=norm),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, kernel_size=1),
        )
