"""VSGNet equals what the modules of the published code compute: outputs and gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_files import load_metadata, load_tensors, part
from terrafuse.backbones import TokenBackbone
from terrafuse.classes import ClassScheme
from terrafuse.config import load_run_config
from terrafuse.decoders import SegFormerDecoder
from terrafuse.fusion import ChannelNorm, DepthwiseMlp, GuidedBlock
from terrafuse.methods import create_segmenter
from terrafuse.methods.parts import QuarterStem
from terrafuse.methods.vsgnet import VSGNet, convert_reference_state_dict
from terrafuse.methods.vsgnet.blocks import FeatureRecalibration, FusionEnhancement
from terrafuse.methods.vsgnet.vision import lay_out_tokens, shuffle_tokens
from terrafuse.modalities import Modality
from terrafuse.segmenter import SegmenterOutput
from terrafuse.training.losses import CrossEntropy, WeightedSum, create_loss
from terrafuse.weights import load_strict

#: As stated beside the files: an independent float32 implementation is within a tenth of it.
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}
GRADIENT: dict[str, float] = {"rtol": 1e-4, "atol": 2e-4}

RGB, STRUCTURE = Modality("rgb", ("r", "g", "b")), Modality("structure", ("grey",), "structure")


def _load(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    return load_tensors(f"vsgnet/{name}"), load_metadata(f"vsgnet/{name}")


def assert_close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, **CLOSE)


def _fill(module: nn.Module, state: Mapping[str, Tensor], here: str, there: str) -> Any:
    """A module with stored weights, which the original has at `there` and we at `here`."""
    converted = convert_reference_state_dict({there + k: v for k, v in state.items()})
    load_strict(module, part(converted, here), where="stored weights")
    return module.eval()


def _check_gradients(
    stored: dict[str, Tensor], inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    cotangents = part(stored, "in.cotangent_")
    assert cotangents.keys() == outputs.keys()
    sum((outputs[k] * cotangents[k]).sum() for k in outputs).backward()  # type: ignore[union-attr]
    expected = part(stored, "out.grad_")
    assert expected.keys() == inputs.keys()
    for name, value in expected.items():
        torch.testing.assert_close(inputs[name].grad, value, **GRADIENT, msg=name)


def _inputs(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {k: v for k, v in part(stored, "in.").items() if not k.startswith("cotangent")}
    return {k: v.requires_grad_() for k, v in found.items()}


@pytest.mark.parametrize(("file", "axis"), [("last", -1), ("first", 1)])
def test_norm(file: str, axis: int) -> None:
    stored, _ = _load(f"layernorm_channels_{file}")
    norm = ChannelNorm(12)
    norm.load_state_dict(part(stored, "state."))
    y = norm(stored["in.x"].movedim(axis, -1)).movedim(-1, axis)
    torch.testing.assert_close(y, stored["out.y"], **CLOSE)


def test_mlp() -> None:
    stored, settings = _load("mlp")
    mlp = DepthwiseMlp(int(settings["dim"]), int(settings["mlp_ratio"]))
    _fill(mlp, part(stored, "state."), "scales.0.blocks.0.mlp.", "fe.0.0.mlp.")
    inputs = _inputs(stored)
    y = mlp(inputs["x"])
    torch.testing.assert_close(y, stored["out.y"], **CLOSE)
    _check_gradients(stored, inputs, {"y": y})


def _enhancement(stored: dict[str, Tensor], settings: dict[str, str]) -> FusionEnhancement:
    module = FusionEnhancement(int(settings["dim"]), int(settings["num_head"]))
    state = part(stored, "state.")
    if "proj_e.weight" not in state:  # the variant that ends before it
        state |= {"proj_e.weight": torch.eye(16), "proj_e.bias": torch.zeros(16)}
    filled: FusionEnhancement = _fill(module, state, "scales.0.blocks.0.attention.", "fe.0.0.attn.")
    return filled


@pytest.mark.parametrize("name", ["fe", "fe_small_map"])
def test_fusion_enhancement(name: str) -> None:
    stored, settings = _load(name)
    inputs = _inputs(stored)
    y, y_e = _enhancement(stored, settings)(inputs["x"], inputs["x_e"])
    torch.testing.assert_close(y, stored["out.y"], **CLOSE)
    torch.testing.assert_close(y_e, stored["out.y_e"], **CLOSE)
    if name == "fe":
        _check_gradients(stored, inputs, {"y": y, "y_e": y_e})


def test_gate_without_its_projection() -> None:
    """The last published block returns the gate's factors; ours never does (decision 8)."""
    stored, settings = _load("fe_drop_depth")
    module = _enhancement(stored, settings)
    x, e = stored["in.x"], stored["in.x_e"]
    torch.testing.assert_close(module(x, e)[0], stored["out.y"], **CLOSE)
    torch.testing.assert_close(module.gate.weigh(module.norm_structure(e)), stored["out.y_e"])


