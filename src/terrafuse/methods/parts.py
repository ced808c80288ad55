"""What the baselines share: a backbone from options, and a head that turns levels into logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from terrafuse.backbones import Backbone, create_backbone
from terrafuse.decoders import FCNHead, create_decoder
from terrafuse.segmenter import SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning


def build_backbone(
    name: str,
    in_channels: int,
    weights: str | None,
    options: Mapping[str, Any] | None,
    *,
    tuning: TuningOption = None,
    num_modalities: int = 1,
) -> Backbone:
    """`create_backbone` with options as a run file gives them, then `apply_tuning`."""
    backbone = create_backbone(name, in_channels, weights=weights, **(options or {}))
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
