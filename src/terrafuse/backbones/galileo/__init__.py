"""Galileo: one pretrained encoder for the tokens of many sensors."""

from terrafuse.backbones.galileo.model import FAMILY, Galileo

__all__ = [
    "FAMILY",
    "Galileo",
]
