"""What a backbone is: levels from fine to coarse, and the parts between which methods can fuse."""

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
    """Where a backbone's weights were taken from.

    Args:
        backbone: timm name.
        source: Hub repository or path.
        licence: Licence of the weights as far as known.
    """

    backbone: str
    source: str
    licence: str

    def to_dict(self) -> dict[str, str]:
        """Plain values, as a run folder keeps them."""
        return asdict(self)


class Backbone(nn.Module, ABC):
    """Image → levels.

    Attributes:
        channels: Channels per level, fine → coarse.
        strides: Pixels of the image per pixel of the level; not whole where a transformer's patch
            is no power of two (patch 14: 3.5, 7, 14, 28).
        stride: Height and width of images must be multiples of it.
        name: As `create_backbone` takes it, where no option of the method says it; else empty.
        pretrained: Where the weights came from; None from scratch.
        gradient_checkpointing: Whether training keeps only what goes into each block or stage and
            computes the rest again on the way back: less memory, about a third more time.
        tuning: How it is adapted (`terrafuse.tuning`); empty where all of it learns.
        num_modalities: Modalities side by side in its batches, as its tuning was told.
        added: Names of the parameters that the tuning added.
        band_sets: Per set of bands that its images may have, what stands for each band: a
            wavelength in micrometres, or None. Empty where bands are told apart by their places.
        flat_files: Whether files of `terrafuse pretrain` name its values without their stages,
            which options lay out differently.
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
        """Levels of an image.

        Args:
            image: Normalised (N, C, H, W); H and W multiples of `stride`.

        Returns:
            Per level (N, C_l, H / s_l, W / s_l), fine → coarse.
        """

    @abstractmethod
    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters that pretrained weights set, from the stem up, each once.

        For a learning rate that falls with depth, and for freezing. What is new in every model (a
        transformer's neck) is in no group; what a tuning adds to a block is in the block's.
        """

    def set_statistics(self, statistics: Mapping[str, BandStatistics]) -> None:
        """Learn how images were standardised; for a backbone that has a scale of its own.

        Args:
            statistics: Per modality; those that are not its own are left out.

        Raises:
            BandError: The values are of another scale than the backbone takes.
        """

    def set_pixel_sizes(self, metres: Mapping[str, float]) -> None:
        """Learn the pixel size on the ground; for a backbone that takes it into account.

        Args:
            metres: Per modality, of its images as they come in.
        """

    def alike_bands(self, bands: str) -> list[tuple[int, ...]]:
        """Places of bands of a set that are told the same wavelength, group by group."""
        return places_of_equals(self.band_sets[bands])

    def tells_apart(self, bands: str) -> bool:  # noqa: ARG002
        """Whether something that learns tells bands of one wavelength apart, in a set."""
        return False

    def values_of_bands(self) -> dict[str, dict[str, Sequence[int]]]:
        """What is learnt of single bands, a row each, by the beginning of the parameters' names.

        Returns:
            By set of bands, which is the end of the name: places of the bands in the set.
        """
        return {}

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for what is frozen.

        A part without trainable parameters stays in evaluation mode: running statistics of frozen
        norms are frozen too, and what does not learn needs no dropout.
        """
        super().train(mode)
        if mode:
            _rest(self)
        return self

    def _run(self, part: Callable[..., Any], *inputs: object) -> Any:
        """The output of a block or stage, kept or computed again as wanted."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _check_checkpointing(self, parts: nn.Module) -> None:
        """Refuse to run parts twice that would not come out the same.

        Raises:
            ModelError: They have batch norms that learn.
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
    """Stages of falling resolution, which a method may run one by one.

    `x = stem(image)`, then `x = run_stage(i, x)` for each of `stages`, is `forward`.

    Attributes:
        stem: Image → input of the first stage.
        stages: Level → next level; all maps are channel-first.
        ends_with_norm: Whether each stage does.
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
        """Level → next level, kept for the way back or computed again as wanted."""
        self._check_checkpointing(self.stages)
        level: Tensor = self._run(self.stages[index], x)
        return level

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem, then one group per stage."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, L, D) → map (N, D, h, w)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


class TokenBackbone(Backbone):
    """A plain transformer: tokens of one resolution through equal blocks, then a neck.

    Attributes:
        patch_size: Pixels per token, in rows and columns.
        embed_dim: D.
        num_prefix_tokens: Class and register tokens before the patches'.
        blocks: The transformer blocks; call them through `run_block`.
        out_indices: Indices of the blocks whose output is used.
        has_final_norm: Whether pretrained weights hold a norm after the last block.
        takes_any_tokens: Whether blocks run on some of the patches' tokens as on all; not where
            they work with the places of tokens.
        prompts: (index of a block, samples) → tokens (samples, P, D) that the block's attention
            sees beside the image's, and that end with the block; None: there are none.
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
        # Not a default of the class: that would be found before a module set later.
        self.prompts = None

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer blocks."""

    @abstractmethod
    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens with positions.

        Args:
            image: Normalised (N, C, H, W).

        Returns:
            Tokens (N, L, D) including the prefix, and the grid (h, w) of the others.
        """

    @abstractmethod
    def run_block(self, index: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) after block `index`."""

    @abstractmethod
    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patches' tokens, normalised where the backbone has a final norm, as (N, D, h, w)."""

    @abstractmethod
    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` (N, D, h, w) → levels."""

    def at_places(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """The patches' tokens as they are between blocks, one per place: (N, h · w, D)."""
        return tokens[:, self.num_prefix_tokens :]

    def add_at_places(self, tokens: Tensor, added: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """Tokens (N, L, D) with something added to all of a place; added is (N, h · w, D)."""
        first = self.num_prefix_tokens
        patches = tokens[:, first:] + added
        return torch.cat([tokens[:, :first].to(patches.dtype), patches], dim=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        return self._levels(*self.embed(image))

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D), or some of them where `takes_any_tokens`, after all blocks.

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
        """Tokens (N, L, D) after a block that sees the prompts of block `index` beside them."""
        if self.prompts is None:
            return block(tokens)
        prompts = self.prompts(index, len(tokens))
        first = self.num_prefix_tokens  # prompts join the prefix, which has no place in the image
        result = block(torch.cat([tokens[:, :first], prompts, tokens[:, first:]], dim=1))
        return torch.cat([result[:, :first], result[:, first + prompts.shape[1] :]], dim=1)

    def _patches_as_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) without their prefix as (N, D, h, w)."""
        patches = tokens[:, self.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(-1, self.embed_dim, *grid)


def _rest(module: nn.Module) -> None:
    """Evaluation mode for parts whose parameters are all frozen."""
    own = [p.requires_grad for p in module.parameters(recurse=False)]
    learns = [p.requires_grad for p in module.parameters()]
    # A norm of which only the offset learns (BitFit) keeps its running statistics.
    if learns and (not any(learns) or (isinstance(module, _BatchNorm) and not all(own))):
        module.eval()
        return
    for child in module.children():
        _rest(child)
