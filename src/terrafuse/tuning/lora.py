"""Low-rank updates of linear layers (LoRA), for one modality or several (MMLoRA).

Reference: Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022; for several
modalities Ma et al., "A unified framework with multimodal fine-tuning for remote sensing semantic
segmentation" (MFNet), IEEE TGRS 63, 2025, DOI 10.1109/TGRS.2025.3585238, figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError
from terrafuse.tracing import parts_of_batch
from terrafuse.tuning.base import ModalityGate, TunedModule
from terrafuse.tuning.targets import Target, TargetLinear, find_layers

#: Queries, values and the MLP, as published for several modalities.
DEFAULT_TARGETS: tuple[Target, ...] = ("q", "v", "mlp")


def lora(
    backbone: Backbone,
    num_modalities: int,
    *,
    rank: int = 4,
    alpha: float = 1.0,
    targets: tuple[Target, ...] = DEFAULT_TARGETS,
    mix: bool = True,
) -> None:
    """Add low-rank updates to linear layers of every block; the output is unchanged at the start.

    Args:
        backbone: Changed in place.
        num_modalities: M; every modality has updates of its own.
        rank: r.
        alpha: Updates are scaled by alpha / r, except those of the MLP if they mix.
        targets: Layers to update: "q", "k", "v" and "proj" of the attention, "mlp". With "qkv"
            the three share one A where one layer computes them, as in most LoRA code.
        mix: Whether the MLP's updates mix modalities by gates. No effect with one modality, whose
            updates are all scaled.

    Raises:
        ModelError: The backbone has no transformer blocks, or a value is not allowed.
    """
    check_rank("lora", rank, alpha, targets)
    for block, place in find_layers(backbone, "lora", targets):
        is_mixed = mix and num_modalities > 1 and place.parent is not getattr(block, "attn", 0)
        layer = LoRALinear(
            place.layer,
            num_modalities,
            rank=rank,
            scale=1.0 if is_mixed else alpha / rank,
            rows=place.rows,
            mix=is_mixed,
        )
        replace_layer(place, layer)


class LoRALinear(TunedModule):
    """A linear layer plus s · B A x, with A and B per modality.

    Args:
        base: The pretrained layer, or one already tuned.
        num_modalities: M.
        rank: r.
        scale: s.
        rows: Updated outputs (first, last + 1), one or several parts of equal size.
        mix: Whether to mix modalities by a `ModalityGate`.
    """

    def __init__(
        self,
        base: nn.Module,
        num_modalities: int,
        *,
        rank: int,
        scale: float,
        rows: Sequence[tuple[int, int]],
        mix: bool = False,
    ) -> None:
        super().__init__(base, num_modalities)
        if isinstance(base, LoRALinear):
            raise ModelError("two low-rank tunings cannot share a layer; choose lora or dora")
        linear = linear_in(base)
        self.rows = tuple(rows)
        self.scale = scale
        parts, size = len(self.rows), self.rows[0][1] - self.rows[0][0]
        self.down = nn.Parameter(
            linear.weight.new_empty(num_modalities, parts * rank, linear.in_features)
        )
        self.up = nn.Parameter(linear.weight.new_zeros(num_modalities, parts * size, rank))
        for modality in self.down:
            nn.init.kaiming_uniform_(modality, a=sqrt(5))
        self.mixing = ModalityGate(num_modalities) if mix else None

    @property
    def weight(self) -> Tensor:
        """Weight of the pretrained layer, for models that read it."""
        return linear_in(self.base).weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the pretrained layer."""
        return linear_in(self.base).bias

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (M · N, …, D) → tokens (M · N, …, D')."""
        y: Tensor = self.base(x)
        low = x.reshape(self.num_modalities, -1, x.shape[-1]) @ self.down.to(x.dtype).mT
        low = low * self.scale  # (M, L, parts · r)
        up = self._whole_up().to(y.dtype)  # (M, D', parts · r)
        if self.mixing is not None:
            low, up = _mixed(low, up, self.mixing.shares().to(low.dtype))
        # One fused product: in-place changes to parts of y would copy it in the backward pass.
        flat = y.reshape(self.num_modalities, -1, y.shape[-1])  # (M, L, D')
        return torch.baddbmm(flat, low.to(y.dtype), up.mT).view(y.shape)

    def _whole_up(self) -> Tensor:
        """B of all parts for all outputs, 0 elsewhere: (M, D', parts · r)."""
        outputs, parts = linear_in(self.base).out_features, len(self.rows)
        if parts == 1 and self.rows[0] == (0, outputs):
            return self.up
        rank = self.up.shape[2]
        placed = [
            F.pad(up, (i * rank, (parts - 1 - i) * rank, first, outputs - last))
            for i, ((first, last), up) in enumerate(
                zip(self.rows, self.up.chunk(parts, dim=1), strict=True)
            )
        ]
        whole: Tensor = sum(placed[1:], placed[0])
        return whole

    def full_updates(self) -> list[Tensor]:
        """Compute the updates s · B A, per part of the output (M, size, D)."""
        parts = len(self.rows)
        pairs = zip(self.up.chunk(parts, dim=1), self.down.chunk(parts, dim=1), strict=True)
        return [self.scale * b @ a for b, a in pairs]

    def merged(self) -> nn.Module | None:
        """Return linear layers with merged updates; None where modalities mix.

        A mixed update depends on the other modalities' tokens, so no weight can represent it.
        """
        if self.mixing is not None or not isinstance(self.base, nn.Linear):
            return None
        return ModalityLinear.of(self.merged_weights(), self.base.bias)

    @torch.no_grad()
    def merged_weights(self) -> Tensor:
        """Merge the updates into the weights of each modality, (M, D', D)."""
        weights = self.weight.expand(self.num_modalities, -1, -1).clone()
        for (first, last), update in zip(self.rows, self.full_updates(), strict=True):
            weights[:, first:last] += update
        return weights


def _mixed(low: Tensor, up: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Factors whose product is the mixture: Σ_k share_mk B_k A_k x_k.

    Args:
        low: A_k x_k (M, L, r).
        up: B_k (M, D', r).
        shares: (M, M).

    Returns:
        All factors of each modality, concatenated (M, L, M · r), and B to match (M, D', M · r).
    """
    count, length, _ = low.shape
    scaled = shares[:, :, None, None] * low  # (M, M, L, r)
    side_by_side = scaled.transpose(1, 2).reshape(count, length, -1)
    return side_by_side, up.transpose(0, 1).flatten(1).expand(count, -1, -1)


class ModalityLinear(nn.Module):
    """A linear layer with separate weights per modality: merged updates.

    Args:
        weights: (M, D', D).
        bias: (D'), shared.
    """

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def of(cls, weights: Tensor, bias: Tensor | None) -> nn.Module:
        """Create a plain linear layer for one modality, else a layer with several weights."""
        if len(weights) > 1:
            return cls(weights, bias)
        linear = nn.Linear(weights.shape[2], weights.shape[1], device="meta")
        linear.weight = nn.Parameter(weights[0], requires_grad=False)
        kept = None if bias is None else nn.Parameter(bias, requires_grad=False)
        linear.register_parameter("bias", kept)
        return linear

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (M · N, …, D) → tokens (M · N, …, D')."""
        parts = zip(parts_of_batch(x, len(self.weights)), self.weights, strict=True)
        return torch.cat([F.linear(part, weight, self.bias) for part, weight in parts])


def check_rank(tuning: str, rank: int, alpha: float, targets: Sequence[Target]) -> None:
    """Refuse invalid options of a low-rank update.

    Raises:
        ModelError: Names the option.
    """
    if rank < 1 or alpha <= 0:
        raise ModelError(
            f"options of tuning '{tuning}' are rank {rank} and alpha {alpha:g}; allowed are a rank "
            "of at least 1 and an alpha above 0"
        )
    twice = len(set(targets)) != len(targets) or ("qkv" in targets and set("qkv") & set(targets))
    if not targets or twice:
        raise ModelError(
            f"option 'targets' of tuning '{tuning}' is {list(targets)}; name one or more of q, k, "
            "v, proj, mlp, each once; qkv stands for the first three with one shared update"
        )


def linear_in(layer: nn.Module) -> nn.Linear:
    """Return the pretrained linear layer inside the wrappers of tunings."""
    while not isinstance(layer, nn.Linear):
        assert isinstance(layer.base, nn.Module)
        layer = layer.base
    return layer


def replace_layer(place: TargetLinear, layer: nn.Module) -> None:
    """Replace a pretrained layer by a tuned one."""
    setattr(place.parent, place.name, layer)
    # Some timm models read the layer's weight directly unless told to call it.
    if hasattr(place.parent, "qkv_bias_separate"):
        setattr(place.parent, "qkv_bias_separate", True)  # noqa: B010  (typed as a module)
