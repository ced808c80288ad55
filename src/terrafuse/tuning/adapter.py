"""Adapters: bottlenecks after the attention and parallel to the MLP of each block (MMAdapter).

Reference: Houlsby et al., "Parameter-efficient transfer learning for NLP", ICML 2019; for several
modalities Ma et al., "A unified framework with multimodal fine-tuning for remote sensing semantic
segmentation" (MFNet), IEEE TGRS 63, 2025, DOI 10.1109/TGRS.2025.3585238, figure 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError
from terrafuse.tuning.base import ModalityGate, TunedModule, apply_by_modality
from terrafuse.tuning.targets import find_blocks, linears_of_mlp, projection_of


def adapter(
    backbone: Backbone,
    num_modalities: int,
    *,
    ratio: float = 0.25,
    mlp: bool = True,
    mix: bool = True,
    zero_init: bool = False,
) -> None:
    """Add adapters to every block.

    Each modality has an adapter with a residual after the projection of the attention, and one
    without, parallel to the MLP, where modalities mix by gates. As published, adapters start from
    random values, so features differ from the pretrained ones from the start.

    Args:
        backbone: Changed in place.
        num_modalities: M.
        ratio: Width of the bottleneck relative to that of the tokens.
        mlp: Whether to add adapters parallel to the MLP.
        mix: Whether these mix modalities; if not, each modality has its own ("standard adapter").
        zero_init: Start neutral: adapters add nothing until the first step.

    Raises:
        ModelError: The backbone has no transformer blocks, or `ratio` leaves no width.
    """
    for block in find_blocks(backbone, "adapter"):
        projection = projection_of(block)
        if projection is not None:
            size = projection.rows[0][1]
            adapters = _adapters(num_modalities, size, ratio, zero_init)
            adapted = AdaptedProjection(projection.layer, adapters)
            setattr(projection.parent, projection.name, adapted)
        if mlp:
            size = linears_of_mlp(block)[-1].rows[0][1]
            adapters = _adapters(num_modalities, size, ratio, zero_init)
            block.mlp = AdaptedMlp(block.mlp, adapters, mix=mix)


class Adapter(nn.Module):
    """Bottleneck: linear, GELU, linear.

    Args:
        embed_dim: D.
        hidden: Width of the bottleneck.
        zero_init: Start with output 0.
    """

    def __init__(self, embed_dim: int, hidden: int, *, zero_init: bool = False) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, hidden)
        self.act = nn.GELU()
        self.up = nn.Linear(hidden, embed_dim)
        if zero_init:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (…, D) → tokens (…, D)."""
        result: Tensor = self.up(self.act(self.down(x)))
        return result


class AdaptedProjection(TunedModule):
    """y = projection(x), then y + adapter_m(y) for modality m.

    Args:
        base: Projection of the attention.
        adapters: One per modality.
    """

    def __init__(self, base: nn.Module, adapters: nn.ModuleList) -> None:
        super().__init__(base, len(adapters))
        self.adapters = adapters

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (M · N, …, D)."""
        y: Tensor = self.base(x)
        return y + torch.cat(apply_by_modality(self.adapters, y))


class AdaptedMlp(TunedModule):
    """MLP(x) + mixture of the modalities' adapters(x).

    Args:
        adapters: One per modality.
    """

    def __init__(self, base: nn.Module, adapters: nn.ModuleList, *, mix: bool) -> None:
        super().__init__(base, len(adapters))
        self.adapters = adapters
        self.mixing = ModalityGate(len(adapters)) if mix else None

    def forward(self, x: Tensor, *more: object) -> Tensor:
        """Tokens (M · N, …, D); further arguments go to the MLP."""
        parts = apply_by_modality(self.adapters, x)
        if self.mixing is not None:
            parts = self.mixing(parts)
        result: Tensor = self.base(x, *more) + torch.cat(parts)
        return result


def _adapters(count: int, embed_dim: int, ratio: float, zero_init: bool) -> nn.ModuleList:
    hidden = int(embed_dim * ratio)
    if hidden < 1:
        raise ModelError(
            f"option 'ratio' of tuning 'adapter' is {ratio:g}, which leaves adapters without width "
            f"({embed_dim} channels); it must be at least {1 / embed_dim:g}"
        )
    return nn.ModuleList(Adapter(embed_dim, hidden, zero_init=zero_init) for _ in range(count))
