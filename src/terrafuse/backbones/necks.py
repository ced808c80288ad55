"""Necks for transformers: a pyramid, or one level, from maps of one resolution.

Reference: Li, Mao, Girshick, He: Exploring plain vision transformer backbones for object detection
(ViTDet), ECCV 2022, arXiv 2203.16527, figure 2c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from terrafuse.errors import ModelError

#: Output of a transformer: a pyramid of four levels, one level, or the maps unchanged.
NeckName = Literal["pyramid", "map", "none"]
NUM_TAPS = 4


class SimpleFeaturePyramid(nn.Module):
    """Maps (N, D, h, w) → levels at `scales` times their resolution (default 4, 2, 1 and 1/2).

    The paper makes all levels from the last map. With several maps, each level takes the one at its
    depth: fine levels the early maps, coarse levels the late ones; one map gives the paper's neck.

    Args:
        in_channels: D.
        out_channels: Channels of every level.
        num_maps: Number of maps, from early to late.
        scales: Resolution of the levels relative to the maps, fine → coarse.
    """

    #: As in the paper, for patches of 16 pixels.
    SCALES: ClassVar[tuple[float, ...]] = (4, 2, 1, 0.5)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_maps: int,
        scales: Sequence[float] = SCALES,
    ) -> None:
        super().__init__()
        self.sources = [i * num_maps // len(scales) for i in range(len(scales))]
        self.sources[-1] = num_maps - 1  # the last map, the most processed, is always used
        self.levels = nn.ModuleList(
            nn.Sequential(
                *_resample(in_channels, scale), *_project(_width(in_channels, scale), out_channels)
            )
            for scale in scales
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels (N, out_channels, h · scale, w · scale), fine → coarse."""
        return [
            level(maps[source]) for level, source in zip(self.levels, self.sources, strict=True)
        ]


class ConvolutionNeck(nn.Module):
    """Map (N, D, h, w) → one level of the same size: the convolutions that end SAM's encoder.

    Args:
        in_channels: D.
        out_channels: Channels of the level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_project(in_channels, out_channels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One level (N, out_channels, h, w) per map."""
        return [self.layers(x) for x in maps]


class RawStem(nn.Sequential):
    """Image (N, C, H, W) → a level at full resolution, by two 3×3 convolutions.

    It keeps the detail that patches blur.

    Args:
        in_channels: C.
        out_channels: Channels of the level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )


@dataclass(frozen=True)
class Neck:
    """A neck and the levels it produces.

    Args:
        layers: Maps → levels; None where maps are the levels, or the transformer has its own neck.
        channels: Per level.
        strides: Per level, in pixels of the image.
        stride: Height and width of images must be multiples of it.
    """

    layers: SimpleFeaturePyramid | ConvolutionNeck | None
    channels: tuple[int, ...]
    strides: tuple[float, ...]
    stride: int


def create_neck(
    kind: NeckName,
    embed_dim: int,
    patch_size: int,
    out_indices: Sequence[int],
    out_channels: int,
    *,
    has_own: bool = False,
    scales: Sequence[float] = SimpleFeaturePyramid.SCALES,
) -> Neck:
    """Create the neck of a transformer by name.

    Args:
        embed_dim: D.
        out_indices: Blocks whose maps the neck takes.
        out_channels: Channels of every level.
        has_own: Whether the transformer itself has the convolutions of "map".
        scales: For a pyramid: resolution of the levels relative to the maps, halving each time.

    Raises:
        ModelError: The neck does not take that many maps.
    """
    if kind == "pyramid":
        return _create_pyramid(embed_dim, patch_size, out_indices, out_channels, scales)
    layers = None
    if kind == "map":
        if len(out_indices) > 1:
            raise ModelError(f"the neck 'map' takes one block, got {list(out_indices)}")
        layers = None if has_own else ConvolutionNeck(embed_dim, out_channels)
    width = out_channels if kind == "map" else embed_dim
    return Neck(layers, (width,) * len(out_indices), (patch_size,) * len(out_indices), patch_size)


def _create_pyramid(
    embed_dim: int,
    patch_size: int,
    out_indices: Sequence[int],
    out_channels: int,
    scales: Sequence[float],
) -> Neck:
    if len(out_indices) > len(scales):
        raise ModelError(
            f"the neck 'pyramid' takes 1 to {len(scales)} out_indices, got {len(out_indices)}; "
            "choose fewer, or neck 'none'"
        )
    strides = [patch_size / scale for scale in scales]
    return Neck(
        SimpleFeaturePyramid(embed_dim, out_channels, len(out_indices), scales),
        (out_channels,) * len(scales),
        tuple(int(s) if s.is_integer() else s for s in strides),
        round(patch_size / scales[-1]),
    )


def choose_out_indices(
    name: str, depth: int, out_indices: Sequence[int] | None, neck: NeckName
) -> tuple[int, ...]:
    """Choose the blocks whose output is used, in order.

    Args:
        name: Name of the backbone, for the message.
        depth: Number of blocks.
        out_indices: User's choice, negative from the end; None: four evenly spaced including the
            last, or with neck "map" the last only.
        neck: The neck that takes their maps.

    Raises:
        ModelError: A block that does not exist.
    """
    if out_indices is None:
        count = 1 if neck == "map" else min(NUM_TAPS, depth)
        return tuple(depth * (i + 1) // count - 1 for i in range(count))
    wrong = [i for i in out_indices if not -depth <= i < depth]
    if wrong or not out_indices:
        raise ModelError(
            f"out_indices of backbone '{name}' are {list(out_indices)}; allowed are one or more "
            f"blocks from 0 to {depth - 1}, or from the end with a minus sign"
        )
    return tuple(sorted({i % depth for i in out_indices}))


def _width(in_channels: int, scale: float) -> int:
    return {4: in_channels // 4, 2: in_channels // 2}.get(int(scale), in_channels)


def _resample(in_channels: int, scale: float) -> list[nn.Module]:
    if scale == 4:
        return [
            nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2),
            LayerNorm2d(in_channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(in_channels // 2, in_channels // 4, kernel_size=2, stride=2),
        ]
    if scale == 2:
        return [nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)]
    return [nn.MaxPool2d(kernel_size=round(1 / scale))] if scale < 1 else []


def _project(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    ]
