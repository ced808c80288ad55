"""Tunings that add nothing: they select which pretrained parameters are trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from terrafuse.backbones import Backbone


def full(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """Train everything, shared by all modalities."""
    _unfreeze(pretrained_parameters(backbone).values())


def frozen(backbone: Backbone, num_modalities: int) -> None:
    """Freeze the backbone; only the parts after it are trained."""


def bitfit(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """Train only the biases of linear layers, convolutions and norms.

    Reference: Ben Zaken et al., "BitFit: Simple parameter-efficient fine-tuning for
    transformer-based masked language-models", ACL 2022, arXiv 2106.10199.
    """
    parameters = pretrained_parameters(backbone)
    _unfreeze(p for name, p in parameters.items() if name.rpartition(".")[2].endswith("bias"))


def norms(backbone: Backbone, num_modalities: int) -> None:  # noqa: ARG001
    """Train only the scales and biases of norms."""
    _unfreeze(
        parameter
        for module in backbone.modules()  # including a neck's, which are trained anyway
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    )


def pretrained_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Return the parameters set by pretrained weights, by name."""
    known = {id(p) for group in backbone.layer_groups() for p in group}
    return {name: p for name, p in backbone.named_parameters() if id(p) in known}


def _unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)
