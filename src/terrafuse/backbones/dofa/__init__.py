"""DOFA: one transformer for any bands, identified by their wavelengths."""

from terrafuse.backbones.dofa.model import DOFA, FAMILY, OFFSET_LR_FACTOR, find_alike

__all__ = [
    "DOFA",
    "FAMILY",
    "OFFSET_LR_FACTOR",
    "find_alike",
]
