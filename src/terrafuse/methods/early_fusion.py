"""Early fusion: the channels of all modalities stacked, one backbone.

Not from a paper; the usual first baseline. Every modality is resampled to the scene grid. A missing
one is filled with 0, its mean, which a network cannot distinguish from a pixel that is average in
every band, unless `validity_channels` marks where there is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from terrafuse.methods.parts import SegmentationHead, build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption


class EarlyFusion(Segmenter):
    """Backbone and decoder on all bands of all modalities.

    Args:
        modalities: Any number; bands are stacked in this order.
        num_classes: K.
        backbone: Its name (timm's, or a DOFA).
        weights: Pretrained weights: "timm", "hub" (DOFA's), a path; None = from scratch.
        backbone_options: Options of `create_backbone`.
        tuning: Tuning of the backbone (`terrafuse.tuning`); None = everything is trained.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
        validity_channels: Adds one channel per modality: 1 where it has data.
        aux: Adds an auxiliary head on the middle level.
    """

    title = "Channels of all modalities stacked, one backbone"
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "resnet18",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        decoder: str = "upernet",
        decoder_options: dict[str, Any] | None = None,
        validity_channels: bool = False,
        aux: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        self.validity_channels = validity_channels
        stacked = list(modalities)
        if validity_channels:
            stacked += [Modality(f"valid_{m.name}", ("valid",)) for m in modalities]
        channels = sum(len(m.bands) for m in stacked)
        self.backbone = build_backbone(
            backbone, channels, weights, backbone_options, tuning=tuning, modalities=stacked
        )
        self.head = SegmentationHead(self.backbone, num_classes, decoder, decoder_options, aux)
        self.stride = self.backbone.stride

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Stack → levels → logits."""
        channels = [inputs.images[m.name] for m in self.modalities]
        if self.validity_channels:
            channels += [inputs.valid[m.name].to(channels[0].dtype) for m in self.modalities]
        image = torch.cat(channels, dim=1)  # (N, ΣC, H, W)
        output: SegmenterOutput = self.head(self.backbone(image))
        return output
