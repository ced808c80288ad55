"""Encoders of PAGNet: MobileNetV3-Large as in its code, SE-ResNeXt50 without the last stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import nn

from terrafuse.backbones import PyramidBackbone, create_backbone
from terrafuse.modalities import Modality
from terrafuse.tuning import TuningOption, apply_tuning

VariantName = Literal["mobile", "rx50"]

MOBILENET = "mobilenetv3_large_100"
SE_RESNEXT = "legacy_seresnext50_32x4d"

#: Blocks of MobileNetV3, from 1, after which a level ends, per stream. The authors' code cuts the
#: second stream one block earlier than the first.
MOBILENET_ENDS = {"primary": (6, 12), "secondary": (5, 11)}


class MobileNetStream(PyramidBackbone):
    """MobileNetV3 with levels cut as in PAGNet, of strides 8, 16, 32.

    Modules keep their numbers in the whole network: blocks from 1, then the last convolution.

    Args:
        whole: timm's network, with levels of these strides.
        ends: Blocks after which the first two levels end; within the blocks of their strides.
        gate_first: Whether squeeze-and-excitation comes before the activation, as in PAGNet's
            code, or after it, as timm's weights need.
    """

    def __init__(self, whole: PyramidBackbone, ends: Sequence[int], *, gate_first: bool) -> None:
        super().__init__()
        self.name, self.pretrained = whole.name, whole.pretrained
        self.channels, self.strides, self.stride = whole.channels, whole.strides, whole.stride
        first, blocks = _take_apart(whole)
        numbered = list(enumerate(blocks, start=1))
        # Two groups of blocks, of strides 2 and 4, precede the first level.
        before = len(first["blocks_0"]) + len(first["blocks_1"])
        self.stem = nn.Sequential(
            OrderedDict(
                [(n, m) for n, m in first.items() if not n.startswith("blocks")]
                + [(str(n), block) for n, block in numbered[:before]]
            )
        )
        bounds = [before, *ends, len(blocks)]
        self.stages = nn.ModuleList(
            nn.Sequential(OrderedDict((str(n), block) for n, block in numbered[a:b]))
            for a, b in pairwise(bounds)
        )
        if gate_first:
            for block in blocks:
                _gate_before_activation(block)


class GateThenActivate(nn.Sequential):
    """Squeeze-and-excitation, then the activation."""

    def __init__(self, gate: nn.Module, activation: nn.Module) -> None:
        super().__init__(OrderedDict(gate=gate, activation=activation))


def build_streams(
    variant: VariantName, modalities: Sequence[Modality], *, pretrained: bool, tuning: TuningOption
) -> list[PyramidBackbone]:
    """Build the encoders of the first and the second stream.

    Args:
        variant: "mobile" has MobileNetV3 twice; in "rx50" the first is SE-ResNeXt50.
        modalities: The modality of each stream.
        pretrained: Whether they start from timm's weights.
        tuning: Tuning of both.
    """
    weights = "timm" if pretrained else None
    streams: list[PyramidBackbone] = []
    for (place, ends), modality in zip(MOBILENET_ENDS.items(), modalities, strict=True):
        if variant == "rx50" and place == "primary":
            stream = _build(SE_RESNEXT, modality, weights, (4, 8, 16))
        else:
            whole = _build(MOBILENET, modality, weights, (8, 16, 32))
            stream = MobileNetStream(whole, ends, gate_first=not pretrained)
        apply_tuning(stream, tuning, 1)
        streams.append(stream)
    return streams


def _build(
    name: str, modality: Modality, weights: str | None, strides: Sequence[int]
) -> PyramidBackbone:
    backbone = create_backbone(
        name, len(modality.bands), weights=weights, modalities=[modality], strides=strides
    )
    assert isinstance(backbone, PyramidBackbone)
    backbone.name = name
    return backbone


def _take_apart(whole: PyramidBackbone) -> tuple[dict[str, Any], list[nn.Module]]:
    """Groups of modules by timm's names, and their blocks in sequence."""
    groups = {
        name: group for part in (whole.stem, *whole.stages) for name, group in part.named_children()
    }
    blocks = [b for name, group in groups.items() if name.startswith("blocks") for b in group]
    return groups, blocks


def _gate_before_activation(block: nn.Module) -> None:
    gate: Any = getattr(block, "se", None)
    if gate is None or isinstance(gate, nn.Identity):
        return
    norm: Any = block.bn2  # norm and activation in one
    block.se = GateThenActivate(gate, norm.act)
    norm.act = nn.Identity()
