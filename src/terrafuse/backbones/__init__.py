"""Image → levels: any timm pyramid or vision transformer, for any number of bands."""

from terrafuse.backbones.base import Backbone, PretrainedSource, PyramidBackbone, TokenBackbone
from terrafuse.backbones.registry import (
    BackboneSummary,
    create_backbone,
    is_token_backbone,
    list_backbones,
)

__all__ = [
    "Backbone",
    "BackboneSummary",
    "PretrainedSource",
    "PyramidBackbone",
    "TokenBackbone",
    "create_backbone",
    "is_token_backbone",
    "list_backbones",
]
