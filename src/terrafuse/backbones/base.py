"""Base classes of backbones: levels from fine to coarse, and the parts to fuse between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from terrafuse.errors import ModelError
from terrafuse.modalities import BandStatistics, places_of_equals


@dataclass(frozen=True)
class PretrainedSource:
    """Origin of a backbone's weights.

    Args:
        source: Hub repository or path.
        licence: Licence of the weights, or "unknown".
        note: What was recognised and changed while reading the file, in words.
    """

    backbone: str
    source: str
    licence: str
    note: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain values, as stored in a run folder; an empty note is left out."""
        return {key: value for key, value in asdict(self).items() if value or key != "note"}


class Backbone(nn.Module, ABC):
    """Image → levels.

    Attributes:
        channels: Channels per level, fine → coarse.
        strides: Pixels of the image per pixel of the level; fractional where a transformer's patch
            size is not a power of two (patch 14: 3.5, 7, 14, 28).
        stride: Height and width of images must be multiples of it.
        name: Name for `create_backbone` where no option of the method gives it; else empty.
        pretrained: Origin of the weights; None if trained from scratch.
        gradient_checkpointing: Whether training keeps only the inputs of each block or stage and
            recomputes the rest in the backward pass: less memory, about a third more time.
        tuning: Name of the tuning (`terrafuse.tuning`); empty for full fine-tuning.
        num_modalities: Modalities side by side in its batches, as passed to the tuning.
        added: Names of the parameters that the tuning added.
        band_sets: Per set of bands that its images may have, the code of each band: a wavelength
            in micrometres, or None. Empty where bands are distinguished by position only.
        flat_files: Whether files of `terrafuse pretrain` name its values without the stage
            prefix, because options change how layers are grouped into stages.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]
    stride: int
    name: str = ""
    pretrained: PretrainedSource | None = None
    gradient_checkpointing: bool = False
    tuning: str = ""
    num_modalities: int = 1
    added: frozenset[str] = frozenset()
    band_sets: Mapping[str, Sequence[float | None]] = MappingProxyType({})
    flat_files: bool = False

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute the levels of an image.

        Args:
            image: Normalised (N, C, H, W); H and W multiples of `stride`.

        Returns:
            Per level (N, C_l, H / s_l, W / s_l), fine → coarse.
        """

    @abstractmethod
    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters that pretrained weights set, from the stem up, each once.

        For layer-wise learning-rate decay and for freezing. Parts that are new in every model (a
        transformer's neck) are in no group; what a tuning adds to a block is in the block's group.
        """

    def set_statistics(self, statistics: Mapping[str, BandStatistics]) -> None:
        """Set how images were standardised, for a backbone with a value scale of its own.

        Args:
            statistics: Per modality; other models' modalities are ignored.

        Raises:
            BandError: The values are on another scale than the backbone expects.
        """

    def set_pixel_sizes(self, metres: Mapping[str, float]) -> None:
        """Set the ground pixel size, for a backbone that takes it into account.

        Args:
            metres: Per modality, pixel size of its images at the backbone's input.
        """

    def alike_bands(self, bands: str) -> list[tuple[int, ...]]:
        """Groups of bands of a set that share a wavelength, as indices into the set."""
        return places_of_equals(self.band_sets[bands])

    def tells_apart(self, bands: str) -> bool:  # noqa: ARG002
        """Tell whether trainable offsets distinguish the bands of one wavelength in a set."""
        return False

    def values_of_bands(self) -> dict[str, dict[str, Sequence[int]]]:
        """Per-band parameters, a row per band, by the prefix of their names.

        Returns:
            By set of bands (the rest of the name): indices of the bands within the set.
        """
        return {}

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for frozen parts.

        A part without trainable parameters stays in evaluation mode: running statistics of frozen
        norms are frozen too, and frozen layers need no dropout.
        """
        super().train(mode)
        if mode:
            _eval_frozen(self)
        return self

    def _run(self, part: Callable[..., Any], *inputs: object) -> Any:
        """Output of a block or stage, checkpointed if `gradient_checkpointing` is set."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _check_checkpointing(self, parts: nn.Module) -> None:
        """Refuse checkpointing of parts whose second run would differ.

        Raises:
            ModelError: They have batch norms in training mode.
        """
        if not (self.gradient_checkpointing and self.training):
            return
        if any(isinstance(m, _BatchNorm) and m.training for m in parts.modules()):
            raise ModelError(
                "training.gradient_checkpointing runs a stage twice, and running statistics of "
                "batch norms would move twice. Leave it out, freeze the backbone, or choose one "
                "without batch norm (convnext*, swin*, vit_*)"
            )


class PyramidBackbone(Backbone):
    """Stages of decreasing resolution, which a method may run one by one.

    `x = stem(image)`, then `x = run_stage(i, x)` for each of `stages`, is `forward`.

    Attributes:
        stem: Image → input of the first stage.
        stages: Level → next level; all maps are channel-first.
        ends_with_norm: Whether each stage ends with a norm.
    """

    stem: nn.Module
    stages: nn.ModuleList
    ends_with_norm: bool = False

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        x = self.stem(image)
        levels = []
        for index in range(len(self.stages)):
            x = self.run_stage(index, x)
            levels.append(x)
        return levels

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Level → next level, checkpointed if `gradient_checkpointing` is set."""
        self._check_checkpointing(self.stages)
        level: Tensor = self._run(self.stages[index], x)
        return level

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem, then one group per stage."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, L, D) → map (N, D, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


class TokenBackbone(Backbone):
    """A plain transformer: tokens of one resolution through identical blocks, then a neck.

    Attributes:
        patch_size: Pixels per token, in rows and columns.
        embed_dim: D.
        num_prefix_tokens: Class and register tokens before the patch tokens.
        blocks: The transformer blocks; call them through `run_block`.
        out_indices: Indices of the blocks whose output is used.
        has_final_norm: Whether pretrained weights hold a norm after the last block.
        takes_any_tokens: Whether blocks accept a subset of the patch tokens; False where they use
            the positions of tokens.
        prompts: (block index, samples) → tokens (samples, P, D) that the block's attention sees
            beside the image's and that are dropped after the block; None: no prompts.
    """

    patch_size: int
    embed_dim: int
    num_prefix_tokens: int
    out_indices: tuple[int, ...]
    has_final_norm: bool = True
    takes_any_tokens: bool = False
    prompts: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        # Not a class default: that would shadow a module set later.
        self.prompts = None

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer blocks."""

    @abstractmethod
    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed an image as tokens with positions.

        Args:
            image: Normalised (N, C, H, W).

        Returns:
            Tokens (N, L, D) including the prefix, and the grid (h, w) of the patch tokens.
        """

    @abstractmethod
    def run_block(self, index: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) after block `index`."""

    @abstractmethod
    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens, after the final norm where the backbone has one, as (N, D, h, w)."""

    @abstractmethod
    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` (N, D, h, w) → levels."""

    def at_places(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """Patch tokens between blocks, one per position: (N, h · w, D)."""
        return tokens[:, self.num_prefix_tokens :]

    def add_at_places(self, tokens: Tensor, added: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """Add `added` (N, h · w, D) to all tokens of each position; tokens are (N, L, D)."""
        first = self.num_prefix_tokens
        patches = tokens[:, first:] + added
        return torch.cat([tokens[:, :first].to(patches.dtype), patches], dim=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        return self._levels(*self.embed(image))

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run all blocks on tokens (N, L, D), or on a subset of them where `takes_any_tokens`.

        Normalised where the backbone has a final norm.
        """
        for index in range(len(self.blocks)):
            tokens = self._run(self.run_block, index, tokens, grid)
        return self._normalize(tokens)

    def _normalize(self, tokens: Tensor) -> Tensor:
        return tokens

    def _levels(self, tokens: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Embedded tokens (N, L, D) → levels."""
        maps = []
        for index in range(len(self.blocks)):
            tokens = self._run(self.run_block, index, tokens, grid)
            if index in self.out_indices:
                maps.append(self.to_map(tokens, grid))
        return self.neck(maps)

    def _beside_prompts(
        self, index: int, tokens: Tensor, block: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Run a block on tokens (N, L, D) beside the prompts of block `index`."""
        if self.prompts is None:
            return block(tokens)
        prompts = self.prompts(index, tokens.shape[0])
        first = self.num_prefix_tokens  # prompts join the prefix, which has no image position
        result = block(torch.cat([tokens[:, :first], prompts, tokens[:, first:]], dim=1))
        return torch.cat([result[:, :first], result[:, first + prompts.shape[1] :]], dim=1)

    def _patches_as_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) without the prefix, as (N, D, h, w)."""
        patches = tokens[:, self.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(-1, self.embed_dim, *grid)


def _eval_frozen(module: nn.Module) -> None:
    """Set evaluation mode on parts whose parameters are all frozen."""
    own = [p.requires_grad for p in module.parameters(recurse=False)]
    learns = [p.requires_grad for p in module.parameters()]
    # A norm with only a trainable offset (BitFit) keeps its running statistics.
    if learns and (not any(learns) or (isinstance(module, _BatchNorm) and not all(own))):
        module.eval()
        return
    for child in module.children():
        _eval_frozen(child)
