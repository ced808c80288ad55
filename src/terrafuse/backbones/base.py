"""What a backbone is: levels from fine to coarse, and the parts between which methods can fuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

from torch import Tensor, nn


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
        pretrained: Where the weights came from; None from scratch.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]
    stride: int
    pretrained: PretrainedSource | None = None

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
        transformer's neck) is in no group.
        """


class PyramidBackbone(Backbone):
    """Stages of falling resolution, which a method may run one by one.

    `levels = []; x = stem(x); for stage in stages: x = stage(x); levels.append(x)` is `forward`.

    Attributes:
        stem: Image → input of the first stage.
        stages: Level → next level; all maps are channel-first.
    """

    stem: nn.Module
    stages: nn.ModuleList

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        x = self.stem(image)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem, then one group per stage."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


class TokenBackbone(Backbone):
    """A plain transformer: tokens of one resolution through equal blocks, then a neck.

    Attributes:
        patch_size: Pixels per token, in rows and columns.
        embed_dim: D.
        num_prefix_tokens: Class and register tokens before the patches'.
        blocks: The transformer blocks; call them through `run_block`.
        taps: Indices of the blocks whose output is used.
    """

    patch_size: int
    embed_dim: int
    num_prefix_tokens: int
    taps: tuple[int, ...]

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
        """Maps of the taps (N, D, h, w) → levels."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        tokens, grid = self.embed(image)
        maps = []
        for index in range(len(self.blocks)):
            tokens = self.run_block(index, tokens, grid)
            if index in self.taps:
                maps.append(self.to_map(tokens, grid))
        return self.neck(maps)
