"""No band or date begins without influence on what a backbone of any family makes of an image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from small_backbones import BACKBONES
from terrafuse.backbones import create_backbone
from terrafuse.contract import random_images
from terrafuse.contract.influence import MODALITIES, change, changed_images, stack, too_small
from terrafuse.contract.inputs import Images
from terrafuse.modalities import Modality

_TOKENS: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8}
#: Of small_backbones, and those that are not of timm.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = BACKBONES | {
    "mit": ("mit_b0", {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]}),
    "dofa": ("dofa_base_patch16", _TOKENS | {"img_size": 64, "dynamic_embed_dim": 8}),
    "dofa_2": ("dofa_v2_base_patch14", _TOKENS | {"img_size": 56, "dynamic_embed_dim": 8}),
    "croma_optical": ("croma_base_optical", _TOKENS),
    "croma_sar": ("croma_base_sar", _TOKENS),
    "galileo": ("galileo_nano", _TOKENS | {"patch_size": 8, "scaling": "data"}),
}


@pytest.mark.parametrize("modality", MODALITIES, ids=lambda m: m.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_band_and_date_has_an_influence_at_the_start(family: str, modality: Modality) -> None:
    torch.manual_seed(0)
    name, options = FAMILIES[family]
    backbone = create_backbone(name, len(modality.bands), modalities=[modality], **options).eval()
    side = 2 * backbone.stride

    def levels(images: Images) -> list[Tensor]:
        with torch.no_grad():
            return list(backbone(images[modality.name]))

    images = random_images([modality], (side, side), batch=1)
    names, samples = zip(*changed_images([modality], images), strict=True)
    for number, level in enumerate(levels(stack([images, *samples]))):
        first, *others = level
        changes = {n: change(first, x) for n, x in zip(names, others, strict=True)}
        assert not too_small(changes), f"level {number}"
