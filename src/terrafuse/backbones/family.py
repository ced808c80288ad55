"""What the rest of the package needs to know of a family of backbones: one record per family.

A new family is a module with its `FAMILY`, and its line in `terrafuse.backbones.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from terrafuse.backbones.base import Backbone
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

#: What a backbone is shown: the modalities of each of its images, by the image's name.
Images = Mapping[str, Sequence[Modality]]
#: Name of the image of a backbone that is shown one.
IMAGE = "image"
#: Name of the set of bands of a backbone with sets that sees all bands as one image.
ALL_BANDS = "all"


@dataclass(frozen=True)
class Request:
    """What `create_backbone` was asked for.

    Args:
        name: Of the backbone.
        in_channels: Bands of the image.
        weights: None, "timm", "hub" or a path; no file of `terrafuse pretrain`.
        modalities: Whose bands come in, if that is known.
        one_image: Whether all bands come in as one image.
        options: As a user wrote them; the family checks them.
    """

    name: str
    in_channels: int
    weights: str | None
    modalities: Sequence[Modality] | None
    one_image: bool
    options: Mapping[str, Any]

    def known_modalities(self) -> Sequence[Modality]:
        """The modalities.

        Raises:
            ModelError: They were not given.
        """
        if self.modalities is None:
            raise ModelError(
                f"backbone '{self.name}' has to know its bands, by wavelengths or names; say which "
                "modalities come in"
            )
        return self.modalities


@dataclass(frozen=True)
class Family:
    """A family of backbones.

    Args:
        examples: Names, small → large, by the names under which `terrafuse backbones` lists them.
        kind: "pyramid" has levels of its own; "tokens" is a `TokenBackbone`, with a neck.
        backbone: The class; its keyword-only arguments are the options.
        owns: Whether a name is one of its backbones. Raises `UnknownNameError` where it looks like
            one, and is none.
        create: Makes one.
        licence: Licence of the published weights by name, or "unknown".
        hub_location: Where they are ("hf://owner/repository/file") by name; None where `weights:
            hub` means nothing.
        knows_bands: Whether it takes the bands of each modality as what they are, by `bands=name`;
            others see three bands of a modality wherever one backbone serves several.
        has_band_sets: Whether one backbone serves several sets of bands, each an image of its own.
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
        """What a backbone is shown of modalities; files of `terrafuse pretrain` record it."""
        if not self.has_band_sets:
            return {IMAGE: modalities}
        return {ALL_BANDS: modalities} if one_image else {m.name: [m] for m in modalities}
