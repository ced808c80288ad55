"""Image → levels: any timm pyramid or transformer, MiT, DOFA, CROMA, for any number of bands."""

from terrafuse.backbones.base import Backbone, PretrainedSource, PyramidBackbone, TokenBackbone
from terrafuse.backbones.croma import CROMA, CROMASensor, Encodings, Scaling
from terrafuse.backbones.croma_weights import convert_croma_state_dict
from terrafuse.backbones.dofa import DOFA
from terrafuse.backbones.mit import MiT, initialize_as_segformer, is_mit
from terrafuse.backbones.mit_names import convert_mit_state_dict
from terrafuse.backbones.registry import (
    BackboneSummary,
    create_backbone,
    has_hub_weights,
    hub_location,
    is_dofa,
    is_token_backbone,
    list_backbones,
)
from terrafuse.backbones.timm_models import HUB_WEIGHTS, TIMM_WEIGHTS, find_published, fit_bands
from terrafuse.backbones.wavelengths import band_codes, snap_wavelength

__all__ = [
    "CROMA",
    "DOFA",
    "HUB_WEIGHTS",
    "TIMM_WEIGHTS",
    "Backbone",
    "BackboneSummary",
    "CROMASensor",
    "Encodings",
    "MiT",
    "PretrainedSource",
    "PyramidBackbone",
    "Scaling",
    "TokenBackbone",
    "band_codes",
    "convert_croma_state_dict",
    "convert_mit_state_dict",
    "create_backbone",
    "find_published",
    "fit_bands",
    "has_hub_weights",
    "hub_location",
    "initialize_as_segformer",
    "is_dofa",
    "is_mit",
    "is_token_backbone",
    "list_backbones",
    "snap_wavelength",
]
