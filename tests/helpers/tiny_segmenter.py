"""A method of a few thousand weights, whose graph is made in a second: `tiny_segmenter:Tiny`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput


class Tiny(Segmenter):
    """A convolution per modality, of values and mask; their sum, and a classifier."""

    title = "Tiny"
    stride = 4
    supports_missing = True

    def __init__(self, modalities: Sequence[Modality], num_classes: int, *, channels: int = 24):
        super().__init__(modalities, num_classes)
        self.stems = nn.ModuleDict(
            {m.name: nn.Conv2d(len(m.bands) + 1, channels, 3, padding=1) for m in modalities}
        )
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Logits at full size."""
        x = sum(
            self.stems[name](torch.cat([image, inputs.valid[name].float()], dim=1))
            for name, image in inputs.images.items()
        )
        return SegmenterOutput(self.classifier(self.body(torch.relu(x)).relu()))


class TinyWhole(Tiny):
    """The same, which needs every modality."""

    supports_missing = False


class TinyBranching(Tiny):
    """The same, with a branch on pixel values."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Logits, halved where the sum of the image is large."""
        output = super().segment(inputs)
        if float(next(iter(inputs.images.values())).sum()) > 1e9:
            return SegmenterOutput(output.logits / 2)
        return output
