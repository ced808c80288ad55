"""CMX: two equal encoders whose maps rectify each other and are fused at every stage.

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
stage 2 one rate). More general than the paper, and identical for its two images: any bands, X of
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
from terrafuse.decoders.layers import NormName, create_norm, full_precision
from terrafuse.errors import ModelError
from terrafuse.fusion import LayerNorm2d
from terrafuse.methods.parts import (
    SegmentationHead,
    build_backbone,
    read_reference_model,
    start_as_published,
    start_from,
    weights_by_stream,
)
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption
from terrafuse.weights import rename


class FeatureRectification(nn.Module):
    """Each map plus the other, weighted per channel and per pixel ("CM-FRM").

        a' = a + λ_c w_b b + λ_s s_b b        b' = b + λ_c w_a a + λ_s s_a a

    with w = sigmoid(MLP [mean; max] of both) per channel and s = sigmoid(MLP of both) per pixel.

    Args:
        channels: C of both maps.
        channel_weight: λ_c.
        spatial_weight: λ_s.
        reduction: Divides the input's channels inside the MLPs (C for the pixels' MLP).
    """

    def __init__(
        self,
        channels: int,
        *,
        channel_weight: float = 0.5,
        spatial_weight: float = 0.5,
        reduction: int = 1,
    ) -> None:
        super().__init__()
        self.channel_weight = channel_weight
        self.spatial_weight = spatial_weight
        self.channel_mlp = nn.Sequential(
            nn.Linear(4 * channels, 4 * channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(4 * channels // reduction, 2 * channels),
        )
        self.spatial_mlp = nn.Sequential(
            nn.Conv2d(2 * channels, channels // reduction, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, 2, kernel_size=1),
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, H, W) → the same, rectified by each other."""
        both = torch.cat([a, b], dim=1)  # (N, 2C, H, W)
        pooled = torch.cat([both.mean(dim=(2, 3)), both.amax(dim=(2, 3))], dim=1)  # (N, 4C)
        of_channels = self.channel_mlp(pooled).sigmoid()[:, :, None, None]  # (N, 2C, 1, 1)
        from_a, from_b = (self.channel_weight * of_channels).chunk(2, dim=1)
        at_a, at_b = (self.spatial_weight * self.spatial_mlp(both).sigmoid()).chunk(2, dim=1)
        return a + (from_b + at_b) * b, b + (from_a + at_a) * a


class ContextExchange(nn.Module):
    """Each modality reads the other's global context, a matrix of channels by channels.

    With queries u_m, and keys k_m and values v_m linear in u_m:

        G_m = softmax over k's channels of (k_mᵀ v_m / √d)        o_a = u_a G_b,  o_b = u_b G_a

    kᵀv sums over pixels instead of averaging, so that larger images sharpen the softmax, as
    published. It is computed in float32: it exceeds float16 at a few thousand pixels.

    Args:
        channels: C of both.
        num_heads: Number of heads, of d = C / num_heads channels.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.key_value = nn.ModuleList(
            nn.Linear(channels, 2 * channels, bias=False) for _ in range(2)
        )

    def context(self, which: int, u: Tensor) -> Tensor:
        """Context matrices (N, heads, d, d) of a modality's tokens (N, L, C)."""
        k, v = self.key_value[which](u).chunk(2, dim=-1)
        with full_precision(u):
            k, v = self._to_heads(k.float()), self._to_heads(v.float())
            context: Tensor = ((k.transpose(2, 3) @ v) * self.scale).softmax(dim=2)
            return context

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, C) → what each reads from the other (N, L, C)."""
        of_a, of_b = self.context(0, a), self.context(1, b)
        return self._read(a, of_b), self._read(b, of_a)

    def _read(self, u: Tensor, context: Tensor) -> Tensor:
        found = self._to_heads(u) @ context.to(u.dtype)  # (N, heads, L, d)
        return found.transpose(1, 2).flatten(2)  # (N, L, C)

    def _to_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (N, heads, L, d)


class FeatureExchange(nn.Module):
    """Tokens of both modalities, each enriched by the other's context ("FFM", first stage).

    Args:
        channels: C of both.
        num_heads: Heads of the `ContextExchange`.
        reduction: Divides C inside.
    """

    def __init__(self, channels: int, num_heads: int, *, reduction: int = 1) -> None:
        super().__init__()
        inner = channels // reduction
        self.enter = nn.ModuleList(nn.Linear(channels, 2 * inner) for _ in range(2))
        self.exchange = ContextExchange(inner, num_heads)
        self.leave = nn.ModuleList(nn.Linear(2 * inner, channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, C) of both → the same."""
        entered = [layer(x).relu() for layer, x in zip(self.enter, (a, b), strict=True)]
        kept, asked = zip(*(x.chunk(2, dim=-1) for x in entered), strict=True)
        found = self.exchange(*asked)
        outputs = [
            norm(x + leave(torch.cat([own, other], dim=-1)))
            for norm, x, leave, own, other in zip(
                self.norms, (a, b), self.leave, kept, found, strict=True
            )
        ]
        return outputs[0], outputs[1]


