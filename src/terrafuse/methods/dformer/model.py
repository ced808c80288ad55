"""DFormer: an image encoder guided by depth, or another X, in every block. Versions 1 and 2.

Bowen Yin, Xuying Zhang, Zhongyu Li, Li Liu, Ming-Ming Cheng, Qibin Hou: "DFormer: Rethinking RGBD
representation learning for semantic segmentation", ICLR 2024, arXiv 2309.09668. Bo-Wen Yin,
Jiao-Long Cao, Ming-Ming Cheng, Qibin Hou: "DFormerv2: Geometry self-attention for RGBD semantic
segmentation", CVPR 2025, arXiv 2504.04701.

| paper | here |
|---|---|
| whole network | `DFormer` |
| v1, encoder | `terrafuse.methods.dformer.v1.GuidedEncoder` |
| v1, RGB-D block | `GuidedAttention`, `terrafuse.fusion.GuidedBlock` |
| v2, encoder | `terrafuse.methods.dformer.v2.GeometryEncoder` |
| v2, geometry prior and geometry self-attention | `terrafuse.methods.dformer.geometry` |
| light Hamburger head | `terrafuse.decoders.HamburgerDecoder` |

Deviations: all parameters are trained (`freeze_as_published` for those that the published code
forgets); evaluation is deterministic, see `HamburgerDecoder`; no auxiliary head, which the papers
weight with 0. More general than the papers, and identical for their depth: X of any bands and
modalities, stacked (version 2: the mean of their differences), images of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from terrafuse.backbones import Backbone, PretrainedSource, find_published, refuse_own
from terrafuse.config.options import check_options
from terrafuse.decoders import create_decoder
from terrafuse.decoders.layers import NormName
from terrafuse.errors import UnknownNameError, WeightsNotFoundError, unknown_name
from terrafuse.fusion import ChannelNorm
from terrafuse.methods.dformer.conversion import convert_reference_state_dict
from terrafuse.methods.dformer.geometry import GeometryPrior
from terrafuse.methods.dformer.v1 import GuidedEncoder, check_sizes
from terrafuse.methods.dformer.v2 import GeometryEncoder
from terrafuse.methods.parts import start_as_published, start_from
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning
from terrafuse.weights import load_strict, pretrained_wanted, read_foreign

__all__ = ["VARIANTS", "DFormer", "build_encoder", "convert_reference_state_dict"]


@dataclass(frozen=True)
class DFormerVariant:
    """Sizes of a DFormer.

    Args:
        channels: Per stage.
        depths: Blocks per stage.
        num_heads: Per stage.
        mlp_ratios: Hidden width of the MLPs per stage, relative to the channels.
        drop_path_rate: As in the training on NYU-V2.
        width: Channels of the decoder.
        heads_ranges: Version 2: spread of the priors' decays per stage. Empty: version 1.
        layer_scales: Version 2: whether blocks have layer scale, per stage.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    drop_path_rate: float = 0.1
    width: int = 512
    heads_ranges: tuple[float, ...] = ()
    layer_scales: tuple[bool, ...] = (False, False, True, True)


_SECOND = (4, 4, 3, 3)
#: Every DFormer by its name.
VARIANTS: Mapping[str, DFormerVariant] = {
    "dformer_tiny": DFormerVariant((32, 64, 128, 256), (3, 3, 5, 2)),
    "dformer_small": DFormerVariant((64, 128, 256, 512), (2, 2, 4, 2)),
    "dformer_base": DFormerVariant((64, 128, 256, 512), (3, 3, 12, 2)),
    "dformer_large": DFormerVariant((96, 192, 288, 576), (3, 3, 12, 2), drop_path_rate=0.15),
    "dformer_v2_small": DFormerVariant(
        (64, 128, 256, 512), (3, 4, 18, 4), (4, 4, 8, 16), _SECOND, 0.25,
        heads_ranges=(4, 4, 6, 6), layer_scales=(False,) * 4,
    ),
    "dformer_v2_base": DFormerVariant(
        (80, 160, 320, 512), (4, 8, 25, 8), (5, 5, 10, 16), _SECOND, 0.2,
        heads_ranges=(5, 5, 6, 6),
    ),
    "dformer_v2_large": DFormerVariant(
        (112, 224, 448, 640), (4, 8, 25, 8), (7, 7, 14, 20), _SECOND, 0.3, 1024,
        heads_ranges=(6, 6, 6, 6),
    ),
}  # fmt: skip


