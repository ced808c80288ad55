"""Parameter groups and learning rates, worked out by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from golden_files import load_facts, load_golden
from terrafuse.config import TrainingConfig
from terrafuse.errors import ModelError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput, SensorModel
from terrafuse.training.optim import (
    create_optimizer,
    create_schedule,
    learning_rate_factor,
    parameter_groups,
    treat_parameters,
)


class TinyBackbone(nn.Module):
    """Stem, two stages, a token and a table that asks not to be decayed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.stages = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, bias=False)])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.bias_table = nn.Parameter(torch.zeros(3, 3))
        self.neck = nn.Conv2d(2, 2, 1)  # new in every model, so in no group

    def no_weight_decay(self) -> set[str]:
        return {"bias_table"}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        return [
            [*self.stem.parameters(), self.cls_token, self.bias_table],
            *(list(stage.parameters()) for stage in self.stages),
        ]


class TinySegmenter(Segmenter):
    def __init__(self) -> None:
        super().__init__([Modality("a", ("b1",))], 2)
        self.backbone = TinyBackbone()
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Conv2d(2, 2, 1)

    def backbones(self) -> Any:
        return [self.backbone]

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        raise NotImplementedError


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 10, "lr": 1.0, "weight_decay": 0.5} | values)


def table(**values: Any) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(TinySegmenter(), config(**values))
    return {name: (g.lr_factor, g.weight_decay) for g in groups for name in g.names}


def test_norms_biases_and_offsets_are_not_decayed() -> None:
    found = table()
    assert {name for name, (_, decay) in found.items() if decay} == {
        "backbone.stem.weight",
        "backbone.stages.0.weight",
        "backbone.stages.1.weight",
        "backbone.neck.weight",
        "head.weight",
    }
    assert set(found) == {name for name, _ in TinySegmenter().named_parameters()}


@pytest.mark.parametrize(
    ("method", "options", "spared"),
    [
        (
            "single",
            {
                "backbone": "swinv2_tiny_window8_256",
                "backbone_options": {
                    "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
                    "window_size": 4, "img_size": 64,
                },
            },
            {
                "attn.logit_scale": "scale of attention",
                "attn.cpb_mlp.0.weight": "position",
                "attn.cpb_mlp.2.weight": "position",
            },
        ),
        (
            "single",
            {
                "backbone": "vit_tiny_patch16_224",
                "backbone_options": {
                    "embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 64, "reg_tokens": 1,
                },
                "tuning": "dora+prompt+full",
            },
            {
                "vit.pos_embed": "position",
                "vit.cls_token": "token or prompt",
                "vit.reg_token": "token or prompt",
                "prompts.tokens": "token or prompt",
                "attn.qkv.lengths.0": "length of DoRA",
                "attn.qkv.lengths.1": "length of DoRA",
                "mlp.fc1.lengths.0": "length of DoRA",
                "mlp.fc2.lengths.0": "length of DoRA",
            },
        ),
        (
            "sslvit",
            {
                "backbone_options": {
                    "embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2],
                    "window_size": 4, "img_size": 64,
                },
            },
            {"attn.relative_position_bias_table": "position"},
        ),
    ],
)  # fmt: skip
def test_offsets_tables_scales_and_lengths_are_not_decayed(
    method: str, options: dict[str, Any], spared: dict[str, str]
) -> None:
    """All parameters of more than one dimension that are not decayed, with the reason."""
    segmenter = create_segmenter(method, [Modality("rgb", ("r", "g", "b"))], 2, options)
    found: dict[str, str] = {}
    for treated in treat_parameters(segmenter, config()):
        parameter = segmenter.get_parameter(treated.name)
        if treated.lr_factor and parameter.ndim > 1 and not treated.weight_decay:
            (key,) = [key for key in spared if treated.name.endswith(f".{key}")]
            found[key] = treated.why
        else:
            assert (treated.weight_decay == 0.5) == (parameter.ndim > 1 and treated.lr_factor > 0)
    assert found == spared


