"""Record of a backbone family: everything the rest of the package needs to know about it.

A new family is a module with a `FAMILY`, and a line in `terrafuse.backbones.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from terrafuse.backbones.base import Backbone
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

#: Inputs of a backbone: the modalities stacked in each of its images, by the image's name.
Images = Mapping[str, Sequence[Modality]]
#: Name of the image of a backbone that takes one.
IMAGE = "image"
#: Name of the band set of a backbone with sets that sees all bands as one image.
ALL_BANDS = "all"


@dataclass(frozen=True)
class Request:
    """Arguments of `create_backbone`, for a family to build from.

    Args:
        weights: None, "timm", "hub" or a path; never a file of `terrafuse pretrain`.
        modalities: Modalities of the bands, in order; None if unknown.
        one_image: Whether all bands arrive as one image.
        options: As the user wrote them; the family checks them.
    """

    name: str
    in_channels: int
    weights: str | None
    modalities: Sequence[Modality] | None
    one_image: bool
    options: Mapping[str, Any]

    def known_modalities(self) -> Sequence[Modality]:
        """Return the modalities.

        Raises:
            ModelError: They are unknown.
        """
        if self.modalities is None:
            raise ModelError(
                f"backbone '{self.name}' must know its bands, by wavelength or name; give the "
                "modalities of the image"
            )
        return self.modalities


@dataclass(frozen=True)
class Family:
    """A family of backbones.

    Args:
        examples: Names, small → large, by the title under which `terrafuse backbones` lists them.
        kind: "pyramid" has levels of its own; "tokens" is a `TokenBackbone`, with a neck.
        backbone: The class; its keyword-only arguments are the options.
        owns: Whether a name is one of its backbones. Raises `UnknownNameError` for a name with the
            family's prefix that does not exist.
        create: Builds one.
        licence: Licence of the published weights by name, or "unknown".
        hub_location: Location of the published weights ("hf://owner/repository/file") by name; None
            where `weights: hub` is not supported.
        knows_bands: Whether `forward` takes `bands=name` and treats a modality's bands as what they
            are; others see three bands of a modality wherever one backbone serves several.
        has_band_sets: Whether one backbone serves several band sets, each as an image of its own.
    """

    examples: Mapping[str, tuple[str, ...]]
    kind: Literal["pyramid", "tokens"]
    backbone: type[Backbone]
    owns: Callable[[str], bool]
    create: Callable[[Request], Backbone]
    licence: Callable[[str], str]
    hub_location: Callable[[str], str] | None = None
    knows_bands: bool = False
    has_band_sets: bool = False

    def images(self, modalities: Sequence[Modality], one_image: bool) -> Images:
        """Images in which a backbone sees modalities; files of `terrafuse pretrain` record them."""
        if not self.has_band_sets:
            return {IMAGE: modalities}
        return {ALL_BANDS: modalities} if one_image else {m.name: [m] for m in modalities}
