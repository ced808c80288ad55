"""VSGNet: RGB and a structure map made of it, fused at four scales."""

from terrafuse.methods.vsgnet.model import VSGNet, convert_reference_state_dict

__all__ = [
    "VSGNet",
    "convert_reference_state_dict",
]
