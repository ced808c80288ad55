"""Backbones from outside the package: a class or a `Family`, by `module:Name` or entry point."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from terrafuse.backbones.base import Backbone, TokenBackbone
from terrafuse.backbones.family import Family, Request
from terrafuse.config.options import check_options
from terrafuse.errors import ModelError
from terrafuse.plugins import find


def find_outside(name: str) -> Family:
    """The family of a backbone that is not the package's.

    Args:
        name: `module:Name`, or of an entry point.

    Raises:
        UnknownNameError: No such entry point.
        PluginError: It cannot be imported, or is neither a backbone nor a family.
    """
    found = find(
        "backbone", name, {}, _is_backbone, "a class derived from terrafuse.backbones.Backbone "
        "that takes (in_channels, *, options), or a terrafuse.backbones.Family",
    )  # fmt: skip
    if isinstance(found, Family):
        return replace(found, owns=lambda given: given == name)
    return Family(
        examples={found.__name__: (name,)},
        kind="tokens" if issubclass(found, TokenBackbone) else "pyramid",
        backbone=found,
        owns=lambda given: given == name,
        create=lambda request: _create(found, request),
        licence=lambda _: "unknown",
    )


def _is_backbone(value: Any) -> bool:
    if isinstance(value, Family):
        return True
    return inspect.isclass(value) and issubclass(value, Backbone) and not inspect.isabstract(value)


def _create(backbone: type[Backbone], request: Request) -> Backbone:
    """A backbone of a class alone, which takes its weights as it sees fit."""
    given = dict(request.options)
    if request.weights is not None:
        if "weights" not in inspect.signature(backbone).parameters:
            raise ModelError(
                f"backbone '{request.name}' takes no weights ('{request.weights}'): its class has "
                "no keyword-only argument 'weights'. Add one, or leave weights out"
            )
        given["weights"] = request.weights
    checked = check_options("backbone", request.name, backbone, given)
    made: Backbone = backbone(request.in_channels, **checked)
    return made
