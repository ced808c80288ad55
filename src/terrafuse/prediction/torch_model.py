"""`TorchModel`: a segmenter as what maps scenes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrafuse.errors import ModelError
from terrafuse.prediction.devices import find_device
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.torch_arrays import TorchArrays
from terrafuse.prediction.windows import Precision
from terrafuse.samples import Batch
from terrafuse.segmenter import Segmenter, evaluating
from terrafuse.weights import digest_values

_AUTOCAST: dict[Precision, torch.dtype | None] = {
    "32-true": None,
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
}


class TorchModel(SceneModel):
    """A segmenter on a device.

    Args:
        segmenter: It is moved to the device, and set to evaluation mode while it scores.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …

    Raises:
        ConfigError: The device does not exist.
    """

    device: torch.device

    def __init__(self, segmenter: Segmenter, device: torch.device | str = "auto") -> None:
        self.device = find_device(device)
        self.segmenter = segmenter.to(self.device)
        self.name = type(segmenter).__name__
        self.modalities = segmenter.modalities
        self.num_classes = segmenter.num_classes
        self.supports_missing = segmenter.supports_missing
        self.arrays = TorchArrays(self.device)

    @property
    def digest(self) -> str:
        """Of the weights."""
        return model_digest(self.segmenter)

    @property
    def nbytes(self) -> int:
        """See `SceneModel`."""
        return sum(value.nbytes for value in self.segmenter.state_dict().values())

    def on(self, device: str) -> TorchModel:
        """See `SceneModel`."""
        return TorchModel(self.segmenter, device)

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """See `SceneModel`.

        Raises:
            ModelError: The model holds what cannot be sent.
        """
        self.segmenter.to("cpu")
        try:
            yield
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{self.name} cannot be sent to other processes ({error}). Define it, and what it "
                "holds, at the top of a module; or use one process, --workers 1"
            ) from error
        finally:
            self.segmenter.to(self.device)

    def running(self) -> AbstractContextManager[None]:
        """In evaluation mode."""
        return evaluating(self.segmenter)

    def check_precision(self, precision: Precision) -> None:
        """All are allowed."""

    @torch.inference_mode()
    def scores(self, batch: Batch, precision: Precision) -> Tensor:
        """See `SceneModel`."""
        dtype = _AUTOCAST[precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = self.segmenter(batch.images, batch.valid).logits
        return logits.float()

    def to_device(self, batch: Batch) -> Batch:
        """See `SceneModel`."""
        return batch.to(self.device)

    def read_ahead(self, batch: Batch) -> Batch:
        """Pin it, so that it is copied while the model runs on the batch before."""
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def wait(self) -> None:
        """See `SceneModel`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mean_of(self, name: str) -> NDArray[np.float32]:
        """See `SceneModel`."""
        found: NDArray[np.float32] = self.segmenter.get_buffer(f"mean_{name}").float().cpu().numpy()
        return found


#: Digests of models that are not changed for a while.
_digests: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


@contextmanager
def unchanging(model: torch.nn.Module) -> Iterator[str]:
    """Take the digest of a model's weights once for many maps; nothing may train it meanwhile."""
    _digests[model] = digest_values(model.state_dict())
    try:
        yield _digests[model]
    finally:
        del _digests[model]


def model_digest(model: torch.nn.Module) -> str:
    """Digest of the weights."""
    return _digests.get(model) or digest_values(model.state_dict())
