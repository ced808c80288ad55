"""DeCUR: an encoder per sensor, pre-trained to separate common from unique, and a small head.

Yi Wang, Conrad M. Albrecht, Nassim Ait Ali Braham, Chenying Liu, Zhitong Xiong, Xiao Xiang Zhu:
"Decoupling common and unique representations for multimodal self-supervised learning", ECCV 2024,
DOI 10.1007/978-3-031-73397-0_17, arXiv 2309.05300.

| paper | here |
|---|---|
| pre-training: common and unique dimensions | `terrafuse.pretraining.DeCURPretraining` |
| encoders, one per sensor | `branches` |
| deformable attention after two stages ("RDA") | `terrafuse.methods.decur.deformable` |
| transfer to segmentation (GeoNRW) | `DeCUR`, `ScaleClassifiers` |

More general than the published transfer network: any number of modalities and bands, any timm
pyramid, images of any size, samples that lack modalities. docs/methods/decur.md compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones import PyramidBackbone, is_own
from terrafuse.backbones.sentinel import scale_two_sigma
from terrafuse.config.options import by_modality
from terrafuse.decoders import create_decoder
from terrafuse.decoders.layers import size_of
from terrafuse.errors import ModelError
from terrafuse.methods.decur.deformable import AttendedStage, DeformableAttention
from terrafuse.methods.decur.weights import (
    convert_encoder_state_dict,
    convert_reference_state_dict,
    is_resnet,
    load_encoder,
)
from terrafuse.methods.late_fusion import run_where_present
from terrafuse.methods.parts import build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tracing import same_size
from terrafuse.tuning import TuningOption, apply_tuning

__all__ = [
    "DeCUR",
    "ScaleClassifiers",
    "add_attention",
    "convert_encoder_state_dict",
    "convert_reference_state_dict",
]

#: Number of levels that the published head sees, the coarsest ones.
_LEVELS = 3
#: Attention after the second last stage, and after the last.
_ATTENTION: tuple[dict[str, int], ...] = (
    {"num_heads": 8, "num_groups": 4, "kernel_size": 5, "stride": 2, "table_size": 14},
    {"num_heads": 16, "num_groups": 8, "kernel_size": 3, "stride": 1, "table_size": 7},
)


class DeCUR(Segmenter):
    """A backbone per modality; levels concatenated; classes from three of them.

    Args:
        modalities: Any number; the paper has radar and optical, or RGB and elevation.
        num_classes: K.
        backbone: Name of a pyramid for all modalities, or one by modality.
        weights: Pretrained weights for all, or by modality: "timm", None, or a DeCUR file of one
            sensor or of both ("hf://torchgeo/decur/rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth"
            and "…sar_decur_ep100-f0e69ba2.pth").
        backbone_options: Options of `create_backbone`, for all.
        tuning: Tuning of the backbones; None = everything is trained, "frozen" = the paper's linear
            evaluation.
        attention: Whether deformable attention follows the last two stages ("RDA"); for ResNet-50
            and others with as many channels.
        scaling: "two_sigma" maps standardised values from ±2 to [0, 1], as in pre-training;
            "none" keeps them.
        decoder: "fcn" is the published head; else the name of a decoder, which sees the
            concatenated levels of all modalities ("upernet" is the stronger one).
        channels: Channels of the published head, per level.
        decoder_options: Options of `create_decoder`; none for "fcn".

    Raises:
        UnknownNameError: A backbone or weights for an unknown modality.
        ModelError: Backbones with different levels, or an option that does not fit.
    """

    title = "Encoders pre-trained to separate common from unique, levels concatenated"
    paper = "Wang et al., ECCV 2024, DOI 10.1007/978-3-031-73397-0_17"
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str | dict[str, str] = "resnet50",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        attention: bool = False,
        scaling: Literal["two_sigma", "none"] = "two_sigma",
        decoder: str = "fcn",
        channels: tuple[int, ...] = (128, 256, 512),
        decoder_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(modalities, num_classes)
        names = [m.name for m in self.modalities]
        chosen = by_modality("backbone", backbone, names)
        sources = by_modality("weights", weights, names, default=None)
        self.branches = nn.ModuleDict(
            {
                m.name: _build_branch(
                    chosen[m.name], sources[m.name], backbone_options, m, number, attention
                )
                for number, m in enumerate(self.modalities, start=1)
            }
        )
        for branch in self._branches():
            apply_tuning(branch, tuning)
        self.scaling = scaling
        self.stride, widths = _join_levels(self._branches())
        strides = self._branches()[0].strides
        self.head: nn.Module
        if decoder == "fcn":
            if decoder_options:
                raise ModelError(
                    "the published head of method 'decur' has no decoder_options; its option is "
                    "'channels'"
                )
            self.head = ScaleClassifiers(widths[-_LEVELS:], num_classes, channels)
        else:
            options = decoder_options or {}
            self.head = create_decoder(decoder, widths, strides, num_classes, **options)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Levels of each modality → concatenated → logits."""
        by_branch = [
            run_where_present(branch, self._rescale(inputs.images[m.name]), inputs.present(m.name))
            for m, branch in zip(self.modalities, self._branches(), strict=True)
        ]
        levels = [torch.cat(maps, dim=1) for maps in zip(*by_branch, strict=True)]
        if isinstance(self.head, ScaleClassifiers):
            return SegmenterOutput(self.head(levels[-_LEVELS:], inputs.size))
        return SegmenterOutput(self.head(levels))

    def _rescale(self, image: Tensor) -> Tensor:
        return scale_two_sigma(image) if self.scaling == "two_sigma" else image

    def _branches(self) -> list[PyramidBackbone]:
        return [cast(PyramidBackbone, branch) for branch in self.branches.values()]


