"""Tunings that add nothing: they choose which pretrained parameters learn."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from terrafuse.backbones import Backbone


def full(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """Everything learns; modalities share all of it."""
    _unfreeze(pretrained_parameters(backbone).values())


def frozen(backbone: Backbone, num_modalities: int) -> None:
    """Nothing of the backbone learns, only what stands on it."""


def bitfit(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """The offsets learn: biases of linear layers, convolutions and norms.

    Reference: Ben Zaken et al., "BitFit: Simple parameter-efficient fine-tuning for
    transformer-based masked language-models", ACL 2022, arXiv 2106.10199.
    """
    parameters = pretrained_parameters(backbone)
    _unfreeze(p for name, p in parameters.items() if name.rpartition(".")[2].endswith("bias"))


def norms(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """The norms learn: their scales and offsets."""
    _unfreeze(
        parameter
        for module in backbone.modules()  # a neck's too, which learn anyway
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    )


def pretrained_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Parameters that pretrained weights set, by name."""
    known = {id(p) for group in backbone.layer_groups() for p in group}
    return {name: p for name, p in backbone.named_parameters() if id(p) in known}


def _unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)
