"""Fusion of the maps of several modalities, level by level, weighted by validity.

In the formulas m runs over the modalities, x_m is a map (N, C, h, w) and v_m in [0, 1] its
validity (N, 1, h, w): the share of the pixel in which the modality has data. Where v_m = 0 the
modality contributes exactly nothing, whatever its map contains; where no modality has data, y = 0
before any bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import UnknownNameError, unknown_name
from terrafuse.tracing import has_symbols, pool_to, resize_traced, same_size


class MapFusion(nn.Module, ABC):
    """Maps of one level → one map.

    Args:
        num_modalities: M.
        channels: C, the same for all.
    """

    def __init__(self, num_modalities: int, channels: int) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.channels = channels

    @abstractmethod
    def forward(self, maps: Tensor, validity: Tensor) -> Tensor:
        """Fuse the maps to one.

        Args:
            maps: (N, M, C, h, w); 0 where the validity is 0.
            validity: (N, M, 1, h, w) in [0, 1].

        Returns:
            (N, C, h, w).
        """


class SumFusion(MapFusion):
    """Mean over the modalities present: y = Σ v_m x_m / Σ v_m."""

    def forward(self, maps: Tensor, validity: Tensor) -> Tensor:
        """Mean over the modalities (N, C, h, w)."""
        return (_shares(validity) * maps).sum(dim=1)


class ConcatFusion(MapFusion):
    """A linear layer over everything: y = W [v_1 x_1; …; v_M x_M; v_1; …; v_M] + b.

    The validities let it distinguish a missing modality from one with features of 0.
    """

    def __init__(self, num_modalities: int, channels: int) -> None:
        super().__init__(num_modalities, channels)
        self.linear = nn.Conv2d(num_modalities * (channels + 1), channels, kernel_size=1)

    def forward(self, maps: Tensor, validity: Tensor) -> Tensor:
        """Linear combination (N, C, h, w)."""
        result: Tensor = self.linear(_stack(maps, validity))
        return result


class GatedFusion(MapFusion):
    """A mean with learned weights per pixel: y = Σ g_m x_m.

    g_m = v_m exp(s_m) / Σ v_k exp(s_k) with s = W [v_1 x_1; …; v_M x_M; v_1; …; v_M] + b, (N, M,
    h, w). W and b start at 0, so that training starts from the mean.
    """

    def __init__(self, num_modalities: int, channels: int) -> None:
        super().__init__(num_modalities, channels)
        self.score = nn.Conv2d(num_modalities * (channels + 1), num_modalities, kernel_size=1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def gates(self, maps: Tensor, validity: Tensor) -> Tensor:
        """Weights g (N, M, 1, h, w), which sum to 1 where any modality has data, else to 0."""
        scores = self.score(_stack(maps, validity)).unsqueeze(2)  # (N, M, 1, h, w)
        # Only modalities present may set the scale of the exponentials, or all could vanish.
        present = scores.masked_fill(validity == 0, -torch.inf)
        top = present.amax(dim=1, keepdim=True).detach()
        top = torch.where(top.isfinite(), top, 0.0)
        return _shares(validity * (present - top).exp())

    def forward(self, maps: Tensor, validity: Tensor) -> Tensor:
        """Gated mean (N, C, h, w)."""
        return (self.gates(maps, validity) * maps).sum(dim=1)


class LevelFusion(nn.Module):
    """A `MapFusion` per level.

    Args:
        fusions: One per level, fine → coarse.
    """

    def __init__(self, fusions: Sequence[MapFusion]) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)

    def forward(
        self,
        levels: Sequence[Sequence[Tensor]],
        valid: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Tensor]:
        """Fuse the levels of all modalities.

        Args:
            levels: Per modality, its levels (N, C_l, H, W) of any size over the same ground.
            valid: Per modality, bool or [0, 1] (N, 1, H, W), likewise.
            sizes: Height and width of the fused levels; default: those of the first modality's.

        Returns:
            Per level (N, C_l, h_l, w_l).
        """
        sizes = sizes or [(x.shape[-2], x.shape[-1]) for x in levels[0]]
        fused = []
        for index, (fusion, size) in enumerate(zip(self.fusions, sizes, strict=True)):
            validity = torch.stack([pool_validity(v, size) for v in valid], dim=1)
            maps = torch.stack([resize_map(own[index], size) for own in levels], dim=1)
            # `where`, not a product: maps of an absent modality may not even be finite.
            maps = torch.where(validity > 0, maps, 0.0)  # (N, M, C, h, w)
            fused.append(fusion(maps, validity.to(maps.dtype)))
        return fused


def pool_validity(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the share of valid pixels in each pixel of a map of another size.

    Args:
        valid: Bool or [0, 1] (N, 1, H, W).
        size: Height and width of the map over the same ground.

    Returns:
        Float (N, 1, h, w) in [0, 1].
    """
    return pool_to(valid.float(), size)


def create_level_fusion(name: str, num_modalities: int, channels: Sequence[int]) -> LevelFusion:
    """Create a fusion by name, with one module per level.

    Args:
        name: One of `FUSIONS`.
        num_modalities: M.
        channels: Per level, fine → coarse.

    Raises:
        UnknownNameError: No such fusion.
    """
    if name not in FUSIONS:
        raise UnknownNameError(unknown_name("fusion", name, FUSIONS))
    return LevelFusion([FUSIONS[name](num_modalities, c) for c in channels])


def _stack(maps: Tensor, validity: Tensor) -> Tensor:
    return torch.cat([(validity * maps).flatten(1, 2), validity.squeeze(2)], dim=1)


def _shares(weights: Tensor) -> Tensor:
    total = weights.sum(dim=1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (N, C, H, W), with antialiasing where it shrinks."""
    if same_size(x.shape[-2:], size):
        return x
    if has_symbols(*x.shape[-2:], *size):
        return resize_traced(x, size)
    shrinks = size[0] < x.shape[-2] or size[1] < x.shape[-1]
    wide = x.float() if shrinks else x  # antialiasing lacks half precision on some devices
    resized = F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized.to(x.dtype)


#: Every fusion by its name.
FUSIONS: Mapping[str, type[MapFusion]] = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
}
