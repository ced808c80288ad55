"""DeCUR equals the published network: attention, stages, head; files, bands, missing modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden_files import load_golden, part
from terrafuse.backbones import create_backbone
from terrafuse.describe import without_values
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.decur import (
    DeCUR,
    ScaleClassifiers,
    convert_encoder_state_dict,
    convert_reference_state_dict,
)
from terrafuse.methods.decur.deformable import AttendedStage, DeformableAttention
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

#: As the stored tensors are to be compared.
CLOSE: dict[str, float] = {"rtol": 3e-5, "atol": 3e-6}
RGB = Modality("rgb", ("r", "g", "b"), "optical")
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
MS = Modality("s2", BANDS, "optical")
SAR = Modality("sar", ("VV", "VH"), "sar")
SMALL: dict[str, Any] = {"channels": [4, 8, 16, 32], "layers": [2, 1, 1, 1]}


def _golden(*, attention: bool = True) -> tuple[DeCUR, dict[str, Tensor]]:
    """Our network with the stored weights, those of its attention or not."""
    stored, config = load_golden("decur/fcn_rn50_mm_rda")
    bands = config["in_channels"][1]
    other = Modality("dsm", tuple(f"z{i}" for i in range(bands)), "elevation")
    options = {
        "backbone_options": {"channels": config["planes"], "layers": config["layers"]},
        "attention": attention,
        "scaling": "none",
        "channels": config["uc"],
    }
    model = create_segmenter("decur", (RGB, other), config["num_classes"], options)
    assert isinstance(model, DeCUR)
    state = part(stored, "sd.")
    kept = {k: v for k, v in state.items() if attention or not k.startswith("da")}
    converted = convert_reference_state_dict(kept, ("rgb", "dsm"))
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    load_strict(model, converted | own, where="stored weights")
    return model.eval(), stored


@pytest.mark.parity
@torch.no_grad()
def test_every_stage_is_the_original() -> None:
    model, stored = _golden()
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    for number, branch in enumerate(model.branches.values(), start=1):
        stages: Any = branch.get_submodule("stages")
        for level in (2, 3, 4):
            stage = stages[level - 1]
            if isinstance(stage, AttendedStage):
                stage.attention.register_forward_hook(keep(f"da{number}_l{level}"))
                stage = stage.stage
            stage.register_forward_hook(keep(f"backbone_{number}.layer{level}"))
    head = model.head
    assert isinstance(head, ScaleClassifiers)
    for i, reduce in enumerate(head.reduce):
        reduce.register_forward_hook(keep(f"uc{i}"))
    logits = model({"rgb": stored["in.x1"], "dsm": stored["in.x2"]}).logits
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)
    expected = part(stored, "mid.")
    assert len(expected) == 17
    for name, value in expected.items():
        if name.endswith(".pos"):
            continue  # see below
        torch.testing.assert_close(found[name], value, **CLOSE, msg=name)


@pytest.mark.parity
@torch.no_grad()
def test_without_attention_the_rest_is_the_same() -> None:
    """As where attention adds nothing to its stage."""
    model, stored = _golden()
    plain, _ = _golden(attention=False)
    images = {"rgb": stored["in.x1"], "dsm": stored["in.x2"]}
    logits = plain(images).logits
    assert (logits - stored["out.logits"]).abs().max() > 0.01
    stages = [m for m in model.modules() if isinstance(m, AttendedStage)]
    assert len(stages) == 4
    for stage in stages:
        torch.nn.init.zeros_(stage.attention.project.weight)
        assert stage.attention.project.bias is not None
        torch.nn.init.zeros_(stage.attention.project.bias)
    torch.testing.assert_close(logits, model(images).logits, **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_the_networks_points_are_the_originals() -> None:
    model, stored = _golden()
    found: dict[str, Tensor] = {}
    for number, branch in enumerate(model.branches.values(), start=1):
        for level in (3, 4):
            attention: Any = branch.get_submodule(f"stages.{level - 1}.attention")

            def keep(
                module: Any, inputs: tuple[Tensor], name: str = f"da{number}_l{level}"
            ) -> None:
                found[name] = module.place(module.query(inputs[0]))

            attention.register_forward_pre_hook(keep)
    model({"rgb": stored["in.x1"], "dsm": stored["in.x2"]})
    assert len(found) == 4
    for name, value in found.items():
        torch.testing.assert_close(value, stored[f"mid.{name}.pos"].flatten(0, 1), **CLOSE)


def _attention(file: str) -> tuple[DeformableAttention, dict[str, Tensor]]:
    stored, config = load_golden(f"decur/{file}")
    attention = DeformableAttention(
        config["channels"],
        num_heads=config["n_heads"],
        num_groups=config["n_groups"],
        kernel_size=config["ksize"],
        stride=config["stride"],
        table_size=config["q_size"][0],
    )
    names = {f"da1_l3.{key}": value for key, value in part(stored, "sd.").items()}
    converted = convert_encoder_state_dict(names)
    load_strict(attention, part(converted, "stages.2.attention."), where=file)
    return attention.eval(), stored


@pytest.mark.parity
@pytest.mark.parametrize("file", ["dattn_l3", "dattn_l4"])
@torch.no_grad()
def test_attention_is_the_original(file: str) -> None:
    attention, stored = _attention(file)
    x = stored["in.x"]
    torch.testing.assert_close(attention(x), stored["out.y"], **CLOSE)
    query = attention.query(x)
    grouped = query.reshape(len(x) * attention.num_groups, -1, *x.shape[2:])
    offset = attention.offset(grouped)
    torch.testing.assert_close(offset, stored["mid.offset"], **CLOSE)
    points = attention.place(query)
    torch.testing.assert_close(points, stored["out.pos"].flatten(0, 1), **CLOSE)
    torch.nn.init.zeros_(attention.offset[3].weight)
    regular = stored["out.ref"].flatten(0, 1)
    torch.testing.assert_close(attention.place(query), regular.clamp(-1, 1), **CLOSE)
    assert regular.max() > 1  # the last point lies beyond


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3), (16, 16)])
def test_attention_takes_maps_of_any_size(size: tuple[int, int]) -> None:
    attention, _ = _attention("dattn_l3")
    x = torch.randn(2, 32, *size)
    result = attention(x)
    assert result.shape == x.shape
    assert result.isfinite().all()


@torch.no_grad()
def test_the_comparison_would_see_a_mistake() -> None:
    attention, stored = _attention("dattn_l3")
    for name in ("position_table", "offset.0.weight", "value.bias"):
        parameter = attention.get_parameter(name)
        parameter.copy_(parameter.flip(0))
        assert (attention(stored["in.x"]) - stored["out.y"]).abs().max() > 1e-3, name
        parameter.copy_(parameter.flip(0))


def test_classes_before_resizing_are_classes_after_it() -> None:
    """The published order of the head: resize, then classify."""
    torch.manual_seed(0)
    head = ScaleClassifiers((6, 8, 10), 3, (4, 5, 6))
    levels = [torch.randn(2, c, 16 // s, 24 // s) for c, s in ((6, 1), (8, 2), (10, 4))]
    size = (128, 192)
    expected: Any = 0
    for level, reduce, classifier in zip(levels, head.reduce, head.classifiers, strict=True):
        large = F.interpolate(reduce(level), size, mode="bilinear", align_corners=True)
        expected = expected + classifier(large)
    torch.testing.assert_close(head(levels, size), expected, rtol=3e-5, atol=3e-6)


def _original(number: int = 1, bands: int = 13, *, attention: bool = False) -> dict[str, Tensor]:
    """Weights of an encoder under torchvision's names, with a classifier that nobody uses."""
    torch.manual_seed(number)
    model = _make(Modality("m", tuple(f"x{i}" for i in range(bands))), attention=attention)
    state: dict[str, Tensor] = {"fc.weight": torch.zeros(1000, 128)}
    ours = {
        "query": "proj_q", "key": "proj_k", "value": "proj_v", "project": "proj_out",
        "offset.0": "conv_offset.0", "offset.1": "conv_offset.1.norm", "offset.3": "conv_offset.3",
        "position_table": "rpe_table",
    }  # fmt: skip
    for name, value in model.branches["m"].state_dict().items():
        value = torch.randn_like(value) if value.is_floating_point() else value
        if ".attention." in name:
            level, inner = int(name.split(".")[1]) + 1, name.split(".attention.")[1]
            inner = next(inner.replace(k, v) for k, v in ours.items() if inner.startswith(k))
            state[f"da{number}_l{level}.{inner}"] = value
        else:
            state[name[name.index("layer") :] if "layer" in name else name[len("stem.") :]] = value
    return state


