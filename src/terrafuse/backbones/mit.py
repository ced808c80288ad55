"""MiT, the pyramid transformer of SegFormer, B0 to B5, on the blocks of `transformers`.

Reference: Xie, Wang, Yu, Anandkumar, Alvarez, Luo: SegFormer: simple and efficient design for
semantic segmentation with transformers, NeurIPS 2021, arXiv 2105.15203, section 3.1. The code of
`transformers` is under Apache-2.0; NVIDIA's weights are for non-commercial use only.

Unlike in `transformers`, layer norms of blocks and stages have eps 1e-6 and parameters are
initialised as in the original.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones.base import PretrainedSource, PyramidBackbone
from terrafuse.backbones.family import Family, Request
from terrafuse.backbones.first_layer import fit_bands
from terrafuse.backbones.timm.models import HUB_WEIGHTS, find_published, refuse_timm
from terrafuse.config.options import check_options
from terrafuse.errors import ModelError, UnknownNameError, unknown_name
from terrafuse.extras import from_extra
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict, pretrained_wanted, read_foreign, rename

#: Prefix of all MiT names.
MIT_PREFIX = "mit_"
#: For norms of blocks and stages; embeddings and reductions keep torch's 1e-5.
_EPS = 1e-6


@dataclass(frozen=True)
class MiTVariant:
    """Channels and number of blocks per stage of a MiT."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]


_WIDE = (64, 128, 320, 512)
#: Every MiT by its name.
VARIANTS: Mapping[str, MiTVariant] = {
    "mit_b0": MiTVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MiTVariant(_WIDE, (2, 2, 2, 2)),
    "mit_b2": MiTVariant(_WIDE, (3, 4, 6, 3)),
    "mit_b3": MiTVariant(_WIDE, (3, 4, 18, 3)),
    "mit_b4": MiTVariant(_WIDE, (3, 8, 27, 3)),
    "mit_b5": MiTVariant(_WIDE, (3, 6, 40, 3)),
}


def is_mit(name: str) -> bool:
    """Tell whether a name is that of a MiT.

    Raises:
        UnknownNameError: It has the prefix of a MiT, but does not exist.
    """
    if not name.startswith(MIT_PREFIX):
        return False
    if name not in VARIANTS:
        raise UnknownNameError(unknown_name("backbone", name, VARIANTS))
    return True


def hub_location(name: str) -> str:
    """Return the location of a MiT's published ImageNet weights."""
    return f"hf://nvidia/{name.replace('_', '-')}/pytorch_model.bin"


class MiT(PyramidBackbone):
    """Four stages of strides 4, 8, 16, 32; each ends with its own layer norm.

    Args:
        name: One of `VARIANTS`.
        modalities: Modalities of the bands, in order; they assign pretrained kernels to bands.
        weights: None = from scratch, "hub" = NVIDIA's ImageNet weights (non-commercial), else a
            path: a file of the authors (`mit_b2.pth`), or one of `transformers`.
        drop_path_rate: Stochastic depth: probability of skipping a branch of the last block,
            decreasing to 0 at the first.
        channels: Per stage; default: by name, as for the following, which serve for small models.
        depths: Blocks per stage.
        num_heads: Heads per stage.

    Raises:
        UnknownNameError: No such MiT.
        ModelError: Impossible sizes.
        WeightsError: The weights are missing or do not fit.
    """

    ends_with_norm = True

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality] | None = None,
        *,
        weights: str | None = None,
        drop_path_rate: float = 0.1,
        channels: tuple[int, int, int, int] | None = None,
        depths: tuple[int, int, int, int] | None = None,
        num_heads: tuple[int, int, int, int] = (1, 2, 5, 8),
    ) -> None:
        super().__init__()
        if not is_mit(name):
            raise UnknownNameError(unknown_name("backbone", name, VARIANTS))
        variant = VARIANTS[name]
        self.channels = channels or variant.channels
        self.strides = (4, 8, 16, 32)
        self.stride = 32
        self.num_heads = num_heads
        _check_sizes(name, self.channels, num_heads, drop_path_rate)
        with from_extra("mit", f"backbone '{name}'"):  # slow to import and needed only here
            from transformers import SegformerConfig, SegformerModel

        config = SegformerConfig(
            num_channels=in_channels,
            hidden_sizes=list(self.channels),
            depths=list(depths or variant.depths),
            num_attention_heads=list(num_heads),
            drop_path_rate=drop_path_rate,
        )
        self.stem = nn.Identity()  # every stage has its own patch embedding
        self.stages = SegformerModel(config).stages
        _initialize(self.stages)
        if weights is not None:
            self.pretrained = _load(self, name, weights, modalities)


