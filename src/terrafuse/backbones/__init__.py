"""Image → levels: any timm pyramid or transformer, MiT, DOFA, CROMA, for any number of bands."""

from terrafuse.backbones.base import (
    Backbone,
    PretrainedSource,
    PyramidBackbone,
    TokenBackbone,
    as_map,
)
from terrafuse.backbones.colour import COLOUR, RGB, ToRGB
from terrafuse.backbones.croma import CROMA, CROMASensor, Encodings, Scaling
from terrafuse.backbones.croma.weights import convert_croma_state_dict, divide_sensors
from terrafuse.backbones.dofa import DOFA
from terrafuse.backbones.family import Family
from terrafuse.backbones.first_layer import bands_in_turn, fit_bands
from terrafuse.backbones.galileo import Galileo
from terrafuse.backbones.galileo.encoder import GalileoAttention, GalileoBlock
from terrafuse.backbones.mit import MiT, convert_mit_state_dict, initialize_as_segformer, is_mit
from terrafuse.backbones.pretrained_files import is_own, refuse_own, save_backbone
from terrafuse.backbones.registry import (
    BackboneSummary,
    create_backbone,
    create_croma,
    has_band_sets,
    has_hub_weights,
    has_option,
    has_stages,
    hub_location,
    images_of,
    is_token_backbone,
    knows_modalities,
    list_backbones,
)
from terrafuse.backbones.timm import HUB_WEIGHTS, TIMM_WEIGHTS, find_published
from terrafuse.backbones.wavelengths import band_codes, snap_wavelength

__all__ = [
    "COLOUR",
    "CROMA",
    "DOFA",
    "HUB_WEIGHTS",
    "RGB",
    "TIMM_WEIGHTS",
    "Backbone",
    "BackboneSummary",
    "CROMASensor",
    "Encodings",
    "Family",
    "Galileo",
    "GalileoAttention",
    "GalileoBlock",
    "MiT",
    "PretrainedSource",
    "PyramidBackbone",
    "Scaling",
    "ToRGB",
    "TokenBackbone",
    "as_map",
    "band_codes",
    "bands_in_turn",
    "convert_croma_state_dict",
    "convert_mit_state_dict",
    "create_backbone",
    "create_croma",
    "divide_sensors",
    "find_published",
    "fit_bands",
    "has_band_sets",
    "has_hub_weights",
    "has_option",
    "has_stages",
    "hub_location",
    "images_of",
    "initialize_as_segformer",
    "is_mit",
    "is_own",
    "is_token_backbone",
    "knows_modalities",
    "list_backbones",
    "refuse_own",
    "save_backbone",
    "snap_wavelength",
]
