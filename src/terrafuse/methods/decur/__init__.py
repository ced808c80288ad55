"""DeCUR: an encoder per sensor; pre-training separates common features from unique ones."""

from terrafuse.methods.decur.model import DeCUR, ScaleClassifiers
from terrafuse.methods.decur.weights import convert_encoder_state_dict, convert_reference_state_dict

__all__ = [
    "DeCUR",
    "ScaleClassifiers",
    "convert_encoder_state_dict",
    "convert_reference_state_dict",
]
