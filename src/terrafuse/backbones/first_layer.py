"""Kernels of a pretrained first layer for the bands that an image has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil

import torch
from torch import Tensor

from terrafuse.backbones.colour import RGB, colour_bands, start_weights
from terrafuse.backbones.sentinel import BANDS_BY_NUMBER, adapt_bands, match_bands
from terrafuse.modalities import Modality

_in_turn: ContextVar[bool] = ContextVar("_in_turn", default=False)


@contextmanager
def bands_in_turn() -> Iterator[None]:
    """Kernels for colours are repeated in turn, whatever the bands are.

    Runs of earlier versions started so, and those with a frozen first layer have to again.
    """
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)


def is_in_turn() -> bool:
    """Whether `bands_in_turn` holds."""
    return _in_turn.get()


def fit_bands(
    weight: Tensor,
    wanted: int,
    modalities: Sequence[Modality] | None = None,
    *,
    in_order: bool = False,
) -> Tensor:
    """Kernels (D, C, h, w) for `wanted` bands.

    Where modalities say which bands come in, kernels made for the bands of Sentinel are taken band
    by band (`adapt_bands`). Of those for colours, red, green and blue (`colour_bands`) take their
    own as they are, and every band beyond a small mixture of its own of the three
    (`start_weights`): with that band at its mean, the layer gives what it gave. Of kernels for
    others, the first C bands take them.

    All else is as timm has it: repeated in turn and scaled so that equal bands give the same
    response as before; for a single band summed.

    Args:
        weight: For C bands.
        wanted: Bands of the image.
        modalities: Whose bands come in, one after the other.
        in_order: The kernels belong to the first C bands as these are listed, whatever they are
            called: of files that were trained on blue, green, red, and of those that do not say.
    """
    known = BANDS_BY_NUMBER.get(weight.shape[1]) if weight.ndim == 4 else None
    if known is not None and modalities is not None:
        places = match_bands(modalities, known)
        if len(places) == wanted and any(place is not None for place in places):
            return adapt_bands(weight, places, tell_apart=not is_in_turn())
    own = _own_places(weight, wanted, modalities, in_order)
    if own is not None:
        return torch.einsum("dkhw,kc->dchw", weight, start_weights(wanted, own).to(weight))
    if weight.ndim != 4 or weight.shape[1] == wanted:
        return weight
    if wanted == 1:
        return weight.sum(dim=1, keepdim=True)
    bands = weight.shape[1]
    repeated = weight.repeat(1, ceil(wanted / bands), 1, 1)[:, :wanted]
    return repeated * (bands / wanted)


def _own_places(
    weight: Tensor, wanted: int, modalities: Sequence[Modality] | None, in_order: bool
) -> Sequence[int] | None:
    """Per kernel the band it is for, or None where it is not for one band or all stay in place."""
    if is_in_turn() or weight.ndim != 4 or weight.shape[1] > wanted:
        return None
    if modalities is None and not in_order:
        return None
    bands = weight.shape[1]
    own: Sequence[int] = range(bands)
    if bands == RGB and modalities is not None and not in_order:
        own = colour_bands(modalities)
        if max(own) >= wanted:  # more is known of than comes in
            return None
    return None if bands == wanted and list(own) == list(range(bands)) else own
