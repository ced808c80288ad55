"""Which library an array of the engine is of."""

from __future__ import annotations

import numpy as np

from terrafuse.prediction.arrays import NUMPY, Array, Arrays


def arrays_of(x: Array) -> Arrays:
    """Return the arithmetic of an array's library, where it lies."""
    if isinstance(x, np.ndarray):
        return NUMPY
    from terrafuse.prediction.torch_arrays import TorchArrays  # torch is there, if tensors are

    return TorchArrays(x.device)
