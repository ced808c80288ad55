"""Target layers of a tuning: attention and MLPs of a backbone's blocks, from any model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError

#: Parts of a block that a low-rank update can change.
Target = Literal["q", "k", "v", "qkv", "proj", "mlp"]


@dataclass(frozen=True)
class TargetLinear:
    """A linear layer of a block, and its outputs to tune.

    Args:
        parent: Module that holds the layer.
        name: Name of the layer within the parent.
        rows: Outputs of each part to tune (first, last + 1).
    """

    parent: nn.Module
    name: str
    rows: tuple[tuple[int, int], ...]

    @property
    def layer(self) -> nn.Module:
        """The layer, or the module that has replaced it."""
        layer: nn.Module = getattr(self.parent, self.name)
        return layer


def find_blocks(backbone: Backbone, tuning: str) -> list[Any]:
    """Find the transformer blocks, in order of depth: modules with an MLP of linear layers.

    Args:
        tuning: Name of the tuning, for the message.

    Raises:
        ModelError: The backbone has none.
    """
    blocks: list[Any] = [m for m in backbone.modules() if linears_of_mlp(m)]
    if not blocks:
        raise ModelError(
            f"tuning '{tuning}' changes transformer blocks, and this backbone "
            f"({type(backbone).__name__}) has none. Choose full, frozen, bitfit or norms, or a "
            "backbone with blocks whose MLP is of linear layers (vit_*, samvit_*, swin*, pvt_v2_*, "
            "convnext_tiny and larger)"
        )
    return blocks


def find_layers(
    backbone: Backbone, tuning: str, targets: tuple[Target, ...]
) -> list[tuple[Any, TargetLinear]]:
    """Find the target layers in all blocks, each with its block.

    Args:
        tuning: Name of the tuning, for the message.

    Raises:
        ModelError: No block has any of them.
    """
    blocks = find_blocks(backbone, tuning)
    found = [(block, place) for block in blocks for place in find_targets(block, targets)]
    if not found:
        raise ModelError(
            f"option 'targets' of tuning '{tuning}' is {list(targets)}, and the blocks of this "
            f"backbone ({type(blocks[0]).__name__}) have none of these layers, only 'mlp'"
        )
    return found


def linears_of_mlp(block: nn.Module) -> list[TargetLinear]:
    """Find the linear layers of a block's MLP, in order; none if there is no MLP."""
    mlp = getattr(block, "mlp", None)
    if not isinstance(mlp, nn.Module):
        return []
    base = cast(nn.Module, _unwrapped(mlp))
    children = [(name, _unwrapped(child)) for name, child in base.named_children()]
    return [
        TargetLinear(base, name, ((0, child.out_features),))
        for name, child in children
        if isinstance(child, nn.Linear)
    ]


def projection_of(block: nn.Module) -> TargetLinear | None:
    """Find the projection after the attention of a block; None if there is no attention."""
    attention = _attention_of(block)
    for name in ("proj", "o_proj"):
        layer = _unwrapped(getattr(attention, name, None))
        if attention is not None and isinstance(layer, nn.Linear):
            return TargetLinear(attention, name, ((0, layer.out_features),))
    return None


def find_targets(block: nn.Module, targets: tuple[Target, ...]) -> list[TargetLinear]:
    """Find the target layers of a block; q, k and v of one layer are combined.

    "qkv" means all outputs of the layer or layers that compute the three.
    """
    attention = _attention_of(block)
    places = []
    if attention is not None:
        if "qkv" in targets:
            for name in dict.fromkeys(_input_of(attention, which)[0] for which in "qkv"):
                layer: Any = _unwrapped(getattr(attention, name))
                places.append(TargetLinear(attention, name, ((0, layer.out_features),)))
        inputs = [_input_of(attention, target) for target in targets if target in ("q", "k", "v")]
        for name in dict.fromkeys(name for name, _ in inputs):
            rows = tuple(rows for layer, rows in inputs if layer == name)
            places.append(TargetLinear(attention, name, rows))
        projection = projection_of(block)
        if "proj" in targets and projection is not None:
            places.append(projection)
    return places + (linears_of_mlp(block) if "mlp" in targets else [])


def _attention_of(block: nn.Module) -> nn.Module | None:
    """Attention of a block, under the name in timm or in transformers."""
    attention: nn.Module | None = getattr(block, "attn", None) or getattr(block, "attention", None)
    return attention


def _input_of(attention: nn.Module, which: str) -> tuple[str, tuple[int, int]]:
    """Name of the layer for queries, keys or values, and the rows of its output for them."""
    # timm has one layer for all three, one each, or one for queries and one for the others.
    for name, order in (("qkv", "qkv"), (f"{which}_proj", which), (which, which), ("kv", "kv")):
        layer = _unwrapped(getattr(attention, name, None))
        if isinstance(layer, nn.Linear) and which in order:
            size = layer.out_features // len(order)
            first = order.index(which) * size
            return name, (first, first + size)
    raise ModelError(
        f"the attention of this backbone ({type(attention).__name__}) has no layer for '{which}'"
    )


def _unwrapped(layer: object) -> object:
    """The pretrained layer inside the wrappers of tunings."""
    while isinstance(base := getattr(layer, "base", None), nn.Module):
        layer = base
    return layer
