"""DeCUR's pre-training: features common to the sensors are aligned, unique ones decorrelated.

Reference: Wang, Albrecht, Ait Ali Braham, Liu, Xiong, Zhu: "Decoupling common and unique
representations for multimodal self-supervised learning", ECCV 2024, arXiv 2309.05300.
Cross-correlation as loss: Zbontar, Jing, Misra, LeCun, Deny: "Barlow twins", ICML 2021,
arXiv 2103.03230.

Own code, written from a description of the published code and equal to it for its two sensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import combinations

import torch
from torch import Tensor, distributed, nn

from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError


class DeCURPretraining(nn.Module):
    """A loss per sensor and one per pair of sensors, on two views of each.

    Args:
        backbones: Trained backbones, by sensor. Their last level, averaged, is projected.
        hidden: Hidden width of the projector.
        dim: Dimensions of an embedding.
        common: Number of dimensions common to the sensors, the first ones. The paper has 7/8 for
            radar and optical, 3/4 for RGB and elevation.
        off_weight: λ, weight of the off-diagonal elements.
        shared_projector: Whether one projector serves all sensors, as in the published code; the
            backbones' last levels then need equally many channels.

    Raises:
        ModelError: Invalid options.
    """

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        *,
        hidden: int = 8192,
        dim: int = 8192,
        common: int = 7168,
        off_weight: float = 0.0051,
        shared_projector: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < common <= dim:
            raise ModelError(f"option 'common' is {common}; allowed are 1 to {dim} dimensions")
        widths = {name: backbone.channels[-1] for name, backbone in backbones.items()}
        if shared_projector and len(set(widths.values())) > 1:
            raise ModelError(
                f"one projector cannot serve backbones of different widths ({widths}); set "
                "shared_projector to false"
            )
        self.backbones = nn.ModuleDict(backbones)
        self.common, self.off_weight = common, off_weight
        first = create_projector(next(iter(widths.values())), hidden, dim)
        self.projectors = nn.ModuleDict(
            {
                name: first if shared_projector or i == 0 else create_projector(width, hidden, dim)
                for i, (name, width) in enumerate(widths.items())
            }
        )
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, views: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Compute the losses of two views of each sensor.

        Args:
            views: By sensor, two images (N, C, H, W) of the same samples in the same order.

        Returns:
            A weighted loss per sensor and per pair ("sar", "sar+optical"); their sum is the loss.
        """
        embeddings = {name: [self.embed(name, view) for view in own] for name, own in views.items()}
        return self.losses(embeddings)

    def embed(self, name: str, image: Tensor) -> Tensor:
        """Embed images (N, C, H, W) of a sensor as vectors (N, d)."""
        pooled = self.backbones[name](image)[-1].mean(dim=(2, 3))
        embedding: Tensor = self.projectors[name](pooled)
        return embedding

    def losses(self, embeddings: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        """Compute the losses of embeddings (N, d) of both views, by sensor.

        With C the cross-correlation of two standardised embeddings over the batch, d its
        dimensions, K the common ones:

            per sensor            on(C, 1) + λ off(C)                  C of both views
            per pair of sensors   [on(C_K, 1) + λ off(C_K) + on(C_U, 0) + λ off(C_U)] / 2
            on(C, t) = Σ (t − C_ii)²,  off(C) = Σ_(i≠j) C_ij²

        C_K and C_U are the blocks of the first K and of the other dimensions, for first views;
        elements between the two blocks are ignored. All losses are divided by their number.
        """
        found = {}
        for name, (first, second) in embeddings.items():
            found[name] = self._draw_together(self.correlate(first, second))
        for one, other in combinations(embeddings, 2):
            matrix = self.correlate(embeddings[one][0], embeddings[other][0])
            block, rest = matrix[: self.common, : self.common], matrix[self.common :, self.common :]
            unique = self._draw_together(rest, target=0.0)
            found[f"{one}+{other}"] = (self._draw_together(block) + unique) / 2
        return {name: loss / len(found) for name, loss in found.items()}

    def correlate(self, a: Tensor, b: Tensor) -> Tensor:
        """Cross-correlation (d, d) of embeddings (N, d), over the batches of all processes."""
        samples = len(a)
        kind = a.device.type
        is_cast = torch.amp.is_autocast_available(kind)  # not for shapes without values
        with torch.autocast(kind, enabled=False) if is_cast else nullcontext():
            own: Tensor = self.norm(a.float()).T @ self.norm(b.float())
        if not (distributed.is_available() and distributed.is_initialized()):
            return own / samples
        total = own.detach().clone()
        distributed.all_reduce(total)
        # The sum's gradient reaches each process's own part, as in the published code.
        return (own + (total - own.detach())) / (samples * distributed.get_world_size())

    def _draw_together(self, matrix: Tensor, target: float = 1.0) -> Tensor:
        diagonal = matrix.diagonal()
        off = matrix.square().sum() - diagonal.square().sum()
        loss: Tensor = (diagonal - target).square().sum() + self.off_weight * off
        return loss


def create_projector(in_channels: int, hidden: int, dim: int) -> nn.Sequential:
    """Create a projector: three linear layers without bias, with norm and ReLU between them."""
    return nn.Sequential(
        nn.Linear(in_channels, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim, bias=False),
    )
