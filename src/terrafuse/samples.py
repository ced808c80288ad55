"""Windows, samples and batches: the data on its way from rasters to model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORE_INDEX = 255


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `size`."""
    return (size + multiple - 1) // multiple * multiple


@dataclass(frozen=True, order=True)
class Window:
    """Pixel rectangle on a scene's grid, from (`row`, `col`); may extend beyond the scene."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        assert self.height > 0, self
        assert self.width > 0, self

    @property
    def row_stop(self) -> int:
        """Row after the last."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """Column after the last."""
        return self.col + self.width

    def intersection(self, other: Window) -> Window | None:
        """Return the part shared with `other`, or None."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row_stop, other.row_stop) - row
        width = min(self.col_stop, other.col_stop) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """Return row and column slices into an array that starts at `origin` (default: 0, 0)."""
        row, col = (origin.row, origin.col) if origin else (0, 0)
        return (
            slice(self.row - row, self.row_stop - row),
            slice(self.col - col, self.col_stop - col),
        )


@dataclass(frozen=True)
class Sample:
    """One window of a scene, as tensors; `Scene.read` also makes one of NumPy arrays.

    Args:
        images: Per modality, float32 tensor (C_m, H_m, W_m) in physical units; NaN where a band
            has no data. In a training sample also integers as they are stored, uint8, int8, uint16
            or int16, whose bands all have data where `valid` is True, and none elsewhere
            (`as_physical`).
        valid: Per modality, bool tensor (H_m, W_m), true where any band has data. An absent
            modality has a mask too, false everywhere.
        labels: Int64 tensor (H, W) of class indices, 255 = ignore; None without labels.
        window: Position on the scene's grid.
        draws: Random numbers of changes still to be made, by name (`sampling.changes`).
    """

    images: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    labels: Tensor | None
    window: Window
    scene_id: str
    draws: Mapping[str, Tensor] = field(default_factory=dict)

    def physical(self) -> Sample:
        """Return the sample with images in float32, NaN where there is no data."""
        images = {m: as_physical(x, self.valid[m]) for m, x in self.images.items()}
        return replace(self, images=images)

    def without(self, names: set[str] | frozenset[str]) -> Sample:
        """Return the sample with these modalities absent: NaN and nowhere valid."""
        import torch

        images = {
            # Of integers, the mask says it.
            m: torch.full_like(x, torch.nan) if m in names and x.is_floating_point() else x
            for m, x in self.images.items()
        }
        valid = {m: torch.zeros_like(x) if m in names else x for m, x in self.valid.items()}
        return replace(self, images=images, valid=valid)


@dataclass(frozen=True)
class Batch:
    """Stacked samples: images (N, C_m, H_m, W_m), valid (N, H_m, W_m), labels (N, H, W).

    Args:
        factors: Factor on each loss, float32 (number of losses,), where several batches make a
            training step; None: 1.
        draws: Of the samples, stacked.
    """

    images: dict[str, Tensor]
    valid: dict[str, Tensor]
    labels: Tensor | None
    windows: tuple[Window, ...]
    scene_ids: tuple[str, ...]
    factors: Tensor | None = None
    draws: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def physical(self) -> Batch:
        """Return the batch with images in float32, NaN where there is no data."""
        images = {m: as_physical(x, self.valid[m].unsqueeze(1)) for m, x in self.images.items()}
        return replace(self, images=images)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by the data loader)."""
        return self._each(lambda x: x.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images={m: move(x) for m, x in self.images.items()},
            valid={m: move(x) for m, x in self.valid.items()},
            labels=None if self.labels is None else move(self.labels),
            factors=None if self.factors is None else move(self.factors),
            draws={name: move(x) for name, x in self.draws.items()},
        )


def as_physical(image: Tensor, valid: Tensor) -> Tensor:
    """Return an image in float32, NaN where there is no data.

    Args:
        image: Float32, or integers as they are stored (…, C, H, W).
        valid: Bool, to be spread over its bands; not looked at where the image is float32.
    """
    if image.is_floating_point():
        return image
    if image.device.type == "cpu" and bool(valid.all()):  # an accelerator would have to wait
        return image.float()
    return image.float().masked_fill_(~valid, np.nan)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples of equal size into a batch, of tensors or arrays as they are.

    Images of a modality stay integers if those of all samples are, where they have data at all.
    """
    first = samples[0]
    stack = _stack_of(first)
    labelled = all(sample.labels is not None for sample in samples)
    images = {
        m: _alike([s.images[m] for s in samples], [s.valid[m] for s in samples])
        for m in first.images
    }
    return Batch(
        images={m: stack(xs) for m, xs in images.items()},
        valid={m: stack([s.valid[m] for s in samples]) for m in first.valid},
        labels=stack([s.labels for s in samples if s.labels is not None]) if labelled else None,
        windows=tuple(sample.window for sample in samples),
        scene_ids=tuple(sample.scene_id for sample in samples),
        draws={name: stack([s.draws[name] for s in samples]) for name in first.draws},
    )


def as_arrays(sample: Sample) -> Sample:
    """Return a sample of tensors as one of NumPy arrays, in the same memory."""
    images: Any = {m: np.asarray(x) for m, x in sample.images.items()}
    valid: Any = {m: np.asarray(x) for m, x in sample.valid.items()}
    labels: Any = None if sample.labels is None else np.asarray(sample.labels)
    return replace(sample, images=images, valid=valid, labels=labels)


def flippable(x: Tensor) -> Tensor:
    """Return the same memory in a type that torch flips and stacks from 2.6 on: uint16 as int16."""
    import torch

    return x.view(torch.int16) if x.dtype == torch.uint16 else x


def _alike(images: list[Any], valid: list[Any]) -> list[Any]:
    """Return images (C, H, W) of one type, by the masks (H, W) of their data."""
    if len({image.dtype for image in images}) == 1:
        return images
    kept = {image.dtype for image in images if not image.is_floating_point()}
    pairs = list(zip(images, valid, strict=True))
    if len(kept) == 1 and not any(x.is_floating_point() and known.any() for x, known in pairs):
        (dtype,) = kept  # which an image that is NaN everywhere takes as zeros
        return [(~x.isnan()).to(dtype) if x.is_floating_point() else x for x in images]
    return [as_physical(image, known) for image, known in pairs]


def _stack_of(sample: Sample) -> Any:
    held = [*sample.images.values(), *sample.valid.values(), sample.labels]
    if any(isinstance(array, np.ndarray) for array in held):
        return np.stack
    import torch  # tensors are there, so it is

    return lambda xs: torch.stack([flippable(x) for x in xs]).view(xs[0].dtype)


def blocks(height: int, width: int, size: int, alignment: int = 1) -> list[Window]:
    """Return windows of `size` (a multiple of `alignment`) that cover a grid without overlap.

    Windows at the end of a row or column are shortened, rounded up to the alignment.
    """
    return [
        Window(
            row,
            col,
            min(size, round_up(height - row, alignment)),
            min(size, round_up(width - col, alignment)),
        )
        for row in range(0, height, size)
        for col in range(0, width, size)
    ]