class ChannelEmbedding(nn.Module):
    """Maps of both modalities, stacked → one map ("FFM", second stage).

    Args:
        channels: C of the result.
        reduction: Divides C inside.
        norm: Norm of the result; "batch" as published.
    """

    def __init__(
        self, in_channels: int, channels: int, *, reduction: int = 1, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        inner = channels // reduction
        self.residual = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(in_channels, inner, kernel_size=1),
            nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, kernel_size=1),
            create_norm(norm, channels),
        )
        self.norm = create_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) → map (N, C, H, W)."""
        result: Tensor = self.norm(self.residual(x) + self.embed(x))
        return result


class FeatureFusion(nn.Module):
    """Maps of both modalities → one map: context exchanged, then mixed ("FFM").

    Args:
        channels: C of all maps.
        num_heads: Heads of the `ContextExchange`; must divide C / reduction.
        reduction: Divides C inside.
        norm: Norm of the mixed map.

    Raises:
        ModelError: The heads do not divide the channels.
    """

    def __init__(
        self, channels: int, num_heads: int, *, reduction: int = 1, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % (reduction * num_heads):
            raise ModelError(
                f"{num_heads} heads cannot share {channels // reduction} channels; choose "
                "fusion_heads that divide the channels of each level"
            )
        self.exchange = FeatureExchange(channels, num_heads, reduction=reduction)
        self.embedding = ChannelEmbedding(2 * channels, channels, reduction=reduction, norm=norm)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Maps (N, C, H, W) → one map (N, C, H, W)."""
        tokens = self.exchange(*(x.flatten(2).transpose(1, 2) for x in (a, b)))  # (N, H·W, C)
        maps = [x.transpose(1, 2).reshape(a.shape) for x in tokens]  # (N, C, H, W)
        fused: Tensor = self.embedding(torch.cat(maps, dim=1))
        return fused


def stage_heads(stages: Sequence[nn.Module]) -> list[int]:
    """Return the number of heads of each stage's own attention; 1 where it has none."""
    names = ("num_attention_heads", "num_heads")
    return [
        next(
            (int(found) for m in stage.modules() for n in names if (found := getattr(m, n, None))),
            1,
        )
        for stage in stages
    ]


#: The two encoders, by the names of the streams they see.
STREAMS = ("image", "x")


class CMX(Segmenter):
    """Image and X run stage by stage; after each they rectify each other, then are fused.

    Args:
        modalities: First the image, then X: one modality, or several, whose bands are stacked. All
            resampled to the scene grid.
        num_classes: K.
        backbone: Name of both encoders: "mit_b0" to "mit_b5" (the paper has B2, B4, B5), or any
            pyramid (the published code also has Swin).
        weights: ImageNet weights of the backbone ("hub" for MiT, "timm", a path) for both, or by
            stream ("image", "x") or modality; or a checkpoint of the published code, which sets
            all parts; None: from scratch.
        backbone_options: Options of `create_backbone`, for both.
        tuning: Tuning of the encoders (`terrafuse.tuning`); None = everything is trained.
        fusion_heads: Heads of the fusion per level; default: those of the encoder's stage.
        reduction: Divides the channels inside rectification and fusion.
        norm: Norm of fused maps and decoder; "group" suits small batches.
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`; "segformer" has 512 channels here.
        head_norm_eps: Eps of the decoder's batch norms. Published models were trained with 1e-3 and
            evaluated with 1e-5.
        aux: Adds an auxiliary head on the third level of four, as published with UPerNet.

    Raises:
        ModelError: The backbone is not a pyramid, or options do not fit.
    """

    title = "Two encoders that rectify each other and are fused at every stage"
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
        whole = read_reference_model(weights, r"^backbone\.extra_patch_embed")
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
            converted = convert_reference_state_dict(whole.values, bands)
            start_from(self, converted, backbone, str(weights), whole.note)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Both images through their stages → fused levels → logits."""
        image, *others = (inputs.images[m.name] for m in self.modalities)
        first, second = self._encoder("image"), self._encoder("x")
        a, b = first.stem(image), second.stem(torch.cat(others, dim=1))
        levels = []
        for i, rectify in enumerate(self.rectifications):
            a, b = first.run_stage(i, a), second.run_stage(i, b)
            a, b = rectify(a, b)  # the next stages see these, too
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
        """Create rectification, norms and fusion of every level."""
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
        # The published code adds these for Swin, whose stages end without a norm.
        self.norms = None
        if not encoder.ends_with_norm:
            self.norms = nn.ModuleList(
                nn.ModuleList(LayerNorm2d(c) for _ in STREAMS) for c in channels
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


#: Original names → ours, in this order; encoders and decoder have converters of their own.
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
#: The original's mark of X's encoder.
_OF_X = re.compile(r"^extra_")


def convert_reference_state_dict(
    state: Mapping[str, Tensor], bands: Sequence[int] = (3, 3)
) -> dict[str, Tensor]:
    """Rename weights of the original CMX on MiT with its MLP decoder.

    Normalisation statistics are not part of the original; add those of the data. It was trained on
    images with bands in the order blue, green, red.

    Args:
        state: Original names, under the key "model" of a checkpoint.
        bands: Number of bands of image and X. First convolutions for three are adapted to other
            numbers (`fit_bands`, in band order); for X of one band this equals the original, which
            repeats the band three times.
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
