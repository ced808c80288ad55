"""Arithmetic of the engine, on tensors of torch and on arrays of NumPy alike.

A map is made where the model's answers lie: by torch on its device, or by NumPy, beside a runtime
for which torch need not be installed. What both name alike (`where`, `maximum` with `out`, `+=`) is
called by that name, of `lib`; the rest has a name here. The array API standard has none for most
of it: sums in place, votes, masks that fill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: A tensor or an array: what is done with both, no type of either says.
Array = Any
DtypeName = Literal["bool", "uint8", "int64", "float32", "float64"]


class Arrays(ABC):
    """Arrays of one library in one place; shapes are those of the arguments, unless told."""

    #: The library: `torch` or `numpy`.
    lib: Any
    #: Whether they lie in main memory, beside the processor's cache.
    is_near: bool = True

    @abstractmethod
    def zeros(self, shape: Sequence[int], dtype: DtypeName = "float32") -> Array:
        """Return zeros, or False."""

    @abstractmethod
    def put(self, values: Any) -> Array:
        """Return an array of NumPy, or of this library, here."""

    @abstractmethod
    def to_numpy(self, x: Array) -> NDArray[Any]:
        """Return an array of NumPy, in main memory."""

    @abstractmethod
    def cast(self, x: Array, dtype: DtypeName) -> Array:
        """Return values of another type."""

    @abstractmethod
    def copy(self, x: Array) -> Array:
        """Return a copy."""

    @abstractmethod
    def equal(self, x: Array, y: Array) -> Array:
        """Tell where values are equal, bool; shapes are broadcast."""

    @abstractmethod
    def as_bytes(self, mask: Array) -> Array:
        """Return a mask as uint8, in the same memory."""

    @abstractmethod
    def add_weighted(self, total: Array, values: Array, weights: Array, times: int) -> None:
        """Add `times` · values (K, h, w) · weights (h, w) to a total (K, h, w)."""

    @abstractmethod
    def add_votes(self, total: Array, index: Array, weights: Array) -> None:
        """Add weights (h, w) to the classes `index` (h, w) of a total (K, h, w)."""

    @abstractmethod
    def of_class(self, values: Array, index: Array) -> Array:
        """Return of values (K, h, w) those of the classes `index` (h, w)."""

    @abstractmethod
    def filled(self, x: Array, mask: Array, value: float) -> Array:
        """Return values, with another one where a mask, which is broadcast, is set."""

    @abstractmethod
    def fill(self, x: Array, mask: Array, value: float) -> Array:
        """Set a value where a mask is set; return `x`."""

    @abstractmethod
    def resize(self, x: Array, side: int, *, antialias: bool) -> Array:
        """Resample (N, C, H, W) to (N, C, side, side), bilinear between pixels' centres.

        Args:
            antialias: Whether all pixels count when it shrinks.
        """

    @abstractmethod
    def nearest(self, x: Array, side: int) -> Array:
        """Take the nearest pixels of (N, C, H, W), as (N, C, side, side)."""

    def exp(self, x: Array) -> Array:
        """Compute the exponential in place; return `x`."""
        return self.lib.exp(x, out=x)

    def clip(self, x: Array, low: float | None, high: float | None) -> Array:
        """Limit values in place; return `x`."""
        return self.lib.clip(x, low, high, out=x)

    def round(self, x: Array) -> Array:
        """Round in place, halves to even; return `x`."""
        return self.lib.round(x, out=x)


class NumPyArrays(Arrays):
    """Arrays of NumPy. Sums are those of torch but for their last bit: that fuses · and +."""

    lib = np

    def zeros(self, shape: Sequence[int], dtype: DtypeName = "float32") -> Array:
        """See `Arrays`, as all here."""
        return np.zeros(shape, dtype)

    def put(self, values: Any) -> Array:
        """Arrays lie here."""
        return np.asarray(values)

    def to_numpy(self, x: Array) -> NDArray[Any]:
        """Arrays are such."""
        return np.asarray(x)

    def cast(self, x: Array, dtype: DtypeName) -> Array:
        """Only where it differs."""
        return x.astype(dtype, copy=False)

    def copy(self, x: Array) -> Array:
        """See `Arrays`."""
        return x.copy()

    def equal(self, x: Array, y: Array) -> Array:
        """See `Arrays`."""
        return np.equal(x, y)

    def as_bytes(self, mask: Array) -> Array:
        """See `Arrays`."""
        return mask.view(np.uint8)

    def add_weighted(self, total: Array, values: Array, weights: Array, times: int) -> None:
        """See `Arrays`."""
        product = values * weights if times == 1 else values * np.float32(times) * weights
        total += product

    def add_votes(self, total: Array, index: Array, weights: Array) -> None:
        """See `Arrays`."""
        place = index[None].astype(np.intp)
        votes = np.take_along_axis(total, place, 0) + weights
        np.put_along_axis(total, place, votes, 0)

    def of_class(self, values: Array, index: Array) -> Array:
        """See `Arrays`."""
        return np.take_along_axis(values, index[None].astype(np.intp), 0)[0]

    def filled(self, x: Array, mask: Array, value: float) -> Array:
        """See `Arrays`."""
        return self.fill(x.copy(), mask, value)

    def fill(self, x: Array, mask: Array, value: float) -> Array:
        """See `Arrays`."""
        np.copyto(x, value, where=mask)
        return x

    def resize(self, x: Array, side: int, *, antialias: bool) -> Array:
        """A product with one matrix per axis, in float32 as torch's."""
        rows, cols = (_bilinear(size, side, antialias=antialias) for size in x.shape[-2:])
        return rows @ x @ cols.T

    def nearest(self, x: Array, side: int) -> Array:
        """As torch's "nearest-exact"."""
        rows, cols = (((2 * np.arange(side) + 1) * size) // (2 * side) for size in x.shape[-2:])
        return x[..., rows[:, None], cols]


def _bilinear(size: int, side: int, *, antialias: bool) -> NDArray[np.float32]:
    """Weights (side, size) of the pixels that each pixel of a resized axis is made of.

    A triangle about its centre, as wide as two pixels of the axis, or of the resized one where
    that is coarser and `antialias` is set; at the edges what lies within counts alone (the first
    or last pixel where there is no other).
    """
    scale = size / side
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(side) + 0.5) * scale
    if not antialias:
        centres = centres.clip(0.5, size - 0.5)
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / reach
    weights = np.maximum(0.0, 1.0 - distance)
    found: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


NUMPY = NumPyArrays()
