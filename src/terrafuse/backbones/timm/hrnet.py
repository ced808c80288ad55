"""timm's HRNet as levels: parallel branches at four resolutions that exchange throughout.

Reference: Wang, Sun, Cheng, Jiang, Deng, Zhao, Liu, Mu, Tan, Wang, Liu, Xiao: Deep high-resolution
representation learning for visual recognition, IEEE TPAMI 43(10), 2021, arXiv 1908.07919.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from terrafuse.backbones.base import Backbone
from terrafuse.backbones.family import Family
from terrafuse.backbones.timm import models as timm_models
from terrafuse.modalities import Modality

_MODULES = ("hrnet",)
#: Parts of timm's model by stage; the first includes the stem.
_STAGES = (
    ("conv1", "bn1", "conv2", "bn2", "layer1"),
    ("transition1", "stage2"),
    ("transition2", "stage3"),
    ("transition3", "stage4"),
)


class TimmHRNet(Backbone):
    """Four levels of strides 4, 8, 16 and 32: the branches after the last exchange.

    Every stage sees all resolutions, so there is no chain of stages for methods to fuse between:
    this is not a `PyramidBackbone`.

    Args:
        name: timm name ("hrnet_w18").
        modalities: Modalities of the bands, in order; used with files made for Sentinel bands.
        weights: None = from scratch, "timm" = pretrained by timm, else a path.
        timm_options: Arguments of timm's constructor (`stage4` …).
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality] | None = None,
        *,
        weights: str | None = None,
        **timm_options: Any,
    ) -> None:
        super().__init__()
        # Without a head, timm makes no layers beyond the branches.
        self.net, self.pretrained = timm_models.build(
            name, in_channels, weights, (), head="", **timm_options
        )
        info = self.net.feature_info[1:]
        self.channels = tuple(level["num_chs"] for level in info)
        self.strides = tuple(level["reduction"] for level in info)
        self.stride = max(level["reduction"] for level in info)
        if timm_models.wants_file(weights):
            whole, _ = timm_models.build(name, in_channels, None, (), **timm_options)
            self.pretrained = timm_models.load_file_into(
                self,
                self._rename,
                whole,
                whole.state_dict(),
                name,
                str(weights),
                modalities=modalities,
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels, fine → coarse."""
        self._check_checkpointing(self.net)
        net = self.net
        x = net.act1(net.bn1(net.conv1(image)))
        x = net.layer1(net.act2(net.bn2(net.conv2(x))))  # (N, C, H / 4, W / 4)
        levels = [x]
        for transition, stage in _STAGES[1:]:
            levels = self._run(_run_stage, getattr(net, transition), getattr(net, stage), *levels)
        return levels

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem with the first stage, then one group per stage."""
        return [
            [p for part in parts for p in getattr(self.net, part).parameters()] for parts in _STAGES
        ]

    def _rename(self, key: str) -> str | None:
        own = f"net.{key}"
        return own if own in self.state_dict() else None


def _run_stage(transition: nn.ModuleList, stage: nn.Module, *maps: Tensor) -> list[Tensor]:
    """Maps of a stage → those of the next stage, which has one more branch."""
    entering = [
        maps[i] if isinstance(change, nn.Identity) else change(maps[-1])
        for i, change in enumerate(transition)
    ]
    found: list[Tensor] = stage(entering)
    return found


FAMILY = Family(
    examples={"HRNet": ("hrnet_w18_small", "hrnet_w18", "hrnet_w48")},
    kind="pyramid",
    backbone=TimmHRNet,
    owns=lambda name: timm_models.is_of(name, _MODULES),
    create=lambda request: timm_models.create(TimmHRNet, request),
    licence=timm_models.licence_of,
)
