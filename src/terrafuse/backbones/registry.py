"""Names of backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from terrafuse.backbones import (
    croma_weights,
    dofa_encoder,
    galileo_weights,
    mit,
    timm_models,
)
from terrafuse.backbones.base import Backbone
from terrafuse.backbones.croma import CROMA, CROMASensor
from terrafuse.backbones.croma_weights import CROMA_PREFIX
from terrafuse.backbones.dofa import DOFA
from terrafuse.backbones.dofa_encoder import DOFA_PREFIX, find_variant
from terrafuse.backbones.galileo import Galileo
from terrafuse.backbones.galileo_weights import GALILEO_PREFIX
from terrafuse.backbones.mit import MiT, is_mit
from terrafuse.backbones.own_weights import IMAGE, create_with
from terrafuse.backbones.timm_hiera import HIERA_MODULE, TimmHiera
from terrafuse.backbones.timm_pyramid import TimmPyramid
from terrafuse.backbones.timm_vit import TOKEN_MODULES, TimmViT
from terrafuse.backbones.wavelengths import band_codes
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality
from terrafuse.options import check_options, option_names


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


_PYRAMIDS = {
    "ResNet": ("resnet18", "resnet50", "resnet101"),
    "ConvNeXt": ("convnext_atto", "convnext_tiny", "convnext_base"),
    "ConvNeXt V2": ("convnextv2_atto", "convnextv2_tiny", "convnextv2_base"),
    "Swin": ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"),
    "Swin V2": ("swinv2_tiny_window8_256", "swinv2_base_window8_256"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b3", "tf_efficientnetv2_s"),
    "MobileNetV3": ("mobilenetv3_small_100", "mobilenetv3_large_100"),
    "RegNet": ("regnety_002", "regnety_032"),
    "PVT v2": ("pvt_v2_b0", "pvt_v2_b2"),
    "MiT": ("mit_b0", "mit_b2", "mit_b5"),
    "SAM 2": ("sam2_hiera_tiny", "sam2_hiera_base_plus", "sam2_hiera_large"),
}
_TOKENS = {
    "ViT": ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    "DeiT": ("deit_tiny_patch16_224", "deit3_base_patch16_224"),
    "DINOv2": ("vit_small_patch14_dinov2", "vit_base_patch14_reg4_dinov2"),
    "DINOv3": ("vit_small_patch16_dinov3", "vit_base_patch16_dinov3"),
    "EVA-02": ("eva02_tiny_patch14_224", "eva02_base_patch14_224"),
    "SAM": ("samvit_base_patch16", "samvit_large_patch16", "samvit_huge_patch16"),
    "DOFA": ("dofa_base_patch16", "dofa_large_patch16"),
    "CROMA": ("croma_base_optical", "croma_base_sar", "croma_large_optical"),
    "Galileo": ("galileo_nano", "galileo_tiny", "galileo_base"),
    "DOFA 2": ("dofa_v2_base_patch14", "dofa_v2_large_patch14"),
}
#: Name of the set of bands of a DOFA that sees all bands as one image.
ALL_BANDS = "all"


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
            sensor of CROMA ("croma_base_optical", "croma_base_sar").
        in_channels: Bands of the image.
        weights: None = from scratch; "timm" = timm's pretrained weights, fetched once; "hub" =
            DOFA's, MiT's; else the path of a checkpoint ("hf://owner/repository/file" fetches it),
            which may be a file of `terrafuse pretrain`.
        modalities: Whose bands come in, in this order. DOFA needs them; of pretrained kernels,
            each band takes its own (`fit_bands`).
        one_image: Of DOFA: whether all bands come in as one image (a set of bands named "all"), or
            each modality as an image of its own (a set by its name).
        options: `strides` of a pyramid; `taps`, `neck`, `neck_channels`, `final_norm` of a
            transformer, `rel_pos` of SAM's; further ones go to timm (`drop_path_rate` …). DOFA's
            are the arguments of `DOFA`, MiT's those of `MiT`, CROMA's of `CROMASensor`.

    Raises:
        UnknownNameError: No such backbone, or no such option.
        ModelError: It cannot be built this way.
        WeightsError: The weights are not there, or do not fit.
    """
    return create_with(
        name,
        weights,
        in_channels if modalities is None else _images(name, modalities, one_image),
        lambda source: _create(
            name, in_channels, source, modalities, one_image=one_image, options=options
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


def _images(
    name: str, modalities: Sequence[Modality], one_image: bool
) -> dict[str, Sequence[Modality]]:
    """What a backbone is shown."""
    if not is_dofa(name):
        return {IMAGE: modalities}
    return {ALL_BANDS: modalities} if one_image else {m.name: [m] for m in modalities}


def _create(
    name: str,
    in_channels: int,
    weights: str | None,
    modalities: Sequence[Modality] | None,
    *,
    one_image: bool,
    options: Mapping[str, Any],
) -> Backbone:
    """As `create_backbone`, of weights that others made."""
    if is_dofa(name):
        sets = _band_sets(name, modalities, in_channels, one_image)
        checked = check_options("backbone", name, DOFA, options)
        # Two bands of one wavelength are told apart wherever a model is to learn from them.
        return DOFA(name, sets, weights=weights, **{"wave_delta": None, **checked})
    if is_croma(name):
        checked = check_options("backbone", name, CROMASensor, options)
        return CROMASensor(name, in_channels, modalities, weights=weights, **checked)
    if is_galileo(name):
        known = _known_modalities(name, modalities)
        checked = check_options("backbone", name, Galileo, options)
        channels = in_channels if one_image else sum(len(m.bands) for m in known)
        return Galileo(name, channels, known, weights=weights, **checked)
    if is_mit(name):
        checked = check_options("backbone", name, MiT, options)
        return MiT(name, in_channels, modalities, weights=weights, **checked)
    timm_models.check_name(name)
    module = timm_models.module_of(name)
    backbone: type[TimmViT] | type[TimmHiera] | type[TimmPyramid] = TimmPyramid
    if module in TOKEN_MODULES:
        backbone = TimmViT
    elif module == HIERA_MODULE:
        backbone = TimmHiera
    own = {key: value for key, value in options.items() if key in option_names(backbone)}
    timm_options = {key: value for key, value in options.items() if key not in own}
    checked = check_options("backbone", name, backbone, own)
    return backbone(name, in_channels, modalities, weights=weights, **checked, **timm_options)


def is_dofa(name: str) -> bool:
    """Whether a name is that of a DOFA, which needs to know modalities.

    Raises:
        UnknownNameError: It looks like one, and is none.
    """
    if not name.startswith(DOFA_PREFIX):
        return False
    find_variant(name)
    return True


def is_croma(name: str) -> bool:
    """Whether a name is that of a CROMA: of both sensors (for method "croma") or of one."""
    return name.startswith(CROMA_PREFIX)


def is_galileo(name: str) -> bool:
    """Whether a name is that of a Galileo, which needs to know modalities."""
    return name.startswith(GALILEO_PREFIX)


def knows_modalities(name: str) -> bool:
    """Whether a backbone takes the bands of each modality as what they are, by `bands=name`."""
    return is_dofa(name) or is_galileo(name)


def is_token_backbone(name: str) -> bool:
    """Whether a name is that of a plain transformer (`TokenBackbone`).

    Raises:
        UnknownNameError: There is no such model.
    """
    if is_dofa(name) or is_croma(name) or is_galileo(name):
        return True
    if is_mit(name):
        return False
    timm_models.check_name(name)
    return timm_models.module_of(name) in TOKEN_MODULES


def has_hub_weights(name: str) -> bool:
    """Whether `weights: hub` means something for a backbone."""
    return is_dofa(name) or is_mit(name) or is_croma(name) or is_galileo(name)


def hub_location(name: str) -> str:
    """Where the published weights of a DOFA, MiT, CROMA or Galileo are ("hf://owner/repository/file").

    Raises:
        WeightsNotFoundError: None are published.
    """
    if is_croma(name):
        return croma_weights.hub_location(name)
    if is_galileo(name):
        return galileo_weights.hub_location(name)
    return mit.hub_location(name) if is_mit(name) else dofa_encoder.hub_location(name)


def list_backbones() -> list[BackboneSummary]:
    """Families that are known to work; any timm name of a similar model does too."""
    return [
        BackboneSummary(
            family=family,
            kind=kind,
            examples=examples,
            licence=", ".join(dict.fromkeys(map(_licence_of, examples))),
        )
        for kind, families in (("pyramid", _PYRAMIDS), ("tokens", _TOKENS))
        for family, examples in families.items()
    ]


def _licence_of(name: str) -> str:
    if is_mit(name) or is_croma(name) or is_galileo(name):
        return timm_models.find_published(hub_location(name))[1]
    return dofa_encoder.licence_of(name) if is_dofa(name) else timm_models.licence_of(name)


def _band_sets(
    name: str, modalities: Sequence[Modality] | None, in_channels: int, one_image: bool
) -> Mapping[str, Sequence[float | None]]:
    """What a DOFA is told of the bands of each image."""
    modalities = _known_modalities(name, modalities)
    version = find_variant(name).version
    codes = {m.name: band_codes(m, version, "exact") for m in modalities}
    if not one_image:
        return codes
    together = [code for own in codes.values() for code in own]
    if len(together) != in_channels:
        raise ModelError(
            f"backbone '{name}' is to get {in_channels} channels, and {', '.join(codes)} have "
            f"{len(together)} bands; every channel needs to be known"
        )
    return {ALL_BANDS: together}


def _known_modalities(name: str, modalities: Sequence[Modality] | None) -> Sequence[Modality]:
    if modalities is None:
        raise ModelError(
            f"backbone '{name}' has to know its bands, by wavelengths or names; say which "
            "modalities come in"
        )
    return modalities
