"""Blocks of VSGNet: Fusion Enhancement, Feature Recalibration, and a scale built from both.

Reference: Pan et al., "Vision Foundation Model Guided Multimodal Fusion Network for Remote Sensing
Semantic Segmentation", IEEE JSTARS 18, 2025, DOI 10.1109/JSTARS.2025.3547880. Formulas are those of
the published code; docs/methods/vsgnet.md lists the differences and their reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.layers import NormName, full_precision
from terrafuse.errors import ModelError
from terrafuse.fusion import ChannelNorm, GuidedBlock, GuidedGate, PooledQueryAttention
from terrafuse.methods.parts import HalvingConv

SoftmaxName = Literal["sharpened", "plain"]
SpatialGateName = Literal["unbounded", "sigmoid"]

#: e^80 is well within float32, and a softmax of it equals the maximum to the last digit.
_LARGEST_EXPONENT = 80.0


class FusionEnhancement(nn.Module):
    """Global attention by pooled queries in parallel to a local gate, for both streams ("FE").

    Args:
        channels: C of both streams.
        num_heads: Heads of the attention; twice their number must divide C.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.norm_structure = ChannelNorm(channels)
        self.context = nn.Linear(channels, channels)
        self.attention = PooledQueryAttention(channels, channels, num_heads)
        self.gate = GuidedGate(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.project_structure = nn.Linear(channels, channels)

    def forward(self, x: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (N, H, W, C) → update of each (N, H, W, C)."""
        x, structure = self.norm(x), self.norm_structure(structure)
        found = self.attention(x, structure, F.gelu(self.context(x)))
        y = torch.cat([found, self.gate(x, structure)], dim=-1)  # (N, H, W, C)
        return self.project(y), self.project_structure(y)


class FeatureRecalibration(nn.Module):
    """Both streams of a scale, weighted per channel, then per pixel ("FR").

    Always in float32: gates are unbounded, and values grow with the square of the input.

    Args:
        channels: C of both streams.
        softmax: Weights of the pooling over pixels and channels: softmax(exp(a)), nearly the
            maximum, as published, or softmax(a).
        spatial_gate: Unbounded (published), or through a sigmoid.
        last: No scale follows, so that no structure stream is computed.
    """

    def __init__(
        self,
        channels: int,
        *,
        softmax: SoftmaxName = "sharpened",
        spatial_gate: SpatialGateName = "unbounded",
        last: bool = False,
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.spatial_gate = spatial_gate
        self.contents = nn.ModuleList(_mix(2 * channels, channels) for _ in range(2))
        # Two layers with nothing between them, effectively one linear map, as published.
        self.channel_gates = nn.ModuleList(
            nn.Sequential(_mix(channels, channels), _mix(channels, channels)) for _ in range(2)
        )
        self.projections = nn.ModuleList(
            _mix(2 * channels, channels) for _ in range(1 if last else 2)
        )

    def forward(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
        """Compute the streams of the next scale.

        Args:
            inputs: Image and structure at the input of the scale (N, C, H, W).
            outputs: Likewise after its last block.

        Returns:
            Image and, unless `last`, structure (N, C, H, W), float32.
        """
        with full_precision(inputs[0]):
            return self._recalibrate([x.float() for x in inputs], [x.float() for x in outputs])

    def _recalibrate(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
        both = torch.cat(list(inputs), dim=1)
        x, y = inputs
        gates = [
            gate(self._pool(content(both), (2, 3))).sigmoid()  # (N, C, 1, 1)
            for content, gate in zip(self.contents, self.channel_gates, strict=True)
        ]
        pixels = [self._pool(x * gates[0] + y, (1,)), self._pool(y * gates[1] + x, (1,))]
        if self.spatial_gate == "sigmoid":
            pixels = [p.sigmoid() for p in pixels]  # (N, 1, H, W)
        fused = torch.cat(
            [x * pixels[0] + y + outputs[0], y * pixels[1] + x + outputs[1]], dim=1
        )  # (N, 2C, H, W)
        return [project(fused) for project in self.projections]

    def _pool(self, a: Tensor, dims: tuple[int, ...]) -> Tensor:
        return pool_softly(a, dims, sharpened=self.softmax == "sharpened")


class Scale(nn.Module):
    """One of the four scales: downsampling, blocks with FE, one FR.

    Args:
        in_channels: C of the previous scale; None for the first, which has no downsampling.
        channels: C.
        norm: Norm before the downsampling.
    """

    def __init__(
        self,
        in_channels: int | None,
        channels: int,
        blocks: Sequence[GuidedBlock],
        recalibration: FeatureRecalibration,
        *,
        norm: NormName,
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        if in_channels is not None:
            self.down.extend(HalvingConv(in_channels, channels, norm=norm) for _ in range(2))
        self.blocks = nn.ModuleList(blocks)
        self.recalibration = recalibration

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Image and structure (N, C, H, W) of the previous scale → of this one."""
        if self.down:
            streams = [down(x) for down, x in zip(self.down, streams, strict=True)]
        x, structure = (stream.permute(0, 2, 3, 1) for stream in streams)  # (N, H, W, C)
        for block in self.blocks:
            x, structure = block(x, structure)
        outputs = [x.permute(0, 3, 1, 2), structure.permute(0, 3, 1, 2)]
        recalibrated: list[Tensor] = self.recalibration(streams, outputs)
        return recalibrated


def build_scales(
    channels: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratios: Sequence[int],
    *,
    drop_path_rate: float,
    layer_scale_init: float,
    softmax: SoftmaxName,
    spatial_gate: SpatialGateName,
    norm: NormName,
) -> nn.ModuleList:
    """Build all scales of a network, fine → coarse; arguments as in `VSGNet`.

    Raises:
        ModelError: The arguments are inconsistent.
    """
    _check_scales(channels, depths, num_heads, mlp_ratios, drop_path_rate)
    # On the CPU even if the model is built on the meta device: these are settings.
    rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
    scales = nn.ModuleList()
    for i, width in enumerate(channels):
        blocks = [
            GuidedBlock(
                FusionEnhancement(width, num_heads[i]),
                width,
                width,
                mlp_ratio=mlp_ratios[i],
                drop_path=next(rates),
                layer_scale_init=layer_scale_init,
            )
            for _ in range(depths[i])
        ]
        recalibration = FeatureRecalibration(
            width, softmax=softmax, spatial_gate=spatial_gate, last=i == len(channels) - 1
        )
        before = channels[i - 1] if i else None
        scales.append(Scale(before, width, blocks, recalibration, norm=norm))
    return scales


def pool_softly(a: Tensor, dims: tuple[int, ...], *, sharpened: bool) -> Tensor:
    """Σ S(a) a over `dims`, which stay with length 1; S is softmax(exp(a)), or softmax(a).

    exp(a) is not computed directly, since it overflows above 88.7: with m = max(a),

        softmax(exp(a)) = softmax(exp(a) − exp(m)) = softmax(exp(m) · expm1(a − m)),

    and exp(m) may be bounded, as above 80 all weight lies on the maximum anyway. The sum is taken
    over a − m. Equal values then have slope 1 / n each, whereas rounding of Σ S(a) a would be
    multiplied by exp(a) in the backward pass.

    Args:
        a: Float32 tensor.
        dims: Dimensions to pool, adjacent.
        sharpened: Whether S is softmax(exp(a)).
    """
    top = a.detach().amax(dims, keepdim=True)
    below = a - top
    logits = top.clamp(max=_LARGEST_EXPONENT).exp() * below.expm1() if sharpened else below
    weights = logits.flatten(dims[0], dims[-1]).softmax(dims[0]).view_as(a)
    return top + (weights * below).sum(dims, keepdim=True)


def _mix(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def _check_scales(
    channels: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratios: Sequence[int],
    drop_path_rate: float,
) -> None:
    if not channels or len({len(x) for x in (channels, depths, num_heads, mlp_ratios)}) > 1:
        raise ModelError(
            "options 'channels', 'depths', 'num_heads' and 'mlp_ratios' of method 'vsgnet' have "
            f"{len(channels)}, {len(depths)}, {len(num_heads)} and {len(mlp_ratios)} values; give "
            "one per scale"
        )
    if min(*channels, *depths, *mlp_ratios, 1) < 1:
        raise ModelError(
            f"options of method 'vsgnet' must be at least 1 per scale; got channels "
            f"{list(channels)}, depths {list(depths)}, mlp_ratios {list(mlp_ratios)}"
        )
    if not 0 <= drop_path_rate < 1:
        raise ModelError(
            f"option 'drop_path_rate' of method 'vsgnet' is {drop_path_rate:g}; allowed is 0 to "
            "less than 1"
        )
