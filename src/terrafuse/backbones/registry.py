"""Names of backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from terrafuse.backbones import timm_models
from terrafuse.backbones.base import Backbone
from terrafuse.backbones.timm_hiera import HIERA_MODULE, TimmHiera
from terrafuse.backbones.timm_pyramid import TimmPyramid
from terrafuse.backbones.timm_vit import TOKEN_MODULES, TimmViT
from terrafuse.options import check_options, option_names


@dataclass(frozen=True)
class BackboneSummary:
    """A row of `terrafuse backbones`.

    Args:
        family: Name of the family.
        kind: "pyramid" has levels of its own; "tokens" gets them from a neck.
        examples: timm names, small → large.
        licence: Of timm's pretrained weights for the examples.
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
    "SAM 2": ("sam2_hiera_tiny", "sam2_hiera_base_plus", "sam2_hiera_large"),
}
_TOKENS = {
    "ViT": ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    "DeiT": ("deit_tiny_patch16_224", "deit3_base_patch16_224"),
    "DINOv2": ("vit_small_patch14_dinov2", "vit_base_patch14_reg4_dinov2"),
    "DINOv3": ("vit_small_patch16_dinov3", "vit_base_patch16_dinov3"),
    "EVA-02": ("eva02_tiny_patch14_224", "eva02_base_patch14_224"),
    "SAM": ("samvit_base_patch16", "samvit_large_patch16", "samvit_huge_patch16"),
}


def create_backbone(
    name: str, in_channels: int, *, weights: str | None = None, **options: Any
) -> Backbone:
    """A backbone by its timm name.

    Args:
        name: Any pyramid or plain vision transformer of timm ("resnet18", "vit_tiny_patch16_224").
        in_channels: Bands of the image.
        weights: None = from scratch; "timm" = timm's pretrained weights, fetched once; else the
            path of a checkpoint ("hf://owner/repository/file" fetches it).
        options: `strides` of a pyramid; `taps`, `neck`, `neck_channels`, `final_norm` of a
            transformer, `rel_pos` of SAM's; further ones go to timm (`drop_path_rate` …).

    Raises:
        UnknownNameError: No such backbone, or no such option.
        ModelError: It cannot be built this way.
        WeightsError: The weights are not there, or do not fit.
    """
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
    return backbone(name, in_channels, weights=weights, **checked, **timm_options)


def is_token_backbone(name: str) -> bool:
    """Whether a name is that of a plain transformer (`TokenBackbone`).

    Raises:
        UnknownNameError: timm knows no such model.
    """
    timm_models.check_name(name)
    return timm_models.module_of(name) in TOKEN_MODULES


def list_backbones() -> list[BackboneSummary]:
    """Families that are known to work; any timm name of a similar model does too."""
    return [
        BackboneSummary(
            family=family,
            kind=kind,
            examples=examples,
            licence=", ".join(dict.fromkeys(map(timm_models.licence_of, examples))),
        )
        for kind, families in (("pyramid", _PYRAMIDS), ("tokens", _TOKENS))
        for family, examples in families.items()
    ]
