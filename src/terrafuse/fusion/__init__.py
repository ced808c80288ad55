"""Levels of several modalities → levels of one."""

from terrafuse.fusion.deep_fusion import (
    ChannelLayerNorm,
    DeepFusion,
    FeaturePyramid,
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
from terrafuse.fusion.synergy import Guidance, SynergySite
from terrafuse.fusion.synergy_attention import check_block, run_prompted
from terrafuse.fusion.synergy_fusion import STREAM_FUSIONS, StreamFusion
from terrafuse.fusion.synergy_prompts import PromptSettings
from terrafuse.fusion.synergy_tokens import TokenMap, see_tokens
from terrafuse.fusion.synergy_variance import VarianceEnhancement, VarianceSettings

__all__ = [
    "FUSIONS",
    "STREAM_FUSIONS",
    "ChannelLayerNorm",
    "ChannelNorm",
    "ConcatFusion",
    "DeepFusion",
    "DepthwiseMlp",
    "FeaturePyramid",
    "GatedFusion",
    "Guidance",
    "GuidedBlock",
    "GuidedGate",
    "LevelFusion",
    "LevelSqueezeFusion",
    "PooledQueryAttention",
    "PromptSettings",
    "SqueezeExcitationFusion",
    "StreamFusion",
    "SumFusion",
    "SynergySite",
    "TokenMap",
    "VarianceEnhancement",
    "VarianceSettings",
    "check_block",
    "convert_deep_fusion_state_dict",
    "create_level_fusion",
    "run_prompted",
    "see_tokens",
]
