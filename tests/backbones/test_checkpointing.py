"""Computing blocks again on the way back changes memory and time, not results."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_backbones import image_for, make, nudge
from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError
from terrafuse.tuning import apply_tuning


def _gradients(backbone: Backbone, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(4)
    loss = sum(level.sin().mean() for level in backbone.train()(image))
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss, {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "tuning", "dropout"),
    [
        ("vit", None, {"proj_drop_rate": 0.3}),
        ("vit", "prompt", {}),
        ("dinov3", "lora", {}),
        ("samvit", "adapter", {"drop_path_rate": 0.5, "attn_drop_rate": 0.3}),
        ("swin", None, {"drop_path_rate": 0.5}),
        ("swin", "dora", {}),
        ("hiera", "adapter", {}),
        ("convnext", "norms", {}),
        ("resnet", "bitfit", {}),
    ],
)
def test_loss_and_gradients_are_the_same(
    name: str, tuning: str | None, dropout: dict[str, float]
) -> None:
    """Dropout draws the same values when a block runs again."""
    backbone = make(name, **dropout)
    apply_tuning(backbone, tuning, 2)
    nudge(backbone)
    saving = copy.deepcopy(backbone)
    saving.gradient_checkpointing = True
    image = image_for(backbone, 4)
    loss, gradients = _gradients(backbone, image)
    other_loss, other_gradients = _gradients(saving, image)
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    assert gradients
    for key, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[key], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {"depth": 6, "neck": "none"}),
        ("samvit", {"depth": 6, "neck": "none"}),
        ("swin", {"depths": (2, 4, 2, 2)}),
    ],
)
def test_less_is_kept(name: str, options: dict[str, Any]) -> None:
    kept = []
    for wanted in (False, True):
        backbone = make(name, **options).train()
        backbone.gradient_checkpointing = wanted
        sizes: list[int] = []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            backbone(image_for(backbone, 2))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0], kept


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_blocks_run_once_outside_training(name: str) -> None:
    backbone = make(name)
    backbone.gradient_checkpointing = True
    runs: list[int] = []
    blocks = [m for m in backbone.modules() if hasattr(m, "mlp")]
    blocks[-1].register_forward_pre_hook(lambda *_: runs.append(1))
    image = image_for(backbone, 1)
    sum(level.mean() for level in backbone.eval()(image)).backward()
    with torch.no_grad():
        backbone.train()(image)
    assert len(runs) == 2
    sum(level.mean() for level in backbone(image)).backward()
    assert len(runs) == 4


@pytest.mark.parametrize("tuning", [None, "full", "norms"])
def test_batch_norms_that_learn_are_refused(tuning: str | None) -> None:
    backbone = make("resnet")
    apply_tuning(backbone, tuning)
    backbone.gradient_checkpointing = True
    image = image_for(backbone, 2)
    with pytest.raises(ModelError, match=r"running statistics of batch norms would move twice"):
        backbone.train()(image)
    backbone.eval()(image)
    assert any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