def test_block() -> None:
    stored, settings = _load("block")
    width = int(settings["dim"])
    block = GuidedBlock(
        FusionEnhancement(width, int(settings["num_head"])),
        width,
        width,
        mlp_ratio=int(settings["mlp_ratio"]),
        drop_path=0.5,
        layer_scale_init=1e-2,
    )
    _fill(block, part(stored, "state."), "scales.0.blocks.0.", "fe.0.0.")
    y, y_e = block(stored["in.x"], stored["in.x_e"])
    torch.testing.assert_close(y, stored["out.y"], **CLOSE)
    torch.testing.assert_close(y_e, stored["out.y_e"], **CLOSE)


def _recalibration(stored: dict[str, Tensor], settings: dict[str, str]) -> FeatureRecalibration:
    # A second scale, lest this one counts as the last, whose second output is not made.
    state = part(stored, "state.")
    both = {f"FRlist.{i}.{k}": v for i in range(2) for k, v in state.items()}
    module = FeatureRecalibration(int(settings["dim"]))
    converted = part(convert_reference_state_dict(both), "scales.0.recalibration.")
    load_strict(module, converted, where="stored weights")
    return module.eval()


@pytest.mark.parametrize("name", ["fr", "fr_large"])
def test_feature_recalibration(name: str) -> None:
    stored, settings = _load(name)
    inputs = _inputs(stored)
    y1, y2 = _recalibration(stored, settings)(
        [inputs["x1"], inputs["x2"]], [inputs["fe_x1"], inputs["fe_x2"]]
    )
    torch.testing.assert_close(y1, stored["out.y1"], **CLOSE)
    torch.testing.assert_close(y2, stored["out.y2"], **CLOSE)
    if name == "fr":
        _check_gradients(stored, inputs, {"y1": y1, "y2": y2})


def test_decoder() -> None:
    stored, settings = _load("decoder_head")
    channels = json.loads(settings["in_channels"])
    width, classes = int(settings["embed_dim"]), int(settings["num_classes"])
    decoder = SegFormerDecoder(channels, classes, channels=width)
    _fill(decoder, part(stored, "state."), "decoder.", "decode_head.")
    logits = decoder([stored[f"in.c{i}"] for i in range(1, 5)])
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)


def test_tokens_as_pixels() -> None:
    stored, _ = _load("tokens_to_map")
    tokens = stored["in.tokens"].transpose(1, 2).unflatten(2, (5, 5))  # type: ignore[no-untyped-call]
    assert torch.equal(shuffle_tokens(tokens), stored["out.shuffle8"])
    assert torch.equal(lay_out_tokens(tokens), stored["out.raw8"])


class GivenTokens(TokenBackbone):
    """A transformer whose tokens are known."""

    patch_size = 14

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, image: Tensor) -> list[Tensor]:
        grid = (image.shape[-2] // 14, image.shape[-1] // 14)
        assert image.shape[-2:] == (56, 70)
        return [self.tokens.transpose(1, 2).unflatten(2, grid)]  # type: ignore[no-untyped-call]

    blocks = embed = run_block = to_map = neck = layer_groups = None  # type: ignore[assignment]


def _core() -> tuple[VSGNet, dict[str, Tensor], dict[str, str]]:
    stored, settings = _load("core")
    sizes = {key: json.loads(f"[{value.strip('()')}]") for key, value in settings.items()}
    model = create_segmenter(
        "vsgnet", (RGB, STRUCTURE), *sizes["ncls"],
        {
            "backbone": None, "channels": sizes["dims"], "depths": sizes["depths"],
            "num_heads": sizes["heads"], "mlp_ratios": sizes["ratios"],
            "decoder_options": {"channels": sizes["emb"][0]},
        },
    )  # fmt: skip
    assert isinstance(model, VSGNet)
    for stream, name, bands in (("image", "rgb", "cv"), ("structure", "structure", "cv_e")):
        model.vision[stream] = GivenTokens(stored[f"in.tokens_{name}"])
        model.token_stems[stream] = QuarterStem(sizes[bands][0], sizes["dims"][0])
    model.decoder.norm.eps = 1e-5  # type: ignore[union-attr, assignment]
    statistics = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    converted = convert_reference_state_dict(part(stored, "state."))
    load_strict(model, converted | statistics, where="stored weights")
    return model.eval(), stored, settings


@torch.no_grad()
def test_core() -> None:
    model, stored, _ = _core()
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda _, inputs, output: found.update({name: (inputs, output)})

    for i, scale in enumerate(model.scales, start=1):
        scale.register_forward_hook(keep(f"stage{i}"))
    model.scales[3].recalibration.register_forward_hook(keep("recalibration"))  # type: ignore[operator, union-attr]
    logits = model({"rgb": stored["in.rgb"], "structure": stored["in.structure"]}).logits
    stems = found["stage1"][0][0]
    torch.testing.assert_close(stems[0], stored["out.stem_rgb"], **CLOSE)
    torch.testing.assert_close(stems[1], stored["out.stem_structure"], **CLOSE)
    for i in range(1, 5):
        expected = stored[f"out.stage{i}"]
        torch.testing.assert_close(found[f"stage{i}"][1][0], expected, **CLOSE, msg=f"stage {i}")
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)
    # What the last scale would have for a structure stream is not made (decision 25).
    assert len(found["recalibration"][1]) == 1
    state = part(stored, "state.FRlist.3.")
    whole = _recalibration({f"state.{k}": v for k, v in state.items()}, {"dim": "32"})
    _, last = whole(*found["recalibration"][0])
    torch.testing.assert_close(last, stored["out.structure_last"], **CLOSE)


