"""What is particular to the baselines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.methods import create_segmenter
from terrafuse.methods.late_fusion import run_where_present
from terrafuse.modalities import Modality

RESNET: dict[str, Any] = {"channels": (4, 6, 8, 10), "layers": (1, 1, 1, 1)}
SMALL: dict[str, Any] = {"backbone_options": RESNET, "decoder_options": {"channels": 8}}
RGB, SAR = Modality("rgb", ("r", "g", "b")), Modality("sar", ("vv", "vh"))


def test_single_takes_one_modality() -> None:
    with pytest.raises(ModelError, match=r"Single takes 1 modalities, got 2 \(rgb, sar\)"):
        create_segmenter("single", [RGB, SAR], 2, SMALL)


def test_early_fusion_stacks_bands_in_order() -> None:
    model = create_segmenter("early_fusion", [RGB, SAR], 2, SMALL).eval()
    seen: list[torch.Tensor] = []
    model.backbones()[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = {"rgb": torch.randn(1, 3, 64, 64), "sar": torch.randn(1, 2, 64, 64)}
    model(images)
    assert torch.equal(seen[0], torch.cat([images["rgb"], images["sar"]], dim=1))


def test_early_fusion_can_tell_missing_from_average() -> None:
    """Without validity channels a gap looks like the mean; with them it does not."""
    for validity_channels in (False, True):
        options = SMALL | {"validity_channels": validity_channels}
        model = create_segmenter("early_fusion", [RGB, SAR], 2, options).eval()
        image, mean = torch.randn(1, 3, 64, 64), torch.zeros(1, 2, 64, 64)
        with torch.no_grad():
            average, missing = model({"rgb": image, "sar": mean}), model({"rgb": image})
        assert torch.equal(average.logits, missing.logits) != validity_channels


def test_late_fusion_keeps_absent_samples_out_of_batch_statistics() -> None:
    def statistics_after(images: dict[str, torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(0)
        model = create_segmenter("late_fusion", [RGB, SAR], 2, SMALL).train()
        model(images)
        norm = next(m for m in model.branches["sar"].modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.running_var is not None
        return norm.running_var

    rgb, sar = torch.randn(4, 3, 64, 64), 5 * torch.randn(4, 2, 64, 64)
    present = statistics_after({"rgb": rgb[:2], "sar": sar[:2]})
    sar[2:] = torch.nan
    torch.testing.assert_close(statistics_after({"rgb": rgb, "sar": sar}), present)


def test_late_fusion_gives_untouched_backbones_a_gradient_of_zero() -> None:
    model = create_segmenter("late_fusion", [RGB, SAR], 2, SMALL).train()
    model({"rgb": torch.randn(2, 3, 64, 64)}).logits.square().mean().backward()
    gradients = [p.grad for p in model.branches["sar"].parameters()]
    assert all(g is not None and not g.any() for g in gradients)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_late_fusion_trains_where_one_small_crop_is_left(scale: float) -> None:
    """A single pixel on the coarsest level would have no variance, and torch would stop."""
    sar = Modality("sar", ("vv", "vh"), scale=scale)
    model = create_segmenter("late_fusion", [RGB, sar], 2, SMALL).train()
    size = 40 // int(scale)
    images = {"rgb": torch.randn(2, 3, 40, 40), "sar": torch.randn(2, 2, size, size)}
    images["sar"][0] = torch.nan
    assert model(images).logits.isfinite().all()


@pytest.mark.parametrize("rows", [[], [1], [0, 2], [0, 1, 2]])
def test_running_where_present_equals_running_everywhere(rows: list[int]) -> None:
    model = create_segmenter("single", [RGB], 2, SMALL).eval()
    backbone = model.backbones()[0]
    present = torch.zeros(3, dtype=torch.bool)
    present[rows] = True
    image = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        levels, everywhere = run_where_present(backbone, image, present), backbone(image)
    for level, other in zip(levels, everywhere, strict=True):
        assert level.shape == other.shape
        torch.testing.assert_close(level[present], other[present])
        assert not level[~present].any()


@pytest.mark.parametrize("first", ["rgb", "sar"])
def test_late_fusion_decodes_at_the_scenes_resolution(first: str) -> None:
    """Also where the first modality is the coarser one."""
    modalities = {"rgb": RGB, "sar": Modality("sar", ("vv", "vh"), scale=4.0)}
    order = [modalities.pop(first), *modalities.values()]
    model = create_segmenter("late_fusion", order, 2, SMALL).eval()
    seen: list[list[torch.Tensor]] = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model({"rgb": torch.randn(1, 3, 128, 128), "sar": torch.randn(1, 2, 32, 32)})
    assert [x.shape[-1] for x in seen[0]] == [32, 16, 8, 4]


def test_late_fusion_mixes_backbones() -> None:
    model = create_segmenter(
        "late_fusion",
        [RGB, SAR],
        2,
        {
            "backbone": {"rgb": "convnext_atto", "sar": "vit_small_patch14_dinov2"},
            "decoder_options": {"channels": 8},
        },
    ).eval()
    assert model.strides == {"rgb": 32, "sar": 28}
    with torch.no_grad():
        logits = model({"rgb": torch.randn(1, 3, 64, 64), "sar": torch.randn(1, 2, 64, 64)}).logits
    assert logits.shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": {"rgb": "resnet18"}}, ModelError, "'backbone' has no value for modality sar"),
        (
            {"backbone": {"rgb": "resnet18", "sra": "resnet18"}},
            UnknownNameError,
            r"unknown modality in option 'backbone' 'sra'\. Did you mean 'sar'",
        ),
        (
            {"backbone": {"rgb": "convnext_atto", "sar": "shvit_s1"}},
            ModelError,
            "backbone of modality 'sar' has 3 levels, that of the first modality 4",
        ),
    ],
)
def test_backbones_by_modality_are_checked(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_segmenter(
            "late_fusion", [RGB, SAR], 2, {"decoder_options": {"channels": 8}} | options
        )


def test_auxiliary_head_works_in_training_only() -> None:
    model = create_segmenter("single", [RGB], 2, SMALL | {"aux": True})
    image = {"rgb": torch.randn(2, 3, 64, 64)}
    (aux,) = model.train()(image).aux_logits
    assert aux.shape == (2, 2, 64, 64)
    assert model.head.aux_level == 2
    assert model.eval()(image).aux_logits == ()
