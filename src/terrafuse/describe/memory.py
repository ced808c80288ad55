"""Memory that training and prediction need, compared with what is free before they start.

What clearly does not fit is refused with the largest settings that do; what is near the limit is
warned of, and so is what may be near and cannot be derived from shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import TypeVar

import torch
from torch import Tensor

from terrafuse.config import DataConfig, LearningConfig, RunConfig, TrainingConfig
from terrafuse.describe.costs import (
    as_trained,
    inference_peak,
    optimizer_values,
    step_peak,
    trains_on,
    without_values,
)
from terrafuse.errors import ConfigError, NotEnoughMemoryError, TerrafuseError, cut
from terrafuse.memory import free_memory, in_words
from terrafuse.methods import create_segmenter
from terrafuse.modalities import window_alignment
from terrafuse.samples import round_up
from terrafuse.segmenter import Segmenter, SensorModel

#: Parts of the free memory above which work is warned of, is refused, and that a remedy may take.
NEAR, TOO_MUCH, REMEDY = 0.9, 1.2, 0.8
#: What a CPU's kernels and allocator take beside what is alive: a part of it, and bytes once
#: (benchmarks/memory.py).
CPU_PART, CPU_ONCE = 0.15, 64_000_000
#: Windows per forward pass from which on accelerators gain little more.
MOST_AT_ONCE = 64
# Bytes for each pixel of a batch that no method comes near; where they fit, nothing is derived.
_MOST_PER_PIXEL = 2**16
# Weights, gradients and two moments, in values per parameter.
_MOST_PER_PARAMETER = 4
# Bytes per pixel of a scene that is scored: labels, map, boundaries and their comparison.
SCORED_PER_PIXEL = 16
#: What a process of its own takes beside its model: imports, and GDAL's blocks.
PROCESS_BYTES = 500_000_000
# Groups of windows that wait for the model, with the one it runs on.
_GROUPS_READ = 3

_M = TypeVar("_M", bound=SensorModel)
Need = Callable[[int, int], int]


@dataclass(frozen=True)
class _Work:
    """Work that is checked.

    Args:
        what: The start of a sentence ("training").
        need: (batch size, crop size) → bytes.
        batch: Wanted batch size.
        crop: Wanted crop size.
        works: Whether a batch size and a crop size can be used, whatever the memory.
        say: (batch size, crop size) → what to set.
        processes: How many do it at once; `need` is of all.
    """

    what: str
    need: Need
    batch: int
    crop: int
    smaller_crops: Sequence[int]
    works: Callable[[int, int], bool]
    say: Callable[[int, int], str]
    processes: int = 1


def check_training(
    model: _M,
    training: LearningConfig,
    data: DataConfig,
    *,
    build: Callable[[], _M],
    loss: Callable[[_M, int, int], Tensor] | None = None,
    least: int = 1,
) -> None:
    """Compare the memory of a training step with what is free; the model has been built.

    Args:
        model: What learns, on the CPU.
        training: Optimiser and precision.
        data: Batch and crop size.
        build: Builds the model again.
        loss: As in `step_peak`.
        least: Smallest batch size that the model can learn from.

    Raises:
        NotEnoughMemoryError: It needs more than `TOO_MUCH` × what is free.
    """
    device = training_device(training)
    # Batches that wait for their turn: the next one, or all of a step (`StepBatches`).
    waiting = training.accumulate if isinstance(training, TrainingConfig) else 1

    def work(shapes: _M) -> _Work:
        as_trained(shapes, training)
        held = _held(shapes, training, device)

        def need(batch: int, crop: int) -> int:
            step = step_peak(shapes, crop, batch, training.precision, loss)
            batches = 1 + waiting if device.type == "cpu" else 1
            return held + _on(device, step) + batches * _batch_bytes(shapes, batch, crop)

        def works(batch: int, crop: int) -> bool:
            one = batch > 1 or not isinstance(shapes, Segmenter) or trains_on(shapes, crop, 1)
            return batch >= least and one

        def say(batch: int, crop: int) -> str:
            size = f"data.batch_size {batch}" if batch != data.batch_size else ""
            side = f"data.crop_size {crop}" if crop != data.crop_size else ""
            return " and ".join(filter(None, (side, size)))

        crops = list(_smaller(shapes, data.crop_size))
        return _Work("training", need, data.batch_size, data.crop_size, crops, works, say)

    pixels = data.batch_size * data.crop_size**2
    _check(model, build, device, pixels, work)


def check_prediction(
    segmenter: Segmenter,
    crop_size: int,
    batch_size: int,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    *,
    precision: str = "32-true",
    scored: bool = False,
    by_options: bool = True,
    enlarged: float = 1.0,
    further_bytes: int = 0,
    processes: int = 1,
) -> None:
    """Compare the memory of mapping scenes with what is free.

    Args:
        segmenter: The model.
        crop_size: Side of the windows in scene pixels.
        batch_size: Windows per forward pass.
        sizes: Height and width of each scene.
        device: Where the model runs.
        precision: As in `training.precision`.
        scored: Whether maps are compared with labels.
        by_options: Whether options of the command line choose the windows, rather than settings.
        enlarged: Factor by which windows are enlarged for the model.
        further_bytes: Per pixel of a row of windows, beside the sums of logits.
        processes: That map at once on the device, each with a model of its own.

    Raises:
        NotEnoughMemoryError: It needs more than `TOO_MUCH` × what is free.
    """
    if scored:
        _refuse_whole(_scored_bytes(sizes), sizes)
    pixels, work = _plan_mapping(
        segmenter, crop_size, batch_size, sizes, device, precision=precision, scored=scored,
        by_options=by_options, enlarged=enlarged, further_bytes=further_bytes, processes=processes,
    )  # fmt: skip
    _check(segmenter, partial(build_again, segmenter), device, pixels, work)


def fit_batch(
    segmenter: Segmenter,
    crop_size: int,
    batch_size: int,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    *,
    precision: str = "32-true",
    enlarged: float = 1.0,
    further_bytes: int = 0,
    processes: int = 1,
) -> int:
    """Number of windows per forward pass that suits the free memory, for mapping.

    An accelerator is faster with more windows at once, up to `MOST_AT_ONCE`. A CPU is not, so that
    it keeps the wanted number unless that does not fit.

    Args:
        batch_size: Wanted; also returned where nothing is known, or nothing fits.

    The others are those of `check_prediction`.
    """
    free = _free(device)
    if free is None:
        return batch_size
    most = batch_size if device.type == "cpu" else max(batch_size, MOST_AT_ONCE)
    pixels, plan = _plan_mapping(
        segmenter, crop_size, most, sizes, device, precision=precision, enlarged=enlarged,
        further_bytes=further_bytes, processes=processes,
    )  # fmt: skip
    if pixels * _MOST_PER_PIXEL + _MOST_PER_PARAMETER * _weights(segmenter) < free / 2:
        return most
    try:
        with torch.random.fork_rng(devices=[]):
            work = plan(without_values(partial(build_again, segmenter)))
            if work.need(most, crop_size) <= NEAR * free:
                return most
            found = _largest_batch(work, crop_size, REMEDY * free)
    except Exception:  # the check that follows says that it is not known
        return batch_size
    if device.type != "cpu" and found > batch_size:
        found = 1 << (found.bit_length() - 1)  # kernels prefer powers of two
    return found or batch_size


def _plan_mapping(
    segmenter: Segmenter,
    crop_size: int,
    batch_size: int,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    *,
    precision: str,
    scored: bool = False,
    by_options: bool = True,
    enlarged: float,
    further_bytes: int,
    processes: int,
) -> tuple[int, Callable[[Segmenter], _Work]]:
    """Pixels of the work, and the work itself; the arguments are those of `check_prediction`."""
    width = max((width for _, width in sizes), default=0)
    whole = _scored_bytes(sizes) if scored else 0
    sums = _sums(segmenter, crop_size, width, further_bytes)
    further = _process_bytes(segmenter, processes)
    pixels = processes * batch_size * round(crop_size * enlarged) ** 2
    pixels += (processes * sums + whole + further) // _MOST_PER_PIXEL

    def work(shapes: Segmenter) -> _Work:
        def need(batch: int, crop: int) -> int:
            shown = round_up(int(crop * enlarged), window_alignment(list(shapes.modalities)))
            own = _windows(shapes, batch, shown, precision, device)
            own += _sums(shapes, crop, width, further_bytes)
            own += _weights(segmenter) if device.type == "cuda" else 0
            return processes * own + (further + whole if device.type == "cpu" else 0)

        def say(batch: int, crop: int) -> str:
            values = {"batch_size": batch}
            if crop != crop_size:
                values = {"crop_size": crop, "overlap": crop // 4, **values}
            if by_options:
                return " ".join(f"--{k.replace('_', '-')} {v}" for k, v in values.items())
            return " and ".join(f"prediction.{key} {value}" for key, value in values.items())

        what, crops = "scoring" if scored else "mapping", list(_smaller(shapes, crop_size))
        return _Work(what, need, batch_size, crop_size, crops, lambda *_: True, say, processes)

    return pixels, work


def _scored_bytes(sizes: Sequence[tuple[int, int]]) -> int:
    """Bytes of the largest scene's labels, map and their comparison."""
    return SCORED_PER_PIXEL * max((h * w for h, w in sizes), default=0)


