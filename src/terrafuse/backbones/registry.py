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

#: Every family, in listing order. A name that no other family owns belongs to the first.
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
        kind: "pyramid" has levels of its own; "tokens" gets them from a neck.
        examples: Names, small → large.
        licence: Licences of the examples' pretrained weights.
    """

    family: str
    kind: str
    examples: tuple[str, ...]
    licence: str


def find_family(name: str) -> Family:
    """Find the family of a backbone.

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
    """Create a backbone by name.

    Args:
        name: Any pyramid or plain vision transformer of timm ("resnet18", "vit_tiny_patch16_224"),
            a MiT ("mit_b0" to "mit_b5"), a DOFA ("dofa_base_patch16"), or the transformer of one
            sensor of CROMA ("croma_base_optical", "croma_base_sar"); one of an installed plug-in,
            or `module:Name`.
        in_channels: Bands of the image.
        weights: None = from scratch; "timm" = timm's pretrained weights, downloaded once; "hub" =
            the published weights of DOFA, MiT, CROMA, Galileo; else the path of a checkpoint
            ("hf://owner/repository/file" downloads it), also of a file of `terrafuse pretrain`.
        modalities: Modalities of the bands, in order. DOFA needs them; elsewhere they assign
            pretrained kernels to bands (`fit_bands`).
        one_image: For DOFA: whether all bands arrive as one image (a band set named "all"), or
            each modality as an image of its own (a band set by its name).
        options: `strides` of a pyramid; `out_indices`, `neck`, `neck_channels`, `final_norm` of a
            transformer, `rel_pos` of SAM's; others go to timm (`drop_path_rate` …). DOFA takes the
            arguments of `DOFA`, MiT those of `MiT`, CROMA those of `CROMASensor`.

    Raises:
        UnknownNameError: No such backbone, or no such option.
        ModelError: It cannot be built with these options.
        WeightsError: The weights are missing or do not fit.
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
    """Create a CROMA with both sensors and the joint transformer.

    Args:
        name: "croma_base" or "croma_large".
        sar: Modalities whose stacked bands the radar transformer sees.
        optical: Modalities whose stacked bands the optical transformer sees.
        weights: As in `create_backbone`.
        features: See `CROMA`.
        options: Keyword arguments of `CROMA`.

    Raises:
        UnknownNameError: No such option.
        WeightsError: The weights are missing or do not fit.
    """
    checked = check_options("backbone", name, CROMA, options or {})
    return create_with(
        name,
        weights,
        {"sar": sar, "optical": optical},
        lambda source: CROMA(name, sar, optical, source, features, **checked),
    )


def images_of(name: str, modalities: Sequence[Modality], one_image: bool) -> Images:
    """Images in which a backbone sees modalities, as recorded in files of `terrafuse pretrain`."""
    return find_family(name).images(modalities, one_image)


def has_band_sets(name: str) -> bool:
    """Tell whether one backbone serves several band sets, each as an image of its own."""
    return find_family(name).has_band_sets


def has_option(name: str, option: str) -> bool:
    """Tell whether a backbone takes an option in `backbone_options`, not counting timm's."""
    return option in option_names(find_family(name).backbone)


def knows_modalities(name: str) -> bool:
    """Tell whether a backbone takes `bands=name` and treats each modality's bands as they are."""
    return find_family(name).knows_bands


def is_token_backbone(name: str) -> bool:
    """Tell whether a name is that of a plain transformer (`TokenBackbone`).

    Raises:
        UnknownNameError: There is no such model.
    """
    return find_family(name).kind == "tokens"


def has_stages(name: str) -> bool:
    """Tell whether a name is that of a `PyramidBackbone`, which methods may run stage by stage.

    Raises:
        UnknownNameError: There is no such model.
    """
    return issubclass(find_family(name).backbone, PyramidBackbone)


def has_hub_weights(name: str) -> bool:
    """Tell whether a backbone supports `weights: hub`."""
    return find_family(name).hub_location is not None


def hub_location(name: str) -> str:
    """Return the location of a backbone's published weights ("hf://owner/repository/file").

    Raises:
        WeightsNotFoundError: None are published.
    """
    locate = find_family(name).hub_location
    if locate is None:
        raise WeightsNotFoundError(
            f"no published weights are known for backbone '{name}' besides timm's; choose weights "
            "'timm', or give the path of a checkpoint"
        )
    return locate(name)


def list_backbones() -> list[BackboneSummary]:
    """List the families known to work; any timm name of a similar model works too."""
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
