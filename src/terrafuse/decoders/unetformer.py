"""The decoder of UNetFormer: global-local blocks between weighted skip connections.

Reference: Wang, Li, Zhang, Fang, Duan, Meng, Atkinson: UNetFormer: a UNet-like transformer for
efficient semantic segmentation of remote sensing urban scene imagery, ISPRS Journal of
Photogrammetry and Remote Sensing 190, 2022, DOI 10.1016/j.isprsjprs.2022.06.008, arXiv
2109.08937; in the form used by MFNet (Ma, Zhang, Pun, Huang, IEEE TGRS 63, 2025, arXiv
2410.11160), without auxiliary head.

Beyond the publication: maps of any size (`reflect_pad`), any number of levels, and any ratio of
level sizes. Where the original runs, the result is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.global_local import GlobalLocalBlock, create_position_index
from terrafuse.decoders.layers import (
    ConvNorm,
    ConvNormAct,
    NormName,
    SeparableConv,
    resize,
    size_of,
)
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.weights import rename

_EPS = 1e-8
_GATE_REDUCTION = 16


class WeightedFusion(nn.Module):
    """Weighted sum of the upsampled running map and a finer level, with two trained weights ("WF").

    Args:
        channels: C of the running map and of the result.
        skip_channels: Channels of the finer level; None: no level, only upsampling and convolution.
    """

    def __init__(self, channels: int, skip_channels: int | None, *, norm: NormName) -> None:
        super().__init__()
        self.skip: nn.Module | None = None
        if skip_channels is not None:
            self.skip = nn.Conv2d(skip_channels, channels, kernel_size=1, bias=False)
            self.weights = nn.Parameter(torch.ones(2))
        self.smooth = ConvNormAct(channels, channels, kernel_size=3, norm=norm, activation=nn.ReLU6)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Fuse the running map with a level.

        Args:
            x: Running map (N, C, h, w).
            level: Finer level (N, C', H, W); None: no level.

        Returns:
            (N, C, H, W), or (N, C, 2h, 2w) without a level.
        """
        if self.skip is None or level is None:
            height, width = size_of(x)
            x = resize(x, (2 * height, 2 * width))
        else:
            weights = F.relu(self.weights)
            fine, coarse = weights / (weights.sum() + _EPS)
            x = fine * self.skip(level) + coarse * resize(x, size_of(level))
        result: Tensor = self.smooth(x)
        return result


