"""Any plain timm vision transformer (ViT, DeiT, DINOv2, DINOv3, EVA-02, SAM's) as levels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones.base import TokenBackbone
from terrafuse.backbones.family import Family
from terrafuse.backbones.necks import NeckName, choose_out_indices, create_neck
from terrafuse.backbones.timm import models as timm_models
from terrafuse.backbones.timm import sam_attention
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.modalities import Modality
from terrafuse.tracing import same_size

#: timm's modules whose models are plain transformers with positions for any image size.
_MODULES = ("vision_transformer", "deit", "eva", "vision_transformer_sam")
_OWN_OPTIONS = ("out_indices", "neck", "neck_channels", "final_norm", "rel_pos")
# timm options that our attention would ignore.
_NOT_WITH_SAM = ("qk_norm", "use_rope")


class TimmViT(TokenBackbone):
    """A plain timm transformer with a neck.

    Args:
        name: timm name.
        modalities: Modalities of the bands, in order; they assign pretrained kernels to bands.
        weights: None = from scratch, "timm" = pretrained by timm, else a path.
        out_indices: Blocks whose output is used, counted from 0 (negative: from the end). Default:
            four evenly spaced including the last; with neck "map" the last only.
        neck: "pyramid" makes four levels of strides p/4, p/2, p, 2p (p = patch size; 4, 8, 16, 32
            for 16); "map" makes one of stride p by the convolutions that end SAM's encoder
            (pretrained with it; new for other transformers); "none" returns the chosen maps
            unchanged, all of stride p.
        neck_channels: Channels of the neck's levels.
        final_norm: Whether the chosen maps pass through the transformer's final norm.
        rel_pos: SAM only. "sam" adds its relative positions to the attention; "zero" omits them,
            like the published MFNet, whose loader skips them.
        timm_options: Arguments of timm's constructor (`drop_path_rate`, `img_size`, `depth` …).

    Raises:
        ModelError: A block that does not exist, or a patch size that the neck cannot use.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality] | None = None,
        *,
        weights: str | None = None,
        out_indices: Sequence[int] | None = None,
        neck: NeckName = "pyramid",
        neck_channels: int = 256,
        final_norm: bool = True,
        rel_pos: Literal["sam", "zero"] = "sam",
        **timm_options: Any,
    ) -> None:
        super().__init__()
        self.is_sam = timm_models.module_of(name) == "vision_transformer_sam"
        if rel_pos == "zero" and not self.is_sam:
            raise ModelError(
                f"rel_pos is 'zero', but backbone '{name}' has no relative positions like SAM's"
            )
        refused = [key for key in _NOT_WITH_SAM if self.is_sam and timm_options.get(key)]
        if refused:
            raise ModelError(f"backbone '{name}' cannot be built with option '{refused[0]}' here")
        options = self._timm_options(neck, neck_channels, rel_pos) | timm_options
        self.vit, self.pretrained = timm_models.build(
            name, in_channels, weights, _OWN_OPTIONS, modalities, **options
        )
        self.out_indices = choose_out_indices(name, len(self.vit.blocks), out_indices, neck)
        known = self._known()
        # SAM's "norm" is its convolutional neck, which maps before it do not need.
        self.vit.prune_intermediate_layers(
            [self.out_indices[-1]], prune_norm=neck != "map" if self.is_sam else not final_norm
        )
        if timm_models.wants_file(weights):
            self._load(name, str(weights), known, modalities)
        self.patch_size = int(max(self.vit.patch_embed.patch_size))
        self.embed_dim = int(self.vit.embed_dim)
        self.num_prefix_tokens = int(getattr(self.vit, "num_prefix_tokens", 0))
        self.takes_any_tokens = not self.is_sam and getattr(self.vit, "rope", None) is None
        self._set_neck(neck, neck_channels)

    def _timm_options(self, neck: NeckName, channels: int, rel_pos: str) -> dict[str, Any]:
        if not self.is_sam:
            return {"dynamic_img_size": True}  # SAM's takes any size by default
        options = {
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),  # the original's; timm leaves 1e-5
            "use_rel_pos": rel_pos == "sam",
        }
        return options | ({"neck_chans": channels} if neck == "map" else {})

    def _known(self) -> dict[str, Tensor]:
        """Values that a file may hold for all blocks, used or not."""
        known: dict[str, Tensor] = self.vit.state_dict()
        if self.is_sam:  # with rel_pos "zero" there are no tables
            tables = (f"blocks.{i}.attn.rel_pos_" for i in range(len(self.vit.blocks)))
            known |= {table + axis: torch.empty(0) for table in tables for axis in "hw"}
        return known

    def _load(
        self,
        name: str,
        weights: str,
        known: dict[str, Tensor],
        modalities: Sequence[Modality] | None,
    ) -> None:
        used = set(self.vit.state_dict())
        try:
            self.pretrained = timm_models.load_file_into(
                self.vit,
                lambda key: key if key in used else None,
                self.vit,
                known,
                name,
                weights,
                modalities=modalities,
            )
        except WeightsMismatchError as error:
            if "missing: " not in str(error) or "rel_pos" not in str(error):
                raise
            raise WeightsMismatchError(
                f"{error}. These are relative positions: a file without them is not a complete "
                "SAM encoder; backbone option rel_pos 'zero' does without them"
            ) from None

    def _set_neck(self, kind: NeckName, neck_channels: int) -> None:
        neck = create_neck(
            kind,
            self.embed_dim,
            self.patch_size,
            self.out_indices,
            neck_channels,
            has_own=self.is_sam,
        )
        self.pyramid = neck.layers
        self.channels, self.strides, self.stride = neck.channels, neck.strides, neck.stride

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer blocks up to the last of `out_indices`."""
        blocks: nn.ModuleList | nn.Sequential = self.vit.blocks
        return blocks

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (N, L, D) with prefix and positions, and the grid (h, w) of the patches."""
        x = self.vit.patch_embed(image)  # (N, h, w, D)
        grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        if self.is_sam:
            return self._embed_sam(x).flatten(1, 2), grid  # (N, L, D)
        x = self.vit._pos_embed(x)  # (N, L, D); EVA's also returns rotations, see `run_block`
        tokens: Tensor = self.vit.norm_pre(x[0] if isinstance(x, tuple) else x)
        return tokens, grid

    def run_block(self, index: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) after block `index`, with rotary positions where the model has them."""
        block = self.vit.blocks[index]
        if self.is_sam:
            prompts = None if self.prompts is None else self.prompts(index, tokens.shape[0])
            return sam_attention.run_block(block, tokens, grid, prompts)
        if getattr(self.vit, "rope", None) is not None:
            rope = self.vit.rope.get_embed(shape=grid)
            # Mixed rotations are trained per block.
            block = partial(block, rope=rope[index] if self.vit.rope_mixed else rope)
        return self._beside_prompts(index, tokens, block)

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens as a map (N, D, h, w), after the final norm where there is one."""
        return self._patches_as_map(self._normalize(tokens), grid)

    def _normalize(self, tokens: Tensor) -> Tensor:
        normalized: Tensor = tokens if self.is_sam else self.vit.norm(tokens)
        return normalized

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` → levels."""
        if self.is_sam and self.pyramid is None:
            return [self.vit.neck(x) for x in maps]  # nothing where the neck is "none"
        return maps if self.pyramid is None else self.pyramid(maps)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The embedding, then one group per block; the final norm or neck belongs to the last."""
        blocks = [list(block.parameters()) for block in self.vit.blocks]
        blocks[-1] += (self.vit.neck if self.is_sam else self.vit.norm).parameters()
        later = {id(parameter) for group in blocks for parameter in group}
        embedding = [p for p in self.vit.parameters() if id(p) not in later]
        return [embedding, *blocks]

    def _embed_sam(self, x: Tensor) -> Tensor:
        if self.vit.pos_embed is not None:
            x = x + _resize_positions(self.vit.pos_embed, (x.shape[1], x.shape[2]))
        result: Tensor = self.vit.norm_pre(self.vit.pos_drop(x))
        return result


def _resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions (1, h, w, D) on another grid, as the published MFNet resizes them."""
    if same_size(positions.shape[1:3], grid):
        return positions
    maps = positions.permute(0, 3, 1, 2)  # (1, D, h, w)
    maps = F.interpolate(maps.float(), grid, mode="bicubic", align_corners=False)
    return maps.to(positions.dtype).permute(0, 2, 3, 1)


FAMILY = Family(
    examples={
        "ViT": ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
        "DeiT": ("deit_tiny_patch16_224", "deit3_base_patch16_224"),
        "DINOv2": ("vit_small_patch14_dinov2", "vit_base_patch14_reg4_dinov2"),
        "DINOv3": ("vit_small_patch16_dinov3", "vit_base_patch16_dinov3"),
        "EVA-02": ("eva02_tiny_patch14_224", "eva02_base_patch14_224"),
        "SAM": ("samvit_base_patch16", "samvit_large_patch16", "samvit_huge_patch16"),
    },
    kind="tokens",
    backbone=TimmViT,
    owns=lambda name: timm_models.is_of(name, _MODULES),
    create=lambda request: timm_models.create(TimmViT, request),
    licence=timm_models.licence_of,
)
