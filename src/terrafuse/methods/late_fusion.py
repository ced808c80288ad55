"""Late fusion: one backbone per modality, levels fused, one decoder.

Not from a paper; the plain two-branch network that fusion methods are measured against. Every
modality is seen at its own pixel size; its levels are resampled to the sizes that the scene has in
the first modality's backbone. A missing modality contributes nothing (`terrafuse.fusion.levels`),
and its backbone does not run on samples that lack it, so that zeros do not enter its batch
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.config.options import by_modality
from terrafuse.errors import ModelError
from terrafuse.fusion import create_level_fusion
from terrafuse.methods.parts import SegmentationHead, build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tracing import divided, is_traced
from terrafuse.tuning import TuningOption


class LateFusion(Segmenter):
    """A backbone per modality, fusion of the levels, one decoder.

    Args:
        modalities: Any number; the decoder gets levels shaped like those of the first's backbone.
        num_classes: K.
        backbone: Its name for all modalities, or by modality.
        weights: Pretrained weights ("timm", a path, None = from scratch) for all, or by modality.
        backbone_options: Options of `create_backbone`, for all.
        tuning: Tuning of the backbones (`terrafuse.tuning`); None = everything is trained.
        fusion: "sum" (mean over the modalities present), "concat" (1×1 convolution) or "gated"
            (learned weights per pixel).
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
        aux: Adds an auxiliary head on the middle level.

    Raises:
        UnknownNameError: A backbone or weights for an unknown modality.
        ModelError: A modality without a backbone, or backbones with different numbers of levels.
    """

    title = "One backbone per modality, levels fused"
    own_scales = True
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str | dict[str, str] = "resnet18",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        fusion: Literal["sum", "concat", "gated"] = "sum",
        decoder: str = "upernet",
        decoder_options: dict[str, Any] | None = None,
        aux: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        names = [m.name for m in modalities]
        chosen = by_modality("backbone", backbone, names)
        sources = by_modality("weights", weights, names, default=None)
        branches = {
            m.name: build_backbone(
                chosen[m.name],
                len(m.bands),
                sources[m.name],
                backbone_options,
                tuning=tuning,
                modalities=[m],
            )
            for m in modalities
        }
        first = branches[names[0]]
        self.branches = nn.ModuleDict(branches)
        self.projections = nn.ModuleDict(
            {name: _project(branch, first, name) for name, branch in branches.items()}
        )
        self.fusion = create_level_fusion(fusion, len(names), first.channels)
        self.head = SegmentationHead(first, num_classes, decoder, decoder_options, aux)
        self.level_strides = first.strides
        self.stride = first.stride
        self.strides = {name: branch.stride for name, branch in branches.items()}

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Levels of each modality → fused levels → logits."""
        levels = [self._levels(m.name, inputs) for m in self.modalities]
        valid = [inputs.valid[m.name] for m in self.modalities]
        height, width = inputs.size
        sizes = [(divided(height, s), divided(width, s)) for s in self.level_strides]
        fused = self.fusion(levels, valid, sizes)
        output: SegmenterOutput = self.head(fused)
        return output

    def _levels(self, name: str, inputs: Inputs) -> list[Tensor]:
        branch = cast(Backbone, self.branches[name])
        levels = run_where_present(branch, inputs.images[name], inputs.present(name))
        projections = cast(nn.ModuleList, self.projections[name])
        return [project(level) for project, level in zip(projections, levels, strict=True)]


def run_where_present(backbone: Backbone, image: Tensor, present: Tensor) -> list[Tensor]:
    """Compute levels for the samples that have the modality; 0 for the others.

    Args:
        image: (N, C, H, W).
        present: Bool (N,).
    """
    if is_traced():  # every sample is run, and what is absent masked
        return [torch.where(present.view(-1, 1, 1, 1), x, 0.0) for x in backbone(image)]
    rows = present.nonzero().squeeze(1)
    if len(rows) == len(present):
        levels: list[Tensor] = backbone(image)
        return levels
    if len(rows) == 0:
        return _zero_levels(backbone, image)
    return [
        level.new_zeros(len(present), *level.shape[1:]).index_copy(0, rows, level)
        for level in backbone(image[rows])
    ]


def _zero_levels(backbone: Backbone, image: Tensor) -> list[Tensor]:
    height, width = image.shape[-2:]
    # Parameters unused in a step would stall distributed training, so they get gradient 0.
    nothing = sum(p.sum() * 0 for p in backbone.parameters()) if backbone.training else 0
    return [
        image.new_zeros(image.shape[0], c, round(height / s), round(width / s)) + nothing
        for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def _project(backbone: Backbone, first: Backbone, name: str) -> nn.ModuleList:
    if len(backbone.channels) != len(first.channels):
        raise ModelError(
            f"the backbone of modality '{name}' has {len(backbone.channels)} levels, that of the "
            f"first modality {len(first.channels)}; choose backbones with equally many levels"
        )
    return nn.ModuleList(
        nn.Identity() if own == wanted else nn.Conv2d(own, wanted, kernel_size=1)
        for own, wanted in zip(backbone.channels, first.channels, strict=True)
    )
