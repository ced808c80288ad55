"""Prompts of UPSeg's reconstruction, which a modality offers to the others.

That guidance between modalities takes the form of visual prompts is inferred [I] from the paper's
keywords; their form is a choice of the reconstruction [R]. See `terrafuse.methods.upseg.site` for
the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.methods.upseg.tokens import TokenMap, attend, join_keys, mean_at

PromptKind = Literal["both", "aligned", "prefix", "summary"]

#: Up to this many tokens, each becomes a prompt; beyond, 2 × 2 share one.
_MOST_PROMPTS = 1024


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Settings of the prompts that guests offer to a host. All values are [R].

    Args:
        kind: "aligned" adds a hint to the token at the same position; "prefix" lets the host's
            attention see tokens of the guests; "both"; "summary" is a prefix of few learned tokens.
        pool: A prefix has one token per pool × pool of the guest's; None: 1 up to 1024 tokens,
            else 2.
        adapter_dim: Width of the bottleneck before the prefix.
        align_dim: Width of the bottleneck before the hint.
        num_tokens: Number of tokens of "summary".
        source: "others", or "self" to prompt each modality by itself, for comparison; needs VEM
            "none", which uses no other modality.
        hosts: Modalities that are guided; None = all.
    """

    kind: PromptKind = "both"
    pool: int | None = None
    adapter_dim: int = 64
    align_dim: int = 128
    num_tokens: int = 16
    source: Literal["others", "self"] = "others"
    hosts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("pool", "adapter_dim", "align_dim", "num_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ModelError(f"option '{name}' of prompt is {value}; it must be at least 1")

    @property
    def has_prefix(self) -> bool:
        """True if attention sees tokens of guests."""
        return self.kind != "aligned"

    @property
    def has_hint(self) -> bool:
        """True if tokens get hints at their position."""
        return self.kind in ("aligned", "both")


class PromptGenerator(nn.Module):
    """Unique tokens → prompts: P = u' + V_2 GELU(V_1 u') + e_m, u' = U averaged over g × g.

    V_2 and e_m start at 0, so that prompts start as the unique tokens.

    Args:
        embed_dim: D.
        num_modalities: M.
    """

    def __init__(self, embed_dim: int, num_modalities: int, settings: PromptSettings) -> None:
        super().__init__()
        self.settings = settings
        self.adapter = Bottleneck(embed_dim, settings.adapter_dim)
        self.modality_token = nn.Parameter(torch.zeros(num_modalities, embed_dim))

    def forward(self, unique: TokenMap, index: int) -> TokenMap:
        """Prompts (N, K, D) that modality `index` offers."""
        pooled = self.gather(unique)
        tokens = pooled.values + self.adapter(pooled.values) + self.modality_token[index]
        return replace(pooled, values=tokens)

    def gather(self, unique: TokenMap) -> TokenMap:
        """Gather the tokens that become prompts."""
        height, width = unique.grid
        side = self.settings.pool or (1 if height * width <= _MOST_PROMPTS else 2)
        return _pool(unique, side)


class SummaryPrompts(PromptGenerator):
    """Prompts from a few learned queries, u' = softmax(Q (U W)ᵀ / √r) U, without positions.

    Args:
        embed_dim: D.
        num_modalities: M.
        settings: Its `adapter_dim` is r.
    """

    def __init__(self, embed_dim: int, num_modalities: int, settings: PromptSettings) -> None:
        super().__init__(embed_dim, num_modalities, settings)
        self.query_tokens = nn.Parameter(torch.empty(settings.num_tokens, settings.adapter_dim))
        nn.init.normal_(self.query_tokens, std=1.0)
        self.key = nn.Linear(embed_dim, settings.adapter_dim)

    def gather(self, unique: TokenMap) -> TokenMap:
        """Summaries (N, num_tokens, D)."""
        u = unique.values
        queries = self.query_tokens.expand(u.shape[0], 1, -1, -1)
        keys = self.key(u).unsqueeze(1)
        seen, whole = join_keys([unique])
        tokens = attend(queries.to(keys.dtype), keys, u.unsqueeze(1).to(keys.dtype), seen, whole)
        there = None if seen is None else seen.any(dim=1, keepdim=True).expand(-1, tokens.shape[2])
        return TokenMap(tokens.squeeze(1), (1, tokens.shape[2]), there, whole=True)


class Bottleneck(nn.Module):
    """Linear, GELU, linear; the last starts at 0, so that the output is 0 at first."""

    def __init__(self, embed_dim: int, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, dim)
        self.up = nn.Linear(dim, embed_dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, L, D) → tokens (N, L, D)."""
        result: Tensor = self.up(F.gelu(self.down(x)))
        return result


class AlignedPrompt(Bottleneck):
    """A hint at the same position: W_2 GELU(W_1 u), with u the mean of the guests' unique tokens.

    Where no guest has data the hint is 0.
    """

    def hint(self, guests: Sequence[TokenMap], grid: tuple[int, int]) -> Tensor:
        """Hint for the patch tokens (N, L, D) of a host with that grid."""
        unique = mean_at(guests, grid)
        hint = self(unique.values)
        return hint if unique.seen is None else torch.where(unique.seen.unsqueeze(2), hint, 0.0)


def _pool(x: TokenMap, side: int) -> TokenMap:
    """Average tokens with data over squares; the last squares may be cropped."""
    if side == 1:
        return x
    height, width = x.grid
    samples = x.values.shape[0]
    grid = ((height + side - 1) // side, (width + side - 1) // side)

    def average(values: Tensor) -> Tensor:
        values = values.mT.reshape(samples, -1, height, width)
        return F.avg_pool2d(values, side, ceil_mode=True).flatten(2).mT  # (N, K, …)

    if x.seen is None:
        return replace(x, values=average(x.values), grid=grid)
    share = average(x.seen.unsqueeze(2).to(x.values.dtype))  # (N, K, 1)
    values = average(torch.where(x.seen.unsqueeze(2), x.values, 0.0))
    values = values / torch.where(share > 0, share, 1.0)
    return replace(x, values=values, grid=grid, seen=share.squeeze(2) > 0)
