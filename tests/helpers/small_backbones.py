"""Small backbones of every kind that tunings support, with values as after training."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones import Backbone, create_backbone

_VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8}

#: Short name → timm's name and small options. Between them: windows, shifted windows, class and
#: register tokens, rotary positions; queries, keys and values in one layer, in two and in three.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "samvit": (
        "samvit_base_patch16",
        _VIT | {"depth": 3, "img_size": 64, "window_size": 3, "global_attn_indexes": (1,)},
    ),
    "vit": ("vit_tiny_patch16_224", _VIT | {"img_size": 64}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", _VIT | {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", _VIT | {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224", _VIT | {"img_size": 56}),
    "eva02_split": ("eva02_base_patch14_224", _VIT | {"img_size": 56}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "embed_dim": 8,
            "depths": (2, 2, 1, 1),
            "num_heads": (1, 1, 2, 2),
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
    ),
    "hiera": (
        "sam2_hiera_tiny",
        {"embed_dim": 8, "stages": (1, 2, 2, 1), "global_att_blocks": (4,)},
    ),
    "convnext": ("convnext_tiny", {"dims": (8, 8, 16, 16), "depths": (1, 1, 2, 1)}),
    "pvt": (
        "pvt_v2_b0",
        {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    ),
    "hrnet": (
        "hrnet_w18_small",
        {
            f"stage{i}": {
                "num_modules": 1,
                "num_branches": i,
                "block_type": "BOTTLENECK" if i == 1 else "BASIC",
                "num_blocks": (1,) * i,
                "num_channels": (4,) if i == 1 else (4, 8, 12, 16)[:i],
                "fuse_method": "SUM",
            }
            for i in range(1, 5)
        },
    ),
    "resnet": ("resnet18", {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)}),
}
TOKENS = ("samvit", "vit", "dinov2", "dinov3", "eva02", "eva02_split")
WITH_BLOCKS = tuple(name for name in BACKBONES if name not in ("hrnet", "resnet"))


#: What `make` has built, and the state of the random numbers after it.
_made: dict[str, tuple[Backbone, Tensor]] = {}


def make(name: str, in_channels: int = 3, *, seed: int = 0, **options: Any) -> Backbone:
    """A small backbone whose blocks matter: no layer scale, norm or table at its first value.

    It is built once; then it is a copy, which takes a tenth of the time.
    """
    key = repr((name, in_channels, seed, sorted(options.items())))
    if key not in _made:
        torch.manual_seed(seed)
        full_name, own = BACKBONES[name]
        backbone = train_a_little(create_backbone(full_name, in_channels, **own | options))
        _made[key] = backbone, torch.get_rng_state()
    backbone, state = _made[key]
    torch.set_rng_state(state)
    return deepcopy(backbone)


def train_a_little(module: nn.Module) -> Any:
    """Give all parameters random values, as different from each other as after training."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.5, 0.5)
        elif parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.4, 1.2)
        else:
            nn.init.normal_(parameter, std=max(parameter[0].numel(), 8) ** -0.5)
    return module


def image_for(backbone: Backbone, batch: int, *, seed: int = 1) -> Tensor:
    """Image (batch, 3, 2 strides, 3 strides)."""
    generator = torch.Generator().manual_seed(seed)
    size = (2 * backbone.stride, 3 * backbone.stride)
    return torch.randn(batch, 3, *size, generator=generator)


def nudge(backbone: Backbone, seed: int = 2) -> None:
    """Move the parameters that a tuning added away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in backbone.added:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
