"""Levels of several modalities → levels of one."""

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
    "GatedFusion",
    "LevelFusion",
    "SumFusion",
    "create_level_fusion",
]