class ScaleClassifiers(nn.Module):
    """Each level to classes by two 1×1 convolutions, summed at full size.

    The published head resizes between the two; resizing afterwards gives the same, since a 1×1
    convolution and bilinear resizing commute, at far lower cost.

    Args:
        level_channels: Per level, fine → coarse.
        num_classes: K.
        channels: Channels between the two convolutions, per level.
    """

    def __init__(
        self, level_channels: Sequence[int], num_classes: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        if len(channels) != len(level_channels):
            raise ModelError(
                f"option 'channels' of method 'decur' is {list(channels)}; the head sees "
                f"{len(level_channels)} levels and needs one number for each"
            )
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, inner, kernel_size=1)
            for c, inner in zip(level_channels, channels, strict=True)
        )
        self.classifiers = nn.ModuleList(
            nn.Conv2d(inner, num_classes, kernel_size=1) for inner in channels
        )

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels (N, C_l, h_l, w_l) → logits (N, K, *size)."""
        logits = [
            _enlarge(classifier(reduce(level)), size)
            for level, reduce, classifier in zip(levels, self.reduce, self.classifiers, strict=True)
        ]
        return sum(logits[1:], logits[0])


def add_attention(backbone: PyramidBackbone) -> None:
    """Add deformable attention, with a residual, after the last two stages.

    Raises:
        ModelError: Their channels cannot be divided among the heads.
    """
    for index, options in zip((-2, -1), _ATTENTION, strict=True):
        place = len(backbone.stages) + index
        attention = DeformableAttention(backbone.channels[place], **options)
        backbone.stages[place] = AttendedStage(backbone.stages[place], attention)


def _build_branch(
    name: str,
    weights: str | None,
    options: dict[str, Any] | None,
    modality: Modality,
    number: int,
    attention: bool,
) -> PyramidBackbone:
    """Build the backbone of a modality, number `number` (from 1) in files of both sensors."""
    own_file = weights not in (None, "timm") and is_resnet(name) and not is_own(weights)
    backbone = build_backbone(
        name,
        len(modality.bands),
        None if own_file else weights,
        options,
        modalities=[modality],
    )
    if not isinstance(backbone, PyramidBackbone) or len(backbone.channels) < _LEVELS:
        raise ModelError(
            f"method 'decur' needs backbones with levels of their own, and backbone '{name}' has "
            "none or too few. Choose resnet50 or another pyramid"
        )
    if attention:
        add_attention(backbone)
    if own_file:
        load_encoder(backbone, name, str(weights), modality, number)
    return backbone


def _join_levels(branches: Sequence[PyramidBackbone]) -> tuple[int, list[int]]:
    """Stride of images, and channels per level of all branches, concatenated."""
    if len({branch.strides for branch in branches}) > 1:
        found = ", ".join(str(list(branch.strides)) for branch in branches)
        raise ModelError(
            f"method 'decur' concatenates levels, but the backbones have strides {found}; choose "
            "backbones of equal strides"
        )
    widths = [sum(own) for own in zip(*(branch.channels for branch in branches), strict=True)]
    return branches[0].stride, widths


def _enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (N, C, H, W) with aligned corners, like the published head."""
    if same_size(size_of(x), size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
