"""What an objective needs around it: images in physical units in, backbones to be saved out."""

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

#: Options of transformers that say how levels are made of them, which is learnt with a decoder.
NECK_OPTIONS = ("neck", "neck_channels", "out_indices", "stem_channels")


@dataclass(frozen=True)
class Learned:
    """A backbone to be saved.

    Args:
        backbone: What learns.
        name: Its name.
        options: Its options, as a method's `backbone_options` take them.
        images: What it is shown: the modalities of each of its images.
    """

    backbone: Backbone
    name: str
    options: Mapping[str, Any]
    images: Mapping[str, Sequence[Modality]]


class Pretrainer(SensorModel, ABC):
    """An objective with the backbones that learn by it.

    Images come in physical units; they are normalised, brought to the pixels of the scene and
    padded as methods do it.

    Attributes:
        views: Views of each sample that the objective compares.
        view_area: Range of the part of a window that a view shows, by area.
        needs_all: Whether every sample must have data of every modality.
        needs_others: Whether samples are compared with the others of their batch.
        can_checkpoint: Whether `training.gradient_checkpointing` has an effect.
        stride: Sides of images are padded to multiples of this.
        learned: Backbones by the name of their files.
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
        """Scalar losses by name, whose sum is to be made small, of each view of the samples."""

    def forward(self, views: Sequence[Batch]) -> dict[str, Tensor]:
        """Losses by name of a batch per view, in physical units."""
        return self.losses([self._inputs(view) for view in views])

    def _inputs(self, batch: Batch) -> Inputs:
        first = self.modalities[0]
        sides = batch.images[first.name].shape[-2:]
        height, width = (round(float(length * first.scale_ratio)) for length in sides)
        padded = (round_up(height, self.stride), round_up(width, self.stride))
        return self.prepare(batch.images, batch.valid, padded)


def build_branches(config: PretrainConfig, modalities: Sequence[Modality]) -> dict[str, Learned]:
    """A backbone for each modality, without neck.

    Raises:
        UnknownNameError: A backbone for a modality that is not there; no such backbone or option.
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
    """Options of a backbone, none of which are without effect.

    Raises:
        ConfigError: Names one that is.
    """
    found = [key for key in NECK_OPTIONS if key in config.backbone_options]
    if found and is_token_backbone(name):
        raise ConfigError(
            f"backbone_options has '{found[0]}', which says how a method makes levels of the "
            "backbone, and has no effect here; leave it out"
        )
    return dict(config.backbone_options)


def without_neck(name: str) -> dict[str, Any]:
    """Further options of a backbone of which only the body is to learn."""
    return {"neck": "none"} if is_token_backbone(name) else {}


def one_backbone(config: PretrainConfig, objective: str) -> str:
    """Name of the backbone of an objective that has only one.

    Raises:
        ModelError: Several names.
    """
    names = {config.backbone} if isinstance(config.backbone, str) else {*config.backbone.values()}
    if len(names) > 1:
        raise ModelError(
            f"objective '{objective}' learns one kind of backbone, got {', '.join(sorted(names))}"
        )
    return names.pop()
