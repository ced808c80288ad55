"""UPSeg's interaction between token streams: each offers to the others what is unique to it.

Reference: Sun, Xu, Jiang, Yang, Xia: "UPSeg: Unleashing the power of multi-modal synergy in remote
sensing semantic segmentation", Acta Aeronautica et Astronautica Sinica 47(10), 2026, 532910, DOI
10.7527/S1000-6893.2025.32910.

A reconstruction, not the authors' code, which is not public. Known [K] are the name of the
Variance Enhancement Module ("VEM"), that it uses cross-modal attention to bring out what is
distinctive in each modality, and that features of one modality guide another's in both directions
within a foundation model. That the guidance takes the form of visual prompts is inferred [I] from
the keywords. Every formula, size and initial value in this package is a choice of the
reconstruction [R].

In the formulas m is the host, n ≠ m are its guests, X_m (N, L_m, D) tokens of m, LN a layer norm.
Tokens without data never serve as keys, hints or predictors (`terrafuse.methods.upseg.tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from terrafuse.methods.upseg.prompts import (
    AlignedPrompt,
    PromptGenerator,
    PromptSettings,
    SummaryPrompts,
)
from terrafuse.methods.upseg.tokens import TokenMap
from terrafuse.methods.upseg.variance import VarianceEnhancement, VarianceSettings


@dataclass(frozen=True)
class Guidance:
    """Guidance between the modalities of a batch at one point of the network.

    Args:
        hints: Per modality, hint added to its patch tokens (N, L, D); None where it gets none.
        prompts: Per modality, prompts that it offers; empty without a prefix.
        senders: Per modality, positions of those that guide it.
        losses: Losses of the predictors.
    """

    hints: list[Tensor | None]
    prompts: list[TokenMap]
    senders: tuple[tuple[int, ...], ...]
    losses: list[Tensor]


class SynergySite(nn.Module):
    """One point where streams interact; all modalities and directions share its parameters.

    Args:
        embed_dim: D.
        num_modalities: M.
    """

    def __init__(
        self,
        embed_dim: int,
        num_modalities: int,
        variance: VarianceSettings,
        prompt: PromptSettings,
    ) -> None:
        super().__init__()
        self.variance = VarianceEnhancement(embed_dim, variance)
        generator = SummaryPrompts if prompt.kind == "summary" else PromptGenerator
        self.prompt = generator(embed_dim, num_modalities, prompt) if prompt.has_prefix else None
        self.aligned = AlignedPrompt(embed_dim, prompt.align_dim) if prompt.has_hint else None

    def forward(
        self,
        maps: Sequence[TokenMap],
        indices: Sequence[int],
        senders: tuple[tuple[int, ...], ...],
    ) -> Guidance:
        """Compute hints and prompts.

        Args:
            maps: X per modality of the batch.
            indices: Index of the modality of each map.
            senders: Per host, positions in `maps` of those that guide it.
        """
        uniques, losses = self.variance(maps)
        hints: list[Tensor | None] = [None] * len(maps)
        if self.aligned is not None:
            for host, heard in enumerate(senders):
                if heard:
                    guests = [uniques[n] for n in heard]
                    hints[host] = self.aligned.hint(guests, maps[host].grid)
        prompts = []
        if self.prompt is not None:
            prompts = [self.prompt(u, i) for u, i in zip(uniques, indices, strict=True)]
        return Guidance(hints, prompts, senders, losses)