def _check(
    model: _M,
    build: Callable[[], _M],
    device: torch.device,
    pixels: int,
    plan: Callable[[_M], _Work],
) -> None:
    free = _free(device)
    if free is None:
        return
    most = pixels * _MOST_PER_PIXEL + _MOST_PER_PARAMETER * _weights(model)
    if most < free / 2:
        return
    try:
        with torch.random.fork_rng(devices=[]):  # a run's own random numbers are its model's
            _compare(plan(without_values(build)), free, device)
    except (TerrafuseError, Warning):
        raise
    except Exception as error:  # models may do anything with missing values
        warnings.warn(
            f"the memory that {type(model).__name__} needs is not known before the start: its "
            f"shapes alone do not tell ({type(error).__name__}: {cut(error)})",
            stacklevel=4,
        )


def _compare(work: _Work, free: int, device: torch.device) -> None:
    needed = work.need(work.batch, work.crop)
    if needed <= NEAR * free:
        return
    place = "" if device.type == "cpu" else f" of '{device}'"
    workers = f"{work.processes} workers, " if work.processes > 1 else ""
    told = (
        f"{work.what} with {workers}batch size {work.batch} and crop size {work.crop} needs about "
        f"{in_words(needed)} of memory, and {in_words(free)}{place} are free"
    )
    if needed <= TOO_MUCH * free:
        warnings.warn(f"{told}: it may end for want of memory. {_remedy(work, free)}", stacklevel=6)
        return
    raise NotEnoughMemoryError(f"{told}. {_remedy(work, free)}")


