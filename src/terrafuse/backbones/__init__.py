"""Image → levels: any timm pyramid or vision transformer, and DOFA, for any number of bands."""

from terrafuse.backbones.base import Backbone, PretrainedSource, PyramidBackbone, TokenBackbone
from terrafuse.backbones.dofa import DOFA
from terrafuse.backbones.dofa_encoder import HUB_WEIGHTS, hub_location
from terrafuse.backbones.registry import (
    BackboneSummary,
    create_backbone,
    is_dofa,
    is_token_backbone,
    list_backbones,
)
from terrafuse.backbones.wavelengths import band_codes, snap_wavelength

__all__ = [
    "DOFA",
    "HUB_WEIGHTS",
    "Backbone",
    "BackboneSummary",
    "PretrainedSource",
    "PyramidBackbone",
    "TokenBackbone",
    "band_codes",
    "create_backbone",
    "hub_location",
    "is_dofa",
    "is_token_backbone",
    "list_backbones",
    "snap_wavelength",
]