def _check_sizes(
    name: str, channels: Sequence[int], num_heads: Sequence[int], drop_path_rate: float
) -> None:
    if any(c < 1 or heads < 1 or c % heads for c, heads in zip(channels, num_heads, strict=True)):
        raise ModelError(
            f"backbone '{name}' cannot have channels {list(channels)} with num_heads "
            f"{list(num_heads)}; each stage's heads must divide its channels"
        )
    if not 0 <= drop_path_rate < 1:
        raise ModelError(
            f"option 'drop_path_rate' of backbone '{name}' is {drop_path_rate:g}; allowed is 0 to "
            "less than 1"
        )


def _initialize(stages: nn.Module) -> None:
    initialize_as_segformer(stages)
    for stage in stages.children():
        norms: Any = [stage.layer_norm]
        for block in stage.blocks.children():  # type: ignore[union-attr]  # a list of modules
            norms += [block.layernorm_before, block.layernorm_after]
        for norm in norms:
            norm.eps = _EPS


def initialize_as_segformer(module: nn.Module) -> None:
    """Initialise parameters as the original encoder and CMX's fusion do.

    Linear layers N(0, 0.02²) truncated at ±2, convolutions N(0, 2 / n) with n the fan-out per
    group, biases 0. Norms keep torch's defaults.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            reached = height * width * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=sqrt(2 / reached))
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _load(
    backbone: MiT, name: str, weights: str, modalities: Sequence[Modality] | None
) -> PretrainedSource | None:
    refuse_timm(name, weights)
    if not pretrained_wanted():
        return None
    location = hub_location(name) if weights == HUB_WEIGHTS else weights
    sha256, licence = find_published(location)
    read = read_foreign(
        location, backbone.state_dict(), convert=convert_mit_state_dict, sha256=sha256
    )
    state = read.values
    first = "stages.0.patch_embeddings.proj.weight"
    if first in state:
        bands = backbone.state_dict()[first].shape[1]
        state[first] = fit_bands(state[first], bands, modalities)
    load_strict(backbone, state, where=f"weights '{location}' for backbone '{name}'")
    return PretrainedSource(name, location, licence, read.note)


def _create(request: Request) -> MiT:
    checked = check_options("backbone", request.name, MiT, request.options)
    return MiT(
        request.name,
        request.in_channels,
        request.modalities,
        weights=request.weights,
        **checked,
    )


FAMILY = Family(
    examples={"MiT": ("mit_b0", "mit_b2", "mit_b5")},
    kind="pyramid",
    backbone=MiT,
    owns=is_mit,
    create=_create,
    licence=lambda name: find_published(hub_location(name))[1],
    hub_location=hub_location,
)


#: Classifier or decoder beside the encoder in published files.
_HEADS = re.compile(r"^(head|classifier|decode_head|auxiliary_head)\.")
_PREFIXES = re.compile(r"^(segformer\.|backbone\.)?(encoder\.)?")

#: Names inside a stage, the authors' → ours, in this order; <N> counts stages from 1 there.
_AUTHORS = (
    (r"^patch_embed(\d)\.proj\.", r"stages.<\1>.patch_embeddings.proj."),
    (r"^patch_embed(\d)\.norm\.", r"stages.<\1>.patch_embeddings.layer_norm."),
    (r"^norm(\d)\.", r"stages.<\1>.layer_norm."),
    (r"^block(\d)\.(\d+)\.", r"stages.<\1>.blocks.\2."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.q\.", ".attention.q_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attn\.kv\.", ".attention.kv."),
)
#: Likewise for `transformers` before version 5.
_TRANSFORMERS = (
    (r"^patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
    (r"^layer_norm\.(\d)\.", r"stages.\1.layer_norm."),
    (r"^block\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layer_norm_1\.", ".layernorm_before."),
    (r"\.layer_norm_2\.", ".layernorm_after."),
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (r"\.attention\.self\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attention\.self\.layer_norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)


def convert_mit_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the values of a MiT checkpoint of any origin to the names of `MiT`.

    A classifier or decoder beside the encoder is dropped. An unknown name is kept, for
    `load_strict` to report.

    Args:
        state: Names of the authors ("block1.0.attn.q.weight"), with or without "backbone.", or of
            `transformers` ("segformer.encoder.block.0.0.attention.self.query.weight",
            "stages.0.blocks.0.attention.q_proj.weight").
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if _HEADS.match(key):
            continue
        # The authors count stages from 1.
        name = rename(_PREFIXES.sub("", key), (*_AUTHORS, *_TRANSFORMERS))
        if ".attention.kv." not in name:
            converted[name] = value
            continue
        # One layer computes keys, then values.
        for which, half in zip("kv", torch.chunk(value, 2), strict=True):
            converted[name.replace(".kv.", f".{which}_proj.")] = half
    return converted
