"""Transformer blocks whose attention also sees prompts of other modalities.

A choice of UPSeg's reconstruction [R]; see `terrafuse.methods.upseg.site`. Blocks keep their own
layers: none is replaced, and prompts do not make any of them trainable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.methods.upseg.tokens import TokenMap, attend, join_keys, merge_heads, split_heads

#: Parts of timm's `Block` and of its `Attention`, as far as `run_prompted` calls them.
_BLOCK = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
_ATTENTION = {"qkv", "q", "k", "v", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}


def check_block(block: nn.Module, backbone: str) -> None:
    """Refuse a block with parts that `run_prompted` would skip.

    Args:
        block: timm's `Block`, or one with its parts.
        backbone: Name of the backbone, for the message.

    Raises:
        ModelError: Names the parts.
    """
    own: dict[str, nn.Module] = dict(block.named_children())
    unknown = set(own) - _BLOCK
    if "attn" in own:
        unknown |= {f"attn.{name}" for name in set(dict(own["attn"].named_children())) - _ATTENTION}
    lacking = _BLOCK - set(own)
    if unknown or lacking:
        named = ", ".join(sorted(unknown | lacking))
        raise ModelError(
            f"prompts between modalities cannot pass through the blocks of backbone '{backbone}', "
            f"which differ from a plain transformer's in: {named}. Choose a plain one (vit_*, "
            "deit_*, vit_*_dinov2), or leave out the interaction (interact_stages: [])"
        )


def run_prompted(
    block: Any,
    gates: Tensor,
    tokens: Sequence[Tensor],
    prompts: Sequence[TokenMap],
    senders: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Run a block on several modalities, each with the prompts of its senders.

    With LN, W_q, W_k, W_v, W_o the block's own, T the host's tokens and P the senders' prompts:

        O = softmax(Q Kᵀ / √d) V + tanh(g) softmax(Q K_Pᵀ / √d) V_P
        Q, K, V from LN(T);  K_P, V_P from LN(P);  T ← T + O W_o;  T ← T + MLP(LN(T))

    With a separate softmax, g = 0 leaves the block exactly unchanged; prompts concatenated to the
    tokens would always take a share. Prompts have no queries, and are dropped after the block.

    Args:
        block: timm's `Block`, which passed `check_block`.
        gates: g (M, heads), per modality of the batch.
        tokens: T per modality (N, L_m, D).
        prompts: P per modality (N, K_m, D).
        senders: Per host, positions of those whose prompts it sees.
    """
    offered = [_keys_and_values(block, x.values) for x in prompts]
    results = []
    for x, gate, heard in zip(tokens, gates.tanh(), senders, strict=True):
        q, k, v = _queries_keys_values(block.attn, block.norm1(x))
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=block.attn.attn_drop.p if block.attn.training else 0.0
        )
        if heard:
            k, v = (torch.cat([offered[n][i] for n in heard], dim=2) for i in (0, 1))
            guided = attend(q, k, v, *join_keys([prompts[n] for n in heard]))
            attended = attended + gate.to(guided.dtype)[:, None, None] * guided
        results.append(_rest_of_block(block, x, merge_heads(attended)))
    return results


def _queries_keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = (
        attention.qkv(x).chunk(3, dim=2)
        if _has_one_layer(attention)
        else (attention.q(x), attention.k(x), attention.v(x))
    )
    q, k, v = (split_heads(y, attention.num_heads) for y in parts)
    return attention.q_norm(q), attention.k_norm(k), v


def _keys_and_values(block: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (N, heads, K, d) of prompts, by the block's own layers."""
    attention, x = block.attn, block.norm1(prompts)
    layer = attention.qkv if _has_one_layer(attention) else None
    if layer is None:
        k, v = attention.k(x), attention.v(x)
    elif isinstance(layer, nn.Linear):
        first = layer.out_features // 3
        bias = None if layer.bias is None else layer.bias[first:]
        k, v = F.linear(x, layer.weight[first:], bias).chunk(2, dim=2)
    else:  # the wrapper of a tuning works on whole rows
        _, k, v = layer(x).chunk(3, dim=2)
    k, v = (split_heads(y, attention.num_heads) for y in (k, v))
    return attention.k_norm(k), v


def _has_one_layer(attention: nn.Module) -> bool:
    """Tell whether one layer gives queries, keys and values, instead of one each."""
    return hasattr(attention, "qkv")


def _rest_of_block(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    attention = block.attn
    if hasattr(attention, "norm"):  # timm 1.0.15 has none
        attended = attention.norm(attended)
    attended = attention.proj_drop(attention.proj(attended))
    x = x + block.drop_path1(block.ls1(attended))
    result: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return result
