"""Generation of windows, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import zip_longest
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.cores import usable_cores
from terrafuse.errors import ConfigError, ModelError
from terrafuse.generate.cache import WindowCache
from terrafuse.generate.generators import Generator, Maker
from terrafuse.generate.photos import Photo, Picture
from terrafuse.generate.segments import as_labels
from terrafuse.generate.windows import WindowPlan
from terrafuse.prediction.crew import prepare_worker
from terrafuse.samples import Window
from terrafuse.stopping import shield_worker, starting_workers

#: A window with its number.
_Job = tuple[int, Window]


class WindowRunner(AbstractContextManager["WindowRunner"]):
    """Runner of a generator, window by window; each result is on disk as soon as it is made.

    Args:
        workers: Number of processes, each with its own model; 1: this process only.

    Raises:
        ConfigError: `workers` is below 1.
    """

    def __init__(self, generator: Generator, workers: int = 1) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}; allowed are numbers from 1")
        self._generator = generator
        self._workers = workers
        self._maker: Maker | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Event | None = None

    def run(
        self,
        photo: Photo,
        plan: WindowPlan,
        cache: WindowCache,
        numbers: Sequence[int],
        report: Callable[[], None],
    ) -> None:
        """Generate windows of a photo.

        Args:
            plan: All windows of the photo.
            cache: Cache that receives the results.
            numbers: Numbers of the windows to make.
            report: Called after each window.

        Raises:
            ModelError: The model fails, or a worker dies.
            DataError: Pixels cannot be read.
            OutputError: The disk is full.
        """
        jobs = [(number, plan.windows[number]) for number in numbers]
        if not jobs:
            return
        make = self._make_here if self._workers == 1 else self._make_there
        for _ in make(photo, cache, jobs):
            report()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        if error is not None and self._stop is not None:
            self._stop.set()  # windows take long: abandon those in progress
        self._pool.shutdown(cancel_futures=True)

    def _make_here(self, photo: Photo, cache: WindowCache, jobs: Sequence[_Job]) -> Iterator[None]:
        if self._maker is None:
            self._maker = self._generator.build()
        with ThreadPoolExecutor(1, "terrafuse-read") as reader:
            reading = reader.submit(photo.read, jobs[0][1])
            for (number, _), after in zip_longest(jobs, jobs[1:]):
                picture, valid = reading.result()
                if after is not None:  # while the model is busy
                    reading = reader.submit(photo.read, after[1])
                cache.save(number, make_window(self._generator, self._maker, picture, valid))
                yield

    def _make_there(self, photo: Photo, cache: WindowCache, jobs: Sequence[_Job]) -> Iterator[None]:
        try:
            with starting_workers("spawn"):  # the pool starts them as work arrives
                pool = self._start()
                waiting = [pool.submit(_make_there, photo, w, cache.folder, n) for n, w in jobs]
            for future in as_completed(waiting):
                future.result()
                yield
        except BrokenProcessPool:
            raise ModelError(
                "a worker died, most likely for lack of memory. Use fewer --workers or a smaller "
                "--window; finished windows are kept"
            ) from None

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Forking would copy threads' locks and CUDA's state.
            context = multiprocessing.get_context("spawn")
            self._stop = context.Event()
            threads = max(1, usable_cores() // self._workers)
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=context,
                initializer=_prepare,
                initargs=(self._generator, self._stop, threads),
            )
        return self._pool


def make_window(
    generator: Generator, maker: Maker, picture: Picture, valid: NDArray[np.bool_]
) -> NDArray[Any]:
    """Generate one window (h, w): segments, 0 without data; or depth, NaN without data.

    Args:
        generator: Settings of the result.
        maker: Function that `generator.build` returned.
        picture: Uint8 (h, w, 3).
        valid: Bool (h, w), true where the picture has data.

    Raises:
        ModelError: The result and the picture differ in size.
    """
    depth = generator.result == "depth"
    if not valid.any():
        return (
            np.full(valid.shape, np.nan, np.float32) if depth else np.zeros(valid.shape, np.uint16)
        )
    values = np.asarray(maker(picture))
    if values.shape != valid.shape:
        raise ModelError(
            f"the model returns {generator.result} of shape {values.shape} for a picture of "
            f"{valid.shape}"
        )
    if depth:
        return np.where(valid, values, np.nan).astype(np.float32)
    return as_labels(np.where(valid, values, 0))


#: State of a worker process: its generator, and the maker once it is loaded.
_here: dict[str, Any] = {}


def _prepare(generator: Generator, stop: Event, threads: int) -> None:
    shield_worker()  # the parent tells when to stop
    _here["generator"] = generator
    prepare_worker(threads)
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Event) -> None:
    """End this process when told to."""
    stop.wait()
    os._exit(1)


def _make_there(photo: Photo, window: Window, folder: Path, number: int) -> None:
    generator = _here["generator"]
    if "maker" not in _here:
        _here["maker"] = generator.build()
    WindowCache(folder).save(number, make_window(generator, _here["maker"], *photo.read(window)))