def _remedy(work: _Work, free: int) -> str:
    """Name the largest settings that fit: fewer workers, else crop size first."""
    each = work.need(work.batch, work.crop) / work.processes
    if work.processes > 1 and each <= REMEDY * free:
        count = int(REMEDY * free / each)
        return f"Try --workers {count} (about {in_words(int(count * each))})"
    for crop in (work.crop, *work.smaller_crops):
        batch = _largest_batch(work, crop, REMEDY * free)
        if batch:
            size = in_words(work.need(batch, crop))
            return f"Try {work.say(batch, crop)} (about {size})"
    return "Choose a smaller model, or a machine with more memory"


def _largest_batch(work: _Work, crop: int, budget: float) -> int:
    """Largest batch size that fits, at most the wanted one; 0 if none does."""
    most = work.batch if crop < work.crop else work.batch - 1
    fits = next((batch for batch in (1, 2) if work.works(batch, crop)), most + 1)
    if fits > most or work.need(fits, crop) > budget:
        return 0
    one, two = work.need(fits, crop), work.need(fits + 1, crop)
    # Most grow evenly, so that the first guess is right; losses between samples grow faster.
    guess = fits + int((budget - one) / max(1, two - one))
    too_many, is_first = most + 1, True
    while too_many - fits > 1:
        guess = min(max(guess, fits + 1), too_many - 1)
        if work.need(guess, crop) <= budget:
            fits, near = guess, guess + 1
        else:
            too_many, near = guess, guess - 1
        guess, is_first = near if is_first else (fits + too_many) // 2, False
    return fits


