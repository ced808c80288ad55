"""DOFA's transformer with torchgeo's parameter names, its sizes, and its published files.

Reference: Xiong et al., "Neural plasticity-inspired foundation model for observing the Earth
crossing modalities" (DOFA), 2024, arXiv 2403.15356.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from terrafuse.backbones.base import PretrainedSource
from terrafuse.backbones.dofa.embedding import HEADS, WaveEmbedding
from terrafuse.backbones.timm.models import HUB_WEIGHTS, find_published, refuse_timm
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsNotFoundError,
    unknown_name,
)
from terrafuse.tracing import same_size
from terrafuse.weights import load_strict, read_foreign

#: Prefix of all DOFA names.
DOFA_PREFIX = "dofa_"


@dataclass(frozen=True)
class DOFAVariant:
    """Sizes of a DOFA.

    Args:
        version: 1 or 2; 2 has layer scale and trained positions.
        patch_size: p.
        embed_dim: D.
        width: d, of the band embeddings.
        img_size: Side of the images for which positions are stored.
        file: Location of the published weights; None if there are none.
    """

    version: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    width: int = 128
    img_size: int = 224
    file: str | None = None

    def __post_init__(self) -> None:
        if self.width % HEADS or self.embed_dim % 4 or self.embed_dim % self.num_heads:
            raise ModelError(
                f"a DOFA of embed_dim {self.embed_dim}, num_heads {self.num_heads} and "
                f"dynamic_embed_dim {self.width} cannot be built; embed_dim must be a multiple of "
                f"4 and of num_heads, dynamic_embed_dim of {HEADS}"
            )
        if self.patch_size < 3 or self.img_size % self.patch_size:
            raise ModelError(
                f"a DOFA of patch_size {self.patch_size} and img_size {self.img_size} cannot be "
                "built; patch_size must be at least 3, and img_size a multiple of it"
            )


_TORCHGEO = "hf://torchgeo/dofa/"
_AUTHORS = "hf://earthflow/DOFA/"
#: Every DOFA by its name.
VARIANTS: Mapping[str, DOFAVariant] = {
    "dofa_small_patch16": DOFAVariant(1, 16, 384, 12, 6),
    "dofa_base_patch16": DOFAVariant(
        1, 16, 768, 12, 12, file=f"{_TORCHGEO}dofa_base_patch16_224-a0275954.pth"
    ),
    "dofa_large_patch16": DOFAVariant(
        1, 16, 1024, 24, 16, file=f"{_TORCHGEO}dofa_large_patch16_224-0ff904d3.pth"
    ),
    "dofa_huge_patch14": DOFAVariant(1, 14, 1280, 32, 16),
    "dofa_v2_base_patch14": DOFAVariant(
        2, 14, 768, 12, 12, file=f"{_AUTHORS}dofav2_vit_base_e150.pth"
    ),
    "dofa_v2_large_patch14": DOFAVariant(
        2, 14, 1024, 24, 16, file=f"{_AUTHORS}dofav2_vit_large_e150.pth"
    ),
}


def find_variant(name: str) -> DOFAVariant:
    """Look up the sizes of a DOFA by name.

    Raises:
        UnknownNameError: No such DOFA; names the nearest.
    """
    if name not in VARIANTS:
        raise UnknownNameError(unknown_name("backbone", name, VARIANTS))
    return VARIANTS[name]


class DOFAEncoder(nn.Module):
    """Content of the published files: band embedding, class token, positions, blocks.

    Args:
        depth: Number of blocks built, from the first.
    """

    def __init__(self, variant: DOFAVariant, depth: int) -> None:
        super().__init__()
        dim = variant.embed_dim
        side = variant.img_size // variant.patch_size
        self.patch_embed = WaveEmbedding(variant.width, variant.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.normal_(self.cls_token, std=0.02)
        if variant.version == 1:  # fixed sine waves
            self.register_buffer("pos_embed", wave_positions(dim, side))  # (1, 1 + side², D)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                variant.num_heads,
                qkv_bias=True,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                init_values=1e-5 if variant.version == 2 else None,
            )
            for _ in range(depth)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def add_positions(self, patches: Tensor) -> Tensor:
        """Patches (N, D, h, w) → tokens (N, 1 + h · w, D) with positions, class token first."""
        positions = resize_positions(self.pos_embed, (patches.shape[2], patches.shape[3]))
        x = patches.flatten(2).transpose(1, 2) + positions[:, 1:]  # (N, h · w, D)
        first = self.cls_token + positions[:, :1]
        return torch.cat([first.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)


def wave_positions(dim: int, side: int) -> Tensor:
    """Fixed positions (1, 1 + side², D) of a square grid; 0 for the class token.

    The first half holds sines and cosines of the column, the second those of the row.
    """
    steps = torch.arange(dim // 4, dtype=torch.float32) / (dim / 4)
    angles = torch.arange(side, dtype=torch.float32)[:, None] * (1.0 / 10000**steps)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, D / 2)
    cols = waves[None].expand(side, -1, -1)
    rows = waves[:, None].expand(-1, side, -1)
    table = torch.cat([cols, rows], dim=2).flatten(0, 1)  # (side², D)
    return torch.cat([table.new_zeros(1, dim), table]).unsqueeze(0)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate positions (1, 1 + side², D) to (1, 1 + h · w, D), keeping the class token's."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if same_size(grid, (side, side)):
        return positions
    table = positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # (1, D, side, side)
    table = F.interpolate(table.float(), grid, mode="bicubic", align_corners=False)
    patches = table.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], patches], dim=1)


def hub_location(name: str) -> str:
    """Return the location of a DOFA's published weights ("hf://owner/repository/file").

    Raises:
        WeightsNotFoundError: None are published.
    """
    location = find_variant(name).file
    if location is None:
        known = ", ".join(other for other, variant in VARIANTS.items() if variant.file)
        raise WeightsNotFoundError(
            f"there are no published weights for '{name}'; there are for {known}. Choose one of "
            "these, give the path of a checkpoint, or leave 'weights' out to train from scratch"
        )
    return location


def licence_of(name: str) -> str:
    """Return the licence of a DOFA's published weights, or "unknown"."""
    file = find_variant(name).file
    return find_published(file)[1] if file else "unknown"


