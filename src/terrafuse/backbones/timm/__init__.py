"""Backbones that timm builds: pyramids, plain transformers, Hiera, HRNet."""

from terrafuse.backbones.timm.models import HUB_WEIGHTS, TIMM_WEIGHTS, find_published

__all__ = [
    "HUB_WEIGHTS",
    "TIMM_WEIGHTS",
    "find_published",
]
