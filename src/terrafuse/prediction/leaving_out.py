"""Batches without one modality, for methods that support that and for those that do not."""

from __future__ import annotations

from dataclasses import replace

import torch

from terrafuse.samples import Batch
from terrafuse.segmenter import Segmenter

LEFT_OUT = "left out"
BY_MEAN = "replaced by the mean of the training"


def absence(segmenter: Segmenter) -> str:
    """How a modality is made absent."""
    return LEFT_OUT if segmenter.supports_missing else BY_MEAN


def leave_out(segmenter: Segmenter, batch: Batch, name: str) -> Batch:
    """Return a batch without a modality.

    Of a method that needs every modality, its values become the mean of the training in each band:
    they have data where they had some, and say nothing.
    """
    if segmenter.supports_missing:
        return replace(
            batch,
            images={n: x for n, x in batch.images.items() if n != name},
            valid={n: x for n, x in batch.valid.items() if n != name},
        )
    image = batch.images[name]
    mean = segmenter.get_buffer(f"mean_{name}").to(image).view(1, -1, 1, 1)
    constant = torch.where(image.isnan(), image, mean)
    return replace(batch, images={**batch.images, name: constant})
