"""Unique parts, prompts, guided attention and fusion of streams, against plain formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from small_backbones import train_a_little
from terrafuse.errors import ModelError
from terrafuse.methods.upseg import (
    STREAM_FUSIONS,
    PromptSettings,
    SynergySite,
    TokenMap,
    VarianceEnhancement,
    VarianceSettings,
    check_block,
    run_prompted,
    see_tokens,
)
from terrafuse.methods.upseg.prompts import PromptGenerator
from terrafuse.methods.upseg.tokens import attend, mean_at, resize_tokens
from terrafuse.methods.upseg.variance import VarianceKind

D, HEADS = 8, 2
GRIDS = ((3, 4), (2, 5), (3, 4))
KINDS: tuple[VarianceKind, ...] = ("innovation", "content", "project", "differential", "none")


def _maps(count: int, seed: int = 0, *, equal: bool = True, batch: int = 2) -> list[TokenMap]:
    generator = torch.Generator().manual_seed(seed)
    grids = [GRIDS[0] if equal else grid for grid in GRIDS[:count]]
    return [TokenMap(torch.randn(batch, h * w, D, generator=generator), (h, w)) for h, w in grids]


def _with_gaps(maps: list[TokenMap], seed: int) -> list[TokenMap]:
    """Some tokens without data, and the last sample without the first modality."""
    generator = torch.Generator().manual_seed(seed)
    gappy = []
    for m, x in enumerate(maps):
        seen = torch.rand(x.values.shape[:2], generator=generator) < 0.6
        if m == 0:
            seen[-1] = False
        gappy.append(replace(x, seen=seen, whole=False))
    return gappy


def _vem(kind: VarianceKind = "innovation", **options: Any) -> VarianceEnhancement:
    torch.manual_seed(1)
    module = VarianceEnhancement(D, VarianceSettings(kind=kind, dim=6, heads=2, **options))
    return train_a_little(module)  # type: ignore[no-any-return]


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √d) v per head, written out: (N, L, C), (N, S, C), (N, S, C) → (N, L, C)."""
    parts = []
    for a, b, c in zip(q.chunk(heads, 2), k.chunk(heads, 2), v.chunk(heads, 2), strict=True):
        scores = torch.einsum("nld,nsd->nls", a, b) / a.shape[2] ** 0.5
        parts.append(torch.einsum("nls,nsd->nld", scores.softmax(dim=2), c))
    return torch.cat(parts, dim=2)


