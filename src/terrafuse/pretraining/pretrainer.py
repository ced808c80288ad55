"""Base class of objectives: images in physical units in, backbones to save out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, ClassVar

from torch import Tensor, nn

from terrafuse.backbones import Backbone, create_backbone, images_of, is_token_backbone
from terrafuse.config.options import by_modality
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.errors import ConfigError, ModelError
from terrafuse.modalities import Modality
from terrafuse.samples import Batch, round_up
from terrafuse.segmenter import Inputs, SensorModel

#: Transformer options about levels, which are trained together with a decoder.
NECK_OPTIONS = ("neck", "neck_channels", "out_indices", "stem_channels")


@dataclass(frozen=True)
class Learned:
    """A trained backbone to save.

    Args:
        options: Its options, as in a method's `backbone_options`.
        images: Modalities stacked in each of its input images, by name.
    """

    backbone: Backbone
    name: str
    options: Mapping[str, Any]
    images: Mapping[str, Sequence[Modality]]


class Pretrainer(SensorModel, ABC):
    """An objective with the backbones it trains.

    Images arrive in physical units; they are normalised, resampled to the scene grid and padded as
    in methods.

    Attributes:
        views: Number of views of each sample that the objective compares.
        view_area: Range of the share of a window that a view covers, by area.
        needs_all: Whether every sample must have data of every modality.
        needs_others: Whether samples are compared with others of their batch.
        can_checkpoint: Whether `training.gradient_checkpointing` has an effect.
        stride: Sides of images are padded to multiples of this.
        learned: Backbones by file name.
    """

    views: ClassVar[int] = 1
    needs_all: ClassVar[bool] = True
    needs_others: ClassVar[bool] = True
    can_checkpoint: ClassVar[bool] = True
    view_area: tuple[float, float] = (1.0, 1.0)
    objective: nn.Module

    def __init__(self, modalities: Sequence[Modality], learned: Mapping[str, Learned]) -> None:
        super().__init__(modalities)
        self.learned = dict(learned)
        self.stride = lcm(*(found.backbone.stride for found in learned.values()))

    @abstractmethod
    def losses(self, views: Sequence[Inputs]) -> dict[str, Tensor]:
        """Compute scalar losses by name, whose sum is minimised, from the views of the samples."""

    def forward(self, views: Sequence[Batch]) -> dict[str, Tensor]:
        """Compute losses by name from one batch per view, in physical units."""
        return self.losses([self._inputs(view) for view in views])

    def _inputs(self, batch: Batch) -> Inputs:
        first = self.modalities[0]
        sides = batch.images[first.name].shape[-2:]
        height, width = (round(float(length * first.scale_ratio)) for length in sides)
        padded = (round_up(height, self.stride), round_up(width, self.stride))
        return self.prepare(batch.images, batch.valid, padded)


def build_branches(config: PretrainConfig, modalities: Sequence[Modality]) -> dict[str, Learned]:
    """Build one backbone per modality, without a neck.

    Raises:
        UnknownNameError: A backbone for an unknown modality; no such backbone or option.
        ConfigError: An option that would have no effect.
    """
    names = by_modality("backbone", config.backbone, [m.name for m in modalities])
    learned = {}
    for modality in modalities:
        name = names[modality.name]
        options = backbone_options(config, name)
        backbone = create_backbone(
            name,
            len(modality.bands),
            weights=config.weights,
            modalities=[modality],
            **options,
            **without_neck(name),
        )
        images = images_of(name, [modality], one_image=True)
        learned[modality.name] = Learned(backbone, name, options, images)
    return learned


def backbone_options(config: PretrainConfig, name: str) -> dict[str, Any]:
    """Return the options of a backbone, after refusing any without effect.

    Raises:
        ConfigError: Names an option without effect.
    """
    found = [key for key in NECK_OPTIONS if key in config.backbone_options]
    if found and is_token_backbone(name):
        raise ConfigError(
            f"backbone_options has '{found[0]}', which defines the levels that a method takes "
            "from the backbone, and has no effect here; leave it out"
        )
    return dict(config.backbone_options)


def without_neck(name: str) -> dict[str, Any]:
    """Return further options for a backbone that is trained without its neck."""
    return {"neck": "none"} if is_token_backbone(name) else {}


def one_backbone(config: PretrainConfig, objective: str) -> str:
    """Return the name of the only backbone of an objective.

    Raises:
        ModelError: Several names.
    """
    names = {config.backbone} if isinstance(config.backbone, str) else {*config.backbone.values()}
    if len(names) > 1:
        raise ModelError(
            f"objective '{objective}' trains one kind of backbone, got {', '.join(sorted(names))}"
        )
    return names.pop()
