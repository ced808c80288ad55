"""Fusion of token streams in UPSeg's reconstruction [R].

At a position where some modality has data, those without have weight 0. Where none has, all
modalities present in the sample contribute, so that a single modality passes unchanged; in samples
without any data the result is 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from terrafuse.methods.upseg.tokens import TokenMap, mean_at, resize_tokens
from terrafuse.methods.upseg.variance import VarianceEnhancement, VarianceSettings


class StreamFusion(nn.Module, ABC):
    """Tokens of the modalities present → one set of tokens.

    Args:
        num_modalities: M.
        embed_dim: D.
        variance: Settings of the VEM, for fusions that have one.
    """

    #: Whether a single modality passes through unchanged.
    is_mean: ClassVar[bool] = True

    def __init__(self, num_modalities: int, embed_dim: int, variance: VarianceSettings) -> None:
        super().__init__()
        del variance
        self.num_modalities = num_modalities
        self.embed_dim = embed_dim

    def forward(
        self, maps: Sequence[TokenMap], indices: Sequence[int], grid: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Fuse tokens.

        Args:
            maps: X per modality of the batch, on any grids over the same ground.
            indices: Index of the modality of each map.
            grid: Grid of the result.

        Returns:
            F (N, L, D), and losses of a VEM if there is one.
        """
        there = [resize_tokens(x, grid) for x in maps]
        mask = take_part(there)
        if len(there) == 1 and self.is_mean:
            x = there[0].values
            return (x if mask is None else torch.where(mask[:, 0].unsqueeze(2), x, 0.0)), []
        return self.fuse(there, indices, mask)

    @abstractmethod
    def fuse(
        self, maps: Sequence[TokenMap], indices: Sequence[int], mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Fuse maps on one grid to F and losses; `mask`, bool (N, M, L), selects contributors."""


class MeanStreams(StreamFusion):
    """Plain mean: F = Σ X_m / M."""

    def fuse(
        self,
        maps: Sequence[TokenMap],
        indices: Sequence[int],  # noqa: ARG002
        mask: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Mean (N, L, D)."""
        values = torch.stack([x.values for x in maps], dim=1)  # (N, M, L, D)
        return _weigh(values, values.new_zeros(values.shape[:3]), mask), []


class GatedMeanStreams(StreamFusion):
    """A mean with learned weights: F = Σ softmax_m(w · LN(X_m) + b + b_m) X_m.

    w, b and b_m start at 0, so that training starts from the mean. b alone has no effect; it would
    serve a modality without a b_m of its own.
    """

    def __init__(self, num_modalities: int, embed_dim: int, variance: VarianceSettings) -> None:
        super().__init__(num_modalities, embed_dim, variance)
        self.norm = nn.LayerNorm(embed_dim)
        self.score = nn.Linear(embed_dim, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.modality_bias = nn.Parameter(torch.zeros(num_modalities))

    def fuse(
        self, maps: Sequence[TokenMap], indices: Sequence[int], mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Gated mean (N, L, D)."""
        values = torch.stack([x.values for x in maps], dim=1)  # (N, M, L, D)
        bias = self.modality_bias[list(indices)].unsqueeze(1)  # (M, 1)
        scores = self.score(self.norm(values)).squeeze(3) + bias
        return _weigh(values, scores, mask), []


class ConcatStreams(StreamFusion):
    """A linear layer over all modalities, initialised as their mean; absent ones are 0.

    It is tied to its modalities, and absent ones pull the result towards 0: a control, since many
    published tables use it.
    """

    is_mean = False

    def __init__(self, num_modalities: int, embed_dim: int, variance: VarianceSettings) -> None:
        super().__init__(num_modalities, embed_dim, variance)
        self.linear = nn.Linear(num_modalities * embed_dim, embed_dim)
        start = torch.eye(embed_dim).repeat(1, num_modalities) / num_modalities
        with torch.no_grad():
            self.linear.weight.copy_(start)
            self.linear.bias.zero_()

    def fuse(
        self, maps: Sequence[TokenMap], indices: Sequence[int], mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Linear combination (N, L, D)."""
        by_index = [torch.zeros_like(maps[0].values)] * self.num_modalities
        for position, (index, x) in enumerate(zip(indices, maps, strict=True)):
            part = None if mask is None else mask[:, position].unsqueeze(2)
            by_index[index] = x.values if part is None else torch.where(part, x.values, 0.0)
        result: Tensor = self.linear(torch.cat(by_index, dim=2))
        return result, []


class UniqueMeanStreams(MeanStreams):
    """Mean plus what is unique: F = mean_m X_m + W mean_m U_m, with W = 0 at the start.

    U comes from a VEM of its own. Without interaction in the encoder, it shows whether unique
    parts alone, without further encoding, explain a gain.
    """

    def __init__(self, num_modalities: int, embed_dim: int, variance: VarianceSettings) -> None:
        super().__init__(num_modalities, embed_dim, variance)
        self.variance = VarianceEnhancement(embed_dim, variance)
        self.linear = nn.Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def fuse(
        self, maps: Sequence[TokenMap], indices: Sequence[int], mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Mean with unique parts (N, L, D); the plain mean in samples with one modality."""
        mean, _ = super().fuse(maps, indices, mask)
        uniques, losses = self.variance(maps)
        added = self.linear(mean_at(uniques, maps[0].grid).values)
        if mask is not None:
            several = (mask.any(dim=2).sum(dim=1) > 1)[:, None, None]
            added = torch.where(several, added, 0.0)
        return mean + added, losses


def take_part(maps: Sequence[TokenMap]) -> Tensor | None:
    """Select the modalities that contribute at each position, bool (N, M, L); None = all."""
    if all(x.seen is None for x in maps):
        return None
    seen = torch.stack(
        [
            x.values.new_ones(x.values.shape[:2], dtype=torch.bool) if x.seen is None else x.seen
            for x in maps
        ],
        dim=1,
    )
    in_sample = seen.any(dim=2, keepdim=True).expand_as(seen)
    some = seen.any(dim=1, keepdim=True)
    return (some & seen) | (~some & in_sample)  # `where`, which ONNX Runtime lacks for masks


def _weigh(values: Tensor, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Σ softmax_m(scores) X_m over contributors: (N, M, L, D), (N, M, L) → (N, L, D)."""
    if mask is None:
        return (scores.softmax(dim=1).unsqueeze(3) * values).sum(dim=1)
    nobody = ~mask.any(dim=1, keepdim=True)
    shares = scores.masked_fill(~mask & ~nobody, -torch.inf).softmax(dim=1)
    shares = torch.where(mask, shares, 0.0).unsqueeze(3)
    return (shares * values).sum(dim=1)


#: Every fusion of streams by its name.
STREAM_FUSIONS: Mapping[str, type[StreamFusion]] = {
    "gated_mean": GatedMeanStreams,
    "mean": MeanStreams,
    "concat1x1": ConcatStreams,
    "mean_unique": UniqueMeanStreams,
}
