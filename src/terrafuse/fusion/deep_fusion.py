"""The Deep Fusion Module of MFNet: pyramids from single maps, fused level by level by gates.

Reference: Ma, Zhang, Pun, Huang: A unified framework with multimodal fine-tuning for remote
sensing semantic segmentation, IEEE TGRS 63, 2025, DOI 10.1109/TGRS.2025.3585238, arXiv 2410.11160
("DFM"). Gates: Hu, Shen, Sun: Squeeze-and-excitation networks, CVPR 2018, arXiv
1709.01507.

The paper has two modalities; here N ≥ 1 are allowed. Each has its own pyramid and gates, and the
gated maps are summed, which for two equals the paper. Absent modalities contribute nothing, as with
every fusion in `terrafuse.fusion.levels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import UnknownNameError, unknown_name
from terrafuse.fusion.levels import pool_validity
from terrafuse.weights import Rename, rename

PyramidNorms = Literal["published", "layer", "batch"]

_LAYER_NORM_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised map (N, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeaturePyramid(nn.Module):
    """One map → four levels with the same channels: 4, 2, 1 and ½ times its size.

    Args:
        channels: C.
        norm: Norm between the two steps of the finest level.
    """

    def __init__(self, channels: int, *, norm: Literal["layer", "batch"] = "layer") -> None:
        super().__init__()
        normalise: nn.Module
        if norm == "layer":
            normalise = LayerNorm2d(channels, eps=_LAYER_NORM_EPS)
        else:
            normalise = nn.BatchNorm2d(channels)
        self.up4 = nn.Sequential(_double(channels), normalise, nn.GELU(), _double(channels))
        self.up2 = _double(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, C, h, w) → (N, C, 4h, 4w), (N, C, 2h, 2w), (N, C, h, w), (N, C, ⌊h/2⌋, ⌊w/2⌋).

        The coarsest has at least one pixel.
        """
        height, width = x.shape[-2:]
        return [self.up4(x), self.up2(x), x, F.max_pool2d(x, (min(height, 2), min(width, 2)))]


class SqueezeExcitationFusion(nn.Module):
    """Maps of several modalities → one: y = Σ s_m ⊙ x_m with a gate s_m per channel and modality.

    s_m = sigmoid(W₂ relu(W₁ mean(x_m) + b₁) + b₂), where the mean runs over the pixels. With
    validity v_m, y = Σ s_m ⊙ v_m x_m, and v_m weights the mean.

    Args:
        channels: C.
        reduction: C divided by the gate's hidden channels (at least 1).
    """

    def __init__(self, channels: int, num_modalities: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, hidden, kernel_size=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, channels, kernel_size=1),
            )
            for _ in range(num_modalities)
        )

    def forward(self, maps: Sequence[Tensor], validity: Sequence[Tensor] | None = None) -> Tensor:
        """Fuse the maps of all modalities to (N, C, h, w).

        Args:
            maps: Per modality (N, C, h, w).
            validity: Per modality (N, 1, h, w) in [0, 1]; None where everything is valid.
        """
        if validity is None:
            means = [x.mean(dim=(-2, -1), keepdim=True) for x in maps]  # (N, C, 1, 1)
        else:
            # `where`, not a product: maps of an absent modality may not even be finite.
            maps = [
                torch.where(v > 0, x * v.to(x.dtype), 0.0)
                for x, v in zip(maps, validity, strict=True)
            ]
            means = [_weighted_mean(x, v) for x, v in zip(maps, validity, strict=True)]
        gated = [
            gate(mean).sigmoid() * x for gate, mean, x in zip(self.gates, means, maps, strict=True)
        ]
        fused: Tensor = sum(gated[1:], gated[0])
        return fused