def _held(model: SensorModel, training: LearningConfig, device: torch.device) -> int:
    """Bytes of what a run keeps between steps; on a CPU the weights lie in memory already."""
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    averaged = isinstance(training, TrainingConfig) and training.ema_decay is not None
    copies = averaged + (device.type == "cuda")
    return optimizer_values(training) * learning + copies * _weights(model)


def _windows(shapes: Segmenter, batch: int, crop: int, precision: str, device: torch.device) -> int:
    """Bytes of a forward pass on windows, and of those read ahead."""
    read = _GROUPS_READ * _batch_bytes(shapes, batch, crop) if device.type == "cpu" else 0
    return _on(device, inference_peak(shapes, crop, batch, precision)) + read


def _sums(segmenter: Segmenter, crop: int, width: int, further_bytes: int = 0) -> int:
    """Bytes of the sums of logits over a row of windows, as `Accumulator` holds them."""
    return (4 * segmenter.num_classes + 1 + further_bytes) * crop * max(width, crop)


def _process_bytes(model: SensorModel, processes: int) -> int:
    """Bytes that processes hold in main memory beside windows; one alone holds them already."""
    return processes * (PROCESS_BYTES + _weights(model)) if processes > 1 else 0


def _refuse_whole(whole: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse scenes whose labels and map do not fit into main memory together."""
    free = free_memory()
    if free is not None and whole > TOO_MUCH * free:
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        raise NotEnoughMemoryError(
            f"scoring a scene of {height} × {width} pixels needs about {in_words(whole)} of "
            f"memory, and {in_words(free)} are free. Divide the scene into several in the manifest"
        )


def _smaller(model: SensorModel, crop: int) -> Iterator[int]:
    """Crop sizes below one: in steps of a quarter to a third, far below by halves."""
    step = lcm(window_alignment(list(model.modalities)), 16)
    last = crop
    for share in (3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, *(0.5**n for n in range(3, 13))):
        size = int(crop * share) // step * step
        if 0 < size < last:
            yield size
            last = size


def _batch_bytes(model: SensorModel, batch: int, crop: int) -> int:
    """Images, valid masks and labels of a batch, as a loader makes them."""
    sides = {m: m.size_at(crop) for m in model.modalities}
    images = sum((4 * len(m.bands) + 1) * side**2 for m, side in sides.items())
    return batch * (images + 8 * crop**2)


def _on(device: torch.device, alive: int) -> int:
    return int(alive * (1 + CPU_PART)) + CPU_ONCE if device.type == "cpu" else alive


def _weights(model: SensorModel) -> int:
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))


def build_again(segmenter: Segmenter) -> Segmenter:
    """Build a segmenter again, by its method and options."""
    return create_segmenter(
        segmenter.method_name,
        segmenter.modalities,
        segmenter.num_classes,
        segmenter.method_options,
    )


def training_device(training: LearningConfig) -> torch.device:
    """Return the kind of device that a run trains on."""
    has_cuda = torch.cuda.is_available() and training.accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if has_cuda else "cpu")


def _free(device: torch.device) -> int | None:
    """Bytes free on a device; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory() if device.type == "cpu" else None


def check_small_batch(segmenter: Segmenter, config: RunConfig) -> None:
    """Refuse a batch of one sample on which batch norms cannot train.

    Args:
        segmenter: The model.
        config: Settings of the run.

    Raises:
        ConfigError: With the smallest settings that do.
    """
    crop, batch = config.data.crop_size, config.data.batch_size
    if batch > 1:
        return
    try:
        shapes = without_values(partial(build_again, segmenter))
        as_trained(shapes, config.training)
        if trains_on(shapes, crop, batch):
            return
    except TerrafuseError:
        raise
    except Exception:  # models may do anything with missing values
        return
    larger = (crop * factor for factor in (2, 3, 4, 6, 8))
    side = next((size for size in larger if trains_on(shapes, size, batch)), None)
    also = f", or data.crop_size {side}" if side else ""
    raise ConfigError(
        f"data.batch_size is 1, and a crop of {crop} × {crop} pixels leaves a batch norm of "
        f"{type(segmenter).__name__} one value per channel, which has no variance to train on. "
        f"Set data.batch_size to 2 or more{also}"
    )
