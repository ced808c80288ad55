"""The attention of SAM's image encoder: the original's result at a fraction of its cost.

The original pads a map with zero tokens until windows fit, and runs the padding through every
layer: a 16 × 16 grid in windows of 14 becomes 28 × 28 tokens. Padding tokens reach the attention
as zeros, so their queries, keys and values equal the bias of the projection. Here only real tokens
are projected; padding appears where it matters, as keys and values of incomplete windows, and its
queries, whose results are discarded, are left out.

Reference: Kirillov et al., Segment anything, ICCV 2023, arXiv 2304.02643; relative positions as in
Li et al., MViTv2, CVPR 2022, arXiv 2112.01526.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terrafuse.tracing import extend, has_symbols, join_heads, split_heads, window_places

#: Rows and columns of a part of a map, in tokens.
_Size = tuple[int, int]

# From this many keys on, relative positions are carried by longer queries and keys instead of a
# bias per pair: no matrix of pairs is stored, and fused kernels apply. Below it, that costs more
# than it saves.
_MANY_KEYS = 1024


def run_block(block: Any, tokens: Tensor, grid: _Size, prompts: Tensor | None = None) -> Tensor:
    """Run a block of timm's SAM encoder on tokens (N, L, D).

    Args:
        block: `timm.models.vision_transformer_sam.Block`.
        tokens: (N, L, D), in row-major order.
        grid: Rows and columns of the tokens.
        prompts: Further tokens (N, P, D) that every window sees as keys and values without
            positions.
    """
    seen = None if prompts is None else block.norm1(prompts)
    attended = _attend(block.attn, block.norm1(tokens), grid, block.window_size, seen)
    tokens = tokens + block.drop_path1(block.ls1(attended))
    result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return result


def _attend(attn: Any, tokens: Tensor, grid: _Size, window: int, prompts: Tensor | None) -> Tensor:
    """Self-attention within windows, or over the whole map where `window` is 0; (N, L, D)."""
    heads = attn.num_heads
    if window and has_symbols(*grid):
        return _attend_traced(attn, tokens, grid, window, prompts)
    # `split` throughout: its backward pass is one copy, that of a slice fills a map of zeros.
    queries, keys = torch.tensor_split(_split(attn.qkv(tokens), grid, heads), (1,))
    extra = None
    if prompts is not None:
        extra = _split(attn.qkv(prompts), (1, prompts.shape[1]), heads)[1:].flatten(2, 3)
    tables = (attn.rel_pos_h, attn.rel_pos_w) if attn.use_rel_pos else None
    dropout = attn.attn_drop.p if attn.training else 0.0
    if window == 0:
        x = _attend_windows(queries[0], keys, grid, tables, extra, dropout)
    else:
        x = _by_windows(attn, queries[0], keys, window, tables, extra, dropout)
    result: Tensor = attn.proj_drop(attn.proj(x.flatten(3).flatten(1, 2)))  # (N, L, D)
    return result


def _attend_traced(
    attn: Any, tokens: Tensor, grid: _Size, window: int, prompts: Tensor | None
) -> Tensor:
    """As `_attend` within windows, in a form that a graph can hold for any grid."""
    samples, heads = tokens.shape[0], attn.num_heads
    size, bias = (window, window), None
    places = window_places(grid, size, tokens.device)
    # A padding token is all zeros before the projection.
    padded = attn.qkv(F.pad(tokens, (0, 0, 0, 1)))  # (N, L + 1, 3D)
    q, k, v = split_heads(places.cut(padded), heads).unbind(0)  # (N · windows, heads, window², d)
    if attn.use_rel_pos:
        bias = _position_bias(q, (attn.rel_pos_h, attn.rel_pos_w), size, size)
    if prompts is not None:
        more = split_heads(attn.qkv(prompts), heads)[1:]
        more = more.unsqueeze(2).expand(-1, -1, places.count, -1, -1, -1).flatten(1, 2)
        k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
    x = _attend_with_bias(q, k, v, bias, size, dropout=0.0)
    result: Tensor = attn.proj_drop(attn.proj(places.join(join_heads(x), samples)))
    return result


def _by_windows(
    attn: Any,
    queries: Tensor,
    keys: Tensor,
    window: int,
    tables: tuple[Tensor, Tensor] | None,
    extra: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention within windows: complete ones in one batch, those at the edges by shape."""
    keys = _fill_up(attn.qkv, keys, window)
    heights, widths = (_parts(length, window) for length in queries.shape[1:3])
    filled = [[_windows(part, window) * window for part in parts] for parts in (heights, widths)]
    rows = []
    for q_row, k_row in zip(
        torch.split(queries, heights, 1), torch.split(keys, filled[0], 2), strict=True
    ):
        row = []
        for q, k in zip(
            torch.split(q_row, widths, 2), torch.split(k_row, filled[1], 3), strict=True
        ):
            count = (k.shape[2] // window, k.shape[3] // window)
            row.append(_attend_windows(q, k, (window, window), tables, extra, dropout, count))
        rows.append(torch.cat(row, dim=2) if len(row) > 1 else row[0])
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]