# Unused values in the files: of pre-training, and of a classifier.
_EXTRA = re.compile(r"^(mask_token$|norm\.|projector\.|head\.|fc_norm\.)")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def load_published(
    encoder: DOFAEncoder, name: str, variant: DOFAVariant, weights: str
) -> PretrainedSource:
    """Load a checkpoint of the authors, or torchgeo's copy, into the encoder.

    Blocks beyond the encoder's, and parts of pre-training or of a classifier, are skipped; all else
    must fit. A file with a name in `PUBLISHED_FILES` must be that file.

    Args:
        encoder: Changed in place.
        name: Name of the backbone.
        variant: Sizes of the backbone.
        weights: "hub" for the published file, a path, or "hf://…".

    Raises:
        WeightsNotFoundError: No weights are published.
        WeightsMismatchError: Values are missing, unknown or of another shape.
        ChecksumError: The file is not the published one of its name.
    """
    location = hub_location(name) if weights == HUB_WEIGHTS else weights
    where = f"weights '{location}' for backbone '{name}'"
    sha256, licence = find_published(location)
    read = read_foreign(location, encoder.state_dict(), convert=_in_one, sha256=sha256)
    used = {k: value for k, value in read.values.items() if not _is_extra(k, encoder, variant)}
    _check_positions(used, variant, where)
    load_strict(encoder, used, where=where)
    return PretrainedSource(name, location, licence, read.note)


def _in_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files of version 2 hold the transformer as a submodule beside the embedding."""
    return {key.removeprefix("model."): value for key, value in state.items()}


def check_weights(name: str, weights: str | None) -> None:
    """Refuse weights that do not exist.

    Raises:
        WeightsNotFoundError: "timm", which has no DOFA, or "hub" where none are published.
    """
    refuse_timm(name, weights)
    if weights == HUB_WEIGHTS:
        hub_location(name)


def _is_extra(key: str, encoder: DOFAEncoder, variant: DOFAVariant) -> bool:
    found = _BLOCK.match(key)
    if found is not None:
        return len(encoder.blocks) <= int(found[1]) < variant.depth
    return _EXTRA.match(key) is not None


def _check_positions(state: Mapping[str, Tensor], variant: DOFAVariant, where: str) -> None:
    positions = state.get("pos_embed")
    side = variant.img_size // variant.patch_size
    if positions is None or positions.ndim != 3 or positions.shape[1] == 1 + side**2:
        return
    found = positions.shape[1] - 1
    if isqrt(found) ** 2 != found:
        return  # of no square: loading names the shapes
    raise WeightsMismatchError(
        f"{where} hold positions for {found} patches, and img_size {variant.img_size} with patches "
        f"of {variant.patch_size} needs {side**2}. Give img_size "
        f"{isqrt(found) * variant.patch_size}: images may have any size all the same, as positions "
        "are interpolated"
    )
