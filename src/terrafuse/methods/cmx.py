"""CMX: two encoders of one shape, whose maps correct each other and are fused at every stage.

Jiaming Zhang, Huayao Liu, Kailun Yang, Xinxin Hu, Ruiping Liu, Rainer Stiefelhagen: "CMX:
Cross-modal fusion for RGB-X semantic segmentation with transformers", IEEE Transactions on
Intelligent Transportation Systems 24(12), 2023, DOI 10.1109/TITS.2023.3300537, arXiv 2203.04838.

| paper | here |
|---|---|
| Fig. 2 a, whole network | `CMX` |
| Fig. 2 a, encoders | `terrafuse.backbones.MiT`, or any pyramid |
| Fig. 3, Cross-Modal Feature Rectification Module | `FeatureRectification` |
| Fig. 4, Feature Fusion Module | `FeatureFusion` |
| MLP decoder | `terrafuse.decoders.SegFormerDecoder` |

Deviations: stochastic depth rises evenly over all blocks (the published code gives all blocks of
stage 2 one rate). More general than the paper, and the same for its two images: any bands, X of
several modalities (their bands are stacked), any pyramid backbone, images of any size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from terrafuse.backbones import (
    PyramidBackbone,
    convert_mit_state_dict,
    fit_bands,
    has_stages,
    initialize_as_segformer,
)
from terrafuse.decoders import convert_segformer_state_dict
from terrafuse.decoders.layers import NormName
from terrafuse.errors import ModelError
from terrafuse.fusion import ChannelLayerNorm
from terrafuse.methods.cmx_blocks import FeatureFusion, FeatureRectification, stage_heads
from terrafuse.methods.parts import (
    SegmentationHead,
    build_backbone,
    read_reference,
    start_as_published,
    start_from,
    weights_by_stream,
)
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption
from terrafuse.weights import rename

#: The two encoders, by the names of the streams they see.
STREAMS = ("image", "x")


class CMX(Segmenter):
    """Image and X run stage by stage; after each they correct each other, then are fused.

    Args:
        modalities: First the image, then X: one modality, or several, whose bands are stacked. All
            at the pixels of the scene.
        num_classes: K.
        backbone: Name of both encoders: "mit_b0" to "mit_b5" (the paper has B2, B4, B5), or any
            pyramid (the published code also has Swin).
        weights: Where both start: ImageNet weights of the backbone ("hub" for MiT, "timm", a path),
            or by stream ("image", "x") or modality; or a checkpoint of the published code, from
            which all starts; None: from scratch.
        backbone_options: Options of `create_backbone`, for both.
        tuning: What learns in the encoders (`terrafuse.tuning`); None = everything.
        fusion_heads: Heads of the fusion per level; default: those of the encoder's stage.
        reduction: Channels inside rectification and fusion are divided by it.
        norm: Norm of fused maps and decoder; "group" suits small batches.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`; "segformer" has 512 channels here.
        head_norm_eps: Eps of the decoder's batch norms. Published models were trained with 1e-3 and
            scored with 1e-5.
        aux: Adds an auxiliary head on the third level of four, as published with UPerNet.

    Raises:
        ModelError: The backbone is no pyramid, or options do not fit.
    """

    title = "Two encoders that correct each other and are fused at every stage"
    paper = "Zhang et al., IEEE T-ITS 24(12), 2023, DOI 10.1109/TITS.2023.3300537"
    num_modalities = (2, None)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "mit_b2",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        fusion_heads: tuple[int, ...] | None = None,
        reduction: int = 1,
        norm: NormName = "batch",
        decoder: str = "segformer",
        decoder_options: dict[str, Any] | None = None,
        head_norm_eps: float = 1e-3,
        aux: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        _check_pyramid(backbone)
        first, *others = self.modalities
        sets = {"image": [first], "x": others}
        bands = [sum(len(m.bands) for m in own) for own in sets.values()]
        whole = read_reference(weights, r"^backbone\.extra_patch_embed")
        sources = weights_by_stream(weights if whole is None else None, sets)
        self.encoders = nn.ModuleDict(
            {
                stream: build_backbone(
                    backbone,
                    bands,
                    sources[stream],
                    backbone_options,
                    tuning=tuning,
                    modalities=sets[stream],
                )
                for stream, bands in zip(STREAMS, bands, strict=True)
            }
        )
        encoder = self._encoder("image")
        self._build_fusion(encoder, fusion_heads, reduction, norm)
        defaults = {"norm": norm} | ({"channels": 512} if decoder == "segformer" else {})
        self.head = SegmentationHead(
            encoder,
            num_classes,
            decoder,
            defaults | (decoder_options or {}),
            aux,
            aux_channels=encoder.channels[len(encoder.channels) // 2] // 4,
        )
        start_as_published(self.head, head_norm_eps)
        self.stride = encoder.stride
        if whole is not None:
            start_from(self, convert_reference_state_dict(whole, bands), backbone, str(weights))

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Both images through their stages → fused levels → logits."""
        image, *others = (inputs.images[m.name] for m in self.modalities)
        first, second = self._encoder("image"), self._encoder("x")
        a, b = first.stem(image), second.stem(torch.cat(others, dim=1))
        levels = []
        for i, rectify in enumerate(self.rectifications):
            a, b = first.run_stage(i, a), second.run_stage(i, b)
            a, b = rectify(a, b)  # what the next stages see, too
            levels.append(self.fusions[i](*self._normalise(i, a, b)))
        output: SegmenterOutput = self.head(levels)
        return output

    def _encoder(self, stream: str) -> PyramidBackbone:
        return cast(PyramidBackbone, self.encoders[stream])

    def _normalise(self, index: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if self.norms is None:
            return a, b
        of_image, of_x = cast(nn.ModuleList, self.norms[index])
        return of_image(a), of_x(b)

    def _build_fusion(
        self,
        encoder: PyramidBackbone,
        heads: Sequence[int] | None,
        reduction: int,
        norm: NormName,
    ) -> None:
        """Rectification, norms and fusion of every level."""
        channels = encoder.channels
        heads = heads or stage_heads(list(encoder.stages))
        if len(heads) != len(channels) or reduction < 1 or min(channels) < reduction:
            raise ModelError(
                f"options of method 'cmx' do not fit: fusion_heads {list(heads)} and reduction "
                f"{reduction} for levels of {', '.join(map(str, channels))} channels"
            )
        self.rectifications = nn.ModuleList(
            FeatureRectification(c, reduction=reduction) for c in channels
        )
        # For Swin, whose stages end without a norm, the published code adds these.
        self.norms = None
        if not encoder.ends_with_norm:
            self.norms = nn.ModuleList(
                nn.ModuleList(ChannelLayerNorm(c) for _ in STREAMS) for c in channels
            )
        self.fusions = nn.ModuleList(
            FeatureFusion(c, own, reduction=reduction, norm=norm)
            for c, own in zip(channels, heads, strict=True)
        )
        for part in (self.rectifications, self.fusions):
            initialize_as_segformer(part)


def _check_pyramid(backbone: str) -> None:
    if not has_stages(backbone):
        raise ModelError(
            f"method 'cmx' fuses between stages of a pyramid, and backbone '{backbone}' has none. "
            "Choose mit_b0 to mit_b5, swin*, convnext* or resnet*"
        )


#: Original names → ours, in this order; those of encoders and decoder have converters of their own.
_RENAMES = (
    (r"^FRMs\.(\d)\.channel_weights\.mlp\.", r"rectifications.\1.channel_mlp."),
    (r"^FRMs\.(\d)\.spatial_weights\.mlp\.", r"rectifications.\1.spatial_mlp."),
    (r"^FFMs\.(\d)\.cross\.", r"fusions.\1.exchange."),
    (r"^FFMs\.(\d)\.channel_emb\.", r"fusions.\1.embedding."),
    (r"\.exchange\.channel_proj([12])\.", r".exchange.enter.<\1>."),
    (r"\.exchange\.end_proj([12])\.", r".exchange.leave.<\1>."),
    (r"\.exchange\.norm([12])\.", r".exchange.norms.<\1>."),
    (r"\.exchange\.cross_attn\.kv([12])\.", r".exchange.exchange.key_value.<\1>."),
    (r"\.embedding\.channel_embed\.", ".embedding.embed."),
)
#: How the original tells X's encoder from the image's.
_OF_X = re.compile(r"^extra_")


def convert_reference_state_dict(
    state: Mapping[str, Tensor], bands: Sequence[int] = (3, 3)
) -> dict[str, Tensor]:
    """Weights of the original CMX on MiT with its MLP decoder, under our names.

    Normalisation statistics are not part of the original; add those of the data. It was trained on
    images whose bands are in the order blue, green, red.

    Args:
        state: Original names, as the key "model" of a checkpoint has them.
        bands: Bands of image and X. First convolutions for three are adapted to other numbers
            (`fit_bands`, in the order of the bands); X of one band is seen as the original sees
            it, shown thrice.
    """
    encoders: dict[str, dict[str, Tensor]] = {stream: {} for stream in STREAMS}
    fusion, decoder = {}, {}
    for name, value in state.items():
        inner = name.removeprefix("backbone.")
        if name.startswith("decode_head."):
            decoder[name.removeprefix("decode_head.")] = value
        elif inner.startswith(("FRMs.", "FFMs.")):
            fusion[rename(inner, _RENAMES)] = value  # the original counts modalities from 1
        else:
            stream = "x" if _OF_X.match(inner) else "image"
            encoders[stream][_OF_X.sub("", inner)] = value
    parts = {f"encoders.{s}.": convert_mit_state_dict(own) for s, own in encoders.items()}
    first = "stages.0.patch_embeddings.proj.weight"
    for part, wanted in zip(parts.values(), bands, strict=True):
        if first in part:
            part[first] = fit_bands(part[first], wanted, in_order=True)
    parts |= {"": fusion, "head.decoder.": convert_segformer_state_dict(decoder)}
    return {prefix + k: v for prefix, part in parts.items() for k, v in part.items()}
