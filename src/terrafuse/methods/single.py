"""One modality alone: the baseline that every fusion has to beat.

Backbone → decoder. Not from a paper; the parts are those of the other baselines, so that scores
differ by modality only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from terrafuse.methods.parts import SegmentationHead, build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption


class Single(Segmenter):
    """Backbone and decoder on exactly one modality.

    Args:
        modalities: One.
        num_classes: K.
        backbone: Its name (timm's, or a DOFA).
        weights: Pretrained weights: "timm", "hub" (DOFA's), a path; None = from scratch.
        backbone_options: Options of `create_backbone`.
        tuning: Tuning of the backbone (`terrafuse.tuning`); None = everything is trained.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
        aux: Adds an auxiliary head on the middle level.
    """

    title = "One modality alone"
    num_modalities = (1, 1)
    # Windows without data occur at the rim of scenes and must not be refused; their pixels are not
    # mapped.
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
        aux: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        (modality,) = modalities
        self.backbone = build_backbone(
            backbone,
            len(modality.bands),
            weights,
            backbone_options,
            tuning=tuning,
            modalities=[modality],
        )
        self.head = SegmentationHead(self.backbone, num_classes, decoder, decoder_options, aux)
        self.stride = self.backbone.stride

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Levels → logits."""
        (image,) = inputs.images.values()
        output: SegmenterOutput = self.head(self.backbone(image))
        return output
