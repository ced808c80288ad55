"""CROMA: jointly pre-trained radar and optical encoders, and one in which radar attends to optical.

Anthony Fuller, Koreen Millard, James R. Green: "CROMA: Remote sensing representations with
contrastive radar-optical masked autoencoders", NeurIPS 2023, arXiv 2311.00566.

| paper | here |
|---|---|
| radar and optical transformers, position bias | `terrafuse.backbones.croma.encoder` |
| multimodal encoder, cross-attention | `JointEncoder` there |
| pre-training: contrast and reconstruction | `terrafuse.pretraining.CROMAPretraining` |
| segmentation | `CROMASegmenter` |

The paper evaluates frozen encodings and has no segmentation network for two sensors; the head is
our choice, close to common benchmarks: maps of four layers of the joint transformer, a pyramid of
them, UPerNet. More general than the published code: images of any size, any bands, several
modalities per sensor, samples that lack a sensor. docs/methods/croma.md compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from terrafuse.backbones import convert_croma_state_dict, create_croma, divide_sensors
from terrafuse.methods.parts import SegmentationHead
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning


class CROMASegmenter(Segmenter):
    """Both sensors through CROMA, levels of its joint encodings, one decoder.

    Args:
        modalities: Two or more, each seen by the radar or by the optical transformer.
        num_classes: K.
        backbone: "croma_base" or "croma_large".
        weights: "hub" for the published weights, a path, or None to train from scratch.
        backbone_options: Options of `terrafuse.backbones.CROMA`.
        tuning: Tuning of the backbone (`terrafuse.tuning`); None = everything is trained.
        radar: Names of the modalities that the radar transformer sees. Default: those of kind sar;
            if there are none, the last.
        features: "joint": levels from layers of the joint transformer; "concat": from the last maps
            of radar, optical and joint, concatenated.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
        aux: Adds an auxiliary head on the third level.

    Raises:
        UnknownNameError: `radar` names a modality that does not exist.
        ModelError: One of the two transformers would get no modality.
    """

    title = "Radar and optical encoders, and one in which radar attends to optical"
    paper = "Fuller et al., NeurIPS 2023, arXiv 2311.00566"
    num_modalities = (2, None)
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: Literal["croma_base", "croma_large"] = "croma_base",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        radar: tuple[str, ...] | None = None,
        features: Literal["joint", "concat"] = "joint",
        decoder: str = "upernet",
        decoder_options: dict[str, Any] | None = None,
        aux: bool = True,
    ) -> None:
        super().__init__(modalities, num_classes)
        self.radar, self.optical = divide_sensors(self.modalities, radar)
        self.backbone = create_croma(
            backbone,
            self.radar,
            self.optical,
            weights=weights,
            features=features,
            options=backbone_options,
        )
        apply_tuning(self.backbone, tuning)
        self.head = SegmentationHead(self.backbone, num_classes, decoder, decoder_options, aux)
        self.stride = self.backbone.stride

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Bands of each sensor stacked → CROMA's levels → logits."""
        sar, has_sar = _stack(inputs, self.radar)
        optical, has_optical = _stack(inputs, self.optical)
        output: SegmenterOutput = self.head(self.backbone.see(sar, optical, has_sar, has_optical))
        return output


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original CROMA's inference or pre-training class.

    The original has no segmentation head; its heads for pooled vectors, and parts used only in
    pre-training, are dropped.

    Args:
        state: Original names, groups joined with a dot ("s1_encoder.linear_input.weight").
    """
    parts = ("sar.", "optical.", "joint.")
    converted = convert_croma_state_dict(state)
    return {f"backbone.{k}": v for k, v in converted.items() if k.startswith(parts)}


def _stack(inputs: Inputs, modalities: Sequence[Modality]) -> tuple[Tensor, Tensor]:
    """Stack the bands of modalities (N, C, H, W), and find the samples that have any of them."""
    image = torch.cat([inputs.images[m.name] for m in modalities], dim=1)
    has = torch.stack([inputs.present(m.name) for m in modalities]).any(dim=0)
    return image, has
