"""Decoders: levels → class scores."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from terrafuse.config.options import check_options
from terrafuse.decoders.aspp import AtrousBranches, PooledContext
from terrafuse.decoders.fcn import FCNHead
from terrafuse.decoders.hamburger import HamburgerDecoder, convert_hamburger_state_dict
from terrafuse.decoders.linear import LinearDecoder
from terrafuse.decoders.segformer import SegFormerDecoder, convert_segformer_state_dict
from terrafuse.decoders.unetformer import UNetFormerDecoder, convert_unetformer_state_dict
from terrafuse.decoders.upernet import UPerNetDecoder
from terrafuse.errors import ModelError
from terrafuse.plugins import find

#: Every decoder by its name; takes (channels, num_classes, *, options).
DECODERS: Mapping[
    str,
    type[HamburgerDecoder | LinearDecoder | SegFormerDecoder | UNetFormerDecoder | UPerNetDecoder],
] = {
    "hamburger": HamburgerDecoder,
    "linear": LinearDecoder,
    "segformer": SegFormerDecoder,
    "unetformer": UNetFormerDecoder,
    "upernet": UPerNetDecoder,
}


def create_decoder(
    name: str,
    channels: Sequence[int],
    strides: Sequence[float],
    num_classes: int,
    /,
    **options: Any,
) -> nn.Module:
    """Create a decoder by name.

    Args:
        name: One of `DECODERS`, of an installed plug-in, or `module:Class`.
        channels: Per level, fine → coarse.
        strides: Per level, in ascending order.
        num_classes: K.
        options: Keyword arguments of the decoder.

    Returns:
        A module: levels (N, C_l, H_l, W_l), fine → coarse → logits (N, K, H_0, W_0).

    Raises:
        UnknownNameError: No such decoder, or no such option.
        ModelError: An invalid option, or levels out of order.
    """
    decoder = find(
        "decoder", name, DECODERS, _is_decoder, "a subclass of torch.nn.Module that takes "
        "(channels, num_classes, *, options)",
    )  # fmt: skip
    if len(channels) != len(strides) or not channels or list(strides) != sorted(strides):
        raise ModelError(
            f"levels must come fine to coarse, one stride each; got channels {list(channels)} and "
            f"strides {list(strides)}"
        )
    made: nn.Module = decoder(
        channels, num_classes, **check_options("decoder", name, decoder, options)
    )
    return made


def _is_decoder(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


__all__ = [
    "DECODERS",
    "AtrousBranches",
    "FCNHead",
    "HamburgerDecoder",
    "LinearDecoder",
    "PooledContext",
    "SegFormerDecoder",
    "UNetFormerDecoder",
    "UPerNetDecoder",
    "convert_hamburger_state_dict",
    "convert_segformer_state_dict",
    "convert_unetformer_state_dict",
    "create_decoder",
]