class DFormer(Segmenter):
    """Image and X through one encoder → levels of the image → logits.

    Args:
        modalities: First the image, then X: one modality, or several, whose bands are stacked. All
            resampled to the scene grid. Version 2 needs an X whose differences are distances (a
            surface model; not the speckle of radar).
        num_classes: K.
        backbone: Size: dformer_tiny, _small, _base, _large; dformer_v2_small, _base, _large.
        weights: A file of the authors: of their RGB-D pre-training ("DFormer_Base.pth.tar"), or of
            a whole model, which then sets all parts; None: from scratch.
        backbone_options: Sizes to override: `channels`, `depths`, `num_heads`, `mlp_ratios` per
            stage, in version 2 also `heads_ranges`, `layer_scales`; `drop_path_rate`;
            `layer_scale_init` (1e-6, so that blocks trained from scratch take effect late).
        tuning: Tuning of the encoder (`terrafuse.tuning`); None = everything is trained.
        freeze_as_published: Freeze norms of version 1, layer scales and the priors' weights, which
            the published optimiser leaves out. Training from scratch then fails to learn.
        norm: Norm of convolutions; "group" suits small batches.
        decoder: Name of the decoder; "hamburger" gets the three coarser levels, any other all.
        decoder_options: Options of `create_decoder`.
        head_norm_eps: Eps of the decoder's batch norms.

    Raises:
        UnknownNameError: No such size.
        ModelError: Options do not fit.
        WeightsError: The weights are missing or do not fit.
    """

    title = "An image encoder guided by depth, or another modality, in every block"
    paper = "Yin et al., ICLR 2024, arXiv 2309.09668; v2: CVPR 2025, arXiv 2504.04701"
    num_modalities = (2, None)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "dformer_base",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        freeze_as_published: bool = False,
        norm: NormName = "batch",
        decoder: str = "hamburger",
        decoder_options: dict[str, Any] | None = None,
        head_norm_eps: float = 1e-3,
    ) -> None:
        super().__init__(modalities, num_classes)
        if backbone not in VARIANTS:
            raise UnknownNameError(unknown_name("backbone of method 'dformer'", backbone, VARIANTS))
        first, *others = self.modalities
        bands = (len(first.bands), sum(len(m.bands) for m in others))
        options = check_options("backbone", backbone, build_encoder, backbone_options or {})
        self.encoder = build_encoder(backbone, bands, norm, **options)
        self.skipped = 1 if decoder == "hamburger" else 0
        defaults: dict[str, Any] = {"norm": norm}
        if decoder == "hamburger":
            defaults["channels"] = VARIANTS[backbone].width
        self.decoder = create_decoder(
            decoder,
            self.encoder.channels[self.skipped :],
            self.encoder.strides[self.skipped :],
            num_classes,
            **defaults | (decoder_options or {}),
        )
        start_as_published(self.decoder, head_norm_eps)
        self.stride = self.encoder.stride
        if weights is not None and pretrained_wanted():
            self._start(backbone, weights, bands)
        apply_tuning(self.encoder, tuning)
        if freeze_as_published:
            _freeze(self.encoder)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Image and X, stacked → levels → logits."""
        images = [inputs.images[m.name] for m in self.modalities]
        levels = self.encoder(torch.cat(images, dim=1))
        return SegmenterOutput(self.decoder(levels[self.skipped :]))

    def _start(self, backbone: str, weights: str, bands: tuple[int, int]) -> None:
        """Load weights from a file of the authors."""
        if weights in ("timm", "hub"):
            raise WeightsNotFoundError(
                f"there are no weights '{weights}' for '{backbone}'. Give the path of a file of "
                "the authors ('hf://bbynku/DFormerv2/…' for version 2), or leave 'weights' out"
            )
        refuse_own(weights, "dformer", "files of its authors")
        sha256, licence = find_published(weights)
        rank = getattr(self.decoder, "bases", torch.empty(0, 64)).shape[1]
        wanted = [f"encoder.{name}" for name in self.encoder.state_dict()]
        read = read_foreign(
            weights,
            wanted,
            convert=lambda state: convert_reference_state_dict(state, bands, rank),
            sha256=sha256,
        )
        converted = read.values
        if any(name.startswith("decoder.") for name in converted):
            start_from(self, converted, backbone, weights, read.note)
            return
        # Files of the encoder also hold a classifier, and may lack the norms before a decoder.
        own = {k: v for k, v in self.encoder.state_dict().items() if k.startswith("norms.")}
        prefix = "encoder."
        encoder = {k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)}
        load_strict(self.encoder, own | encoder, where=f"weights '{weights}' for '{backbone}'")
        self.encoder.pretrained = PretrainedSource(backbone, weights, licence, read.note)


def build_encoder(
    name: str,
    bands: tuple[int, int],
    norm: NormName = "batch",
    *,
    channels: tuple[int, ...] | None = None,
    depths: tuple[int, ...] | None = None,
    num_heads: tuple[int, ...] | None = None,
    mlp_ratios: tuple[int, ...] | None = None,
    heads_ranges: tuple[float, ...] | None = None,
    layer_scales: tuple[bool, ...] | None = None,
    drop_path_rate: float | None = None,
    layer_scale_init: float = 1e-6,
) -> Backbone:
    """Build the encoder of a named size, with some sizes overridden.

    Args:
        name: One of `VARIANTS`.
        bands: Number of bands of image and X.
        norm: Norm of convolutions.
        channels: Per stage; default: by name, as for the following.
        depths: Blocks per stage.
        num_heads: Per stage.
        mlp_ratios: Hidden width of the MLPs per stage, relative to the channels.
        heads_ranges: Version 2: spread of the priors' decays per stage.
        layer_scales: Version 2: whether blocks have layer scale, per stage.
        drop_path_rate: Probability of skipping a branch of the last block.
        layer_scale_init: Initial value of layer scales.

    Raises:
        ModelError: Impossible sizes.
    """
    sizes = {
        "channels": channels, "depths": depths, "num_heads": num_heads, "mlp_ratios": mlp_ratios,
        "heads_ranges": heads_ranges, "layer_scales": layer_scales,
        "drop_path_rate": drop_path_rate,
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    variant = replace(VARIANTS[name], **given)
    shared = {key: getattr(variant, key) for key in _OF_BOTH}
    check_sizes(shared, variant.drop_path_rate)
    shared |= {
        "drop_path_rate": variant.drop_path_rate, "layer_scale_init": layer_scale_init, "norm": norm
    }  # fmt: skip
    if not VARIANTS[name].heads_ranges:
        return GuidedEncoder(bands, **shared)
    second: dict[str, Any] = {
        "heads_ranges": variant.heads_ranges,
        "layer_scales": variant.layer_scales,
    }
    check_sizes(second, 0)
    return GeometryEncoder(bands, **shared, **second)


#: Sizes per stage that both versions have.
_OF_BOTH = ("channels", "depths", "num_heads", "mlp_ratios")


def _freeze(encoder: nn.Module) -> None:
    """Freeze parameters that the published optimiser misses: its own norms, priors and scales."""
    # Version 1 has norms of its own, version 2 torch's.
    forgotten = ChannelNorm if isinstance(encoder, GuidedEncoder) else GeometryPrior
    for module in encoder.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, forgotten) or name.startswith("scale"):
                parameter.requires_grad_(False)