@pytest.mark.parametrize(
    "name",
    [
        "scales.1.blocks.1.attention.gate.depthwise.weight",
        "scales.3.recalibration.channel_gates.1.0.weight",
        "scales.2.down.1.1.weight",
        "token_stems.structure.0.weight",
        "scales.3.blocks.1.scale_mlp_guide",
    ],
)
@torch.no_grad()
def test_the_comparison_would_see_a_mistake(name: str) -> None:
    """Values of one layer in reverse order."""
    model, stored, _ = _core()
    parameter = model.get_parameter(name)
    parameter.copy_(parameter.flip(0))
    logits = model({"rgb": stored["in.rgb"], "structure": stored["in.structure"]}).logits
    assert (logits - stored["out.logits"]).abs().max() > 1e-3


class PublishedDice(nn.Module):
    """Dice as published: per sample, of squares, 1 added above and below (decision 28).

    Ignored pixels count in the denominator, as of the last class.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _dice(logits, labels, over=(2, 3), power=2, added=1, ignored_as=4)


def _dice(
    logits: Tensor,
    labels: Tensor,
    *,
    over: tuple[int, ...],
    power: int,
    added: int,
    ignored_as: int | None,
) -> Tensor:
    probs, valid = logits.softmax(dim=1), (labels != 255)[:, None]
    truth = F.one_hot(labels.clamp(max=ignored_as or 0), logits.shape[1]).movedim(-1, 1)
    if ignored_as is None:
        truth = F.one_hot(labels.where(labels != 255, 0), logits.shape[1]).movedim(-1, 1) * valid
        probs = probs * valid
    overlap = (probs * truth * valid).sum(dim=over)
    total = (probs**power + truth).sum(dim=over)
    return (1 - (2 * overlap + added) / (total + added)).mean()


def test_losses() -> None:
    """Weighted by our sum; the cross entropy is ours, but for what it divides by (decision 29)."""
    stored, settings = _load("losses")
    logits, labels = stored["in.logits"].requires_grad_(), stored["in.labels"]
    valid = labels != int(settings["ignore_index"])
    smoothing = float(settings["smooth_factor"])
    losses = {
        "dice": PublishedDice(),
        "cross_entropy": CrossEntropy(torch.ones(5), label_smoothing=smoothing),
    }
    share = float(valid.float().mean())
    terms = WeightedSum(losses, [0.5, 0.5 * share])(SegmenterOutput(logits), labels)
    assert_close(terms["cross_entropy"][None] * share, stored["out.soft_ce"])
    assert_close(terms["dice"][None], stored["out.dice"])
    assert_close(terms["total"][None], stored["out.joint"])
    terms["total"].backward()
    assert_close(logits.grad, stored["out.grad_logits"])


@pytest.mark.parametrize("name", ["forests", "potsdam_published", "potsdam_sound"])
def test_losses_of_the_run_files_are_the_published_ones_mended(name: str) -> None:
    """The same formula over the batch, without squares and the constant; ignored pixels nowhere."""
    stored, settings = _load("losses")
    logits, labels = stored["in.logits"], stored["in.labels"]
    assert all((labels == k).any() for k in range(5))
    assert (labels == 255).any()
    config = load_run_config(Path(__file__).parents[2] / "configs" / "vsgnet" / f"{name}.yaml")
    loss = create_loss(config.training.losses, ClassScheme(tuple("abcde")), torch.ones(5))
    terms = loss(SegmenterOutput(logits), labels)
    mended = _dice(logits, labels, over=(0, 2, 3), power=1, added=0, ignored_as=None)
    assert_close(terms["dice"], mended)
    share = (labels != int(settings["ignore_index"])).float().mean()
    assert_close(terms["cross_entropy"][None] * share, stored["out.soft_ce"])
    assert_close(terms["total"], 0.5 * mended + 0.5 * terms["cross_entropy"])
    # Not the published Dice: where they are the same, so would be this.
    assert abs(float(terms["dice"] - PublishedDice()(logits, labels))) > 1e-3
