"""AMM-FuseNet equals the authors' network, map by map, at both output strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.backbones import create_backbone
from terrafuse.describe import without_values
from terrafuse.errors import ModelError, UnknownNameError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.ammfusenet import (
    AMMFuseNet,
    AttentiveDenseASPP,
    convert_reference_state_dict,
)
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

#: As stated beside the files.
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 2e-6}
OPTICAL = Modality("optical", ("r", "g", "b", "nir"), "optical")
SAR = Modality("sar", ("hh",), "sar")


def make(config: dict[str, Any], modalities: tuple[Modality, ...] = (OPTICAL, SAR)) -> AMMFuseNet:
    model = create_segmenter(
        "ammfusenet",
        modalities,
        config["num_classes"],
        {
            "backbone_options": {"channels": config["planes"], "layers": config["layers"]},
            "output_stride": config["output_stride"],
            "projection_channels": config["projection"],
            "context_channels": config["aspp"],
            "hidden_channels": config["hidden"],
            "rates": config["atrous_rates"],
        },
    )
    assert isinstance(model, AMMFuseNet)
    return model.eval()


def golden(name: str) -> tuple[AMMFuseNet, dict[str, Tensor]]:
    """Our network with the stored weights, which both files share."""
    stored, config = load_golden(f"ammfusenet/{name}")
    weights, _ = load_golden("ammfusenet/os16")
    model = make(config)
    statistics = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    converted = convert_reference_state_dict(part(weights, "sd."))
    load_strict(model, converted | statistics, where="stored weights")
    return model, stored


def keep(found: dict[str, Tensor], name: str, module: nn.Module) -> None:
    module.register_forward_hook(lambda _m, _i, output: found.__setitem__(name, output))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["os16", "os8"])
@torch.no_grad()
def test_every_map_is_the_original(name: str) -> None:
    model, stored = golden(name)
    found: dict[str, Tensor] = {}
    for number, (modality, there) in enumerate((("optical", "image"), ("sar", "dsm")), 1):
        branch = model.branches[modality]
        for level, stage in zip(
            ("low_level", "block2", "block3", "out"), branch.stages, strict=True
        ):  # type: ignore[arg-type]
            keep(found, f"backbone{number}.{level}", stage)
        head: Any = model.heads[modality]
        for level, projection in enumerate(head.projections, 1):
            keep(found, f"head.eca_net_{level}_{there}", projection)
        # What the first projection is before its attention.
        keep(found, f"head.project_{there}", head.projections[0][2])
        context = head.context
        keep(found, f"head.dense_aspp_{there}", context)
        keep(found, f"head.dense_aspp_{there}.asppPooling", context.pooled)
        for number_of, convolution in enumerate(context.convolutions, 1):
            keep(found, f"head.dense_aspp_{there}.asppConv_{number_of}", convolution)
    keep(found, "head.classifier", model.classifier)
    model.classifier.register_forward_pre_hook(lambda _, i: found.update({"head.concat": i[0]}))
    logits = model({"optical": stored["in.modality1"], "sar": stored["in.modality2"]}).logits
    expected = part(stored, "mid.")
    assert len(expected) > 15 or name == "os8"  # of which only the logits are stored
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **CLOSE, msg=lambda m, k=key: f"{k}: {m}")
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)


def test_a_foreign_value_is_named() -> None:
    model, _ = golden("os16")
    weights, _ = load_golden("ammfusenet/os16")
    state = part(weights, "sd.") | {"classifier.project_sar.0.weight": torch.zeros(1)}
    with pytest.raises(WeightsMismatchError, match=r"unexpected: classifier\.project_sar"):
        load_strict(model, model.state_dict() | convert_reference_state_dict(state), where="x")


def test_only_what_never_runs_is_left_out() -> None:
    weights, _ = load_golden("ammfusenet/os16")
    state = part(weights, "sd.")
    unused = [name for name in state if ".conv1." in name and "dense_aspp" in name]
    assert len(convert_reference_state_dict(state)) == len(state) - len(unused)
    assert len(unused) == 12


def test_sizes_are_the_published() -> None:
    """62.30 M, of which 15.29 M in the head, with a layer per modality that never runs."""
    model = without_values(lambda: create_segmenter("ammfusenet", (OPTICAL, SAR), 6))
    assert isinstance(model, AMMFuseNet)
    unused = 2 * (256 * 256 + 2 * 256)
    total = sum(p.numel() for p in model.parameters()) + unused
    encoders = sum(p.numel() for p in model.branches.parameters())
    assert round(total / 1e6, 2) == 62.30
    assert round((total - encoders) / 1e6, 2) == 15.29


def test_defaults_are_published() -> None:
    model = without_values(lambda: create_segmenter("ammfusenet", (OPTICAL, SAR), 7))
    for branch in model.backbones():
        assert branch.strides == (4, 8, 16, 16)
        assert branch.channels == (256, 512, 1024, 2048)
    assert model.stride == 16
    assert isinstance(model, AMMFuseNet)
    first: Any = model.classifier[0]
    assert (first.in_channels, first.out_channels) == (896, 256)


@torch.no_grad()
def test_each_convolution_sees_all_before_it_at_its_distance() -> None:
    """A single lit pixel, one rate after the other: how far each map is touched."""
    context = AttentiveDenseASPP(2, 3, rates=(3, 6), dropout=0.0, norm="batch").eval()
    for convolution in context.convolutions:
        nn.init.ones_(convolution[0].weight)  # type: ignore[index]
    found: list[Tensor] = []
    for convolution in context.convolutions:
        convolution.register_forward_hook(lambda _m, _i, output: found.append(output))
    x = torch.zeros(1, 2, 31, 31)
    x[:, :, 15, 15] = 1
    context(x)
    touched = [
        set((row.nonzero().squeeze(1) - 15).tolist()) for row in (f[0, 0].sum(0) for f in found)
    ]
    assert touched[0] == {-3, 0, 3}
    # The second sees the first's and the input, six pixels away.
    assert touched[1] == {a + b for a in (-6, 0, 6) for b in (-3, 0, 3)}


@torch.no_grad()
def test_three_modalities_are_one_more_block() -> None:
    _, config = load_golden("ammfusenet/os16")
    dsm = Modality("dsm", ("z",), "elevation")
    model = make(config, (OPTICAL, SAR, dsm))
    images = {m.name: torch.randn(1, len(m.bands), 50, 70) for m in model.modalities}
    assert model(images).logits.shape == (1, 6, 50, 70)
    first: Any = model.classifier[0]
    assert first.in_channels == 3 * (4 * 4 + 8)


def test_one_modality_is_refused() -> None:
    with pytest.raises(ModelError, match="takes 2 to any number modalities, got 1"):
        without_values(lambda: create_segmenter("ammfusenet", (OPTICAL,), 6))


def test_a_backbone_that_cannot_be_dilated_says_so() -> None:
    options = {"backbone": "swin_tiny_patch4_window7_224"}
    with pytest.raises((UnknownNameError, ModelError), match="output_stride"):
        without_values(lambda: create_segmenter("ammfusenet", (OPTICAL, SAR), 6, options))


@torch.no_grad()
def test_levels_of_one_stride_are_all_there_when_asked_for() -> None:
    torch.manual_seed(0)
    some = create_backbone("resnet18", 3, output_stride=8).eval()
    torch.manual_seed(0)
    every = create_backbone("resnet18", 3, output_stride=8, every_stage=True).eval()
    assert some.strides == (4, 8)
    assert every.strides == (4, 8, 8, 8)
    assert every.channels == (64, 128, 256, 512)
    image = torch.randn(1, 3, 64, 64)
    first, last = some(image)
    levels = every(image)
    assert torch.equal(levels[0], first)
    assert torch.equal(levels[3], last)
    assert every.load_state_dict(every.state_dict())
