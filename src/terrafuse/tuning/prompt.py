"""Visual prompts: trained tokens that every block of a transformer sees beside the image's.

Reference: Jia et al., "Visual prompt tuning", ECCV 2022, arXiv 2203.12119 (VPT-deep).
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone, TokenBackbone
from terrafuse.errors import ModelError


def prompt(backbone: Backbone, num_modalities: int, *, num_tokens: int = 10) -> None:
    """Add prompt tokens to every block; they change the features from the start.

    Each modality has its own tokens; modalities do not see each other's.

    Args:
        backbone: Changed in place.
        num_modalities: M.
        num_tokens: Tokens per block and modality.

    Raises:
        ModelError: The backbone is not a plain transformer, or `num_tokens` is not positive.
    """
    if not isinstance(backbone, TokenBackbone):
        raise ModelError(
            "tuning 'prompt' adds tokens to a plain transformer, and this backbone "
            f"({type(backbone).__name__}) has stages. Choose vit_*, samvit_* or another tuning"
        )
    if num_tokens < 1:
        raise ModelError(
            f"option 'num_tokens' of tuning 'prompt' is {num_tokens}; it must be at least 1"
        )
    backbone.prompts = PromptTokens(
        len(backbone.blocks), num_modalities, num_tokens, backbone.embed_dim, backbone.patch_size
    )
    for block in backbone.blocks:
        # Rotary positions apply to tokens after the prefix, which now includes the prompts.
        attention: Any = getattr(block, "attn", None)  # a few blocks name it differently
        if hasattr(attention, "num_prefix_tokens"):
            attention.num_prefix_tokens += num_tokens


class PromptTokens(nn.Module):
    """Prompt tokens of all blocks and modalities.

    Args:
        num_modalities: M.
        num_tokens: P.
        embed_dim: D.
        patch_size: Pixels per side of a patch; sets the range of the initial values, as published.
    """

    def __init__(
        self, num_blocks: int, num_modalities: int, num_tokens: int, embed_dim: int, patch_size: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_blocks, num_modalities, num_tokens, embed_dim))
        bound = sqrt(6 / (3 * patch_size**2 + embed_dim))
        nn.init.uniform_(self.tokens, -bound, bound)

    def forward(self, index: int, samples: int) -> Tensor:
        """Tokens (M · N, P, D) of a block, for M · N samples."""
        own = self.tokens[index]  # (M, P, D)
        return own.repeat_interleave(samples // len(own), dim=0)
