"""PAGNet: pyramid attention of the first stream gates the second."""

from terrafuse.methods.pagnet.model import PAGNet, convert_reference_state_dict

__all__ = [
    "PAGNet",
    "convert_reference_state_dict",
]