class Listing(nn.Module):
    """A part of a timm model, whose list names a parameter and a part."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 2))
        self.inner = nn.Linear(2, 2)
        self.inner_too = nn.Linear(2, 2)

    def no_weight_decay(self) -> list[str]:
        return ["scale", "inner"]


def test_a_list_names_parameters_and_parts() -> None:
    model = SensorModel([Modality("x", ("b",))])
    model.part = Listing()
    found = {t.name: (t.why, t.weight_decay) for t in treat_parameters(model, config())}
    one = "bias, norm or scale (one dimension)"
    assert found == {
        "part.scale": ("listed by Listing", 0.0),
        "part.inner.weight": ("listed by Listing", 0.0),
        "part.inner.bias": (one, 0.0),
        "part.inner_too.weight": ("weights", 0.5),
        "part.inner_too.bias": (one, 0.0),
    }


def test_what_timms_whole_model_lists_survives_taking_it_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list of names that no pattern of ours knows."""
    monkeypatch.setattr(
        SwinTransformer, "no_weight_decay", lambda _: {"patch_embed.proj.weight", "layers.1.blocks"}
    )
    small = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "img_size": 64}
    options = {"backbone": "swin_tiny_patch4_window7_224", "backbone_options": small}
    torch.manual_seed(3)
    segmenter = create_segmenter("single", [Modality("rgb", ("r", "g", "b"))], 2, options)
    listed = {t.name for t in treat_parameters(segmenter, config()) if "listed" in t.why}
    assert "backbone.stem.patch_embed.proj.weight" in listed
    assert "backbone.stages.1.layers_1.blocks.0.mlp.fc1.weight" in listed
    assert not any(".stages.2." in name or ".stages.0." in name for name in listed)
    monkeypatch.undo()
    torch.manual_seed(3)
    other = create_segmenter("single", [Modality("rgb", ("r", "g", "b"))], 2, options)
    for name, value in other.state_dict().items():  # no random number is drawn for the list
        assert torch.equal(segmenter.state_dict()[name], value), name


def test_the_former_rule_knows_no_lists_of_pyramids() -> None:
    options = {
        "backbone": "swinv2_tiny_window8_256",
        "backbone_options": {
            "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
            "img_size": 64,
        },
    }  # fmt: skip
    segmenter = create_segmenter("single", [Modality("rgb", ("r", "g", "b"))], 2, options)
    then, now = (
        {t.name for t in treat_parameters(segmenter, config(), rule=rule) if t.weight_decay}
        for rule in (1, 2)
    )
    assert now < then
    assert {name.split(".attn.")[1] for name in then - now} == {
        "logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight",
    }  # fmt: skip


def test_everything_is_decayed_on_demand() -> None:
    found = table(decay_all=True)
    assert {decay for _, decay in found.values()} == {0.5}
    assert set(found) == {name for name, _ in TinySegmenter().named_parameters()}
    assert len(parameter_groups(TinySegmenter(), config(decay_all=True))) == 1


def test_layer_decay_counts_from_the_top() -> None:
    found = {name: factor for name, (factor, _) in table(layer_decay=0.5).items()}
    assert found["head.weight"] == found["norm.bias"] == found["backbone.neck.weight"] == 1.0
    assert found["backbone.stages.1.weight"] == 0.5
    assert found["backbone.stages.0.weight"] == found["backbone.stages.0.bias"] == 0.25
    assert found["backbone.stem.weight"] == found["backbone.cls_token"] == 0.125


def test_backbone_factor_multiplies_layer_decay() -> None:
    found = {n: f for n, (f, _) in table(layer_decay=0.5, backbone_lr_factor=0.1).items()}
    assert found["head.weight"] == 1.0
    assert found["backbone.stem.weight"] == pytest.approx(0.0125)


