"""Building a run's model, and checking that the settings suit it."""

from __future__ import annotations

import warnings

import torch

from terrafuse.backbones import Backbone
from terrafuse.config import RunConfig
from terrafuse.data import Manifest
from terrafuse.errors import ConfigError
from terrafuse.methods import create_segmenter
from terrafuse.segmenter import Segmenter


def build_segmenter(config: RunConfig, manifest: Manifest) -> Segmenter:
    """Build the untrained model that a run's settings describe.

    Raises:
        UnknownNameError: The method or an option does not exist.
        ModelError: An option's value does not suit the method.
        WeightsError: The requested pretrained weights cannot be used.
        ConfigError: Settings of data or training do not suit the model.
    """
    torch.manual_seed(config.training.seed)
    segmenter = create_segmenter(
        config.method.name,
        list(manifest.modalities.values()),
        manifest.scheme.num_classes,
        config.method.options,
    )
    if config.data.modality_dropout and not segmenter.supports_missing:
        raise ConfigError(
            f"data.modality_dropout is {config.data.modality_dropout}, but method "
            f"'{config.method.name}' needs every modality. Leave it out, or choose a method that "
            "supports missing modalities (terrafuse methods)"
        )
    for backbone in segmenter.backbones():
        _check_tuning(backbone, config)
    return segmenter


def _check_tuning(backbone: Backbone, config: RunConfig) -> None:
    if backbone.added and config.training.backbone_lr_factor == 0:
        raise ConfigError(
            f"training.backbone_lr_factor is 0, which also stops the parameters that tuning "
            f"'{backbone.tuning}' adds. Leave it out: the tuning freezes the rest by itself"
        )
    layers = [p for group in backbone.layer_groups() for p in group]
    frozen = config.training.backbone_lr_factor == 0 or not all(p.requires_grad for p in layers)
    if frozen and backbone.pretrained is None:
        warnings.warn(
            f"the backbone has no pretrained weights, and with {_reason(backbone)} it keeps most "
            "of its random values. Name weights in 'method.weights', or train all of it",
            stacklevel=4,
        )
    elif config.training.head_first_steps and backbone.pretrained is None:
        warnings.warn(
            "the backbone has no pretrained weights: during training.head_first_steps the rest "
            "is trained on random features. Name weights in 'method.weights', or set it to 0",
            stacklevel=4,
        )


def _reason(backbone: Backbone) -> str:
    return f"tuning '{backbone.tuning}'" if backbone.tuning else "training.backbone_lr_factor 0"
