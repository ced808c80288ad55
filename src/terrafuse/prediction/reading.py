"""Reading a scene's windows, a little ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrafuse.data.streaming import resize_mask
from terrafuse.samples import Batch, Sample, Window, collate

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

# Items read before they are requested.
_READ_AHEAD = 2

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class WindowGroup:
    """Consecutive windows of the lattice, read.

    Args:
        valid: Bool tensor (n, h, w), true where any used modality has data.
        is_run: Per window, whether the model must be run on it.
        batch: The windows to run the model on; None if there are none.
    """

    windows: tuple[Window, ...]
    valid: Tensor
    is_run: tuple[bool, ...]
    batch: Batch | None


def read_group(
    scene: Scene, windows: tuple[Window, ...], used: tuple[str, ...], *, needs_all: bool
) -> WindowGroup:
    """Read windows and select those to run the model on.

    Args:
        used: Modalities the model receives.
        needs_all: True: skip windows where one of these has no data at all.
    """
    samples = [_read(scene, window, used) for window in windows]
    known = [[bool(mask.any()) for mask in sample.valid.values()] for sample in samples]
    is_run = tuple(any(k) and (all(k) or not needs_all) for k in known)
    run = [sample for sample, wanted in zip(samples, is_run, strict=True) if wanted]
    return WindowGroup(
        windows=windows,
        valid=torch.from_numpy(np.stack([_valid_on_scene_grid(sample) for sample in samples])),
        is_run=is_run,
        batch=collate(run) if run else None,
    )


def _read(scene: Scene, window: Window, used: tuple[str, ...]) -> Sample:
    if not used:
        return Sample({}, {}, None, window, scene.id)
    sample = scene.read(window, labels=False)
    return replace(
        sample,
        images={name: sample.images[name] for name in used},
        valid={name: sample.valid[name] for name in used},
    )


def _valid_on_scene_grid(sample: Sample) -> NDArray[np.bool_]:
    """Return the mask (H, W) of data in any modality, resampled to the scene grid (nearest)."""
    shape = (sample.window.height, sample.window.width)
    valid = np.zeros(shape, dtype=bool)
    for mask in sample.valid.values():
        valid |= resize_mask(mask.numpy(), shape)
    return valid


def read_ahead(read: Callable[[_T], _R], items: Iterable[_T]) -> Generator[_R, None, None]:
    """Yield `map(read, items)`, read a few items ahead by a thread; its errors are raised here."""
    waiting = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="terrafuse-read")
    try:
        pending: deque[Future[_R]] = deque(
            pool.submit(read, item) for item in islice(waiting, _READ_AHEAD)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(read, item) for item in islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def chunks(items: Iterable[_T], size: int) -> Iterator[tuple[_T, ...]]:
    """Yield successive items in tuples of `size`; the last may be shorter."""
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
