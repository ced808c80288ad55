"""Low-rank updates of the direction of weights, with trained magnitudes (DoRA).

Reference: Liu et al., "DoRA: Weight-decomposed low-rank adaptation", ICML 2024, arXiv 2402.09353,
equation 5; as recommended there (section 4.3) no gradient flows through the norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.tuning.lora import (
    DEFAULT_TARGETS,
    LoRALinear,
    check_rank,
    linear_in,
    replace_layer,
)
from terrafuse.tuning.targets import Target, find_layers


def dora(
    backbone: Backbone,
    num_modalities: int,
    *,
    rank: int = 4,
    alpha: float = 1.0,
    targets: tuple[Target, ...] = DEFAULT_TARGETS,
) -> None:
    """Add DoRA to linear layers of every block; the output is unchanged at the start.

    Args:
        backbone: Changed in place.
        num_modalities: M; every modality has updates of its own, which do not mix.
        rank: r.
        alpha: Updates are scaled by alpha / r.
        targets: Layers to update: "q", "k", "v" (or "qkv") and "proj" of the attention, "mlp".

    Raises:
        ModelError: The backbone has no transformer blocks, or a value is not allowed.
    """
    check_rank("dora", rank, alpha, targets)
    for _, place in find_layers(backbone, "dora", targets):
        layer = DoRALinear(
            place.layer, num_modalities, rank=rank, scale=alpha / rank, rows=place.rows
        )
        replace_layer(place, layer)


class DoRALinear(LoRALinear):
    """m · (W + s · B A) / ‖W + s · B A‖ per output, with trained m that starts as ‖W‖.

    Args:
        base: The pretrained layer.
        num_modalities: M.
        rank: r.
        scale: s.
        rows: Updated outputs (first, last + 1), one or several parts of equal size.
    """

    def __init__(
        self,
        base: nn.Module,
        num_modalities: int,
        *,
        rank: int,
        scale: float,
        rows: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(base, num_modalities, rank=rank, scale=scale, rows=rows)
        lengths = linear_in(base).weight.detach().norm(dim=1)
        self.lengths = nn.ParameterList(
            lengths[first:last].repeat(num_modalities, 1)
            for first, last in self.rows  # (M, size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (M · N, …, D) → tokens (M · N, …, D')."""
        y = super().forward(x)
        offset = 0 if self.bias is None else self.bias.to(y.dtype)
        lengthened = (y - offset).view(self.num_modalities, -1, y.shape[-1]) * self._whole_factor()
        return lengthened.view(y.shape).to(y.dtype) + offset

    def _whole_factor(self) -> Tensor:
        """Factor of every output, 1 where not updated: (M, 1, D')."""
        factor = self.weight.new_ones(self.num_modalities, 1, len(self.weight))
        for (first, last), part in zip(self.rows, self._factors(), strict=True):
            factor = torch.cat([factor[..., :first], part, factor[..., last:]], dim=2)
        return factor

    def _factors(self) -> list[Tensor]:
        """Ratio of trained to actual length of the rows, per part (M, 1, size)."""
        found = []
        for (first, last), update, length in zip(
            self.rows, self.full_updates(), self.lengths, strict=True
        ):
            actual = (self.weight[first:last] + update).detach().norm(dim=2)  # (M, size)
            found.append((length / actual).unsqueeze(1))
        return found

    @torch.no_grad()
    def merged_weights(self) -> Tensor:
        """Merge updates and lengths into the weights of each modality, (M, D', D)."""
        weights = super().merged_weights()
        for (first, last), factor in zip(self.rows, self._factors(), strict=True):
            weights[:, first:last] *= factor.mT
        return weights
