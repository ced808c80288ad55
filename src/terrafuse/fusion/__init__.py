"""Fusion: levels of several modalities → one set of levels."""

from terrafuse.fusion.deep_fusion import (
    DeepFusion,
    FeaturePyramid,
    LayerNorm2d,
    LevelSqueezeFusion,
    SqueezeExcitationFusion,
    convert_deep_fusion_state_dict,
)
from terrafuse.fusion.guided import (
    ChannelNorm,
    DepthwiseMlp,
    GuidedBlock,
    GuidedGate,
    PooledQueryAttention,
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
    "ChannelNorm",
    "ConcatFusion",
    "DeepFusion",
    "DepthwiseMlp",
    "FeaturePyramid",
    "GatedFusion",
    "GuidedBlock",
    "GuidedGate",
    "LayerNorm2d",
    "LevelFusion",
    "LevelSqueezeFusion",
    "PooledQueryAttention",
    "SqueezeExcitationFusion",
    "SumFusion",
    "convert_deep_fusion_state_dict",
    "create_level_fusion",
]
