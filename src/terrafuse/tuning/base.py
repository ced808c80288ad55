"""Common parts of tunings that add parameters, for modalities side by side in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.tracing import parts_of_batch


class TunedModule(nn.Module):
    """A pretrained module with trainable parameters around it.

    Tokens of several modalities pass through the pretrained module as one batch, one modality
    after the other: of M · N samples the first N belong to the first modality. Attention, windows
    and everything else that works per sample keeps this order, so any layer can separate the
    modalities by splitting its first dimension into M parts.

    Args:
        base: The pretrained module; its parameters do not count as added.
        num_modalities: M.
    """

    def __init__(self, base: nn.Module, num_modalities: int) -> None:
        super().__init__()
        self.base = base
        self.num_modalities = num_modalities

    def merged(self) -> nn.Module | None:
        """Return a plain module with the same output; None if there is none."""
        return None


class ModalityGate(nn.Module):
    """Gates that mix each modality's own part with the others'.

    With one trained w_m per modality, out_m = w_m · part_m + (1 − w_m) · mean of the other parts.
    w_m starts as 1/M, which treats all alike. For two modalities this is the paper's gating; for
    one there is nothing to mix and no parameter.

    Reference: Ma et al., "A unified framework with multimodal fine-tuning for remote sensing
    semantic segmentation", IEEE TGRS 63, 2025 (two modalities).

    Args:
        num_modalities: M.
    """

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        if num_modalities > 1:
            self.own = nn.Parameter(torch.full((num_modalities,), 1 / num_modalities))

    def shares(self) -> Tensor:
        """Share of each part (column) in a modality's mixture (row), (M, M); rows sum to 1."""
        others = (1 - self.own) / (len(self.own) - 1)
        own = torch.eye(len(self.own), dtype=torch.bool, device=self.own.device)
        return torch.where(own, self.own[:, None], others[:, None])

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Mix the parts, one per modality."""
        if len(parts) == 1:
            return list(parts)
        together = torch.stack(list(parts))  # (M, …)
        shares = self.shares().to(together.dtype)
        return list(torch.einsum("mk,k...->m...", shares, together).unbind(0))


def apply_by_modality(modules: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Run each modality's part of a batch (M · N, …) through its own module."""
    return [
        module(part) for module, part in zip(modules, parts_of_batch(x, len(modules)), strict=True)
    ]
