"""Levels of several modalities → levels of one."""

from terrafuse.fusion.deep_fusion import (
    DeepFusion,
    FeaturePyramid,
    LevelSqueezeFusion,
    SqueezeExcitationFusion,
    convert_deep_fusion_state_dict,
)
from terrafuse.fusion.levels import (
    FUSIONS,
    ConcatFusion,
    GatedFusion,
    LevelFusion,
    SumFusion,
    create_level_fusion,
)

__all__ = [
    "FUSIONS",
    "ConcatFusion",
    "DeepFusion",
    "FeaturePyramid",
    "GatedFusion",
    "LevelFusion",
    "LevelSqueezeFusion",
    "SqueezeExcitationFusion",
    "SumFusion",
    "convert_deep_fusion_state_dict",
    "create_level_fusion",
]
