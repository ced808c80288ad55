"""VSGNet: RGB and a structure map derived from it, fused at four scales."""

from terrafuse.methods.vsgnet.model import VSGNet, convert_reference_state_dict

__all__ = [
    "VSGNet",
    "convert_reference_state_dict",
]
