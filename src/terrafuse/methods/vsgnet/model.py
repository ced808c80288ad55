"""VSGNet: an image, and a structure map derived from it by a foundation model, fused per scale.

Chengzhi Pan et al.: "Vision Foundation Model Guided Multimodal Fusion Network for Remote Sensing
Semantic Segmentation", IEEE Journal of Selected Topics in Applied Earth Observations and Remote
Sensing 18, 2025, 9409-9431, DOI 10.1109/JSTARS.2025.3547880.

| paper | here |
|---|---|
| framework figure, whole network | `VSGNet` |
| vision structure generation | `terrafuse generate` |
| frozen foundation model, token map | `terrafuse.methods.vsgnet.vision` |
| Fusion Enhancement, "FE" | `FusionEnhancement` |
| Feature Recalibration, "FR" | `FeatureRecalibration` |
| decoder | `terrafuse.decoders.SegFormerDecoder` |

Written from the published figure and what the published code computes; the full text of the paper
was not available. That code does not run unmodified: docs/methods/vsgnet.md lists its
inconsistencies and how each is handled. More general than it: images of any size and with any
bands, structure of any number of channels and modalities, any plain transformer, none, or one per
stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from terrafuse.backbones import TokenBackbone
from terrafuse.decoders import convert_segformer_state_dict, create_decoder
from terrafuse.decoders.layers import NormName, full_precision
from terrafuse.errors import ModelError, UnknownNameError, unknown_name
from terrafuse.methods.parts import QuarterStem, start_as_published, weights_by_stream
from terrafuse.methods.vsgnet.blocks import (
    SoftmaxName,
    SpatialGateName,
    build_scales,
)
from terrafuse.methods.vsgnet.vision import (
    SHUFFLE,
    TokensName,
    build_vision,
    see_pixels,
)
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.weights import rename

__all__ = ["STREAMS", "VSGNet", "convert_reference_state_dict"]

_T = TypeVar("_T")

#: The two streams, as options name them.
STREAMS = ("image", "structure")


class VSGNet(Segmenter):
    """Image and structure are fused at four scales; the image stream is decoded.

    Args:
        modalities: First the image, then its structure: one modality, or several, whose bands are
            stacked. All resampled to the scene grid.
        num_classes: K.
        backbone: A plain transformer that stays frozen ("vision foundation model"): its name, or
            one by stream ("image", "structure"); None: that stream has only its convolutions. The
            paper has vit_giant_patch14_reg4_dinov2 for the image.
        weights: Its pretrained weights ("timm", a path), or by stream or modality. None leaves
            random values, useful only for tests.
        backbone_options: Options of `create_backbone`, for both.
        channels: Per scale, fine → coarse.
        depths: Blocks per scale.
        num_heads: Heads of the attention per scale; twice their number must divide the channels.
        mlp_ratios: Hidden width of the MLPs per scale, relative to the channels.
        drop_path_rate: Stochastic depth: probability of skipping a branch of the last block,
            decreasing to 0 at the first.
        layer_scale_init: Initial value of layer scales. With the published 1e-6, blocks have no
            effect at first.
        softmax: Softmax of FR: "sharpened" is softmax(exp(a)), as published, "plain" softmax(a).
        spatial_gate: Spatial gate of FR: "unbounded", as published, or "sigmoid".
        tokens: "shuffle" places a token's values where it lies; "raw" reads them in memory order,
            as published, which scrambles columns.
        norm: Norm of stems and downsampling; "group" suits small batches.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`; "segformer" has 512 channels here.

    Raises:
        ModelError: There is no structure, the image is not first, or options do not fit.
        UnknownNameError: A stream that does not exist.
    """

    title = "Structure derived from the image by a foundation model as second modality"
    paper = "Pan et al., IEEE JSTARS 18, 2025, DOI 10.1109/JSTARS.2025.3547880"
    num_modalities = (2, None)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str | dict[str, str | None] | None = "vit_base_patch14_reg4_dinov2",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        channels: tuple[int, ...] = (96, 192, 288, 576),
        depths: tuple[int, ...] = (3, 3, 12, 2),
        num_heads: tuple[int, ...] = (1, 2, 4, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        drop_path_rate: float = 0.2,
        layer_scale_init: float = 1e-2,
        softmax: SoftmaxName = "sharpened",
        spatial_gate: SpatialGateName = "unbounded",
        tokens: TokensName = "shuffle",
        norm: NormName = "batch",
        decoder: str = "segformer",
        decoder_options: dict[str, Any] | None = None,
    ) -> None:
        _check_modalities(modalities)
        super().__init__(modalities, num_classes)
        self.tokens = tokens
        image, *others = self.modalities
        # The transformer sees RGB only; further bands enter through the convolutions alone.
        self.colours = image.rgb_bands if image.kind == "optical" else None
        sets = {"image": [image], "structure": others}
        bands = {stream: _count_bands(own) for stream, own in sets.items()}
        seen = sets | ({"image": [_only_bands(image, self.colours)]} if self.colours else {})
        names = _by_stream("backbone", backbone)
        sources = weights_by_stream(weights, sets)
        vision = {
            stream: build_vision(name, sources[stream], backbone_options, _count_bands(own), own)
            for stream, own in seen.items()
            if (name := names[stream]) is not None
        }
        self.vision = nn.ModuleDict(vision)
        self.stems = nn.ModuleDict(
            {stream: QuarterStem(bands[stream], channels[0], norm=norm) for stream in STREAMS}
        )
        self.token_stems = nn.ModuleDict(
            {
                stream: QuarterStem(vit.embed_dim // SHUFFLE**2, channels[0], norm=norm)
                for stream, vit in vision.items()
            }
        )
        self.scales = build_scales(
            channels,
            depths,
            num_heads,
            mlp_ratios,
            drop_path_rate=drop_path_rate,
            layer_scale_init=layer_scale_init,
            softmax=softmax,
            spatial_gate=spatial_gate,
            norm=norm,
        )
        self.decoder = _build_decoder(decoder, decoder_options, channels, num_classes, norm)
        self.stride = 1  # halving rounds up, so any size works

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Image and structure → streams → fused scale by scale → the image's levels → logits."""
        first, *others = (inputs.images[m.name] for m in self.modalities)
        streams = [self._enter("image", first), self._enter("structure", torch.cat(others, dim=1))]
        levels = []
        for scale in self.scales:
            streams = scale(streams)
            levels.append(streams[0])
        return SegmenterOutput(self._decode(levels))

    def _enter(self, stream: str, image: Tensor) -> Tensor:
        """Image (N, C, H, W) → map of a quarter of its size, by convolutions and transformer."""
        entered: Tensor = self.stems[stream](image)
        if stream in self.vision:
            vit = self.vision[stream]
            assert isinstance(vit, TokenBackbone)
            if stream == "image" and self.colours is not None:
                image = image[:, list(self.colours)]
            pixels = see_pixels(vit, image, self.tokens)  # (N, D / 64, H, W)
            entered = entered + self.token_stems[stream](pixels)
        return entered  # (N, C, H / 4, W / 4)

    def _decode(self, levels: Sequence[Tensor]) -> Tensor:
        # The output of the last scale may exceed float16.
        kind = levels[0].device.type
        half = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        narrow = half and torch.get_autocast_dtype(kind) == torch.float16
        with full_precision(levels[0]) if narrow else nullcontext():
            logits: Tensor = self.decoder(levels)
        return logits

    def _needs_all(self, absent: list[str]) -> str:
        return f"{super()._needs_all(absent)}. Generate structure with {_GENERATE}"


_GENERATE = "'terrafuse generate dataset.yaml --kind sam' (or depth, superpixels)"


def _only_bands(modality: Modality, places: Sequence[int]) -> Modality:
    waves = modality.wavelengths_um
    return replace(
        modality,
        bands=tuple(modality.bands[i] for i in places),
        wavelengths_um=None if waves is None else tuple(waves[i] for i in places),
    )


def _count_bands(modalities: Sequence[Modality]) -> int:
    return sum(len(m.bands) for m in modalities)


def _check_modalities(modalities: Sequence[Modality]) -> None:
    if len(modalities) == 1:
        raise ModelError(
            f"method 'vsgnet' needs an image and its structure, got '{modalities[0].name}' alone. "
            f"Generate the second from the first: {_GENERATE}"
        )
    kinds = [m.kind for m in modalities]
    if kinds and kinds[0] == "structure" and "optical" in kinds:
        image = modalities[kinds.index("optical")].name
        raise ModelError(
            f"method 'vsgnet' takes the image first, got structure '{modalities[0].name}'. Begin "
            f"data.modalities with '{image}'"
        )


def _by_stream(what: str, value: _T | Mapping[str, _T | None] | None) -> dict[str, _T | None]:
    """Return a value for each stream."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(STREAMS, value)
    unknown = [key for key in value if key not in STREAMS]
    if unknown:
        raise UnknownNameError(unknown_name(f"stream in option '{what}'", unknown[0], STREAMS))
    return {stream: value.get(stream) for stream in STREAMS}


def _build_decoder(
    name: str,
    options: Mapping[str, Any] | None,
    channels: Sequence[int],
    num_classes: int,
    norm: NormName,
) -> nn.Module:
    strides = [4 * 2**i for i in range(len(channels))]
    defaults = {"norm": norm} | ({"channels": 512} if name == "segformer" else {})
    decoder = create_decoder(name, channels, strides, num_classes, **defaults | dict(options or {}))
    start_as_published(decoder)
    return decoder


#: Original names → ours, in this order; "e" and "_2" mark the structure stream.
_RENAMES = (
    (r"^downsample_layers\.0\.", "stems.image."),
    (r"^downsample_layers_e\.0\.", "stems.structure."),
    (r"^dn\.", "token_stems.image."),
    (r"^dn_e\.", "token_stems.structure."),
    (r"^downsample_layers\.(\d+)\.", r"scales.\1.down.0."),
    (r"^downsample_layers_e\.(\d+)\.", r"scales.\1.down.1."),
    (r"^fe\.(\d+)\.(\d+)\.", r"scales.\1.blocks.\2."),
    (r"^FRlist\.(\d+)\.", r"scales.\1.recalibration."),
    (r"\.recalibration\.c1\.", ".recalibration.contents.0."),
    (r"\.recalibration\.c2\.", ".recalibration.contents.1."),
    (r"\.MLP_1\.", ".channel_gates.0."),
    (r"\.MLP_2\.", ".channel_gates.1."),
    (r"\.proj1\.", ".projections.0."),
    (r"\.proj2\.", ".projections.1."),
    (r"\.layer_scale_1(_e)?$", r".scale_attention\1"),
    (r"\.layer_scale_2(_e)?$", r".scale_mlp\1"),
    (r"(\.scale_\w+)_e$", r"\1_guide"),
    (r"\.mlp_e2\.", ".mlp_guide."),
    (r"(\.mlp\w*)\.pos\.", r"\1.depthwise."),
    (r"\.attn\.", ".attention."),
    (r"\.attention\.norm_e\.", ".attention.norm_structure."),
    (r"\.attention\.l\.", ".attention.context."),
    (r"\.attention\.kv\.", ".attention.attention.key_value."),
    (r"\.attention\.short_cut_linear\.", ".attention.attention.query."),
    (r"\.attention\.q_cut\.", ".attention.gate.cut."),
    (r"\.attention\.e_fore\.", ".attention.gate.before."),
    (r"\.attention\.e_conv\.", ".attention.gate.depthwise."),
    (r"\.attention\.e_back\.", ".attention.gate.after."),
    (r"\.attention\.proj\.", ".attention.project."),
    (r"\.attention\.proj_e\.", ".attention.project_structure."),
)
#: Layers of every FE that the original never runs.
_UNUSED = re.compile(r"\.attn\.(q|a|conv)\.")


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original's trainable part, wired as in its figure.

    Values that it never runs are dropped: three layers of each FE, and the last FR's projection for
    the structure stream, which ends there. Frozen transformers and normalisation statistics are not
    included.

    Args:
        state: Original names (`downsample_layers`, `dn`, `fe`, `FRlist`, `decode_head`).
    """
    scales = [int(found[1]) for name in state if (found := re.match(r"FRlist\.(\d+)\.", name))]
    ends = f"FRlist.{max(scales, default=0)}.proj2."
    head = "decode_head."
    converted = {}
    for name, value in state.items():
        if _UNUSED.search(name) or name.startswith((ends, head)):
            continue
        converted[rename(name, _RENAMES)] = value
    decoder = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
    return converted | {f"decoder.{k}": v for k, v in convert_segformer_state_dict(decoder).items()}
