"""Frozen vision transformers at the entrance of VSGNet, and maps of their tokens.

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

#: Every token becomes so many pixels, squared, with D / 64 channels.
SHUFFLE = 8


def build_vision(
    name: str,
    weights: str | None,
    options: Mapping[str, Any] | None,
    bands: int,
    modalities: Sequence[Modality] | None = None,
) -> TokenBackbone:
    """A frozen transformer, of which the tokens after the last block are used.

    Args:
        name: Of a plain transformer of timm.
        weights: As in `create_backbone`.
        options: Further options of `create_backbone`.
        bands: Channels of its image.
        modalities: Whose bands these are, where they are known.

    Raises:
        ModelError: No such transformer, or its tokens cannot become pixels.
    """
    if knows_modalities(name) or not is_token_backbone(name):
        raise ModelError(
            f"method 'vsgnet' needs a plain transformer that can stay frozen, and backbone "
            f"'{name}' is none. Choose vit_base_patch14_reg4_dinov2 or another of timm's (vit_*, "
            "deit_*, samvit_*), or null to do without"
        )
    fixed = sorted(set(options or {}) & {"neck", "neck_channels", "out_indices"})
    if fixed:
        raise ModelError(
            f"method 'vsgnet' takes the tokens of the last block as they are: leave "
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
    """What a frozen transformer sees in an image, at its pixels.

    Args:
        backbone: From `build_vision`.
        image: Normalised (N, C, H, W) of any size.
        tokens: How tokens become pixels: `shuffle_tokens` or `lay_out_tokens`.

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
    """Map of tokens (N, D, h, w) → (N, D / 64, 8h, 8w): each fills the square where it lies."""
    return F.pixel_shuffle(tokens, SHUFFLE)


def lay_out_tokens(tokens: Tensor) -> Tensor:
    """The same by the order of values in memory, as published: columns are scrambled."""
    height, width = size_of(tokens)
    rows = tokens.permute(0, 2, 3, 1).reshape(
        len(tokens), SHUFFLE * height, SHUFFLE * width, -1
    )  # (N, 8h, 8w, D / 64)
    return rows.permute(0, 3, 1, 2)