def _attend_windows(
    queries: Tensor,
    keys: Tensor,
    size: _Size,
    tables: tuple[Tensor, Tensor] | None,
    extra: Tensor | None,
    dropout: float,
    count: _Size = (1, 1),
) -> Tensor:
    """Attention within adjacent windows of one size.

    Args:
        queries: (N, h, w, heads, d).
        keys: Keys and values (2, N, H, W, heads, d), H and W at least h and w.
        size: Rows and columns of keys per window.
        tables: Relative positions of rows and columns, (2n − 1, d) each.
        extra: Keys and values without positions (2, N, P, heads, d).
        dropout: Share of attention weights dropped.
        count: Number of windows down and across.

    Returns:
        Map (N, h, w, heads, d).
    """
    samples, height, width = queries.shape[:3]
    own = (height // count[0], width // count[1])  # queries per window
    q = _cut(queries, own, count)  # (N · windows, heads, own rows · own columns, d)
    k, v = (_cut(x, size, count) for x in keys.unbind(0))
    bias = None if tables is None else _position_bias(q, tables, own, size)
    if extra is not None:
        more = extra.movedim(3, 2)  # (2, N, heads, P, d)
        more = more.repeat_interleave(count[0] * count[1], dim=1)
        k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
    x = _attend_with_bias(q, k, v, bias, size, dropout)
    x = x.reshape(samples, *count, -1, *own, x.shape[-1])  # (N, down, across, heads, rows, cols, d)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(samples, height, width, -1, x.shape[-1])


def _attend_with_bias(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: tuple[Tensor, Tensor] | None,
    size: _Size,
    dropout: float,
) -> Tensor:
    """softmax(q kᵀ / √d + row bias + column bias) v.

    Args:
        q: (B, heads, L, d).
        k: (B, heads, S, d); the first keys are those of the window, in row-major order.
        v: Like k.
        bias: Per query, one value per row (B, heads, L, rows) and per column of keys.
        size: Rows and columns of keys.
        dropout: Share of attention weights dropped.
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    rows, cols = bias
    without = k.shape[2] - size[0] * size[1]  # keys without positions
    if isinstance(k.shape[2], int) and k.shape[2] < _MANY_KEYS:  # not a symbol
        both = (rows.unsqueeze(-1) + cols.unsqueeze(-2)).flatten(-2)  # (B, heads, L, S)
        both = F.pad(both, (0, without)) if without else both
        if q.device.type == "cpu" and both.requires_grad and dropout == 0:
            # On CPU, SDPA with a trained bias falls back to unfused steps, more than these.
            flat = (both.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT)
            scores = torch.baddbmm(*flat, alpha=q.shape[-1] ** -0.5)  # (B · heads, L, S)
            return scores.softmax(dim=-1).view_as(both) @ v
        return F.scaled_dot_product_attention(q, k, v, attn_mask=both, dropout_p=dropout)
    # q · k / √d + bias = [q / √d, rows, columns] · [k, is row, is column]
    d = q.shape[-1]
    long_q = torch.cat([q * d**-0.5, rows, cols], dim=-1)
    marks = extend(_marks(size, k), 0, without)
    long_k = torch.cat([k, marks.expand(*k.shape[:2], -1, -1)], dim=-1)
    # Fused kernels need values as wide as keys.
    long_v = extend(v, -1, long_k.shape[-1] - d)
    x = F.scaled_dot_product_attention(long_q, long_k, long_v, dropout_p=dropout, scale=1.0)
    return x[..., :d]


def _position_bias(
    q: Tensor, tables: tuple[Tensor, Tensor], own: _Size, size: _Size
) -> tuple[Tensor, Tensor]:
    """Bias of each query for every row and every column of keys."""
    maps = q.view(*q.shape[:2], *own, -1)  # (B, heads, rows, cols, d)
    by_row = relative_positions(tables[0], own[0], size[0]).to(q.dtype)
    by_col = relative_positions(tables[1], own[1], size[1]).to(q.dtype)
    rows = torch.einsum("bnhwd,hkd->bnhwk", maps, by_row)
    cols = torch.einsum("bnhwd,wkd->bnhwk", maps, by_col)
    return rows.flatten(2, 3), cols.flatten(2, 3)


def relative_positions(table: Tensor, queries: int, keys: int) -> Tensor:
    """Vectors of query i relative to key k, entry i − k + keys − 1 of the table.

    Args:
        table: (2n − 1, d); resampled to 2 · keys − 1 entries by linear interpolation.
        queries: Number of query positions, which are the first of the keys' positions.
        keys: Number of key positions along the axis.

    Returns:
        (queries, keys, d).
    """
    length = 2 * keys - 1
    if has_symbols(length):  # as below; ONNX takes lengths along one axis for constants
        column = table.T.unsqueeze(0).unsqueeze(3)  # (1, d, 2n − 1, 1)
        column = F.interpolate(column, (length, 1), mode="bilinear", align_corners=False)
        table = column.squeeze(3).squeeze(0).T
    elif len(table) != length:
        table = F.interpolate(table.T.unsqueeze(0), length, mode="linear").squeeze(0).T
    places = torch.arange(keys, device=table.device)
    return table[places[:queries, None] - places + keys - 1]


def _split(qkv: Tensor, grid: _Size, heads: int) -> Tensor:
    """(N, L, 3D) → maps (3, N, h, w, heads, d)."""
    return qkv.view(qkv.shape[0], *grid, 3, heads, -1).movedim(3, 0)


def _fill_up(qkv: Any, keys: Tensor, window: int) -> Tensor:
    """Pad keys and values (2, N, h, w, heads, d) to whole windows, as zero tokens would."""
    height, width = _size(keys)
    target = (_windows(height, window) * window, _windows(width, window) * window)
    if target == (height, width):
        return keys
    filling = keys.new_zeros(2, 1, 1, 1, *keys.shape[4:])
    if qkv.bias is not None:
        filling = qkv.bias.to(keys.dtype).view(3, 1, 1, 1, *keys.shape[4:])[1:]
    right = filling.expand(-1, keys.shape[1], height, target[1] - width, -1, -1)
    below = filling.expand(-1, keys.shape[1], target[0] - height, target[1], -1, -1)
    return torch.cat([torch.cat([keys, right], dim=3), below], dim=2)


def _cut(maps: Tensor, size: _Size, count: _Size) -> Tensor:
    """Map (N, h, w, heads, d) → windows (N · count, heads, tokens, d)."""
    samples, _, _, heads, d = maps.shape
    x = maps.reshape(samples, count[0], size[0], count[1], size[1], heads, d)
    x = x.permute(0, 1, 3, 5, 2, 4, 6)  # (N, down, across, heads, rows, cols, d)
    return x.flatten(4, 5).flatten(0, 2)


def _marks(size: _Size, like: Tensor) -> Tensor:
    """One-hot row and column of each key: (rows · columns, rows + columns)."""
    key = torch.arange(size[0] * size[1], device=like.device).unsqueeze(1)
    rows, cols = (torch.arange(length, device=like.device) for length in size)
    row = key // size[1]
    marks = torch.cat([row == rows, key - row * size[1] == cols], dim=1)
    return marks.to(like.dtype)


def _parts(length: int, window: int) -> list[int]:
    """Number of tokens in complete windows, and in the incomplete one."""
    complete = length // window * window
    return [part for part in (complete, length - complete) if part]


def _windows(length: int, window: int) -> int:
    return -(-length // window)


def _size(maps: Tensor) -> _Size:
    """Rows and columns of maps (…, N, h, w, heads, d)."""
    return maps.shape[2], maps.shape[3]
