"""UPSeg: modalities guide each other by prompts inside one foundation model."""

from terrafuse.methods.upseg.attention import check_block, run_prompted
from terrafuse.methods.upseg.fusion import STREAM_FUSIONS
from terrafuse.methods.upseg.model import UPSeg
from terrafuse.methods.upseg.prompts import PromptSettings
from terrafuse.methods.upseg.site import Guidance, SynergySite
from terrafuse.methods.upseg.tokens import TokenMap, see_tokens
from terrafuse.methods.upseg.variance import VarianceEnhancement, VarianceSettings

__all__ = [
    "STREAM_FUSIONS",
    "Guidance",
    "PromptSettings",
    "SynergySite",
    "TokenMap",
    "UPSeg",
    "VarianceEnhancement",
    "VarianceSettings",
    "check_block",
    "run_prompted",
    "see_tokens",
]
