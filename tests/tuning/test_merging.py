"""Merged for inference, a backbone gives what it gave before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from small_backbones import WITH_BLOCKS, image_for, make, nudge
from terrafuse.backbones import Backbone
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.tuning import TunedModule, TuningOption, apply_tuning, merge_tuning
from terrafuse.tuning.lora import LoRALinear, ModalityLinear

EVERY = ["q", "k", "v", "proj", "mlp"]


def _tuned(name: str, tuning: TuningOption, num_modalities: int) -> Backbone:
    backbone = make(name)
    apply_tuning(backbone, tuning, num_modalities)
    nudge(backbone)
    return backbone.eval()


def _low_rank(module: nn.Module) -> list[LoRALinear]:
    return [m for m in module.modules() if isinstance(m, LoRALinear)]


def _check_equal(merged: nn.Module, backbone: Backbone, num_modalities: int) -> None:
    image = image_for(backbone, 2 * num_modalities)
    with torch.no_grad():
        for level, expected in zip(merged(image), backbone(image), strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", WITH_BLOCKS)
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("num_modalities", [1, 2])
def test_outputs_stay(name: str, kind: str, num_modalities: int) -> None:
    """1e-5 relative: sums in another order."""
    more = {"mix": False} if kind == "lora" else {}
    tuning: Any = {"name": kind, "rank": 2, "targets": EVERY} | more
    backbone = _tuned(name, tuning, num_modalities)
    merged = copy.deepcopy(backbone)
    untuned = make(name).eval()
    image = image_for(backbone, num_modalities)
    with torch.no_grad():
        difference = (backbone(image)[0] - untuned(image)[0]).abs().max()
    assert difference > 1e-3, "the tuning must have an effect for merging to be tested"
    assert merge_tuning(merged) == len(_low_rank(backbone)) > 0
    assert not any(isinstance(m, TunedModule) for m in merged.modules())
    assert any(isinstance(m, ModalityLinear) for m in merged.modules()) == (num_modalities > 1)
    _check_equal(merged, backbone, num_modalities)
    if num_modalities == 1:
        # Nothing but the pretrained layers is left, and a plain backbone takes the values.
        own = {k: v.shape for k, v in untuned.state_dict().items()}
        assert {k: v.shape for k, v in merged.state_dict().items()} == own


def test_mixed_updates_stay() -> None:
    backbone = _tuned("samvit", "lora", 2)
    merged = copy.deepcopy(backbone)
    assert merge_tuning(merged) == 3, "one layer for queries, keys and values in each of 3 blocks"
    left = _low_rank(merged)
    assert len(left) == 6
    assert all(layer.mixing is not None for layer in left)
    _check_equal(merged, backbone, 2)
    assert merge_tuning(merged) == 0


@pytest.mark.parametrize("tuning", ["adapter+lora", "lora+adapter"])
@pytest.mark.parametrize("num_modalities", [1, 2])
def test_low_rank_updates_under_adapters_are_merged(tuning: str, num_modalities: int) -> None:
    names: Any = [{"name": n} | ({"mix": False} if n == "lora" else {}) for n in tuning.split("+")]
    backbone = _tuned("swin", names, num_modalities)
    merged = copy.deepcopy(backbone)
    assert merge_tuning(merged) == len(_low_rank(backbone)) == 18
    kinds = {type(m).__name__ for m in merged.modules() if isinstance(m, TunedModule)}
    assert kinds == {"AdaptedProjection", "AdaptedMlp"}
    _check_equal(merged, backbone, num_modalities)


def test_an_update_around_an_adapter_stays() -> None:
    """W is not all there is under it, so no weight holds the sum."""
    tuning: Any = ["adapter", {"name": "lora", "targets": ["proj", "q"]}]
    backbone = _tuned("vit", tuning, 1)
    merged = copy.deepcopy(backbone)
    assert merge_tuning(merged) == 2
    assert len(_low_rank(merged)) == 2
    _check_equal(merged, backbone, 1)


def test_a_merged_model_stays_in_its_mode_and_learns_no_more() -> None:
    backbone = _tuned("vit", "lora", 1)
    merge_tuning(backbone)
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.blocks.parameters())


def test_a_whole_segmenter_is_merged() -> None:
    modalities = [Modality("rgb", ("r", "g", "b")), Modality("dsm", ("z",))]
    options = {
        "backbone_options": {
            "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
        },
        "tuning": {"name": "lora", "mix": False},
    }  # fmt: skip
    model = create_segmenter("mfnet", modalities, 3, options).eval()
    nudge(model.backbones()[0])
    images = {"rgb": torch.randn(1, 3, 64, 64), "dsm": torch.randn(1, 1, 64, 64)}
    with torch.no_grad():
        before = model(images).logits
        assert merge_tuning(model) == 6
        torch.testing.assert_close(model(images).logits, before, rtol=1e-4, atol=1e-5)


def test_dora_learns_lengths_apart_from_directions() -> None:
    """Equation 5 of the paper, by hand; section 4.3: no gradient runs through the length."""
    backbone = _tuned("vit", {"name": "dora", "rank": 2, "alpha": 3, "targets": ["v"]}, 2)
    layer: Any = _low_rank(backbone)[0]
    ((first, last),) = layer.rows
    x = torch.randn(2, 5, 16)  # one sample of each modality
    result, plain = layer(x), layer.base(x)
    expected = plain.clone()
    for m in range(2):
        direction = layer.base.weight[first:last] + 1.5 * layer.up[m] @ layer.down[m]
        actual = direction.detach().norm(dim=1, keepdim=True)
        weight = layer.lengths[0][m, :, None] * direction / actual
        expected[m, :, first:last] = x[m] @ weight.T + layer.base.bias[first:last]
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    learnt = [layer.up, layer.down, layer.lengths[0]]
    gradients = torch.autograd.grad(result.sin().sum(), learnt)
    for own, other in zip(
        gradients, torch.autograd.grad(expected.sin().sum(), learnt), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
