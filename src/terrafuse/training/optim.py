"""Optimisation: parameter groups, optimiser, learning rate schedule."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from terrafuse.backbones import PyramidBackbone
from terrafuse.config import LearningConfig, TrainingConfig
from terrafuse.errors import ModelError
from terrafuse.segmenter import SensorModel

#: Number of the rule that `treat_parameters` follows; checkpoints hold that of their run.
DECAY_RULE = 2

#: Number of the rule on the batches that make a step, in time and in all processes. 1: all count
#: alike. 2: each counts by its labelled pixels, and batch norms see those of all processes.
STEP_RULE = 2

#: Parameters that are not decayed, by their names: why → pattern. They are offsets, tables, scales
#: and lengths, not linear maps: decay would only pull them to 0.
_NOT_DECAYED: Mapping[str, re.Pattern[str]] = {
    "position": re.compile(r"(^|[._])(pos|position|table)(_[^.]*)?$|(^|\.)(cpb|meta)_mlp\."),
    "token or prompt": re.compile(r"(^|[._])(tokens?|prompts?)(_[^.]*)?$"),
    "scale of attention": re.compile(r"(^|\.)logit_scale$"),
    "length of DoRA": re.compile(r"(^|\.)lengths\.\d+$"),
}
# The rule of before, for runs that were begun with it: by the last part of the name alone.
_FORMER_OFFSETS = re.compile(r"(^|_)(pos|position|token|tokens)(_|$)")
#: Devices with kernels of all three optimisers, for steps of all parameters at once.
_FUSED_ON = ("cpu", "cuda")
_ONE_DIMENSION = "bias, norm or scale (one dimension)"


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one weight decay.

    Names rather than tensors, since a strategy that shards the model replaces its tensors.

    Args:
        names: As in `model.named_parameters()`.
        lr_factor: Learning rate relative to `training.lr`.
    """

    names: tuple[str, ...]
    lr_factor: float
    weight_decay: float


@dataclass(frozen=True)
class Treatment:
    """Treatment of a parameter by the optimiser.

    Args:
        name: As in `model.named_parameters()`.
        values: Number of its values.
        why: Reason for its weight decay, in words.
        lr_factor: Learning rate relative to `training.lr`; 0 if it is frozen.
    """

    name: str
    values: int
    why: str
    lr_factor: float
    weight_decay: float


def treat_parameters(
    model: SensorModel, config: LearningConfig, *, rule: int = DECAY_RULE
) -> list[Treatment]:
    """Choose learning rate and weight decay of every parameter.

    A backbone's layers are those that pretrained weights can set (`Backbone.layer_groups`). Their
    learning rate in a run is `backbone_lr_factor` × that of the rest, and falls by `layer_decay`
    per group from the top: the top one has layer_decay¹ (Bao et al., "BEiT", ICLR 2022). All this
    is multiplied by the factors that modules list in `lr_factors()`. One-dimensional parameters
    (biases, norms), those whose names say what they are (`_NOT_DECAYED`), and parameters or parts
    listed in a module's `no_weight_decay()` are not decayed; with `decay_all` every parameter is.

    Args:
        model: The model.
        config: Learning rates, weight decay and factors.
        rule: 1 for the rule of earlier versions.

    Raises:
        ModelError: A module lists a factor for a parameter or part that it does not have.
    """
    factors = _backbone_factors(model, config) if isinstance(config, TrainingConfig) else {}
    own_factors = _own_factors(model)
    spared = {} if config.decay_all else _without_decay(model, rule)
    all_decayed = "all are decayed (training.decay_all)" if config.decay_all else "weights"
    found = []
    for name, parameter in model.named_parameters():
        factor = factors.get(id(parameter), 1.0) * own_factors.get(name, 1.0)
        learns = parameter.requires_grad and factor != 0
        decay = 0.0 if name in spared or not learns else config.weight_decay
        why = spared.get(name, all_decayed) if learns else "frozen"
        found.append(Treatment(name, parameter.numel(), why, factor if learns else 0.0, decay))
    return found


def parameter_groups(
    model: SensorModel, config: LearningConfig, *, rule: int = DECAY_RULE
) -> list[ParameterGroup]:
    """Group the parameters that learn by learning rate and weight decay.

    Args:
        model: The model.
        config: Learning rates, weight decay and factors.
        rule: As in `treat_parameters`.

    Raises:
        ModelError: A module lists a factor for a parameter or part that it does not have.
    """
    groups: dict[tuple[float, float], list[str]] = {}
    for treated in treat_parameters(model, config, rule=rule):
        if treated.lr_factor:
            key = (treated.lr_factor, treated.weight_decay)
            groups.setdefault(key, []).append(treated.name)
    return [ParameterGroup(tuple(names), *key) for key, names in groups.items()]