def _make(*modalities: Modality, **options: Any) -> DeCUR:
    model = create_segmenter(
        "decur", modalities, 3, {"backbone_options": SMALL, "channels": [4, 5, 6]} | options
    )
    assert isinstance(model, DeCUR)
    return model


def test_files_of_one_sensor_are_read_band_by_band(tmp_path: Path) -> None:
    state = _original()
    torch.save(state, tmp_path / "ms.pth")
    whu = Modality("opt", ("r", "g", "b", "nir"), "optical", (0.66, 0.555, 0.485, 0.83))
    model = _make(MS, whu, weights=str(tmp_path / "ms.pth"))
    same = model.branches["s2"].state_dict()
    torch.testing.assert_close(same["stem.conv1.weight"], state["conv1.weight"])
    torch.testing.assert_close(
        same["stages.2.layer3.0.conv2.weight"], state["layer3.0.conv2.weight"]
    )
    expected = state["conv1.weight"][:, [3, 2, 1, 7]] * 13 / 4
    few = model.branches["opt"].state_dict()["stem.conv1.weight"]
    torch.testing.assert_close(few, expected)
    # So does any method that takes the file for its backbone.
    single = create_backbone(
        "resnet50", 4, weights=str(tmp_path / "ms.pth"), modalities=[whu], **SMALL
    )
    torch.testing.assert_close(single.state_dict()["stem.conv1.weight"], expected)
    sar = _original(bands=2)
    torch.save(sar, tmp_path / "sar.pth")
    vh = Modality("s", ("vh",), "sar")
    model = _make(vh, weights={"s": str(tmp_path / "sar.pth")})
    torch.testing.assert_close(
        model.branches["s"].state_dict()["stem.conv1.weight"], 2 * sar["conv1.weight"][:, 1:]
    )


