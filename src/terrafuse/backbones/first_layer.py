"""Adaptation of a pretrained first layer to the bands of an image."""

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
    """Repeat RGB kernels cyclically over the bands, whatever these are.

    Runs of earlier versions started this way, and those with a frozen first layer must do so again.
    """
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)


def is_in_turn() -> bool:
    """Tell whether `bands_in_turn` is active."""
    return _in_turn.get()


def fit_bands(
    weight: Tensor,
    wanted: int,
    modalities: Sequence[Modality] | None = None,
    *,
    in_order: bool = False,
) -> Tensor:
    """Adapt kernels (D, C, h, w) to `wanted` bands.

    Where modalities identify the bands, kernels made for Sentinel bands are matched band by band
    (`adapt_bands`). RGB kernels go unchanged to red, green and blue (`colour_bands`), and every
    further band gets a small random mixture of the three (`start_weights`): with that band at its
    mean, the layer's output is unchanged. Kernels for other bands go to the first C bands.

    Everything else follows timm: kernels are repeated cyclically and scaled so that equal bands
    give the same response as before; for a single band they are summed.

    Args:
        weight: Kernels for C bands.
        wanted: Number of bands of the image.
        modalities: Modalities stacked in the image, in order.
        in_order: Assign the kernels to the first C bands as listed, whatever their names: for files
            trained on blue, green, red, and for those that do not say.
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
    """Band index of each kernel; None if kernels are not for single bands or all stay in place."""
    if is_in_turn() or weight.ndim != 4 or weight.shape[1] > wanted:
        return None
    if modalities is None and not in_order:
        return None
    bands = weight.shape[1]
    own: Sequence[int] = range(bands)
    if bands == RGB and modalities is not None and not in_order:
        own = colour_bands(modalities)
        if max(own) >= wanted:  # modalities have more bands than the image
            return None
    return None if bands == wanted and list(own) == list(range(bands)) else own
