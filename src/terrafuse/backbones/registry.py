"""Names of backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from terrafuse.backbones import croma, dofa, galileo, mit
from terrafuse.backbones.base import Backbone, PyramidBackbone
from terrafuse.backbones.croma import CROMA
from terrafuse.backbones.family import Family, Images, Request
from terrafuse.backbones.outside import find_outside
from terrafuse.backbones.pretrained_files import create_with
from terrafuse.backbones.timm import hiera, hrnet, pyramid, vit
from terrafuse.config.options import check_options, option_names
from terrafuse.errors import UnknownNameError, WeightsNotFoundError
from terrafuse.modalities import Modality
from terrafuse.plugins import is_outside, list_plugins

#: Every family, in the order in which they are listed. What no other owns, the first does.
FAMILIES: tuple[Family, ...] = (
    pyramid.FAMILY,
    mit.FAMILY,
    hiera.FAMILY,
    hrnet.FAMILY,
    vit.FAMILY,
    dofa.FAMILY,
    croma.FAMILY,
    galileo.FAMILY,
)


@dataclass(frozen=True)
class BackboneSummary:
    """A row of `terrafuse backbones`.

    Args:
        family: Name of the family.
        kind: "pyramid" has levels of its own; "tokens" gets them from a neck.
        examples: Names, small → large.
        licence: Of the pretrained weights for the examples.
    """

    family: str
    kind: str
    examples: tuple[str, ...]
    licence: str


def find_family(name: str) -> Family:
    """The family of a backbone.

    Raises:
        UnknownNameError: There is no such backbone.
        PluginError: It is from outside the package, and cannot be imported or is no backbone.
    """
    if is_outside(name):
        return find_outside(name)
    anything, *others = FAMILIES
    for family in others:
        if family.owns(name):
            return family
    try:
        anything.owns(name)  # refuses what timm does not know
    except UnknownNameError:
        if any(plugin.name == name for plugin in list_plugins("backbone")):
            return find_outside(name)
        raise
    return anything


def create_backbone(
    name: str,
    in_channels: int,
    *,
    weights: str | None = None,
    modalities: Sequence[Modality] | None = None,
    one_image: bool = True,
    **options: Any,
) -> Backbone:
    """A backbone by its name.

    Args:
        name: Any pyramid or plain vision transformer of timm ("resnet18", "vit_tiny_patch16_224"),
            a MiT ("mit_b0" to "mit_b5"), a DOFA ("dofa_base_patch16"), or the transformer of one
            sensor of CROMA ("croma_base_optical", "croma_base_sar"); one of an installed plug-in,
            or `module:Name`.
        in_channels: Bands of the image.
        weights: None = from scratch; "timm" = timm's pretrained weights, fetched once; "hub" =
            DOFA's, MiT's; else the path of a checkpoint ("hf://owner/repository/file" fetches it),
            which may be a file of `terrafuse pretrain`.
        modalities: Whose bands come in, in this order. DOFA needs them; of pretrained kernels,
            each band takes its own (`fit_bands`).
        one_image: Of DOFA: whether all bands come in as one image (a set of bands named "all"), or
            each modality as an image of its own (a set by its name).
        options: `strides` of a pyramid; `out_indices`, `neck`, `neck_channels`, `final_norm` of a
            transformer, `rel_pos` of SAM's; further ones go to timm (`drop_path_rate` …). DOFA's
            are the arguments of `DOFA`, MiT's those of `MiT`, CROMA's of `CROMASensor`.

    Raises:
        UnknownNameError: No such backbone, or no such option.
        ModelError: It cannot be built this way.
        WeightsError: The weights are not there, or do not fit.
    """
    family = find_family(name)
    return create_with(
        name,
        weights,
        in_channels if modalities is None else family.images(modalities, one_image),
        lambda source: family.create(
            Request(name, in_channels, source, modalities, one_image, options)
        ),
    )


def create_croma(
    name: str,
    sar: Sequence[Modality],
    optical: Sequence[Modality],
    *,
    weights: str | None = None,
    features: Literal["joint", "concat"] = "joint",
    options: Mapping[str, Any] | None = None,
) -> CROMA:
    """Both sensors of a CROMA and the joint transformer.

    Args:
        name: "croma_base" or "croma_large".
        sar: Modalities whose bands the radar transformer sees, stacked.
        optical: Modalities whose bands the optical transformer sees, stacked.
        weights: As of `create_backbone`.
        features: See `CROMA`.
        options: Keyword arguments of `CROMA`.

    Raises:
        UnknownNameError: No such option.
        WeightsError: The weights are not there, or do not fit.
    """
    checked = check_options("backbone", name, CROMA, options or {})
    return create_with(
        name,
        weights,
        {"sar": sar, "optical": optical},
        lambda source: CROMA(name, sar, optical, source, features, **checked),
    )


def images_of(name: str, modalities: Sequence[Modality], one_image: bool) -> Images:
    """What a backbone is shown of modalities, as files of `terrafuse pretrain` record it."""
    return find_family(name).images(modalities, one_image)


def has_band_sets(name: str) -> bool:
    """Whether one backbone serves several sets of bands, each an image of its own."""
    return find_family(name).has_band_sets


def has_option(name: str, option: str) -> bool:
    """Whether a backbone takes an option of `backbone_options`, other than timm's."""
    return option in option_names(find_family(name).backbone)


def knows_modalities(name: str) -> bool:
    """Whether a backbone takes the bands of each modality as what they are, by `bands=name`."""
    return find_family(name).knows_bands


def is_token_backbone(name: str) -> bool:
    """Whether a name is that of a plain transformer (`TokenBackbone`).

    Raises:
        UnknownNameError: There is no such model.
    """
    return find_family(name).kind == "tokens"


def has_stages(name: str) -> bool:
    """Whether a name is that of a `PyramidBackbone`, which methods may run stage by stage.

    Raises:
        UnknownNameError: There is no such model.
    """
    return issubclass(find_family(name).backbone, PyramidBackbone)


def has_hub_weights(name: str) -> bool:
    """Whether `weights: hub` means something for a backbone."""
    return find_family(name).hub_location is not None


def hub_location(name: str) -> str:
    """Where the published weights of a backbone are ("hf://owner/repository/file").

    Raises:
        WeightsNotFoundError: None are published.
    """
    locate = find_family(name).hub_location
    if locate is None:
        raise WeightsNotFoundError(
            f"no published weights are known for backbone '{name}' beside timm's; choose weights "
            "'timm', or give the path of a checkpoint"
        )
    return locate(name)


def list_backbones() -> list[BackboneSummary]:
    """Families that are known to work; any timm name of a similar model does too."""
    return [
        BackboneSummary(
            family=title,
            kind=family.kind,
            examples=examples,
            licence=", ".join(dict.fromkeys(map(family.licence, examples))),
        )
        for family in FAMILIES
        for title, examples in family.examples.items()
    ]