def test_factor_zero_leaves_the_backbone_out() -> None:
    names = {name.rpartition(".")[0] for name in table(backbone_lr_factor=0)}
    assert names == {"backbone.neck", "norm", "head"}


def test_what_a_tuning_adds_to_a_block_has_the_rate_of_the_block() -> None:
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8}
    segmenter = create_segmenter(
        "mfnet",
        [Modality("rgb", ("r", "g", "b")), Modality("dsm", ("z",))],
        2,
        {"backbone_options": small | {"global_attn_indexes": (1,)}, "tuning": "adapter+lora"},
    )
    groups = parameter_groups(segmenter, config(layer_decay=0.5))
    found = {name: group.lr_factor for group in groups for name in group.names}
    block = "backbone.vit.blocks.{}.mlp.base.fc1.down"
    assert found[block.format(1)] == 0.5
    assert found[block.format(0)] == 0.25
    assert found["backbone.vit.blocks.0.attn.proj.adapters.1.up.weight"] == 0.25
    assert {f for name, f in found.items() if name.startswith(("fusion", "decoder"))} == {1.0}
    assert not any(name.endswith("base.weight") for name in found)


def test_frozen_parameters_are_left_out() -> None:
    segmenter = TinySegmenter()
    segmenter.head.requires_grad_(False)
    groups = parameter_groups(segmenter, config())
    assert not any(name.startswith("head") for group in groups for name in group.names)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_optimizer_has_the_groups(name: str, kind: type) -> None:
    segmenter = TinySegmenter()
    settings = config(optimizer=name, lr=0.2, momentum=0.7, layer_decay=0.5)
    groups = parameter_groups(segmenter, settings)
    optimizer = create_optimizer(dict(segmenter.named_parameters()), groups, settings)
    assert type(optimizer) is kind  # AdamW is a kind of Adam
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    stem = by_parameter[id(segmenter.backbone.stem.weight)]
    assert (stem["lr"], stem["weight_decay"]) == (pytest.approx(0.025), 0.5)
    assert by_parameter[id(segmenter.norm.weight)]["weight_decay"] == 0
    if name == "sgd":
        assert stem["momentum"] == 0.7


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_parameters_that_begin_to_learn_later(name: str) -> None:
    """As a backbone after `head_first_steps`: without gradients at first."""
    parameters = {key: nn.Parameter(torch.ones(3)) for key in ("early", "late")}
    group: Any = SimpleNamespace(names=tuple(parameters), lr_factor=1.0, weight_decay=0.0)
    settings = config(optimizer=name, lr=0.2, momentum=0.7)
    optimizer = create_optimizer(parameters, [group], settings)
    for step in range(3):
        parameters["early"].grad = torch.ones(3)
        parameters["late"].grad = torch.ones(3) if step else None
        optimizer.step()
    assert (parameters["early"] < parameters["late"]).all()
    assert (parameters["late"] < 1).all()


def test_adam_has_its_decay_in_the_gradient() -> None:
    """Of a weight 3 without gradient: AdamW takes lr · decay of it, Adam a whole step."""
    steps = {}
    for name in ("adamw", "adam"):
        weight = nn.Parameter(torch.tensor([[3.0]]))
        group: Any = SimpleNamespace(names=("w",), lr_factor=1.0, weight_decay=0.1)
        settings = config(optimizer=name, lr=0.2, amsgrad=True)
        optimizer = create_optimizer({"w": weight}, [group], settings)
        assert optimizer.defaults["amsgrad"]
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        steps[name] = weight.item() - 3
    assert steps["adamw"] == pytest.approx(-0.2 * 0.1 * 3)
    assert steps["adam"] == pytest.approx(-0.2)


def walk(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], steps: range
) -> list[torch.Tensor]:
    """Parameters after steps whose gradients depend on their numbers and on where they are."""
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        for parameter in parameters.values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = noise + 0.1 * parameter.detach()
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters.values()]