def create_optimizer(
    parameters: Mapping[str, nn.Parameter],
    groups: Sequence[ParameterGroup],
    config: LearningConfig,
) -> Optimizer:
    """Create AdamW, Adam or SGD over `groups`, at the peak learning rates.

    Adam and AdamW are torch's fused ones: all parameters in one call, equal but for rounding. A
    checkpoint holds whether it was, so that a run begun with another goes on with that. Fused SGD
    fails where parameters begin to learn after others (torch 2.15), as after `head_first_steps`.

    Args:
        parameters: The model's parameters by name.
        groups: Result of `parameter_groups`.
        config: Optimiser and its settings.
    """
    settings = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": config.lr * group.lr_factor,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum)
    fused = _can_be_fused(parameters[name] for group in groups for name in group.names) or None
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    optimizer: Optimizer = kind(settings, lr=config.lr, amsgrad=config.amsgrad, fused=fused)
    # In mixed precision a fused one would undo the loss scale within its step, which is too late
    # for clipping. Without this, Lightning undoes it before, as for any other.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _can_be_fused(parameters: Iterable[nn.Parameter]) -> bool:
    return all(p.is_floating_point() and p.device.type in _FUSED_ON for p in parameters)


def create_schedule(optimizer: Optimizer, config: LearningConfig) -> LambdaLR:
    """Create the schedule, which must be advanced once per optimiser step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))


def learning_rate_factor(step: int, config: LearningConfig) -> float:
    """Return the learning rate of a step relative to its peak, in [0, 1].

    With W = `warmup_steps` of S = `steps`: (step + 1) / (W + 1) while step < W, then with
    t = (step − W) / (S − W): (1 − t)^poly_power, (1 + cos πt) / 2, 1, or γ^n after n `milestones`.
    The step whose number is a milestone is the first with the lower rate. "poly_whole" is step / W
    while step < W, then (1 − step / S)^poly_power.

    Args:
        step: Optimiser steps done before, from 0.
        config: Schedule and its settings.
    """
    warmup = config.warmup_steps
    if config.schedule == "poly_whole":
        whole = (1 - min(1.0, step / config.steps)) ** config.poly_power
        return step / warmup if step < warmup else float(whole)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / (config.steps - warmup))
    if config.schedule == "poly":
        return float((1 - done) ** config.poly_power)
    if config.schedule == "cosine":
        return (1 + cos(pi * done)) / 2
    if config.schedule == "multistep":
        return float(config.gamma ** bisect_right(config.milestones, step))
    return 1.0


def _backbone_factors(model: SensorModel, config: TrainingConfig) -> dict[int, float]:
    """Return learning rate factors by the identity of backbone parameters."""
    factors: dict[int, float] = {}
    for backbone in model.backbones():
        for depth, layer in enumerate(reversed(backbone.layer_groups()), start=1):
            factor = config.backbone_lr_factor * config.layer_decay**depth
            factors |= {id(parameter): factor for parameter in layer}
    return factors


def _own_factors(model: SensorModel) -> dict[str, float]:
    """Return learning rate factors by parameter name, as modules list them in `lr_factors()`.

    Raises:
        ModelError: A module lists a name that matches none of its parameters or parts.
    """
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, float] = {}
    for prefix, module in model.named_modules():
        listed: Callable[[nn.Module], Mapping[str, float]] | None
        listed = getattr(type(module), "lr_factors", None)
        for key, factor in listed(module).items() if listed else ():
            start = f"{prefix}.{key}" if prefix else key
            meant = [name for name in names if name == start or name.startswith(f"{start}.")]
            if not meant:
                raise ModelError(
                    f"lr_factors() of {type(module).__name__} names '{key}', but it has no "
                    "parameter or part of that name. Name a parameter or a part of the module"
                )
            for name in meant:
                found[name] = found.get(name, 1.0) * factor
    return found


def _without_decay(model: SensorModel, rule: int) -> dict[str, str]:
    """Return why parameters are not decayed, by their names."""
    if rule == 1:
        return dict.fromkeys(_formerly_without_decay(model), "not decayed by the former rule")
    found = {}
    for name, parameter in model.named_parameters():
        kinds = (why for why, pattern in _NOT_DECAYED.items() if pattern.search(name))
        why = _ONE_DIMENSION if parameter.ndim <= 1 else next(kinds, None)
        if why is not None:
            found[name] = why
    for prefix, module in model.named_modules():
        listed = _listed(module)
        start = f"{prefix}." if prefix else ""
        for name, _ in module.named_parameters() if listed else ():
            # timm's lists name parts, too.
            if any(name == entry or name.startswith(f"{entry}.") for entry in listed):
                found.setdefault(start + name, f"listed by {type(module).__name__}")
    return found


def _listed(module: nn.Module) -> set[str]:
    """Return the parameters and parts that a module asks not to decay, as timm's models do."""
    ask: Callable[[nn.Module], Iterable[str]] | None
    ask = getattr(type(module), "no_weight_decay", None)
    return set(ask(module)) if ask else set()


def _formerly_without_decay(model: SensorModel) -> set[str]:
    names = {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or _FORMER_OFFSETS.search(name.rpartition(".")[2])
    }
    for prefix, module in model.named_modules():
        if not isinstance(module, PyramidBackbone):  # these listed nothing
            names |= {f"{prefix}.{name}" if prefix else name for name in _listed(module)}
    return names
