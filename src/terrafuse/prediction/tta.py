"""Test-time augmentation: windows shown to the model turned and resized, answers turned back.

Logits are averaged, as those of overlapping windows are: so the average of a window is again the
logits of a window, and blending and products stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import nan

import numpy as np

from terrafuse.errors import ConfigError, UnknownNameError, unknown_name
from terrafuse.modalities import Modality
from terrafuse.prediction.array_kinds import arrays_of
from terrafuse.prediction.arrays import Array
from terrafuse.samples import Batch

#: Kinds of augmentation → what they show beside the window as it is.
KINDS: Mapping[str, str] = {
    "flips": "mirrored up-down, left-right, and both",
    "turns": "turned by 90, 180 and 270 degrees",
    "scales": "shrunk to 3/4 and enlarged to 5/4",
}
_FACTORS = (1.0, 0.75, 1.25)


@dataclass(frozen=True)
class View:
    """A way to show a window.

    Args:
        flips_rows: Whether it is mirrored up-down, before it is turned.
        quarters: Quarter turns, anticlockwise.
        factor: Of its size.
    """

    flips_rows: bool = False
    quarters: int = 0
    factor: float = 1.0

    def turn(self, x: Array) -> Array:
        """Turn the last two dimensions."""
        lib = arrays_of(x).lib
        turned = lib.flip(x, (-2,)) if self.flips_rows else x
        return lib.rot90(turned, self.quarters, (-2, -1)) if self.quarters else turned

    def turn_back(self, x: Array) -> Array:
        """Undo `turn`."""
        lib = arrays_of(x).lib
        back = lib.rot90(x, -self.quarters, (-2, -1)) if self.quarters else x
        return lib.flip(back, (-2,)) if self.flips_rows else back


def find_views(kinds: Sequence[str]) -> tuple[View, ...]:
    """Return all combinations of some kinds of augmentation, each once, the plain view first.

    Args:
        kinds: Names in `KINDS`.

    Raises:
        UnknownNameError: There is no such kind.
        ConfigError: One is named twice.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError(unknown_name("test-time augmentation", kind, KINDS))
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"tta is '{','.join(kinds)}'; name each of {', '.join(KINDS)} once")
    # Flipped rows and half a turn are flipped columns.
    turns = {
        (False, False): [(False, 0)],
        (True, False): [(False, 0), (True, 0), (True, 2), (False, 2)],
        (False, True): [(False, n) for n in range(4)],
        (True, True): [(flip, n) for flip in (False, True) for n in range(4)],
    }["flips" in kinds, "turns" in kinds]
    factors = _FACTORS if "scales" in kinds else _FACTORS[:1]
    return tuple(View(flip, n, factor) for factor, (flip, n) in product(factors, turns))


def scaled_size(size: int, factor: float, alignment: int) -> int:
    """Side of a window of `size` scene pixels that is resized, a multiple of `alignment`.

    Raises:
        ConfigError: The window is too small to be resized.
    """
    found = round(size * factor / alignment) * alignment
    if factor != 1 and found in (0, size):
        raise ConfigError(
            f"windows of {size} pixels cannot be resized by {factor:g} in steps of {alignment}, "
            "which whole pixels of every modality need; give a larger --crop-size, or leave "
            "'scales' out of --tta"
        )
    return size if factor == 1 else found


def average_views(
    score: Callable[[Batch], Array],
    batch: Batch,
    views: Sequence[View],
    modalities: Sequence[Modality],
    alignment: int,
) -> Array:
    """Average the logits of a batch over views of it.

    Args:
        score: Batch → float32 logits (N, K, side, side).
        batch: Square windows of one size.
        views: At least one.
        modalities: Of the model.
        alignment: Sides of windows are multiples of it.

    Returns:
        Float32 (N, K, size, size).
    """
    size = batch.windows[0].height
    known = {modality.name: modality for modality in modalities}
    resized: dict[float, Batch] = {}
    total: Array | None = None
    for view in views:
        if view.factor not in resized:  # one at a time is kept
            side = scaled_size(size, view.factor, alignment)
            resized = {view.factor: _resize_batch(batch, known, side, size)}
        logits = view.turn_back(score(_turn(resized[view.factor], view)))
        arrays = arrays_of(logits)
        if logits.shape[-1] != size:
            logits = arrays.resize(logits, size, antialias=logits.shape[-1] > size)
        if total is None:
            # In float64 the average of equal answers is that answer, bit by bit.
            total = arrays.cast(logits, "float64")
        else:
            total += logits
    assert total is not None
    total /= len(views)
    return arrays_of(total).cast(total, "float32")


def _turn(batch: Batch, view: View) -> Batch:
    return replace(
        batch,
        images={name: view.turn(image) for name, image in batch.images.items()},
        valid={name: view.turn(mask) for name, mask in batch.valid.items()},
    )


def _resize_batch(batch: Batch, known: Mapping[str, Modality], side: int, size: int) -> Batch:
    """Windows of `size` scene pixels at a side of `side`; their places stay."""
    if side == size:
        return batch
    images = {
        name: resize(image, known[name].size_at(side), nearest=known[name].kind == "structure")
        for name, image in batch.images.items()
    }
    valid = {name: ~arrays_of(image).lib.isnan(image).all(axis=1) for name, image in images.items()}
    windows = tuple(replace(window, height=side, width=side) for window in batch.windows)
    return replace(batch, images=images, valid=valid, windows=windows)


def resize(image: Array, side: int, *, nearest: bool = False) -> Array:
    """Resample images (N, C, H, W), NaN = no data, to (N, C, side, side).

    Only pixels with data count, and pixels have data where most of them has: or where any has, if
    a band would lose all of it, since a method may need every modality.

    Args:
        nearest: True: take the nearest pixel (structure, in which a mean of two segments is a
            third one's).
    """
    arrays = arrays_of(image)
    lib = arrays.lib
    there = ~lib.isnan(image)
    both = lib.concatenate([arrays.filled(image, ~there, 0.0), arrays.cast(there, "float32")], 1)
    both = arrays.resize(both, side, antialias=side < image.shape[-1])
    values, share = both[:, : image.shape[1]], both[:, image.shape[1] :]
    mostly = share > 0.5
    keeps = lib.where(mostly.any(axis=(2, 3), keepdims=True), mostly, share > 0)
    with np.errstate(invalid="ignore"):  # nothing of nothing
        averaged = arrays.filled(values / share, ~keeps, nan)
    if not nearest:
        return averaged
    picked = arrays.nearest(image, side)
    is_lost = lib.isnan(picked).all(axis=(1, 2, 3), keepdims=True)
    return lib.where(is_lost, averaged, picked)
