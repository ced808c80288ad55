"""Frozen vision transformers at the input of VSGNet, and maps of their tokens.

Reference: Oquab et al., "DINOv2", TMLR 2024, arXiv 2304.07193; its registers: Darcet et al., ICLR
2024, arXiv 2309.16588.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from terrafuse.backbones import TokenBackbone, is_token_backbone, knows_modalities
from terrafuse.decoders.layers import resize, size_of
from terrafuse.errors import ModelError
from terrafuse.methods.parts import build_backbone
from terrafuse.modalities import Modality
from terrafuse.samples import round_up

TokensName = Literal["shuffle", "raw"]

#: Every token becomes SHUFFLE × SHUFFLE pixels with D / 64 channels.
SHUFFLE = 8


def build_vision(
    name: str,
    weights: str | None,
    options: Mapping[str, Any] | None,
    bands: int,
    modalities: Sequence[Modality] | None = None,
) -> TokenBackbone:
    """Build a frozen transformer that returns the tokens of its last block.

    Args:
        name: Name of a plain timm transformer.
        weights: As in `create_backbone`.
        options: Further options of `create_backbone`.
        bands: Number of bands of its image.
        modalities: Modalities of these bands, in order, if known.

    Raises:
        ModelError: No such transformer, or its tokens cannot become pixels.
    """
    if knows_modalities(name) or not is_token_backbone(name):
        raise ModelError(
            f"method 'vsgnet' needs a plain transformer that can stay frozen, and backbone "
            f"'{name}' is not one. Choose vit_base_patch14_reg4_dinov2 or another of timm's "
            "(vit_*, deit_*, samvit_*), or null to do without"
        )
    fixed = sorted(set(options or {}) & {"neck", "neck_channels", "out_indices"})
    if fixed:
        raise ModelError(
            f"method 'vsgnet' takes the tokens of the last block unchanged: leave "
            f"'{fixed[0]}' out of backbone_options"
        )
    backbone = build_backbone(
        name,
        bands,
        weights,
        {**(options or {}), "neck": "none", "out_indices": [-1]},
        tuning="frozen",
        modalities=modalities,
    )
    assert isinstance(backbone, TokenBackbone)
    if backbone.embed_dim % SHUFFLE**2:
        raise ModelError(
            f"backbone '{name}' has tokens of width {backbone.embed_dim}; method 'vsgnet' makes "
            f"{SHUFFLE} × {SHUFFLE} pixels of each, so a multiple of {SHUFFLE**2} is needed"
        )
    return backbone


def see_pixels(backbone: TokenBackbone, image: Tensor, tokens: TokensName) -> Tensor:
    """Compute features of a frozen transformer at the pixels of an image.

    Args:
        backbone: From `build_vision`.
        image: Normalised (N, C, H, W) of any size.
        tokens: Conversion of tokens to pixels: `shuffle_tokens` or `lay_out_tokens`.

    Returns:
        (N, D / 64, H, W), without gradient.
    """
    height, width = size_of(image)
    patch = backbone.patch_size
    with torch.no_grad():
        whole = resize(image, (round_up(height, patch), round_up(width, patch)))
        (found,) = backbone(whole)  # (N, D, h, w)
        pixels = shuffle_tokens(found) if tokens == "shuffle" else lay_out_tokens(found)
        return resize(pixels, (height, width))


def shuffle_tokens(tokens: Tensor) -> Tensor:
    """Map of tokens (N, D, h, w) → (N, D / 64, 8h, 8w): each fills the square that it covers."""
    return F.pixel_shuffle(tokens, SHUFFLE)


def lay_out_tokens(tokens: Tensor) -> Tensor:
    """Likewise in memory order, as published: columns are scrambled."""
    height, width = size_of(tokens)
    rows = tokens.permute(0, 2, 3, 1).reshape(
        tokens.shape[0], SHUFFLE * height, SHUFFLE * width, -1
    )  # (N, 8h, 8w, D / 64)
    return rows.permute(0, 3, 1, 2)
