"""Reading a scene's windows, in groups for the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.streaming import resize_mask
from terrafuse.samples import Batch, Sample, Window, collate

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

# Windows in a group, per sample that the model runs on: places without data take no memory, but a
# group must end.
_MOST_WINDOWS = 16

# Largest side of a file's blocks that is counted with, and the least and most memory for them.
_BLOCK = 512
_LEAST_CACHE, _MOST_CACHE = 2**24, 2**28


@dataclass(frozen=True)
class WindowGroup:
    """Consecutive windows, read.

    Args:
        windows: In order.
        valid: Per window bool (h, w), true where any used modality has data.
        is_run: Per window, whether the model must be run on it.
        batch: The windows to run the model on, the last one repeated up to the batch size; None if
            there are none.
        sources: Per window uint8 (h, w), bits of the modalities with data; None if not asked for.
    """

    windows: tuple[Window, ...]
    valid: tuple[NDArray[np.bool_], ...]
    is_run: tuple[bool, ...]
    batch: Batch | None
    sources: tuple[NDArray[np.uint8], ...] | None = None


def read_groups(
    scene: Scene,
    windows: Iterable[Window],
    used: tuple[str, ...],
    *,
    batch_size: int,
    needs_all: bool,
    bits: Mapping[str, int] | None = None,
    as_arrays: bool = False,
) -> Iterator[WindowGroup]:
    """Read windows and group them so that every batch has the same size.

    A model's rounding depends on the size of its batch; so does not which windows are in it.

    Args:
        scene: What is read.
        windows: In the order in which they are wanted.
        used: Modalities the model receives.
        batch_size: Samples of every batch.
        needs_all: True: skip windows where one of these has no data at all.
        bits: Modality → its bit in `WindowGroup.sources`; None: there are none.
        as_arrays: Read NumPy arrays instead of tensors.
    """
    group: list[Any] = []
    valid: list[Any] = []
    run: list[Any] = []
    sources: list[Any] = []

    def finished() -> WindowGroup:
        samples = [sample for sample in run if sample is not None]
        samples += samples[-1:] * (batch_size - len(samples))
        made = WindowGroup(
            tuple(group),
            tuple(valid),
            tuple(sample is not None for sample in run),
            collate(samples) if samples else None,
            tuple(sources) if bits is not None else None,
        )
        for kept in (group, valid, run, sources):
            kept.clear()
        return made

    for window in windows:
        sample = _read(scene, window, used, as_arrays)
        known = [bool(mask.any()) for mask in sample.valid.values()]
        group.append(window)
        valid.append(_valid_on_scene_grid(sample, known))
        if bits is not None:
            sources.append(_sources_on_scene_grid(sample, bits))
        run.append(sample if any(known) and (all(known) or not needs_all) else None)
        is_full = sum(sample is not None for sample in run) == batch_size
        if is_full or len(group) == _MOST_WINDOWS * batch_size:
            yield finished()
    if group:
        yield finished()


def cache_bytes(scene: Scene, height: int, width: int) -> int:
    """Memory for decoded blocks of files with which none is read twice in a row of windows.

    Args:
        scene: What is read.
        height: Of a window.
        width: Of what is read row by row.
    """
    scales = {modality.name: modality.scale for modality in scene.modalities}
    total = 0.0
    for name, files in scene.files.items():
        pixels = (height / scales[name] + 2 * _BLOCK) * (width / scales[name] + 2 * _BLOCK)
        dtypes = (dtype.replace("complex_int16", "complex64") for f in files for dtype in f.dtypes)
        total += pixels * sum(np.dtype(dtype).itemsize for dtype in dtypes)
    return int(min(max(total, _LEAST_CACHE), _MOST_CACHE))


def _read(scene: Scene, window: Window, used: tuple[str, ...], as_arrays: bool) -> Sample:
    if not used:
        return Sample({}, {}, None, window, scene.id)
    sample = scene.read(window, labels=False, arrays=as_arrays)
    return replace(
        sample,
        images={name: sample.images[name] for name in used},
        valid={name: sample.valid[name] for name in used},
    )


def _valid_on_scene_grid(sample: Sample, known: Sequence[bool]) -> NDArray[np.bool_]:
    """Mask (H, W) of data in any modality, resampled to the scene grid (nearest).

    Args:
        known: Whether each mask has any pixel.
    """
    shape = (sample.window.height, sample.window.width)
    if not any(known):
        return np.broadcast_to(np.False_, shape)
    valid = np.zeros(shape, dtype=bool)
    for mask in sample.valid.values():
        valid |= resize_mask(np.asarray(mask), shape)
    return valid


def _sources_on_scene_grid(sample: Sample, bits: Mapping[str, int]) -> NDArray[np.uint8]:
    """Bits (H, W) of the modalities with data, resampled to the scene grid (nearest)."""
    shape = (sample.window.height, sample.window.width)
    found = np.zeros(shape, np.uint8)
    for name, mask in sample.valid.items():
        found[resize_mask(np.asarray(mask), shape)] |= bits[name]
    return found