class LevelSqueezeFusion(nn.Module):
    """A `SqueezeExcitationFusion` per level, for modalities that already have levels.

    Args:
        level_channels: Channels per level.
        reduction: See `SqueezeExcitationFusion`.
    """

    def __init__(
        self, level_channels: Sequence[int], num_modalities: int, *, reduction: int = 16
    ) -> None:
        super().__init__()
        self.channels = tuple(level_channels)
        self.fusions = nn.ModuleList(
            SqueezeExcitationFusion(c, num_modalities, reduction=reduction) for c in self.channels
        )

    def forward(
        self, levels: Sequence[Sequence[Tensor]], valid: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Fuse the levels of all modalities.

        Args:
            levels: Per modality, its levels (N, C_l, h_l, w_l), equal in size.
            valid: Per modality, bool or [0, 1] (N, 1, H, W) of any size over the same ground;
                None where everything is valid.

        Returns:
            Per level (N, C_l, h_l, w_l).
        """
        fused = []
        for fusion, *maps in zip(self.fusions, *levels, strict=True):
            size = (maps[0].shape[-2], maps[0].shape[-1])
            validity = None if valid is None else [pool_validity(v, size) for v in valid]
            fused.append(fusion(maps, validity))
        return fused


class DeepFusion(nn.Module):
    """One map per modality → four fused levels ("DFM").

    Args:
        channels: C of every map and level.
        reduction: See `SqueezeExcitationFusion`.
        norms: Norm in the finest level of each pyramid. "published": layer norm for the first
            modality, batch norm for all others; "layer" or "batch": the same for all.

    Attributes:
        channels: Channels per level, fine → coarse.
        relative_strides: Stride of each level divided by that of the maps.

    Raises:
        UnknownNameError: No such `norms`.
    """

    relative_strides = (0.25, 0.5, 1.0, 2.0)

    def __init__(
        self,
        channels: int,
        num_modalities: int,
        *,
        reduction: int = 16,
        norms: PyramidNorms = "published",
    ) -> None:
        super().__init__()
        self.channels = (channels,) * len(self.relative_strides)
        self.pyramids = nn.ModuleList(
            FeaturePyramid(channels, norm=_norm_of(index, norms)) for index in range(num_modalities)
        )
        self.fusion = LevelSqueezeFusion(self.channels, num_modalities, reduction=reduction)

    def forward(
        self, maps: Sequence[Tensor], valid: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Fused levels, fine → coarse.

        Args:
            maps: Per modality (N, C, h, w).
            valid: Per modality, bool or [0, 1] (N, 1, H, W) of any size over the same ground;
                None where everything is valid.

        Returns:
            (N, C, 4h, 4w), (N, C, 2h, 2w), (N, C, h, w), (N, C, ⌊h/2⌋, ⌊w/2⌋); the last has at
            least one pixel.
        """
        levels = [pyramid(x) for pyramid, x in zip(self.pyramids, maps, strict=True)]
        fused: list[Tensor] = self.fusion(levels, valid)
        return fused


def _double(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


def _norm_of(index: int, norms: PyramidNorms) -> Literal["layer", "batch"]:
    if norms not in get_args(PyramidNorms):
        raise UnknownNameError(unknown_name("choice of norms", norms, get_args(PyramidNorms)))
    if norms == "published":
        return "layer" if index == 0 else "batch"
    return norms


def _weighted_mean(weighted: Tensor, weights: Tensor) -> Tensor:
    """Mean of already weighted values, (N, C, 1, 1); 0 where all weights are 0."""
    total = weights.mean(dim=(-2, -1), keepdim=True).to(weighted.dtype)
    return weighted.mean(dim=(-2, -1), keepdim=True) / torch.where(total > 0, total, 1.0)


#: Original names → ours. x is the optical image, y the surface model.
_MODALITY = {"x": 0, "y": 1, "rgb": 0, "depth": 1}
_RENAMES: tuple[Rename, ...] = (
    (r"^fpn1([xy])\.1\.ln\.", r"fpn1\1.1."),
    (r"^fpn1([xy])\.", lambda m: f"pyramids.{_MODALITY[m[1]]}.up4."),
    (r"^fpn2([xy])\.0\.", lambda m: f"pyramids.{_MODALITY[m[1]]}.up2."),
    (
        r"^fusion([1-4])\.se_(rgb|depth)\.fc\.",
        lambda m: f"fusion.fusions.{int(m[1]) - 1}.gates.{_MODALITY[m[2]]}.",
    ),
)


def convert_deep_fusion_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original pyramids and gates, for two modalities.

    Args:
        state: Original names, "fpn1x.0.weight" … "fusion4.se_depth.fc.2.bias". An unknown name is
            kept, for `load_strict` to report.
    """
    return {rename(name, _RENAMES): value for name, value in state.items()}
