"""Prompt tokens: beside the image's, one set per block and modality, without a place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from small_backbones import image_for, make, nudge, train_a_little
from terrafuse.backbones import create_backbone
from terrafuse.tuning import PromptTokens, apply_tuning


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3", "eva02", "eva02_split"])
@torch.no_grad()
def test_a_block_attends_to_prompts_as_to_any_token(name: str) -> None:
    """The same as further tokens at the end, which rotary positions leave as they are."""
    plain: Any = make(name).eval()
    backbone: Any = copy.deepcopy(plain)
    apply_tuning(backbone, {"name": "prompt", "num_tokens": 3})
    nudge(backbone)
    tokens, grid = plain.embed(image_for(plain, 2))
    x = torch.cat([tokens, backbone.prompts.tokens[0].expand(2, -1, -1)], dim=1)
    rope = {}
    if getattr(plain.vit, "rope", None) is not None:
        turns = plain.vit.rope.get_embed(shape=grid)  # sines, then cosines
        half = turns.shape[1] // 2
        still = torch.tensor([0.0, 1.0]).repeat_interleave(half).expand(3, -1)
        rope = {"rope": torch.cat([turns, still])}
    expected = plain.blocks[0](x, **rope)[:, : tokens.shape[1]]
    result = backbone.run_block(0, tokens, grid)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert (result - plain.run_block(0, tokens, grid)).abs().max() > 1e-3


def test_samples_get_the_prompts_of_their_modality() -> None:
    prompts = PromptTokens(num_blocks=2, num_modalities=3, num_tokens=2, embed_dim=4, patch_size=16)
    given = prompts(1, samples=6)
    assert given.shape == (6, 2, 4)
    for sample in range(6):
        assert torch.equal(given[sample], prompts.tokens[1, sample // 2])
    # The published range: Xavier's for a patch embedding.
    bound = (6 / (3 * 16**2 + 4)) ** 0.5
    assert 0.5 * bound < prompts.tokens.abs().max() <= bound


@pytest.mark.parametrize("name", ["vit_base_patch16_18x2_224", "vit_base_patch16_xp_224"])
def test_prompts_go_with_blocks_of_another_build(name: str) -> None:
    """Attention and MLP side by side, under other names."""
    backbone = create_backbone(name, 3, embed_dim=16, depth=2, num_heads=2, img_size=64)
    train_a_little(backbone)
    apply_tuning(backbone, "prompt")
    before = [x.detach() for x in backbone(image_for(backbone, 1))]
    nudge(backbone)
    after = backbone(image_for(backbone, 1))
    assert (after[-1] - before[-1]).abs().max() > 1e-3


def test_prompts_are_seen_by_every_token_of_their_block_only() -> None:
    backbone: Any = make("samvit").eval()
    apply_tuning(backbone, {"name": "prompt", "num_tokens": 4}, 2)
    train_a_little(backbone.prompts)
    tokens, grid = backbone.embed(image_for(backbone, 2))
    with torch.no_grad():
        before = [backbone.run_block(i, tokens, grid) for i in range(3)]
        backbone.prompts.tokens[1] += torch.randn(2, 4, 16)
        after = [backbone.run_block(i, tokens, grid) for i in range(3)]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert after[1].shape == tokens.shape
    assert ((after[1] - before[1]).abs().amax(dim=2) > 1e-5).all()
