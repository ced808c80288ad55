"""MCANet: two separate encoders, cross-attention between them at two levels, ASPP.

X. Li, G. Zhang, H. Cui, S. Hou, S. Wang, X. Li, Y. Chen, Z. Li, L. Zhang: "MCANet: A joint semantic
segmentation framework of optical and SAR images for land use classification", International Journal
of Applied Earth Observation and Geoinformation 106, 2022, 102638, DOI 10.1016/j.jag.2021.102638.

| paper | here |
|---|---|
| whole network | `MCANet` |
| multimodal cross attention module, "MCAM" | `CrossAttention` |
| atrous spatial pyramid pooling, "ASPP" | `terrafuse.decoders.AtrousBranches` and a convolution |
| fusion of low and high features | `MCANet.segment` |

The authors published no code and the full text of the paper was not available: the wiring is that
of an independent re-implementation (CMCDNet's `mcanet.py`), with which two others agree, and the
decoder after it is DeepLabv3+'s. The attention contributes next to nothing at realistic sizes;
docs/methods/mcanet.md explains why, and `renormalized` is our remedy. More general: any number of
modalities and bands, any pyramid as backbone, images of any size, attention in chunks of rows, so
that its memory does not grow with the square of the pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from terrafuse.decoders import AtrousBranches
from terrafuse.decoders.layers import ConvNormAct, NormName, full_precision, resize, size_of
from terrafuse.errors import ModelError
from terrafuse.methods.parts import build_branches
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tracing import extend, has_symbols, split_dim
from terrafuse.tuning import TuningOption
from terrafuse.weights import rename

#: Values of one attention map held in memory at once (64 MiB in float32).
VALUES_AT_ONCE = 2**24
#: Logarithm below which a share is 0 in any row, since Y, a product of sums of shares, would be
#: subnormal; of flat maps of M modalities it is -M ln(L).
_LEAST_LOGARITHM = -44.0
#: Chunks of the attention map of which a graph holds one at once; their size follows the window.
TRACED_CHUNKS = 16


class CrossAttention(nn.Module):
    """Attention shared by all modalities: Y = Π_m (S v_m) with S = Π_m S_m ("MCAM").

    S_m = softmax(q_mᵀ k_m) over the pixels, (L, L), and both products are elementwise. Y has no
    residual, and rows of S do not sum to 1: where maps are flat, S = L^(−M) everywhere and with two
    modalities Y is of the order of 1 / L².

    Always in float32: q_mᵀ k_m is an unscaled sum over all channels.

    Args:
        channels: C of every modality's map.
        num_modalities: M.
        inner_channels: C' of queries, keys and values; default: C.
        scaled: Divide q_mᵀ k_m by √C'. Ours.
        renormalized: Divide rows of S by their sums, so that S = softmax(Σ_m q_mᵀ k_m). Ours.
    """

    def __init__(
        self,
        channels: int,
        num_modalities: int = 2,
        *,
        inner_channels: int | None = None,
        scaled: bool = False,
        renormalized: bool = False,
    ) -> None:
        super().__init__()
        inner = inner_channels or channels
        self.scale = inner**-0.5 if scaled else 1.0
        self.renormalized = renormalized
        self.qkv = nn.ModuleList(
            nn.Conv2d(channels, 3 * inner, kernel_size=1) for _ in range(num_modalities)
        )
        for layer in self.qkv:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the modalities (N, C, H, W) → (N, C', H, W)."""
        qkv = [layer(x).flatten(2).float() for layer, x in zip(self.qkv, maps, strict=True)]
        queries, keys, values = zip(*(x.chunk(3, dim=1) for x in qkv), strict=True)
        num_samples, _, pixels = queries[0].shape
        if has_symbols(pixels):
            shared = self._attend_traced(queries, keys, values)
            return split_dim(shared, 2, size_of(maps[0]))
        rows = max(VALUES_AT_ONCE // (num_samples * pixels), 1)
        ends = [*range(0, pixels, rows), pixels]
        with full_precision(maps[0]):
            parts = [
                self._run([q[:, :, a:b] for q in queries], keys, values, whole=rows >= pixels)
                for a, b in pairwise(ends)
            ]
        shared = torch.cat(parts, dim=2)  # (N, C', L)
        return shared.view(*shared.shape[:2], *size_of(maps[0]))

    def _attend_traced(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        """All pixels in a number of chunks that is not a symbol, (N, C', L)."""
        pixels = queries[0].shape[2]
        rows = pixels // TRACED_CHUNKS + 1  # one too many may be, so that zeros are never none
        missing = TRACED_CHUNKS * rows - pixels
        filled = [extend(q, 2, missing) for q in queries]
        chunks = zip(
            *(split_dim(q, 2, (TRACED_CHUNKS, rows)).unbind(2) for q in filled), strict=True
        )
        return torch.cat([self._attend(q, keys, values) for q in chunks], dim=2)[:, :, :pixels]

    def _run(
        self,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        *,
        whole: bool,
    ) -> Tensor:
        if whole or not torch.is_grad_enabled():
            return self._attend(queries, keys, values)
        # Rows of the attention are independent, so none has to be kept for the backward pass.
        result: Tensor = checkpoint(self._attend, queries, keys, values, use_reentrant=False)
        return result

    def _attend(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        """Queries of a chunk (N, C', R), keys and values of all pixels (N, C', L) → (N, C', R)."""
        scores = [
            _normal_gradients(self.scale * q.transpose(1, 2) @ k)
            for q, k in zip(queries, keys, strict=True)
        ]  # (N, R, L) each
        if self.renormalized:
            logarithms = torch.stack(scores).sum(dim=0).log_softmax(dim=-1)
        else:
            logarithms = reduce(torch.add, [s.log_softmax(dim=-1) for s in scores])
        shared = _shares(logarithms)
        return reduce(torch.mul, [_normal_gradients(v @ shared.transpose(1, 2)) for v in values])


# Scores are unscaled sums over hundreds of channels: most of what a softmax makes of them, of
# products of it and of their gradients would lie below float32's normal numbers, with which
# processors calculate up to fifty times slower. What a sum does not tell from 0 is 0 instead.


def _shares(logarithms: Tensor) -> Tensor:
    """Shares by their logarithms (…, L); those below 1e-12 of their row's largest are 0."""
    largest = logarithms.detach().amax(dim=-1, keepdim=True)
    least = (largest - 28).clamp_min(_LEAST_LOGARITHM)
    return logarithms.masked_fill(logarithms < least, -torch.inf).exp()


def _normal_gradients(x: Tensor) -> Tensor:
    found: Tensor = _NormalGradients.apply(x) if torch.is_grad_enabled() else x
    return found


class _NormalGradients(torch.autograd.Function):
    """Nothing in the forward pass; the backward pass takes 1e-12 of the largest gradient for 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        size = gradient.abs()
        return gradient.masked_fill(size < 1e-12 * size.max(), 0.0)


class MCANet(Segmenter):
    """A backbone per modality; cross-attention at the low and the high level; ASPP; decoder.

    Args:
        modalities: Two as published, optical and SAR, or more; all resampled to the scene grid.
        num_classes: K.
        backbone: Name of a pyramid with a level of stride 4. The re-implementation has a deep stem
            (resnet50c, resnet101c).
        weights: Pretrained weights ("timm", a path, None = from scratch), for all or by
            modality.
        backbone_options: Options of `create_backbone`, for all.
        tuning: Tuning of the backbones (`terrafuse.tuning`); None = everything is trained.
        output_stride: Pixels of the image per pixel of the high level. 8 and 16 dilate the last
            stages, which ResNets support; 32 leaves the backbone unchanged.
        attention: "cross" has MCAM, "none" omits it, as the best-known published code does.
        scaled: Whether scores are divided by the square root of the channels; not published. On its
            own it flattens the attention, and reduces its contribution further.
        renormalized: Whether rows of the shared attention sum to 1; not published.
        low_channels: Channels of the fused low level.
        high_channels: Channels of each modality's high level, of ASPP and of the decoder.
        rates: Dilations of ASPP.
        norm: Norm after the convolutions of ASPP and decoder.

    Raises:
        ModelError: The backbone has one level only.
    """

    title = "Cross-attention between optical and SAR features at two levels, ASPP"
    paper = "Li et al., JAG 106, 2022, DOI 10.1016/j.jag.2021.102638"
    num_modalities = (2, None)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "resnet101",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        output_stride: Literal[8, 16, 32] = 8,
        attention: Literal["cross", "none"] = "cross",
        scaled: bool = False,
        renormalized: bool = False,
        low_channels: int = 48,
        high_channels: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        norm: NormName = "batch",
    ) -> None:
        super().__init__(modalities, num_classes)
        options = dict(backbone_options or {})
        if output_stride != 32:  # not all backbones have the option
            options.setdefault("output_stride", output_stride)
        self.branches = build_branches(self.modalities, backbone, weights, options, tuning=tuning)
        first = self.backbones()[0]
        if len(first.channels) < 2:
            raise ModelError(
                f"backbone '{backbone}' gives one level; method 'mcanet' needs a low and a high "
                "one. Choose a pyramid (resnet*, convnext*), or backbone option neck 'pyramid'"
            )
        self.stride = first.stride
        count, low, high = len(self.modalities), first.channels[0], first.channels[-1]
        self.low_attention: nn.Module | None = None
        self.high_attention: nn.Module | None = None
        if attention == "cross":
            self.low_attention, self.high_attention = (
                CrossAttention(c, count, scaled=scaled, renormalized=renormalized)
                for c in (low, high)
            )
        maps = count + (attention == "cross")
        self.fuse_low = ConvNormAct(maps * low, low_channels, kernel_size=1, norm=norm)
        self.reduce_high = nn.ModuleDict(
            {
                m.name: ConvNormAct(high, high_channels, kernel_size=1, norm=norm)
                for m in self.modalities
            }
        )
        # The attention's map is not reduced.
        width = count * high_channels + (high if attention == "cross" else 0)
        views = AtrousBranches(width, high_channels, rates=rates, norm=norm)
        self.context = nn.Sequential(
            views, ConvNormAct(views.out_channels, high_channels, kernel_size=3, norm=norm)
        )
        self.decoder = nn.Sequential(
            ConvNormAct(high_channels + low_channels, high_channels, kernel_size=3, norm=norm),
            ConvNormAct(high_channels, high_channels, kernel_size=3, norm=norm),
            nn.Conv2d(high_channels, num_classes, kernel_size=1),
        )

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Low and high level of each modality → fused low level, context of the high → logits."""
        names = [m.name for m in self.modalities]
        levels = {name: self.branches[name](inputs.images[name]) for name in names}
        low, high = [levels[n][0] for n in names], [levels[n][-1] for n in names]
        fine = self.fuse_low(torch.cat([*_attend(self.low_attention, low), *low], dim=1))
        reduced = [self.reduce_high[name](levels[name][-1]) for name in names]
        coarse = torch.cat([*_attend(self.high_attention, high), *reduced], dim=1)
        context = resize(self.context(coarse), size_of(fine))
        return SegmenterOutput(self.decoder(torch.cat([context, fine], dim=1)))


def _attend(attention: nn.Module | None, maps: Sequence[Tensor]) -> list[Tensor]:
    return [] if attention is None else [attention(maps).to(maps[0].dtype)]


#: Original names → ours, in this order; "<1>" and "<2>" stand for the modalities.
_RENAMES = (
    (r"^backbone_opt\.", "branches.<1>."),
    (r"^backbone_sar\.", "branches.<2>."),
    (r"^(branches\.<\d>)\.stem\.7\.", r"\1.stem.bn1."),
    (r"^(branches\.<\d>)\.stem\.(?=\d)", r"\1.stem.conv1."),
    (r"^(branches\.<\d>)\.layer1\.", r"\1.stages.0.layer1."),
    (r"^(branches\.<\d>)\.(?=layer[2-4]\.)", r"\1.stages.1."),
    (r"^conv_fuse_low\.", "fuse_low."),
    (r"^conv_opt_high\.", "reduce_high.<1>."),
    (r"^conv_sar_high\.", "reduce_high.<2>."),
    (r"^aspp\.image_pool\.1\.", "context.0.branches.0."),
    (r"^aspp\.aspp_modules\.(\d+)\.", lambda m: f"context.0.branches.{int(m[1]) + 1}."),
    (r"^aspp\.bottleneck\.", "context.1."),
    (r"^((?:fuse_low|reduce_high|context)\.(?:.*\.)?)conv\.", r"\g<1>0."),
    (r"^((?:fuse_low|reduce_high|context)\.(?:.*\.)?)bn\.", r"\g<1>1."),
)
_QUERY = re.compile(r"^mcam_(low|high)\.qkv_(opt|sar)\.conv_q\.conv\.(weight|bias)$")


def convert_reference_state_dict(
    state: Mapping[str, Tensor], modalities: Sequence[str] = ("optical", "sar")
) -> dict[str, Tensor]:
    """Rename weights of the re-implementation, CMCDNet's `mcanet.py`.

    It ends before the decoder, and has ResNets with a deep stem (resnet50c) of output stride 8.
    Normalisation statistics are not included: add those of the data.

    Args:
        state: Original names.
        modalities: Names of the optical and the SAR modality.
    """
    converted = {}
    for name, value in state.items():
        if found := _QUERY.match(name):
            triple = [state[name.replace("conv_q", f"conv_{part}")] for part in "qkv"]
            index = ("opt", "sar").index(found[2])
            converted[f"{found[1]}_attention.qkv.{index}.{found[3]}"] = torch.cat(triple)
        elif not name.startswith("mcam_"):
            converted[rename(name, _RENAMES, modalities)] = value
    return converted
