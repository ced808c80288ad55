"""The light Hamburger decoder: global context by low-rank matrix factorisation.

Reference: Geng, Guo, Chen, Li, Wei, Lin: Is attention better than matrix decomposition?, ICLR 2021,
arXiv 2109.04553; as a light decoder: Guo et al.: SegNeXt, NeurIPS 2022, arXiv 2209.08575.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.layers import (
    ConvNorm,
    ConvNormAct,
    NormName,
    full_precision,
    resize,
    size_of,
)
from terrafuse.errors import ModelError

_EPS = 1e-6


def factorize(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """Non-negative approximation of low rank, X ≈ B Cᵀ, by multiplicative updates.

    C starts as softmax(Xᵀ B), and in every step, with ⊙ and / elementwise,

        C ← C ⊙ Xᵀ B / (C Bᵀ B + ε)        B ← B ⊙ X C / (B Cᵀ C + ε)

    and C once more at the end. Gradients flow through all steps.

    Args:
        x: Non-negative (N, D, L).
        bases: Initial B, non-negative, of unit length over D (N, D, R).

    Returns:
        B Cᵀ (N, D, L).

    Reference:
        Lee and Seung: Learning the parts of objects by non-negative matrix factorization, Nature
        401, 1999.
    """
    transposed = x.transpose(1, 2)  # (N, L, D)
    coefficients = (transposed @ bases).softmax(dim=-1)  # (N, L, R)

    def refine(coefficients: Tensor, bases: Tensor) -> Tensor:
        below = coefficients @ (bases.transpose(1, 2) @ bases) + _EPS
        return coefficients * (transposed @ bases) / below

    for _ in range(steps):
        coefficients = refine(coefficients, bases)
        below = bases @ (coefficients.transpose(1, 2) @ coefficients) + _EPS
        bases = bases * (x @ coefficients) / below
    return bases @ refine(coefficients, bases).transpose(1, 2)


class HamburgerDecoder(nn.Module):
    """Levels → logits: resized to the finest, concatenated, with context by factorisation.

    The published code redraws initial bases for every batch, even in evaluation, so that the same
    image gets different scores each time. Here evaluation always starts from the same bases, which
    are saved with the weights; in training they are drawn for every sample.

    Args:
        level_channels: Channels per level, fine → coarse.
        num_classes: K.
        channels: Width before the classifier.
        ham_channels: D, channels that are factorised.
        rank: R.
        train_steps: Steps of the factorisation in training.
        eval_steps: Steps in evaluation.
        dropout: Share of channels dropped before the classifier.
        norm: Norm after convolutions.

    Raises:
        ModelError: Sizes or steps below 1.
    """

    bases: Tensor

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        ham_channels: int = 512,
        rank: int = 64,
        train_steps: int = 6,
        eval_steps: int = 7,
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        if min(channels, ham_channels, rank, train_steps, eval_steps) < 1:
            raise ModelError(
                f"decoder 'hamburger' cannot have channels {channels}, ham_channels "
                f"{ham_channels}, rank {rank}, train_steps {train_steps}, eval_steps {eval_steps}; "
                "each must be at least 1"
            )
        self.train_steps, self.eval_steps = train_steps, eval_steps
        self.squeeze = ConvNormAct(sum(level_channels), ham_channels, kernel_size=1, norm=norm)
        self.enter = nn.Conv2d(ham_channels, ham_channels, kernel_size=1)
        nn.init.zeros_(self.enter.bias)  # type: ignore[arg-type]  # has one
        self.leave = ConvNorm(ham_channels, ham_channels, kernel_size=1, norm=norm)
        self.align = ConvNormAct(ham_channels, channels, kernel_size=1, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.register_buffer("bases", first_bases(ham_channels, rank))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the finest level's size."""
        size = size_of(levels[0])
        x = self.squeeze(torch.cat([resize(level, size) for level in levels], dim=1))
        x = F.relu(x + self.leave(self._context(F.relu(self.enter(x)))))
        logits: Tensor = self.classifier(self.dropout(self.align(x)))
        return logits

    def _context(self, x: Tensor) -> Tensor:
        """Low-rank part of a non-negative map (N, D, H, W)."""
        bases = self.bases.expand(x.shape[0], -1, -1)  # (N, D, R)
        if self.training:
            bases = F.normalize(torch.rand_like(bases), dim=1)
        steps = self.train_steps if self.training else self.eval_steps
        with full_precision(x):  # ratios of sums over all pixels
            return factorize(x.float().flatten(2), bases, steps).view(x.shape)


def first_bases(channels: int, rank: int) -> Tensor:
    """Initial bases of evaluation: fixed noise of unit length over D (D, R)."""
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(channels, rank, generator=generator, device="cpu")
    return F.normalize(noise, dim=0).to(torch.get_default_device())


_NAMES = {
    "squeeze.conv.": "squeeze.0.",
    "squeeze.bn.": "squeeze.1.",
    "hamburger.ham_in.conv.": "enter.",
    "hamburger.ham_out.conv.": "leave.0.",
    "hamburger.ham_out.bn.": "leave.1.",
    "align.conv.": "align.0.",
    "align.bn.": "align.1.",
    "conv_seg.": "classifier.",
}


def convert_hamburger_state_dict(state: Mapping[str, Tensor], rank: int = 64) -> dict[str, Tensor]:
    """Rename weights of the published decoder.

    Args:
        state: Names of the published code ("squeeze.conv.weight" …). Others are kept, for
            `load_strict` to report.
        rank: R of our bases, which the published code does not have.
    """
    converted = {}
    for name, value in state.items():
        for old, new in _NAMES.items():
            if name.startswith(old):
                name = name.replace(old, new, 1)
                break
        converted[name] = value
    if "enter.weight" in converted:
        converted["bases"] = first_bases(len(converted["enter.weight"]), rank)
    return converted