def _resized(x: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    if old == new:
        return x
    maps = x.transpose(1, 2).reshape(len(x), -1, *old)
    shrinks = new[0] < old[0] or new[1] < old[1]
    return F.interpolate(maps, new, mode="bilinear", antialias=shrinks).flatten(2).transpose(1, 2)


def _reference(vem: VarianceEnhancement, maps: list[TokenMap], m: int) -> tuple[Tensor, Tensor]:
    """U and C of modality m by the formulas of the docstring."""
    kind = vem.settings.kind
    normed = [vem.norm(x.values) for x in maps]
    x, others = normed[m], [n for n in range(len(maps)) if n != m]
    if kind == "differential":
        q, k, v = vem.query(x), vem.key(x), vem.value(x)
        crossed = [_attention(q, vem.key(normed[n]), v, 2) for n in others]
        result = _attention(q, k, v, 2) - vem.scale * torch.stack(crossed).mean(dim=0)
        return x + vem.output(result), torch.zeros_like(x)
    y = torch.cat([normed[n] for n in others], dim=1)
    here = torch.stack([_resized(normed[n], maps[n].grid, maps[m].grid) for n in others]).mean(0)
    q = vem.query(x if kind == "content" else here)
    common = _attention(q, vem.key(y), vem.value(y), 2)
    common = vem.output(common if kind == "content" else common + vem.value(here))
    if kind == "project":
        alpha = (x * common).sum(2) / ((common * common).sum(2) + 1e-6)
        return x - alpha.unsqueeze(2) * common, common
    return x - vem.scale * common, common


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("kind", ["innovation", "content", "project", "differential"])
def test_unique_parts_are_the_formula(kind: VarianceKind, equal: bool, count: int) -> None:
    if kind == "differential" and not equal:
        pytest.skip("its formula is for equal grids")
    vem, maps = _vem(kind), _maps(count, equal=equal)
    uniques, losses = vem(maps)
    for m, unique in enumerate(uniques):
        expected, common = _reference(vem, maps, m)
        torch.testing.assert_close(unique.values, expected, rtol=1e-4, atol=1e-5)
        if kind != "differential":
            error = (vem.norm(maps[m].values) - common).square().mean()
            torch.testing.assert_close(losses[m], error, rtol=1e-4, atol=1e-5)
    assert len(losses) == (0 if kind == "differential" else count)


def test_without_a_module_everything_is_unique() -> None:
    vem, maps = _vem("none"), _maps(2)
    uniques, losses = vem(maps)
    assert torch.equal(uniques[0].values, vem.norm(maps[0].values))
    assert not losses
    assert [name for name, _ in vem.named_parameters()] == ["norm.weight", "norm.bias"]


def test_projected_parts_are_at_right_angles_to_the_prediction() -> None:
    vem, maps = _vem("project"), _maps(2)
    uniques, _ = vem(maps)
    for m, unique in enumerate(uniques):
        _, common = _reference(vem, maps, m)
        cosine = F.cosine_similarity(unique.values, common, dim=2)
        assert cosine.abs().max() < 1e-4


def test_the_prediction_sees_nothing_of_the_host() -> None:
    vem, maps = _vem(), _maps(2)
    changed = [replace(maps[0], values=maps[0].values.flip(1)), maps[1]]
    before, after = (vem.norm(x[0].values) - vem(x)[0][0].values for x in (maps, changed))  # λ C
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert before.abs().max() > 0.1


@pytest.mark.parametrize("detach", [True, False])
def test_the_predictors_loss_leaves_the_encoder_alone(detach: bool) -> None:
    vem, maps = _vem(detach=detach), _maps(2)
    values = [x.values.requires_grad_() for x in maps]
    _, losses = vem([replace(x, values=v) for x, v in zip(maps, values, strict=True)])
    gradients = torch.autograd.grad(sum(losses), values, allow_unused=True)
    assert all((g is None) == detach for g in gradients)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["both", "aligned", "prefix", "summary"])
@pytest.mark.parametrize("seed", range(3))
def test_tokens_without_data_play_no_part(kind: VarianceKind, prompt: Any, seed: int) -> None:
    torch.manual_seed(seed)
    settings = VarianceSettings(kind=kind, dim=6, heads=2)
    site = SynergySite(D, 3, settings, PromptSettings(kind=prompt, pool=2, num_tokens=3))
    train_a_little(site)
    block = train_a_little(Block(D, HEADS, qkv_bias=True)).eval()
    gates = torch.randn(3, HEADS)
    maps = _with_gaps(_maps(3, seed, equal=kind == "differential", batch=3), seed)
    senders = ((1, 2), (0, 2), (0, 1))

    def guided(maps: list[TokenMap]) -> list[Tensor]:
        guidance = site(maps, [0, 1, 2], senders)
        found = [*guidance.losses, *(x for x in guidance.hints if x is not None)]
        if guidance.prompts:
            tokens = [torch.ones(3, 4, D) * torch.arange(4.0)[:, None] for _ in maps]
            found += run_prompted(block, gates, tokens, guidance.prompts, senders)
        return found

    noise = [
        replace(x, values=torch.where(x.seen[:, :, None], x.values, 1e3 * torch.randn(D)))
        for x in maps
        if x.seen is not None
    ]
    for before, after in zip(guided(maps), guided(noise), strict=True):
        assert before.isfinite().all()
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["innovation", "content", "project"])
def test_nothing_is_predicted_where_no_guest_has_data(kind: VarianceKind) -> None:
    """C = 0 there, also with a bias of the last layer: U is all of x, and no loss is counted."""
    vem = _vem(kind)
    assert vem.output.bias.abs().min() > 1e-3
    host, guest, third = _maps(3, batch=3)
    seen = torch.ones(3, 12, dtype=torch.bool)
    seen[1], seen[2, :7] = False, False
    part = torch.zeros(3, 12, dtype=torch.bool)
    part[2, 3] = True  # another guest has data at one place of the last sample
    maps = [host, replace(guest, seen=seen, whole=False), replace(third, seen=part, whole=False)]
    uniques, losses = vem(maps)
    x = vem.norm(host.values)
    common = x - uniques[0].values
    nowhere = ~(seen | part)
    if kind == "content":  # attention sees all guests of the sample from everywhere
        nowhere = nowhere & ~(seen | part).any(dim=1, keepdim=True)
    assert nowhere.sum() > 0
    assert not common[nowhere].any()
    assert common[~nowhere].abs().amax(dim=1).min() > 1e-3
    if kind == "innovation":
        errors = (x - common / vem.scale).square().mean(dim=2)
        torch.testing.assert_close(losses[0], errors[~nowhere].mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["innovation", "content", "differential"])