class FeatureRefinement(nn.Module):
    """A gate per pixel and one per channel, on the finest map ("FRH")."""

    def __init__(self, channels: int, *, norm: NormName) -> None:
        super().__init__()
        hidden = max(channels // _GATE_REDUCTION, 1)
        self.pixel_gate = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        self.channel_gate = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1, bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, kernel_size=1, bias=False),
        )
        self.project = SeparableConv(channels, kernel_size=3, norm=norm)
        self.shortcut = ConvNorm(channels, channels, kernel_size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → map of the same size in [0, 6]."""
        pixels = self.pixel_gate(x).sigmoid()
        channels = self.channel_gate(x.mean(dim=(-2, -1), keepdim=True)).sigmoid()  # (N, C, 1, 1)
        return F.relu6(self.project((pixels + channels) * x) + self.shortcut(x))


class UNetFormerDecoder(nn.Module):
    """Levels → logits, from coarsest to finest: block, fusion with the next, …, refinement.

    Published with four levels; it takes one or more. Every level but the finest has a block, as
    does a single level.

    Args:
        level_channels: Channels per level, fine → coarse.
        num_classes: K.
        channels: Width of every map.
        num_heads: Heads of the attention; must divide `channels`.
        window_size: Window of the attention.
        doublings: Number of upsampling steps by 2 beyond the finest level, without skip
            connections. 0 is the published decoder. MFNet "without DFM" is one level and 3.
        dropout: Share of channels dropped before the classifier.
        norm: Norm after every convolution.

    Raises:
        ModelError: The heads do not divide the channels, or a number is out of range.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 64,
        num_heads: int = 8,
        window_size: int = 8,
        doublings: int = 0,
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        if doublings < 0:
            raise ModelError(f"doublings is {doublings}; it must be at least 0")
        *fine, coarsest = level_channels
        skips = [*reversed(fine), *[None] * doublings]
        self.doublings = doublings
        self.project = ConvNorm(coarsest, channels, kernel_size=1, norm=norm)
        self.blocks = nn.ModuleList(
            GlobalLocalBlock(channels, num_heads=num_heads, window_size=window_size, norm=norm)
            for _ in range(max(len(skips), 1))
        )
        self.fusions = nn.ModuleList(WeightedFusion(channels, c, norm=norm) for c in skips)
        self.refine = FeatureRefinement(channels, norm=norm)
        self.head = nn.Sequential(
            ConvNormAct(channels, channels, kernel_size=3, norm=norm, activation=nn.ReLU6),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, kernel_size=1, bias=False),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the finest level's size, times 2 for each of `doublings`."""
        *fine, coarsest = levels
        skips = [*reversed(fine), *[None] * self.doublings]
        x = self.blocks[0](self.project(coarsest))
        for index, (fusion, skip) in enumerate(zip(self.fusions, skips, strict=True), start=1):
            x = fusion(x, skip)
            if index < len(self.blocks):  # the finest has no block
                x = self.blocks[index](x)
        logits: Tensor = self.head(self.refine(x))
        return logits


#: Original names → ours, in this order.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^pre_conv\.", "project."),
    (r"^b([234])\.", lambda m: f"blocks.{4 - int(m[1])}."),
    (r"^p1\.(ca|pa|proj|shortcut)\.", r"refine.\1."),
    (r"^p([123])\.", lambda m: f"fusions.{3 - int(m[1])}."),
    (r"^segmentation_head\.2\.0\.", "head.2."),
    (r"^segmentation_head\.", "head."),
    (r"\.pre_conv\.0\.", ".skip."),
    (r"\.post_conv\.", ".smooth."),
    (r"\.ca\.1\.0\.", ".channel_gate.0."),
    (r"\.ca\.3\.0\.", ".channel_gate.2."),
    (r"\.pa\.0\.", ".pixel_gate."),
    (r"^refine\.proj\.", "refine.project."),
    (r"\.attn\.qkv\.0\.", ".attention.qkv."),
    (r"\.attn\.local1\.", ".attention.local3."),
    (r"\.attn\.local2\.", ".attention.local1."),
    (r"\.attn\.proj\.", ".attention.project."),
    (r"\.attn\.relative_position_bias_table$", ".attention.bias_table"),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)
_INDEX = ".relative_position_index"
_UNUSED_WITHOUT_SKIPS = re.compile(r"^p[123]\.(pre_conv\.0\.weight|weights)$")


def convert_unetformer_state_dict(
    state: Mapping[str, Tensor], *, skips: bool = True
) -> dict[str, Tensor]:
    """Rename weights of the original decoder.

    Args:
        state: Original names without a leading "decoder.", of four levels. An unknown name is
            kept, for `load_strict` to report.
        skips: False for MFNet "without DFM" (one level, three `doublings`): its files hold weights
            of unused skip connections, which are dropped.

    Raises:
        WeightsMismatchError: A table of relative positions is ordered differently.
    """
    converted = {}
    for name, value in state.items():
        if name.endswith(_INDEX):
            _check_position_index(name, value)
        elif skips or not _UNUSED_WITHOUT_SKIPS.match(name):
            converted[rename(name, _RENAMES)] = value
    return converted


def _check_position_index(name: str, index: Tensor) -> None:
    """Refuse a file with another order than ours, which follows from the window size."""
    window_size = round(len(index) ** 0.5)
    if not torch.equal(index.cpu(), create_position_index(window_size)):
        raise WeightsMismatchError(
            f"'{name}' orders relative positions differently from the published decoder, so its "
            "bias table cannot be used"
        )
