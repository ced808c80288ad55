"""timm's hierarchical encoder of SAM 2 (Hiera) as levels, stage by stage.

Reference: Ravi et al., SAM 2: Segment anything in images and videos, 2024, arXiv 2408.00714.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones.base import PyramidBackbone
from terrafuse.backbones.family import Family
from terrafuse.backbones.timm import models as timm_models
from terrafuse.backbones.timm.pyramid import Stage
from terrafuse.modalities import Modality

#: timm's module with SAM 2's encoders.
_MODULES = ("hieradet_sam2",)
# Prefix of the encoder among the other parts of SAM 2 in Meta's own files.
_META_PREFIX = "image_encoder.trunk."


class TimmHiera(PyramidBackbone):
    """Four levels of strides 4, 8, 16 and 32; images of any size.

    Args:
        name: timm name ("sam2_hiera_tiny").
        modalities: Modalities of the bands, in order; they assign pretrained kernels to bands.
        weights: None = from scratch, "timm" = pretrained by timm, else a path.
        timm_options: Arguments of timm's constructor (`drop_path_rate`, `stages` …).
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
        net, self.pretrained = timm_models.build(
            name, in_channels, weights, (), modalities, **timm_options
        )
        known = net.state_dict()
        self.channels = tuple(info["num_chs"] for info in net.feature_info)
        self.strides = tuple(info["reduction"] for info in net.feature_info)
        # Window positions are tiled once per window of the first stage.
        self.stride = 4 * int(net.window_spec[0])
        self.stem = _Stem(net)
        ends = [end + 1 for end in net.stage_ends]
        self.stages = nn.ModuleList(
            Stage(
                OrderedDict((f"block_{i}", net.blocks[i]) for i in range(first, last)),
                channels_last_in=True,
                channels_last_out=True,
            )
            for first, last in zip([0, *ends], ends, strict=False)
        )
        if timm_models.wants_file(weights):
            self.pretrained = timm_models.load_file_into(
                self,
                self._rename,
                net,
                known,
                name,
                str(weights),
                prefix=_META_PREFIX,
                modalities=modalities,
            )

    def _rename(self, key: str) -> str | None:
        own = {name.split(".", 2)[2]: name for name in self.state_dict() if name[:5] == "stage"}
        if key.startswith("head."):
            return None
        return own.get(key.replace("blocks.", "block_", 1), f"stem.{key}")


class _Stem(nn.Module):
    """Patch embedding with positions, (N, D, H / 4, W / 4).

    Positions are a coarse map, resized to the image, plus those of one window, tiled.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.patch_embed = net.patch_embed
        self.pos_embed = net.pos_embed  # (1, D, h, w)
        self.pos_embed_window = net.pos_embed_window

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(image).permute(0, 3, 1, 2)  # (N, D, h, w)
        window = self.pos_embed_window
        times = (x.shape[-2] // window.shape[-2], x.shape[-1] // window.shape[-1])
        positions = F.interpolate(self.pos_embed, x.shape[-2:], mode="bicubic")
        result: Tensor = x + positions + window.tile(times)
        return result

    def no_weight_decay(self) -> set[str]:
        """Return the names of the position parameters."""
        return {"pos_embed", "pos_embed_window"}


FAMILY = Family(
    examples={"SAM 2": ("sam2_hiera_tiny", "sam2_hiera_base_plus", "sam2_hiera_large")},
    kind="pyramid",
    backbone=TimmHiera,
    owns=lambda name: timm_models.is_of(name, _MODULES),
    create=lambda request: timm_models.create(TimmHiera, request),
    licence=timm_models.licence_of,
)
