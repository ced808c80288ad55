"""Gates between modalities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from terrafuse.tuning.base import ModalityGate, apply_by_modality
from terrafuse.tuning.lora import LoRALinear


def test_two_modalities_mix_by_the_papers_formula() -> None:
    """out_x = w_x a_x + (1 − w_x) a_y, and the other way round."""
    mixing = ModalityGate(2)
    assert mixing.own.tolist() == [0.5, 0.5]
    with torch.no_grad():
        mixing.own.copy_(torch.tensor([0.75, -0.5]))  # gates are not bounded
        x, y = mixing([torch.tensor([4.0, 8.0]), torch.tensor([0.0, 2.0])])
    assert x.tolist() == [3.0, 6.5]
    assert y.tolist() == [6.0, 11.0]


def test_one_modality_has_no_gate() -> None:
    mixing = ModalityGate(1)
    assert not list(mixing.parameters())
    part = torch.randn(3, 2)
    (result,) = mixing([part])
    assert torch.equal(result, part)


@given(
    count=st.integers(2, 5),
    gates=st.lists(st.floats(-2, 3, width=32), min_size=5, max_size=5),
)
def test_shares_add_up_to_one(count: int, gates: list[float]) -> None:
    """So equal parts pass unchanged, whatever the gates are."""
    mixing = ModalityGate(count)
    assert mixing.own.tolist() == pytest.approx([1 / count] * count)
    with torch.no_grad():
        mixing.own.copy_(torch.tensor(gates[:count]))
        # Part m is the m-th unit vector: the result holds the shares themselves.
        shares = torch.stack(mixing(list(torch.eye(count))))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(count))
        torch.testing.assert_close(shares.diagonal(), mixing.own.detach())
        for m in range(count):
            others = torch.cat([shares[m, :m], shares[m, m + 1 :]])
            torch.testing.assert_close(others, (1 - mixing.own[m]).expand(count - 1) / (count - 1))


def test_at_the_start_all_count_alike() -> None:
    parts = [torch.randn(4) for _ in range(3)]
    for result in ModalityGate(3)(parts):
        torch.testing.assert_close(result, torch.stack(parts).mean(dim=0))


def test_a_batch_is_taken_apart_in_order() -> None:
    modules = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3))
    for m, module in enumerate(modules):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.constant_(module.bias, m)
    parts = apply_by_modality(modules, torch.zeros(6, 1))
    assert torch.cat(parts).flatten().tolist() == [0, 0, 1, 1, 2, 2]


def test_low_rank_updates_of_three_modalities_mix_by_hand() -> None:
    """Σ_k share_mk B_k A_k x_k with shares w_m of one's own and (1 − w_m) / 2 of each other."""
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 5)
    layer = LoRALinear(base, 3, rank=2, scale=1.0, rows=[(0, 5)], mix=True)
    torch.nn.init.normal_(layer.up)
    assert layer.mixing is not None
    with torch.no_grad():
        layer.mixing.own.copy_(torch.tensor([0.2, 0.5, 0.9]))
    x = torch.randn(3, 4, 6)  # one sample of each modality
    own = [x[m] @ layer.down[m].T @ layer.up[m].T for m in range(3)]
    for m, w in enumerate((0.2, 0.5, 0.9)):
        others = sum(own[k] for k in range(3) if k != m) / 2
        expected = base(x[m]) + w * own[m] + (1 - w) * others
        torch.testing.assert_close(layer(x)[m], expected, rtol=1e-5, atol=1e-5)
