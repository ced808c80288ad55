"""No band, date or modality begins without influence on what any objective learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from terrafuse.config import DataConfig
from terrafuse.config.base import NamedOptions
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.contract import random_images, statistics_of
from terrafuse.contract.influence import MODALITIES, change, changed_images, too_small
from terrafuse.contract.inputs import Images
from terrafuse.pretraining import OBJECTIVES, Pretrainer, create_pretrainer
from terrafuse.samples import Batch

_VIT = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
}
_RESNET = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
}
_MAE = {"name": "mae", "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
#: Per objective, small settings; one that is not here is tested with a small ResNet.
SMALL: dict[str, list[dict[str, Any]]] = {
    "decur": [_RESNET | {"objective": {"name": "decur", "hidden": 16, "dim": 8, "common": 6}}],
    "infonce": [_RESNET | {"objective": {"name": "infonce"}}],
    "croma": [
        {
            "backbone": "croma_base",
            "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2},
            "objective": {"name": "croma", "decoder_dim": 16, "decoder_heads": 2},
        }
    ],
    "mae": [
        _VIT | {"objective": _MAE},
        _VIT | {"objective": _MAE | {"shared": True}},
        _VIT
        | {
            "backbone": "dofa_base_patch16",
            "backbone_options": _VIT["backbone_options"] | {"dynamic_embed_dim": 8},
            "objective": _MAE,
        },
    ],
}


def _make(objective: str, settings: dict[str, Any]) -> Pretrainer:
    torch.manual_seed(0)
    values = _RESNET | {"objective": {"name": objective}} | settings
    config = PretrainConfig(
        data=DataConfig(manifest=Path("dataset.yaml")),
        objective=NamedOptions(**values.pop("objective")),
        **values,
    )
    pretrainer = create_pretrainer(config, MODALITIES)
    pretrainer.set_statistics(statistics_of(MODALITIES))
    return pretrainer.train()


def _batch(images: Images) -> Batch:
    count = len(next(iter(images.values())))
    valid = {n: torch.ones(count, *x.shape[-2:], dtype=torch.bool) for n, x in images.items()}
    return Batch(images, valid, None, (), ("",) * count)


class _Ends:
    """Keeps what the backbones of a pretrainer end with: the outputs of what is called last.

    The loss alone would not do: objectives that restore pixels compare with the image itself, so
    that a band that no encoder sees changes it too.
    """

    def __init__(self, pretrainer: Pretrainer) -> None:
        self.last: dict[int, tuple[nn.Module, list[Tensor]]] = {}
        self.calls: dict[nn.Module, list[Tensor]] = {}
        for number, learned in enumerate(pretrainer.learned.values()):
            for module in learned.backbone.modules():
                module.register_forward_hook(self._keep(number))

    def _keep(self, number: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            del inputs
            tensors = [output] if isinstance(output, Tensor) else [*output]
            kept = self.calls.setdefault(module, [])
            kept += [x.detach().flatten() for x in tensors if isinstance(x, Tensor)]
            self.last[number] = (module, kept)

        return keep

    def take(self) -> Tensor:
        """All in one, and forget it."""
        found = torch.cat([x for _, kept in self.last.values() for x in kept])
        self.last, self.calls = {}, {}
        return found


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        pytest.param(name, settings, id=f"{name}-{number}")
        for name in OBJECTIVES
        for number, settings in enumerate(SMALL.get(name, [{}]))
    ],
)
def test_every_band_date_and_modality_has_an_influence_at_the_start(
    objective: str, settings: dict[str, Any]
) -> None:
    pretrainer = _make(objective, settings)
    ends = _Ends(pretrainer)

    def compute(images: Images) -> Tensor:
        torch.manual_seed(0)  # the same patches are hidden
        with torch.no_grad():
            pretrainer([_batch(images)] * pretrainer.views)
        return ends.take()

    images = random_images(MODALITIES, (32, 32), batch=4)
    before = compute(images)
    changes = {n: change(before, compute(x)) for n, x in changed_images(MODALITIES, images)}
    assert not too_small(changes)
