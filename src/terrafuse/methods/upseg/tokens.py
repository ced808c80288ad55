"""Tokens of one modality with a validity mask, and attention that respects it.

A modality may lack some samples, or parts of a sample. Tokens without any valid pixel are never
keys, so that their values have no influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from terrafuse.backbones import as_map
from terrafuse.fusion.levels import resize_map
from terrafuse.tracing import is_traced, same_size


@dataclass(frozen=True)
class TokenMap:
    """Tokens on a grid, with a mask of those that cover data.

    Args:
        values: Float (N, L, D), row-major.
        grid: Height and width, L = h · w.
        seen: Bool (N, L): has a valid pixel; None = all of them.
        whole: Whether every sample has either all or none of its tokens.
    """

    values: Tensor
    grid: tuple[int, int]
    seen: Tensor | None = None
    whole: bool = True


def see_tokens(valid: Tensor, patch_size: int) -> tuple[Tensor | None, bool]:
    """Compute `seen` and `whole` of tokens from the validity of their pixels.

    Args:
        valid: Bool (N, 1, H, W); H and W are multiples of the patch size.
        patch_size: Pixels per token.

    Returns:
        Bool (N, L) or None, and whether every sample has all or none of its tokens.
    """
    seen = F.max_pool2d(valid.float(), patch_size).flatten(1) > 0  # (N, L)
    if is_traced():
        return seen, False
    if bool(seen.all()):
        return None, True
    return seen, bool((seen.all(dim=1) | ~seen.any(dim=1)).all())


def join_keys(maps: Sequence[TokenMap]) -> tuple[Tensor | None, bool]:
    """Concatenate `seen` of several maps, and return it with `whole`."""
    if all(x.seen is None for x in maps):
        return None, True
    if len(maps) == 1:
        return maps[0].seen, maps[0].whole
    parts = [_seen(x) for x in maps]
    return torch.cat(parts, dim=1), False


def mean_at(maps: Sequence[TokenMap], grid: tuple[int, int]) -> TokenMap:
    """Average, at each position of a grid, the maps that have data there; 0 where none has.

    Args:
        maps: One or more, on any grids over the same ground.
        grid: Grid of the result.
    """
    there = [resize_tokens(x, grid) for x in maps]
    if len(there) == 1:
        return there[0]
    if all(x.seen is None for x in there):
        return replace(there[0], values=torch.stack([x.values for x in there]).mean(dim=0))
    seen = torch.stack([_seen(x) for x in there])  # (M, N, L)
    values = torch.stack([x.values for x in there])
    total = torch.where(seen.unsqueeze(3), values, 0.0).sum(dim=0)
    values = total / seen.sum(dim=0).clamp(min=1).unsqueeze(2)
    return TokenMap(values, grid, seen.any(dim=0), all(x.whole for x in there))


def resize_tokens(x: TokenMap, grid: tuple[int, int]) -> TokenMap:
    """Resample tokens to another grid, bilinearly, from tokens with data only."""
    if same_size(x.grid, grid):
        return x
    if x.seen is None:
        return TokenMap(_resize(x.values, x.grid, grid), grid)
    seen = x.seen.unsqueeze(2)
    share = _resize(seen.to(x.values.dtype), x.grid, grid)  # (N, L', 1)
    values = _resize(torch.where(seen, x.values, 0.0), x.grid, grid)
    known = share > 0.5
    values = values / torch.where(known, share, 1.0)
    return TokenMap(torch.where(known, values, 0.0), grid, known.squeeze(2), x.whole)


def attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None, whole: bool = True
) -> Tensor:
    """Attention to the keys in `seen`; 0 for samples that see none.

    Without `seen`, or if samples see all or nothing, no mask is needed and the fastest kernels
    apply.

    Args:
        query: (N, heads, L, d).
        key: (N, heads, S, d).
        value: (N, heads, S, d').
        seen: Bool (N, S); None = all.
        whole: Whether each sample sees all or nothing.

    Returns:
        (N, heads, L, d').
    """
    if seen is None:
        return F.scaled_dot_product_attention(query, key, value)
    some = seen.any(dim=1, keepdim=True)  # (N, 1)
    # Samples without keys attend to all of them, since a softmax over nothing is NaN.
    mask = None if whole else (seen | ~some)[:, None, None]
    result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return torch.where(some[:, :, None, None], result, 0.0)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, heads · d) → (N, heads, L, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, d) → (N, L, heads · d)."""
    return x.transpose(1, 2).flatten(2)


def _seen(x: TokenMap) -> Tensor:
    if x.seen is not None:
        return x.seen
    return torch.ones(x.values.shape[:2], dtype=torch.bool, device=x.values.device)


def _resize(values: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    return resize_map(as_map(values, old), new).flatten(2).transpose(1, 2)
