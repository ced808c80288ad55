"""`SceneModel`: what maps a scene, be it a segmenter of torch or an exported file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Self

import numpy as np
from numpy.typing import NDArray

from terrafuse.modalities import Modality
from terrafuse.prediction.arrays import Array, Arrays
from terrafuse.prediction.devices import Device
from terrafuse.prediction.windows import Precision
from terrafuse.samples import Batch


class SceneModel(ABC):
    """Scores of classes for windows of a scene, in arrays of some library."""

    #: What it is called in messages.
    name: str
    #: Inputs, in order.
    modalities: tuple[Modality, ...]
    num_classes: int
    #: Whether a modality may be without data.
    supports_missing: bool
    #: Where it runs.
    device: Device
    #: What its answers are.
    arrays: Arrays

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of what its answers depend on beside the windows."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of its weights."""

    @abstractmethod
    def on(self, device: str) -> Self:
        """Return the same, on another device."""

    @abstractmethod
    def on_cpu(self) -> AbstractContextManager[None]:
        """Have it in main memory for a while, as it is sent to another process."""

    @abstractmethod
    def running(self) -> AbstractContextManager[None]:
        """Have it ready to score for a while."""

    @abstractmethod
    def check_precision(self, precision: Precision) -> None:
        """Refuse a precision that it does not have.

        Raises:
            ConfigError: Names those it has.
        """

    @abstractmethod
    def scores(self, batch: Batch, precision: Precision) -> Array:
        """Return the logits of a batch, float32 (N, K, H, W).

        Args:
            batch: As `to_device` returned it; modalities that are not in it have no data.
            precision: Of the arithmetic.
        """

    @abstractmethod
    def mean_of(self, name: str) -> NDArray[np.float32]:
        """Return the mean of a modality's bands over the training."""

    def to_device(self, batch: Batch) -> Batch:
        """Bring a batch to where the model runs."""
        return batch

    def read_ahead(self, batch: Batch) -> Batch:
        """Prepare a batch to be brought there, in the thread that reads."""
        return batch

    def wait(self) -> None:  # noqa: B027
        """Wait until what was begun is done; nothing to do where answers are there at once."""
