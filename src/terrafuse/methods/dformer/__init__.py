"""DFormer and DFormerv2: an RGB encoder guided by a second modality."""

from terrafuse.methods.dformer.conversion import convert_reference_state_dict
from terrafuse.methods.dformer.model import DFormer

__all__ = [
    "DFormer",
    "convert_reference_state_dict",
]
