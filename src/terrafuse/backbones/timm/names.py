"""Names of other programs for models that timm has."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor

from terrafuse.errors import WeightsMismatchError

# Names of efficientnet_pytorch, which segmentation_models_pytorch uses, in blocks of timm's two
# kinds: without and with an expansion before the depthwise convolution.
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_PLAIN = _SQUEEZE | {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_EXPANDING = _SQUEEZE | {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_AROUND = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
_BLOCK = re.compile(r"^_blocks\.(\d+)\.([^.]+)\.(.+)$")
#: Names that only torchvision's models have.
_TORCHVISION = ("features.", "encoder.layers.encoder_layer_0.", "trunk_output.")


def of_efficientnet_pytorch(state: dict[str, Tensor], whole: Any, where: str) -> dict[str, Tensor]:
    """Rename the values of an EfficientNet of efficientnet_pytorch; others are returned unchanged.

    Args:
        state: Names without prefixes ("_blocks.0._depthwise_conv.weight").
        whole: timm's model.
        where: Names the weights in messages.

    Raises:
        WeightsMismatchError: The backbone computes otherwise, or has fewer blocks.
    """
    if "_conv_stem.weight" not in state:
        return state
    name = str(getattr(whole, "pretrained_cfg", {}).get("architecture", ""))
    if not hasattr(whole, "conv_stem") or not name.startswith("tf_efficientnet"):
        raise WeightsMismatchError(
            f"{where} have the names of efficientnet_pytorch, whose models are timm's "
            "'tf_efficientnet_b0' to 'b8' and 'tf_efficientnet_lite0' to 'lite4' (they pad and "
            f"normalise as TensorFlow does), not '{name}'. Choose the one of the same size"
        )
    blocks = [
        (f"blocks.{i}.{j}", _EXPANDING if hasattr(block, "conv_pwl") else _PLAIN)
        for i, stage in enumerate(whole.blocks)
        for j, block in enumerate(stage)
    ]
    return {_renamed(key, blocks): value for key, value in state.items()}


def _renamed(key: str, blocks: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    found = _BLOCK.match(key)
    if found is None:
        part, _, rest = key.partition(".")
        return f"{_AROUND.get(part, part)}.{rest}"
    number = int(found[1])
    if number >= len(blocks):
        return key  # reported as unexpected
    place, names = blocks[number]
    return f"{place}.{names.get(found[2], found[2])}.{found[3]}"


def timms_name(key: str, known: Container[str]) -> str:
    """Return the name of a value in timm's model for one in its network of features.

    That joins the two topmost names ("stages_0.blocks.1.norm.weight").
    """
    divided = key.replace("_", ".", 1)
    return divided if key not in known and divided in known else key


def refuse_torchvisions(state: Mapping[str, Tensor], known: Container[str], where: str) -> None:
    """Refuse names of torchvision that are not timm's as well.

    Raises:
        WeightsMismatchError: Some are.
    """
    theirs = [name for name in state if name.startswith(_TORCHVISION) and name not in known]
    if theirs:
        raise WeightsMismatchError(
            f"{where} have names of torchvision ('{theirs[0]}'), of which only ResNets are read: "
            "their names are timm's too. Use timm's weights of the same model (weights: timm, or "
            "its file), or another backbone"
        )
