"""What is frozen stays as it is through training, running statistics and all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_backbones import image_for, make
from terrafuse.backbones import create_backbone
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.tuning import apply_tuning


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in module.named_buffers()}


@pytest.mark.parametrize(
    ("tuning", "moves"), [("frozen", False), ("bitfit", False), ("norms", True), ("full", True)]
)
def test_frozen_batch_norms_keep_their_statistics(tuning: str, moves: bool) -> None:
    """A norm of which only the offset learns is frozen, too: its scale belongs to its variance."""
    backbone = make("resnet")
    apply_tuning(backbone, tuning)
    before = _statistics(backbone)
    backbone.train()
    backbone(image_for(backbone, 2))
    after = _statistics(backbone)
    assert len(before) > 10
    changed = [not torch.equal(before[n], after[n]) for n in before]
    assert all(changed) if moves else not any(changed)
    # In between, evaluation and training again: as torch has it, `train` is called every epoch.
    backbone.eval()
    assert not any(m.training for m in backbone.modules())
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.training == moves for m in norms)


@pytest.mark.parametrize("tuning", ["frozen", "bitfit"])
def test_within_a_segmenter_too(tuning: str) -> None:
    """`train` reaches backbones through the module that holds them; its own norms do learn."""
    options = {
        "backbone_options": {"channels": (4, 6, 8, 10), "layers": (1, 1, 1, 1)},
        "decoder_options": {"channels": 8},
        "tuning": tuning,
    }
    model = create_segmenter("single", [Modality("rgb", ("r", "g", "b"))], 2, options)
    before = _statistics(model)
    model.train()({"rgb": torch.randn(2, 3, 64, 64)})
    for name, value in _statistics(model).items():
        kept = name.startswith(("backbone.", "mean_", "std_"))
        assert torch.equal(value, before[name]) == kept, name


def test_a_frozen_backbone_has_no_dropout() -> None:
    options: dict[str, Any] = {"proj_drop_rate": 0.5, "drop_path_rate": 0.5, "neck": "none"}
    backbone = make("vit", **options)
    image = image_for(backbone, 2)
    backbone.train()
    assert not torch.equal(backbone(image)[0], backbone(image)[0])
    apply_tuning(backbone, "frozen")
    backbone.train()
    assert torch.equal(backbone(image)[0], backbone(image)[0])
    assert not any(m.training for m in backbone.modules())


def test_parts_that_learn_are_in_training() -> None:
    backbone = make("vit", drop_path_rate=0.5)
    apply_tuning(backbone, "frozen")
    backbone.train()
    assert not backbone.vit.training
    assert backbone.pyramid.training, "the neck is new and learns"
    tuned = make("vit", drop_path_rate=0.5)
    apply_tuning(tuned, "lora")
    tuned.train()
    assert tuned.blocks[1].drop_path1.training, "blocks that learn are regularised"
    assert not tuned.vit.patch_embed.training


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050"])
def test_frozen_norms_of_other_pyramids(name: str) -> None:
    """timm's norms with an activation in them are batch norms as well."""
    backbone = create_backbone(name, 3)
    apply_tuning(backbone, "bitfit")
    before = _statistics(backbone)
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[n]) for n, value in _statistics(backbone).items())


def test_bitfit_and_norms_go_together() -> None:
    backbone = make("swin")
    both, bitfit, norms = (copy.deepcopy(backbone) for _ in range(3))
    apply_tuning(both, "bitfit+norms")
    apply_tuning(bitfit, "bitfit")
    apply_tuning(norms, "norms")

    def learning(module: nn.Module) -> set[str]:
        return {n for n, p in module.named_parameters() if p.requires_grad}

    assert learning(both) == learning(bitfit) | learning(norms)
    assert learning(bitfit) - learning(norms)
    assert learning(norms) - learning(bitfit)
