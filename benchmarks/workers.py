"""What more workers bring: a scene mapped by one, two … processes in turn.

    python benchmarks/workers.py [--workers 1 2] [--rounds 3] [--rows 4096] [--model resnet18]

Every model runs in one thread, so that one worker leaves the other cores idle. Seconds are those of
the whole command, the start of the workers included, and of the steady state: windows per second
between the first and the last tenth of them. Rounds take turns, because other work on the machine
counts here, and a row is printed after each: with the medians up to then. CPU-seconds are those of
the command and its workers; their growth is what dividing costs, whatever else the machine does, so
that workers on cores of their own could be as many times as fast as is given under "at best".
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

from machine import processor
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.prediction import ScenePredictor, WindowSettings, WorkerSettings
from terrafuse.version import VERSION

MODALITY = Modality("image", ("B0", "B1", "B2", "B3"), kind="optical")
SCHEME = ClassScheme(tuple(f"class {i}" for i in range(8)))


class Taken(NamedTuple):
    """Seconds of a map, windows per second while all workers run, and CPU-seconds of them all."""

    seconds: float
    steady: float
    cpu_seconds: float


def make_scene(folder: Path, rows: int, cols: int) -> Scene:
    """Noise: what is in it does not matter here."""
    path = folder / "image.tif"
    rng = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", width=cols, height=rows, count=4, dtype="uint16",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 10, 10), nodata=0,
        tiled=True, blockxsize=512, blockysize=512,
    ) as dataset:  # fmt: skip
        for band in range(1, 5):
            dataset.write(rng.integers(1, 4000, (rows, cols)).astype(np.uint16), band)
    return scene_from_rasters([MODALITY], {"image": path})


def measure(predictor: ScenePredictor, scene: Scene, out: Path, workers: int) -> Taken:
    """Map once."""
    told: list[tuple[float, float]] = []

    def watch(done: int, total: int) -> None:
        told.append((time.perf_counter(), done / total))

    start, before = time.perf_counter(), cpu_seconds()
    predictor.predict(scene, out, scheme=SCHEME, workers=WorkerSettings(workers), progress=watch)
    seconds = time.perf_counter() - start
    inside = [(at, share) for at, share in told if 0.1 <= share <= 0.9]
    (first, low), (last, high) = inside[0], inside[-1]
    steady = (high - low) * len(predictor.lattice(scene)) / max(last - first, 1e-9)
    return Taken(seconds, steady, cpu_seconds() - before)


def cpu_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(own.ru_utime + own.ru_stime for own in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[4096], help="of the scenes")
    parser.add_argument("--cols", type=int, default=512)
    parser.add_argument("--model", default="resnet18")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"terrafuse {VERSION}, {datetime.date.today()}, {processor()}, load at the start {load}")
    print(
        "| scene | rounds | workers | s | times as fast | windows/s at steady state "
        "| times as fast | CPU-s | at best |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    torch.manual_seed(0)
    options = {"backbone": args.model, "decoder": "upernet"}
    model = create_segmenter("single", [MODALITY], len(SCHEME.names), options)
    predictor = ScenePredictor(model, WindowSettings(256, 64, batch_size=4), device="cpu")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            scene = make_scene(Path(folder), rows, args.cols)
            found: dict[int, list[Taken]] = {workers: [] for workers in args.workers}
            for turn in range(args.rounds):
                for workers in args.workers:
                    out = Path(folder) / f"{turn}-{workers}"
                    found[workers].append(measure(predictor, scene, out, workers))
                    taken = found[workers][-1].seconds
                    print(f"round {turn + 1}, {workers} workers: {taken:.1f} s", file=sys.stderr)
                show(f"{rows} × {args.cols}", turn + 1, found)
    print(f"load at the end {', '.join(f'{n:.1f}' for n in os.getloadavg())}")


def show(scene: str, rounds: int, found: dict[int, list[Taken]]) -> None:
    """A row per number of workers: medians of the rounds, against the first."""
    medians = {
        workers: Taken(*(statistics.median(column) for column in zip(*own, strict=True)))
        for workers, own in found.items()
    }
    first, one = next(iter(medians.items()))
    for workers, own in medians.items():
        print(
            f"| {scene} | {rounds} | {workers} | {own.seconds:.1f} "
            f"| {one.seconds / own.seconds:.2f} "
            f"| {own.steady:.1f} | {own.steady / one.steady:.2f} | {own.cpu_seconds:.1f} "
            f"| {workers / first * one.cpu_seconds / own.cpu_seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