def test_files_of_both_sensors_give_each_its_own(tmp_path: Path) -> None:
    """With the attention of the first for both, which alone learnt in pre-training."""
    first, second = (_original(n, bands, attention=True) for n, bands in ((1, 2), (2, 13)))
    joint = {f"module.projector1.{i}": torch.ones(1) for i in range(2)}
    for number, state in ((1, first), (2, second)):
        for key, value in state.items():
            prefix = "" if key.startswith("da") else f"backbone_{number}."
            joint[f"module.{prefix}{key}"] = value
    torch.save({"model": joint, "epoch": 99}, tmp_path / "joint.pth")
    model = _make(SAR, MS, weights=str(tmp_path / "joint.pth"), attention=True)
    sar, ms = (model.branches[name].state_dict() for name in ("sar", "s2"))
    key = "stages.3.stage.layer4.0.conv3.weight"
    torch.testing.assert_close(sar[key], first["layer4.0.conv3.weight"])
    torch.testing.assert_close(ms[key], second["layer4.0.conv3.weight"])
    for state in (sar, ms):
        torch.testing.assert_close(
            state["stages.2.attention.position_table"], first["da1_l3.rpe_table"]
        )
    stripped = {key.removeprefix("module."): value for key, value in joint.items()}
    own = convert_reference_state_dict(stripped, ("a", "b"))
    table = own["branches.b.stages.2.attention.position_table"]
    torch.testing.assert_close(table, second["da2_l3.rpe_table"])
    # A file of one sensor with attention, whatever its number there.
    alone = {k if k.startswith("da") else f"backbone.{k}": v for k, v in second.items()}
    torch.save(alone, tmp_path / "ms.pth")
    model = _make(MS, weights=str(tmp_path / "ms.pth"), attention=True)
    state = model.branches["s2"].state_dict()
    torch.testing.assert_close(state["stages.2.attention.position_table"], table)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(_original(), tmp_path / "plain.pth")
    torch.save(_original(attention=True), tmp_path / "rda.pth")
    with pytest.raises(
        WeightsMismatchError, match=r"have no deformable attention; set .* to false"
    ):
        _make(MS, weights=str(tmp_path / "plain.pth"), attention=True)
    with pytest.raises(WeightsMismatchError, match=r"have deformable attention; set .* to true"):
        _make(MS, weights=str(tmp_path / "rda.pth"))
    _make(MS, weights=str(tmp_path / "plain.pth"))  # as the messages say
    _make(MS, weights=str(tmp_path / "rda.pth"), attention=True)
    with pytest.raises(ModelError, match="cannot have 8 heads in 4 groups"):
        _make(MS, attention=True, backbone_options=SMALL | {"channels": [4, 8, 9, 9]})
    with pytest.raises(ModelError, match="levels of their own, and backbone 'vit_tiny"):
        _make(MS, backbone="vit_tiny_patch16_224", backbone_options={})
    with pytest.raises(ModelError, match=r"'channels' of method 'decur' is \[4\]"):
        _make(MS, channels=[4])
    with pytest.raises(ModelError, match="no decoder_options; its option is 'channels'"):
        _make(MS, decoder_options={"channels": 4})


@torch.no_grad()
def test_a_missing_modality_adds_nothing() -> None:
    model = _make(RGB, SAR, scaling="none").eval()
    images = {"rgb": torch.randn(1, 3, 64, 64), "sar": torch.full((1, 2, 64, 64), torch.nan)}
    head: Any = model.head
    logits = model(images).logits
    for reduce, width in zip(head.reduce, (32, 64, 128), strict=True):
        reduce.weight[:, width:] = 7.0  # what radar's levels would meet
    torch.testing.assert_close(model(images).logits, logits)


def test_sizes_are_the_published() -> None:
    """GeoNRW: two ResNet-50 with their unused classifiers of 1000 classes, 11 classes."""
    pair = (RGB, Modality("dsm", ("a", "b", "c"), "elevation"))
    model = without_values(lambda: create_segmenter("decur", pair, 11))
    unused = 2 * (2048 * 1000 + 1000)
    count = sum(p.numel() for p in model.parameters()) + unused
    assert round(count / 1e6, 2) == 53.88
