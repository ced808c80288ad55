"""Batches without one modality, for methods that support that and for those that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from terrafuse.prediction.array_kinds import arrays_of
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.samples import Batch

LEFT_OUT = "left out"
BY_MEAN = "replaced by the mean of the training"


class _MayLack(Protocol):
    @property
    def supports_missing(self) -> bool: ...


def absence(model: _MayLack) -> str:
    """How a modality is made absent."""
    return LEFT_OUT if model.supports_missing else BY_MEAN


def leave_out(model: SceneModel, batch: Batch, name: str) -> Batch:
    """Return a batch without a modality.

    Of a method that needs every modality, its values become the mean of the training in each band:
    they have data where they had some, and say nothing.
    """
    if model.supports_missing:
        return replace(
            batch,
            images={n: x for n, x in batch.images.items() if n != name},
            valid={n: x for n, x in batch.valid.items() if n != name},
        )
    image = batch.images[name]
    arrays = arrays_of(image)
    mean = arrays.put(model.mean_of(name)).reshape(1, -1, 1, 1)
    constant = arrays.lib.where(arrays.lib.isnan(image), image, mean)
    return replace(batch, images={**batch.images, name: constant})
