"""What methods share: a backbone from options, three bands of any, a head for logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone, create_backbone
from terrafuse.decoders import FCNHead, create_decoder
from terrafuse.modalities import Modality
from terrafuse.segmenter import SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning

#: Bands that an encoder of colour images sees.
RGB = 3
#: What such an encoder takes every modality for.
COLOUR = Modality("colour", ("R", "G", "B"), "optical", wavelengths_um=(0.665, 0.56, 0.49))


def build_backbone(
    name: str,
    in_channels: int,
    weights: str | None,
    options: Mapping[str, Any] | None,
    *,
    tuning: TuningOption = None,
    num_modalities: int = 1,
    modalities: Sequence[Modality] | None = None,
    one_image: bool = True,
) -> Backbone:
    """`create_backbone` with options as a run file gives them, then `apply_tuning`."""
    backbone = create_backbone(
        name,
        in_channels,
        weights=weights,
        modalities=modalities,
        one_image=one_image,
        **(options or {}),
    )
    apply_tuning(backbone, tuning, num_modalities)
    return backbone


class SegmentationHead(nn.Module):
    """Levels → logits, with an auxiliary head on the middle level where wanted.

    Args:
        backbone: Whose levels come in.
        num_classes: K.
        decoder: Name of the decoder.
        decoder_options: Its options.
        aux: Whether there is an auxiliary head; it works in training only.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decoder: str,
        decoder_options: Mapping[str, Any] | None,
        aux: bool,
    ) -> None:
        super().__init__()
        self.decoder = create_decoder(
            decoder, backbone.channels, backbone.strides, num_classes, **(decoder_options or {})
        )
        # The last but one of four levels, as in UPerNet's and PSPNet's published settings.
        self.aux_level = len(backbone.channels) // 2
        self.aux = FCNHead(backbone.channels[self.aux_level], num_classes) if aux else None

    def forward(self, levels: Sequence[Tensor]) -> SegmenterOutput:
        """Logits at the finest level's size, auxiliary ones at theirs."""
        logits = self.decoder(levels)
        if self.aux is None or not self.training:
            return SegmenterOutput(logits)
        return SegmenterOutput(logits, aux_logits=(self.aux(levels[self.aux_level]),))


class ToRGB(nn.Module):
    """Any number of bands → the three that the encoder was made for.

    Three bands stay, one is repeated (both as published). Two, or more than three, pass through a
    learnt 1×1 convolution that starts as: two bands and their mean; the first three bands.

    Args:
        bands: Bands of the modality.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        if bands in (1, RGB):
            return
        self.mix = nn.Conv2d(bands, RGB, kernel_size=1)
        start = torch.eye(RGB, bands)
        if bands < RGB:
            start[bands:] = 1 / bands
        with torch.no_grad():
            self.mix.weight.copy_(start[:, :, None, None])
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]  # has one

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) → (N, 3, H, W)."""
        if self.bands == 1:
            return image.expand(-1, RGB, -1, -1)
        if self.bands == RGB:
            return image
        mixed: Tensor = self.mix(image)
        return mixed
