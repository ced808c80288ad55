"""The attention of SAM's encoder equals the plain formula, on any grid, in values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer_sam import Block
from torch import Tensor, nn

from terrafuse.backbones.timm import sam_attention

D, HEADS = 8, 2
d = D // HEADS


def _plain(block: Any, x: Tensor, prompts: Tensor | None) -> Tensor:
    """The block as it is written down: filled up with zeros, cut, and every pair has its bias.

    Args:
        block: timm's.
        x: Map (N, h, w, D).
        prompts: (N, P, D).
    """
    height, width = x.shape[1:3]
    normed = block.norm1(x)
    rows, cols = block.window_size or height, block.window_size or width
    filled = F.pad(normed, (0, 0, 0, -width % cols, 0, -height % rows))
    attended = torch.zeros_like(filled)
    seen = None if prompts is None else block.norm1(prompts)
    for top in range(0, filled.shape[1], rows):
        for left in range(0, filled.shape[2], cols):
            window = filled[:, top : top + rows, left : left + cols]
            result = _attend_plainly(block.attn, window, seen)
            attended[:, top : top + rows, left : left + cols] = result
    x = x + attended[:, :height, :width]
    return x + block.mlp(block.norm2(x))


def _attend_plainly(attn: Any, window: Tensor, prompts: Tensor | None) -> Tensor:
    n, rows, cols, _ = window.shape
    q, k, v = _heads(attn.qkv(window.flatten(1, 2)))
    logits = q @ k.mT * d**-0.5  # (N, heads, L, L)
    if attn.use_rel_pos:
        logits = logits + _bias(q, attn.rel_pos_h, attn.rel_pos_w, rows, cols)
    if prompts is not None:
        _, more_k, more_v = _heads(attn.qkv(prompts))
        logits = torch.cat([logits, q @ more_k.mT * d**-0.5], dim=3)
        v = torch.cat([v, more_v], dim=2)
    x = logits.softmax(dim=3) @ v
    return attn.proj(x.transpose(1, 2).reshape(n, rows, cols, D))


def _heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """(N, L, 3D) → three of (N, heads, L, d)."""
    parts = qkv.chunk(3, dim=2)
    return tuple(p.unflatten(2, (HEADS, d)).transpose(1, 2) for p in parts)


def _bias(q: Tensor, table_h: Tensor, table_w: Tensor, rows: int, cols: int) -> Tensor:
    """Entry by entry: q_ij · Rh[i − k + rows − 1] + q_ij · Rw[j − l + cols − 1]."""
    by_row, by_col = _resized(table_h, 2 * rows - 1), _resized(table_w, 2 * cols - 1)
    places = [(i, j) for i in range(rows) for j in range(cols)]
    down = torch.tensor([[i - k + rows - 1 for k, _ in places] for i, _ in places])
    across = torch.tensor([[j - n + cols - 1 for _, n in places] for _, j in places])
    return torch.einsum("nhqd,qkd->nhqk", q, by_row[down] + by_col[across])


def _resized(table: Tensor, length: int) -> Tensor:
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], length, mode="linear")[0].T


def _block(window: int, tables: tuple[int, int] | None, bias: bool = True) -> Any:
    """A block in float64 with random values; tables for as many places as given."""
    block = Block(
        D, HEADS, qkv_bias=bias, use_rel_pos=tables is not None, window_size=window,
        input_size=tables,
    ).double()  # fmt: skip
    if tables is not None:  # also of another length than the window asks for
        block.attn.rel_pos_h = nn.Parameter(torch.empty(2 * tables[0] - 1, d).double())
        block.attn.rel_pos_w = nn.Parameter(torch.empty(2 * tables[1] - 1, d).double())
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block


def _check(block: Any, grid: tuple[int, int], num_prompts: int, samples: int = 2) -> None:
    x = torch.randn(samples, *grid, D, dtype=torch.float64, requires_grad=True)
    prompts = None
    if num_prompts:
        prompts = torch.randn(samples, num_prompts, D, dtype=torch.float64, requires_grad=True)
    expected = _plain(block, x, prompts)
    result = sam_attention.run_block(block, x.flatten(1, 2), grid, prompts).view_as(expected)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    inputs = [x, *([prompts] if prompts is not None else []), *block.parameters()]
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((result * weights).sum(), inputs)
    for own, other in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-8)


@pytest.fixture(params=[1024, 1], ids=["bias per pair", "longer queries"])
def many_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sam_attention, "_MANY_KEYS", request.param)
    return int(request.param)


# The fixture is the same for all examples, as it has to be.
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    window=st.integers(2, 7),
    tables=st.none() | st.just("own") | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_prompts=st.sampled_from([0, 0, 1, 3]),
    seed=st.integers(0, 99),
)
def test_windows(
    many_keys: int, height: int, width: int, window: int, tables: Any, num_prompts: int, seed: int
) -> None:
    torch.manual_seed(seed)
    block = _block(window, (window, window) if tables == "own" else tables)
    _check(block, (height, width), num_prompts)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    tables=st.none() | st.tuples(st.integers(1, 16), st.integers(1, 16)),
    num_prompts=st.sampled_from([0, 0, 2]),
    seed=st.integers(0, 99),
)
def test_whole_maps(
    many_keys: int, height: int, width: int, tables: Any, num_prompts: int, seed: int
) -> None:
    torch.manual_seed(seed)
    _check(_block(0, tables), (height, width), num_prompts)


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (4, 6), (7, 2)])
def test_without_biases_filling_is_zero(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    _check(_block(3, (3, 3), bias=False), grid, num_prompts=0)


def test_the_way_with_longer_queries_is_taken_by_itself() -> None:
    """A map of 32 × 32 has so many keys that a bias per pair would not pay."""
    torch.manual_seed(0)
    _check(_block(0, (32, 32)), (32, 33), num_prompts=2, samples=1)


def test_only_real_tokens_are_projected() -> None:
    block = _block(7, (7, 7))
    seen: list[int] = []
    block.attn.qkv.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    x = torch.randn(1, 8 * 9, D, dtype=torch.float64)
    sam_attention.run_block(block, x, (8, 9))
    assert seen == [72], "the original projects 14 · 14"


def test_dropout_of_attention_works_in_training_only() -> None:
    block = Block(D, HEADS, attn_drop=0.5, window_size=3, use_rel_pos=True, input_size=(3, 3))
    x = torch.randn(1, 5 * 4, D)
    runs = [sam_attention.run_block(block, x, (5, 4)) for _ in range(2)]
    assert not torch.equal(*runs)
    block.eval()
    runs = [sam_attention.run_block(block, x, (5, 4)) for _ in range(2)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_close(dtype: torch.dtype, many_keys: int) -> None:
    """Within a few units of the last place of the shorter type."""
    torch.manual_seed(0)
    block = _block(3, (3, 3)).float()
    x = torch.randn(2, 7 * 8, D)
    with torch.no_grad():
        expected = sam_attention.run_block(block, x, (7, 8))
        with torch.autocast("cpu", dtype=dtype):
            result = sam_attention.run_block(block, x, (7, 8))
    torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.1)


def test_positions_of_queries_at_the_beginning_of_keys() -> None:
    """Entry i − k + keys − 1, for the first places only."""
    table = torch.arange(7.0).view(7, 1)
    found = sam_attention.relative_positions(table, queries=2, keys=4)
    assert found.squeeze(2).tolist() == [[3, 2, 1, 0], [4, 3, 2, 1]]
    # 3 entries of the table on 5 places: by hand, pixels are areas.
    short = sam_attention.relative_positions(torch.tensor([[0.0], [5.0], [10.0]]), 3, 3)
    assert short[:, :, 0].flatten().tolist() == pytest.approx([5, 2, 0, 8, 5, 2, 10, 8, 5])
