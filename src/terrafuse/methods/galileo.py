"""Galileo for segmentation: all modalities in one token sequence, read jointly or separately.

Gabriel Tseng, Anthony Fuller, Marlena Reil, Henry Herzog, Patrick Beukema, Favyen Bastani, James R.
Green, Evan Shelhamer, Hannah Kerner, David Rolnick: "Galileo: Learning global and local features in
pretrained remote sensing models", ICML 2025, arXiv 2502.09356.

| paper | here |
|---|---|
| encoder; codes of groups, dates, months, positions | `terrafuse.backbones.galileo.encoder` |
| inputs and their normalisation | `inputs`, `reading` in the same package |
| segmentation | `GalileoSegmenter` |

The paper evaluates frozen encodings with a linear layer; levels, decoder and the fusion of the
modalities' maps are ours. A missing modality has no tokens; positions without data are masked; a
batch may mix both. For a separate stream per modality use method `late_fusion` (separate weights)
or `upseg` (one encoder) with backbone `galileo_nano`. docs/methods/galileo.md compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from terrafuse.backbones import Galileo
from terrafuse.errors import ModelError
from terrafuse.fusion import FUSIONS
from terrafuse.fusion.levels import pool_validity
from terrafuse.methods.parts import SegmentationHead, build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption


class GalileoSegmenter(Segmenter):
    """One Galileo for all modalities, levels of its joint sequence, one decoder.

    Args:
        modalities: Any number of Sentinel-1, Sentinel-2 and elevation, identified by their bands.
        num_classes: K.
        backbone: "galileo_nano", "galileo_tiny" or "galileo_base".
        weights: "hub" for the published weights, their folder or path, or None to train from
            scratch.
        backbone_options: Options of `terrafuse.backbones.Galileo` (`patch_size`, `month` …).
        tuning: Tuning of the backbone (`terrafuse.tuning`); None = everything is trained.
        fusion: "joint" takes the mean over all tokens of a position; "sum" (mean over what is
            present), "concat" and "gated" fuse the means of each modality's tokens, which have
            attended to the others'.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
        aux: Adds an auxiliary head on the middle level.

    Raises:
        ModelError: Another backbone, or unknown bands.
    """

    title = "All modalities in one token sequence of Galileo"
    paper = "Tseng et al., ICML 2025, arXiv 2502.09356"
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "galileo_nano",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        fusion: Literal["joint", "sum", "concat", "gated"] = "joint",
        decoder: str = "segformer",
        decoder_options: dict[str, Any] | None = None,
        aux: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        bands = sum(len(m.bands) for m in self.modalities)
        built = build_backbone(
            backbone, bands, weights, backbone_options, tuning=tuning, modalities=self.modalities
        )
        if not isinstance(built, Galileo):
            raise ModelError(
                f"method 'galileo' runs on galileo_nano, galileo_tiny or galileo_base, not on "
                f"'{backbone}'; for other backbones use late_fusion, upseg or mfnet"
            )
        self.backbone = built
        # One modality alone is its own mean.
        kind = fusion if len(self.modalities) > 1 else "joint"
        self.fusions = nn.ModuleList(
            FUSIONS[kind](len(self.modalities), built.embed_dim)
            for _ in (built.out_indices if kind != "joint" else ())
        )
        self.head = SegmentationHead(built, num_classes, decoder, decoder_options, aux)
        self.stride = built.stride

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Tokens of all modalities → maps of `out_indices` → levels → logits."""
        maps = self.backbone.see(inputs.images, inputs.valid, apart=bool(self.fusions))
        if self.fusions:
            maps = self._fuse(maps, inputs.valid)
        image = torch.cat([inputs.images[m.name] for m in self.modalities], dim=1)
        output: SegmenterOutput = self.head(self.backbone.to_levels(maps, image))
        return output

    def _fuse(self, maps: Sequence[Tensor], valid: Mapping[str, Tensor]) -> list[Tensor]:
        """Per entry of `out_indices` (N, M, D, h, w) → (N, D, h, w)."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        validity = torch.stack(
            [pool_validity(valid[m.name], size) for m in self.modalities], dim=1
        )  # (N, M, 1, h, w)
        validity = validity.to(maps[0].dtype)
        return [fusion(x, validity) for fusion, x in zip(self.fusions, maps, strict=True)]
