"""The engine's arithmetic on tensors of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from terrafuse.prediction.arrays import Array, Arrays, DtypeName

_LEAST_NORMAL = -87.0  # exp of it: 1.6e-38


class TorchArrays(Arrays):
    """Tensors on a device.

    Args:
        device: On which they lie.
    """

    lib = torch

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.is_near = self.device.type == "cpu"

    def zeros(self, shape: Sequence[int], dtype: DtypeName = "float32") -> Array:
        """See `Arrays`, as all here."""
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=self.device)

    def put(self, values: Any) -> Array:
        """See `Arrays`."""
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()  # a tensor would be writable
        return torch.as_tensor(values, device=self.device)

    def to_numpy(self, x: Array) -> NDArray[Any]:
        """See `Arrays`."""
        found: NDArray[Any] = x.cpu().numpy()
        return found

    def cast(self, x: Array, dtype: DtypeName) -> Array:
        """See `Arrays`."""
        return x.to(getattr(torch, dtype))

    def copy(self, x: Array) -> Array:
        """See `Arrays`."""
        return x.clone()

    def equal(self, x: Array, y: Array) -> Array:
        """See `Arrays`."""
        if self.is_near:  # NumPy compares twice as fast
            return torch.from_numpy(np.equal(x.numpy(), y.numpy()))
        return x == y

    def as_bytes(self, mask: Array) -> Array:
        """See `Arrays`."""
        return mask.view(torch.uint8)

    def add_weighted(self, total: Array, values: Array, weights: Array, times: int) -> None:
        """See `Arrays`."""
        total.addcmul_(values, weights, value=times)

    def add_votes(self, total: Array, index: Array, weights: Array) -> None:
        """See `Arrays`."""
        total.scatter_add_(0, index[None].long(), weights[None])

    def of_class(self, values: Array, index: Array) -> Array:
        """See `Arrays`."""
        return values.gather(0, index[None].long())[0]

    def filled(self, x: Array, mask: Array, value: float) -> Array:
        """See `Arrays`."""
        return x.masked_fill(mask, value)

    def fill(self, x: Array, mask: Array, value: float) -> Array:
        """See `Arrays`."""
        return x.masked_fill_(mask, value)

    def exp(self, x: Array) -> Array:
        """See `Arrays`."""
        # Below, results are denormal, and take a processor thirteen times as long.
        return x.clamp_(min=_LEAST_NORMAL).exp_()

    def resize(self, x: Array, side: int, *, antialias: bool) -> Array:
        """See `Arrays`."""
        return F.interpolate(
            x, (side, side), mode="bilinear", align_corners=False, antialias=antialias
        )

    def nearest(self, x: Array, side: int) -> Array:
        """See `Arrays`."""
        return F.interpolate(x, (side, side), mode="nearest-exact")