def begun(settings: TrainingConfig, *, fused: bool) -> Any:
    """The optimiser of a new run, or of one from before there were fused ones; its parameters."""
    torch.manual_seed(0)
    model = TinySegmenter()
    parameters = dict(model.named_parameters())
    found = create_optimizer(parameters, parameter_groups(model, settings), settings)
    assert all(group["fused"] is True for group in found.param_groups)
    for group in () if fused else found.param_groups:
        group["fused"] = None
    return found, parameters


@pytest.mark.parametrize("values", [{}, {"amsgrad": True}, {"optimizer": "adam"}], ids=str)
def test_fused_steps_are_those_of_the_plain_optimiser(values: dict[str, Any]) -> None:
    settings = config(lr=0.05, **values)
    fused, plain = (walk(*begun(settings, fused=own), range(20)) for own in (True, False))
    start = dict(begun(settings, fused=True)[1])
    for one, other, first in zip(fused, plain, start.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert (one - first).abs().max() > 0.01


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_checkpoint_of_before_goes_on_unfused_bit_by_bit(name: str) -> None:
    settings = config(lr=0.05, optimizer=name)
    expected = walk(*begun(settings, fused=False), range(9))
    before, then = begun(settings, fused=False)
    walk(before, then, range(4))
    resumed, parameters = begun(settings, fused=True)
    resumed.load_state_dict(before.state_dict())
    assert all(group["fused"] is None for group in resumed.param_groups)
    with torch.no_grad():
        for parameter, value in zip(parameters.values(), then.values(), strict=True):
            parameter.copy_(value)
    assert all(map(torch.equal, walk(resumed, parameters, range(4, 9)), expected))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_gradients_are_clipped_in_their_own_units_in_mixed_precision(name: str) -> None:
    """As Lightning does it: undo the loss scale before the step, clip, step."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = create_optimizer(
        {"weight": weight},
        [SimpleNamespace(names=("weight",), lr_factor=1.0, weight_decay=0.0)],  # type: ignore[list-item]
        config(lr=0.1, optimizer=name),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    model = SimpleNamespace(automatic_optimization=False)

    def clip(*_: Any) -> None:
        precision.clip_gradients(optimizer, 1.0)
        torch.testing.assert_close(weight.grad, torch.tensor([[0.6, 0.8]]))

    with patch.object(precision, "_after_closure", clip):
        precision.optimizer_step(
            optimizer,
            model,
            lambda: scaler.scale((weight**2).sum() / 2).backward(),  # its gradient is the weight
        )
    assert (weight < torch.tensor([[3.0, 4.0]])).all()


def test_sgd_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[2.0]]))
    groups = [SimpleNamespace(names=("w",), lr_factor=0.5, weight_decay=0.1)]
    settings = config(optimizer="sgd", lr=0.2, momentum=0.5)
    optimizer = create_optimizer({"w": weight}, groups, settings)  # type: ignore[arg-type]
    expected, velocity = 2.0, 0.0
    for _ in range(2):
        weight.grad = torch.tensor([[3.0]])
        optimizer.step()
        velocity = 0.5 * velocity + 3.0 + 0.1 * expected
        expected -= 0.1 * velocity
    assert weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Warm-up over 2 of 6 steps: thirds, then the schedule over the remaining 4.
        ({"schedule": "constant"}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ({"schedule": "poly", "poly_power": 1.0}, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "poly", "poly_power": 2.0}, [1 / 3, 2 / 3, 1, 0.5625, 0.25, 0.0625]),
        ({"schedule": "cosine"}, [1 / 3, 2 / 3, 1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5]),
        # The steps before a milestone have the rate before it.
        (
            {"schedule": "multistep", "milestones": (3, 5), "gamma": 0.2},
            [1 / 3, 2 / 3, 1, 0.2, 0.2, 0.04],
        ),
        (
            {"schedule": "multistep", "milestones": (1, 4), "gamma": 0.5},
            [1 / 3, 2 / 3, *[0.5] * 2, *[0.25] * 2],
        ),
    ],
)
def test_schedule_by_hand(values: dict[str, Any], expected: list[float]) -> None:
    settings = config(steps=6, warmup_steps=2, **values)
    assert [learning_rate_factor(step, settings) for step in range(6)] == pytest.approx(expected)


def test_poly_whole_gives_the_published_rates() -> None:
    """Of CMX's code, which DFormer's shares."""
    stored, settings = load_golden("cmx/schedule_and_metric")
    config = TrainingConfig(
        steps=settings["total_iters"],
        warmup_steps=settings["warmup_iters"],
        schedule="poly_whole",
        poly_power=settings["power"],
        lr=settings["base_lr"],
    )
    factors = [learning_rate_factor(int(step), config) for step in stored["in.iteration"]]
    rates = [config.lr * factor for factor in factors]
    assert rates == pytest.approx(stored["out.lr"].tolist(), rel=1e-12, abs=0)


def test_multistep_gives_the_published_rates() -> None:
    """Recorded from the MFNet code, whose scheduler lowers the rate as epoch 25 begins."""
    rates = load_facts("mfnet/protocol")["lr_per_epoch_1_to_50"]
    settings = config(
        steps=50_000, schedule="multistep", milestones=(24_000, 34_000, 44_000), lr=0.01
    )
    for epoch, rate in enumerate(rates):
        for step in (1000 * epoch, 1000 * epoch + 999):
            assert 0.01 * learning_rate_factor(step, settings) == pytest.approx(rate, rel=1e-12)


def test_schedule_scales_every_group() -> None:
    segmenter = TinySegmenter()
    settings = config(
        steps=4, schedule="poly", poly_power=1.0, layer_decay=0.5, lr=0.8, optimizer="sgd"
    )
    groups = parameter_groups(segmenter, settings)
    optimizer = create_optimizer(dict(segmenter.named_parameters()), groups, settings)
    schedule = create_schedule(optimizer, settings)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    peaks = [0.8 * group.lr_factor for group in groups]
    for step, rates in enumerate(seen):
        assert rates == pytest.approx([peak * (1 - step / 4) for peak in peaks])


class _Part(nn.Module):
    """A part whose scale learns three times, and its inner layer half as fast."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.inner = nn.Linear(2, 2)
        self.inner_too = nn.Linear(2, 2)
        self.wrong = wrong

    def lr_factors(self) -> dict[str, float]:
        return {"scale": 3.0, "inner": 0.5} | ({self.wrong: 2.0} if self.wrong else {})


class _Whole(SensorModel):
    def __init__(self, wrong: str = "") -> None:
        super().__init__([Modality("x", ("b",))])
        self.parts = nn.ModuleList([_Part(), _Part(wrong)])

    def lr_factors(self) -> dict[str, float]:
        return {"parts.1": 10.0}


def test_every_part_may_ask_for_rates_and_a_name_stands_for_all_below_it() -> None:
    groups = parameter_groups(_Whole(), TrainingConfig(steps=10))
    found = {name: group.lr_factor for group in groups for name in group.names}
    assert found == {
        "parts.0.scale": 3.0, "parts.0.inner.weight": 0.5, "parts.0.inner.bias": 0.5,
        "parts.0.inner_too.weight": 1.0, "parts.0.inner_too.bias": 1.0,
        "parts.1.scale": 30.0, "parts.1.inner.weight": 5.0, "parts.1.inner.bias": 5.0,
        "parts.1.inner_too.weight": 10.0, "parts.1.inner_too.bias": 10.0,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["inn", "scale.weight", "other"])
def test_a_rate_for_nothing_is_an_error(wrong: str) -> None:
    with pytest.raises(ModelError, match=rf"_Part names '{re.escape(wrong)}'"):
        parameter_groups(_Whole(wrong), TrainingConfig(steps=10))
