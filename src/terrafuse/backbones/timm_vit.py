"""Any plain timm vision transformer (ViT, DeiT, DINOv2, DINOv3, EVA-02, SAM's) as levels."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any, Literal

from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

from terrafuse.backbones import timm_models
from terrafuse.backbones.base import TokenBackbone
from terrafuse.backbones.feature_pyramid import SimpleFeaturePyramid
from terrafuse.errors import ModelError

#: timm's modules whose models are plain transformers with positions for any image size.
TOKEN_MODULES = ("vision_transformer", "deit", "eva", "vision_transformer_sam")
_OWN_OPTIONS = ("taps", "neck", "neck_channels", "final_norm")
NUM_TAPS = 4


class TimmViT(TokenBackbone):
    """A plain transformer of timm with a neck that makes a pyramid of it.

    Args:
        name: timm name.
        in_channels: Bands of the image.
        weights: None = from scratch, "timm" = pretrained by timm, else a path.
        taps: Blocks whose output is used, counted from 0 (negative: from the end). Default: four
            evenly spaced, the last among them.
        neck: "pyramid" makes four levels of strides p/4, p/2, p, 2p (p = patch size; 4, 8, 16, 32
            for 16); "none" returns the taps as they are, all of stride p.
        neck_channels: Channels of the pyramid's levels.
        final_norm: Whether taps pass through the transformer's final norm.
        timm_options: Arguments of timm's constructor (`drop_path_rate`, `img_size`, `depth` …).

    Raises:
        ModelError: A tap that does not exist, or a patch size the neck cannot use.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        *,
        weights: str | None = None,
        taps: Sequence[int] | None = None,
        neck: Literal["pyramid", "none"] = "pyramid",
        neck_channels: int = 256,
        final_norm: bool = True,
        **timm_options: Any,
    ) -> None:
        super().__init__()
        self.is_sam = timm_models.module_of(name) == "vision_transformer_sam"
        if not self.is_sam:  # SAM's takes any size without being asked
            timm_options = {"dynamic_img_size": True, **timm_options}
        self.vit, self.pretrained = timm_models.build(
            name, in_channels, weights, _OWN_OPTIONS, **timm_options
        )
        self.taps = _choose_taps(name, len(self.vit.blocks), taps)
        known = self.vit.state_dict()
        # SAM's "norm" is a neck of convolutions; the maps before it are what is wanted.
        self.vit.prune_intermediate_layers(
            [self.taps[-1]], prune_norm=self.is_sam or not final_norm
        )
        if timm_models.wants_file(weights):
            used = set(self.vit.state_dict())
            self.pretrained = timm_models.load_file_into(
                self.vit,
                lambda key: key if key in used else None,
                self.vit,
                known,
                name,
                str(weights),
            )
        self.patch_size = int(max(self.vit.patch_embed.patch_size))
        self.embed_dim = int(self.vit.embed_dim)
        self.num_prefix_tokens = int(getattr(self.vit, "num_prefix_tokens", 0))
        self._set_neck(neck, neck_channels)

    def _set_neck(self, neck: Literal["pyramid", "none"], neck_channels: int) -> None:
        self.pyramid: SimpleFeaturePyramid | None = None
        if neck == "none":
            self.channels = (self.embed_dim,) * len(self.taps)
            self.strides = (self.patch_size,) * len(self.taps)
            self.stride = self.patch_size
            return
        if len(self.taps) > len(SimpleFeaturePyramid.SCALES):
            raise ModelError(
                f"the neck 'pyramid' takes 1 to {len(SimpleFeaturePyramid.SCALES)} taps, got "
                f"{len(self.taps)}; choose fewer, or neck 'none'"
            )
        self.pyramid = SimpleFeaturePyramid(self.embed_dim, neck_channels, len(self.taps))
        self.channels = (neck_channels,) * len(SimpleFeaturePyramid.SCALES)
        strides = [self.patch_size / scale for scale in SimpleFeaturePyramid.SCALES]
        self.strides = tuple(int(s) if s.is_integer() else s for s in strides)
        self.stride = lcm(self.patch_size, 2 * self.patch_size)

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer blocks up to the last tap."""
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
        result: Tensor
        if self.is_sam:
            maps = tokens.reshape(tokens.shape[0], *grid, self.embed_dim)  # (N, h, w, D)
            result = block(maps).flatten(1, 2)  # (N, L, D)
        elif getattr(self.vit, "rope", None) is not None:
            rope = self.vit.rope.get_embed(shape=grid)
            # Mixed rotations are learnt per block.
            result = block(tokens, rope=rope[index] if self.vit.rope_mixed else rope)
        else:
            result = block(tokens)
        return result

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens as a map (N, D, h, w), after the final norm where there is one."""
        if not self.is_sam:
            tokens = self.vit.norm(tokens)
        patches = tokens[:, self.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(-1, self.embed_dim, *grid)  # (N, D, h, w)

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the taps → levels."""
        return maps if self.pyramid is None else self.pyramid(maps)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The embedding, then one group per block; the final norm belongs to the last."""
        blocks = [list(block.parameters()) for block in self.vit.blocks]
        if not self.is_sam:
            blocks[-1] += self.vit.norm.parameters()
        later = {id(parameter) for group in blocks for parameter in group}
        embedding = [p for p in self.vit.parameters() if id(p) not in later]
        return [embedding, *blocks]

    def _embed_sam(self, x: Tensor) -> Tensor:
        if self.vit.pos_embed is not None:
            x = x + resample_abs_pos_embed_nhwc(self.vit.pos_embed, list(x.shape[1:3]))
        result: Tensor = self.vit.norm_pre(self.vit.pos_drop(x))
        return result


def _choose_taps(name: str, depth: int, taps: Sequence[int] | None) -> tuple[int, ...]:
    if taps is None:
        count = min(NUM_TAPS, depth)
        return tuple(depth * (i + 1) // count - 1 for i in range(count))
    wrong = [tap for tap in taps if not -depth <= tap < depth]
    if wrong or not taps:
        raise ModelError(
            f"taps of backbone '{name}' are {list(taps)}; allowed are one or more blocks from 0 to "
            f"{depth - 1}, or from the end with a minus sign"
        )
    return tuple(sorted({tap % depth for tap in taps}))