def test_what_is_absent_changes_nothing(kind: VarianceKind) -> None:
    torch.manual_seed(3)
    settings = VarianceSettings(kind=kind, dim=6, heads=2)
    site = train_a_little(SynergySite(D, 3, settings, PromptSettings()))
    two = _maps(2)
    absent = TokenMap(torch.randn(2, 12, D), (3, 4), torch.zeros(2, 12, dtype=torch.bool))
    alone = site(two, [0, 1], ((1,), (0,)))
    beside = site([*two, absent], [0, 1, 2], ((1, 2), (0, 2), (0, 1)))
    for m in range(2):
        torch.testing.assert_close(beside.hints[m], alone.hints[m], rtol=1e-4, atol=1e-5)
        a, b = alone.prompts[m].values, beside.prompts[m].values
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    for a, b in zip(alone.losses, beside.losses[:2], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_prompts_start_as_unique_tokens_and_hints_as_nothing() -> None:
    site = SynergySite(D, 2, VarianceSettings(kind="none"), PromptSettings(pool=1))
    maps = _maps(2)
    guidance = site(maps, [0, 1], ((1,), (0,)))
    for x, prompt in zip(maps, guidance.prompts, strict=True):
        assert torch.equal(prompt.values, site.variance.norm(x.values))
    assert all(hint is not None and not hint.any() for hint in guidance.hints)


@pytest.mark.parametrize(("grid", "pool", "expected"), [
    ((32, 32), None, (32, 32)), ((33, 32), None, (17, 16)), ((5, 4), 3, (2, 2)),
])  # fmt: skip
def test_prompts_are_pooled(
    grid: tuple[int, int], pool: int | None, expected: tuple[int, int]
) -> None:
    maker = PromptGenerator(D, 1, PromptSettings(pool=pool))
    values = torch.randn(1, grid[0] * grid[1], D)
    prompts = maker(TokenMap(values, grid), 0)
    assert prompts.grid == expected
    side = pool or (1 if expected == grid else 2)
    corner = values.reshape(*grid, D)[-(grid[0] % side or side) :, -(grid[1] % side or side) :]
    torch.testing.assert_close(prompts.values[0, -1], corner.mean(dim=(0, 1)))


def test_pooled_prompts_are_drawn_from_data_only() -> None:
    seen = torch.tensor([[True, False, False, False, True, True, False, False]])
    values = torch.arange(8.0).reshape(1, 8, 1).expand(1, 8, D)  # 2 × 4
    maker = PromptGenerator(D, 1, PromptSettings(pool=2))
    prompts = maker(TokenMap(values, (2, 4), seen, whole=False), 0)
    assert prompts.seen is not None
    assert prompts.seen.tolist() == [[True, False]]
    torch.testing.assert_close(prompts.values[0, 0, 0], torch.tensor((0 + 4 + 5) / 3))


def _guided_reference(block: Any, gates: Tensor, x: Tensor, prompts: Tensor | None) -> Tensor:
    """A block with prompts, from the weights of its layers."""
    attention = block.attn

    def heads_of(y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        normed = F.layer_norm(y, (D,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
        rows = normed @ attention.qkv.weight.T + attention.qkv.bias
        return list(zip(*(part.chunk(HEADS, 2) for part in rows.chunk(3, 2)), strict=True))

    outputs = []
    offered = [None] * HEADS if prompts is None else heads_of(prompts)
    for gate, (q, k, v), other in zip(gates, heads_of(x), offered, strict=True):
        out = (q @ k.mT / q.shape[2] ** 0.5).softmax(dim=2) @ v
        if other is not None:
            _, k, v = other
            out = out + gate.tanh() * ((q @ k.mT / q.shape[2] ** 0.5).softmax(dim=2) @ v)
        outputs.append(out)
    x = x + torch.cat(outputs, dim=2) @ attention.proj.weight.T + attention.proj.bias
    mlp: Tensor = block.mlp(block.norm2(x))
    return x + mlp


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 3])
def test_guided_attention_is_the_formula(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    block = train_a_little(Block(D, HEADS, qkv_bias=True)).eval()
    gates = torch.randn(count, HEADS)
    tokens = [x.values for x in _maps(count, seed, equal=False)]
    prompts = [replace(x, values=x.values[:, : 3 + n], grid=(1, 3 + n))
               for n, x in enumerate(_maps(count, seed + 9))]  # fmt: skip
    senders = tuple(tuple(n for n in range(count) if n != m) for m in range(count))
    for m, found in enumerate(run_prompted(block, gates, tokens, prompts, senders)):
        others = torch.cat([prompts[n].values for n in senders[m]], dim=1)
        expected = _guided_reference(block, gates[m], tokens[m], others)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [
    {}, {"qk_norm": True}, {"init_values": 0.5}, {"scale_attn_norm": True, "drop_path": 0.5},
])  # fmt: skip
def test_with_gates_shut_a_block_is_as_it_was(options: dict[str, Any]) -> None:
    block = train_a_little(Block(D, HEADS, qkv_bias=True, **options)).eval()
    check_block(block, "vit")
    tokens = [x.values for x in _maps(2)]
    shut = torch.zeros(2, HEADS)
    for x, found in zip(
        tokens, run_prompted(block, shut, tokens, _maps(2, 5), ((1,), (0,))), strict=True
    ):
        assert torch.equal(found, block(x))


def test_who_hears_nobody_is_as_it_was() -> None:
    block = train_a_little(Block(D, HEADS, qkv_bias=True)).eval()
    tokens = [x.values for x in _maps(2)]
    found = run_prompted(block, torch.ones(2, HEADS), tokens, _maps(2, 5), ((), (0,)))
    assert torch.equal(found[0], block(tokens[0]))
    assert (found[1] - block(tokens[1])).abs().max() > 0.01


def test_blocks_with_other_parts_are_refused() -> None:
    block = Block(D, HEADS)
    block.attn.extra = nn.Identity()
    with pytest.raises(ModelError, match=r"backbone 'vit_x', which differ .* in: attn\.extra\."):
        check_block(block, "vit_x")


@pytest.mark.parametrize("seed", range(3))
def test_all_or_nothing_needs_no_mask(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 4, 2, 5, 3, generator=generator)
    seen = torch.tensor([True, False, True, False])[:, None].expand(4, 5)
    found = attend(q, k, v, seen, whole=True)
    torch.testing.assert_close(found, attend(q, k, v, seen, whole=False))
    assert not found[1].any()
    torch.testing.assert_close(found[2], attend(q, k, v)[2])


def test_tokens_see_the_pixels_under_them() -> None:
    valid = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    valid[0, 0, 1, 3] = True
    seen, whole = see_tokens(valid, 2)
    assert seen is not None
    assert seen.tolist() == [[False, True, False, False, False, False], [False] * 6]
    assert not whole
    assert see_tokens(valid.logical_not(), 2) == (None, True)
    valid[0] = True
    assert see_tokens(valid, 2)[1]


def test_means_and_other_grids_are_drawn_from_data_only() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    seen = torch.tensor([[[True, False]], [[True, True]]])
    maps = [TokenMap(values[i].reshape(1, 2, 1), (1, 2), seen[i], whole=False) for i in range(2)]
    mean = mean_at(maps, (1, 2))
    assert mean.values.flatten().tolist() == [2.0, 7.0]
    wider = resize_tokens(maps[0], (1, 4))
    assert wider.seen is not None
    assert wider.seen.tolist() == [[True, True, False, False]]
    assert wider.values.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", STREAM_FUSIONS)
@pytest.mark.parametrize("count", [2, 3])
def test_fusions_start_as_the_mean(name: str, count: int) -> None:
    fusion = STREAM_FUSIONS[name](count, D, VarianceSettings(dim=6, heads=2))
    maps = _maps(count)
    fused, losses = fusion(maps, range(count), GRIDS[0])
    torch.testing.assert_close(fused, torch.stack([x.values for x in maps]).mean(dim=0))
    assert len(losses) == (count if name == "mean_unique" else 0)


def test_the_gated_mean_is_the_formula() -> None:
    fusion: Any = train_a_little(STREAM_FUSIONS["gated_mean"](3, D, VarianceSettings()))
    maps = _maps(2)
    fused, _ = fusion(maps, [2, 0], GRIDS[0])
    scores = [
        (fusion.norm(x.values) @ fusion.score.weight[0]) + fusion.modality_bias[i]
        for x, i in zip(maps, (2, 0), strict=True)
    ]
    a, b = torch.stack(scores).softmax(dim=0).unsqueeze(3)
    torch.testing.assert_close(fused, a * maps[0].values + b * maps[1].values)


@pytest.mark.parametrize("name", STREAM_FUSIONS)
def test_fusion_takes_what_has_data(name: str) -> None:
    fusion = train_a_little(STREAM_FUSIONS[name](2, D, VarianceSettings(dim=6, heads=2)))
    a, b = _maps(2, batch=3)
    # Sample 0: both; 1: only the second, in part; 2: nothing. In 0 the first has half.
    seen_a = torch.zeros(3, 12, dtype=torch.bool)
    seen_a[0, :6] = True
    seen_b = torch.ones(3, 12, dtype=torch.bool)
    seen_b[1, 6:], seen_b[2] = False, False
    maps = [replace(a, seen=seen_a, whole=False), replace(b, seen=seen_b, whole=False)]
    fused, _ = fusion(maps, [0, 1], GRIDS[0])
    assert fused.isfinite().all()
    if name == "concat1x1":
        return
    if name != "mean_unique":
        assert torch.equal(fused[0, 6:], b.values[0, 6:])
    assert torch.equal(fused[1], b.values[1])
    assert not fused[2].any()
    assert (fused[0, :6] - b.values[0, :6]).abs().max() > 0.01
    alone, _ = fusion(maps[1:], [1], GRIDS[0])
    assert torch.equal(alone[1], b.values[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VarianceSettings(dim=10, heads=4), r"dim 10 and heads 4; .* multiple"),
        (lambda: VarianceSettings(aux_weight=-1), r"aux_weight -1; it must be at least 0"),
        (lambda: PromptSettings(pool=0), r"option 'pool' of prompt is 0; it must be at least 1"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()
