"""Random crops of a large compressed file: what a cache of decoded blocks is worth.

Run `python benchmarks/crops.py`. A scene (uint16, deflate with predictor, pixel-interleaved bands,
labels uint8) is read in the same random windows with the cache that a reading process had before
(64 MB), and with other budgets, each from newly opened files and an empty cache, alternately
`--repeats` times; the median is shown. Crops per second are those of one process and of its CPU
time, so that other work on the machine counts little: over all crops, and over the second half, in
which the cache is filled. Crops are compared bit by bit with those read first. Target: three times
the first rate.

`--near` reads them in the order of `data.crop_order: near` as well, as one of `--workers` processes
does, which takes one of as many batches of eight; the time to sort does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

from machine import processor
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.data.handles import limit_resources, pool
from terrafuse.memory import free_memory
from terrafuse.modalities import Modality
from terrafuse.samples import Window
from terrafuse.sampling.near_order import NearOrder

BANDS = 4
BEFORE_MB = 64
BATCH = 8
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles 512": {"tiled": True, "blockxsize": 512, "blockysize": 512},
    "tiles 256": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    "strips": {"tiled": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=8192, help="height and width of the file")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 1024], help="MB")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--near", action="store_true", help="compare the orders of crops instead")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="with --near")
    parser.add_argument("--group", type=int, default=4096, help="with --near: crops put in order")
    options = parser.parse_args()
    decoded = options.size**2 * BANDS * 2 / 2**20
    print(f"{date.today()}, {processor()}, GDAL {rasterio.__gdal_version__}")
    print(f"{options.size}² pixels, {BANDS} bands, {decoded:.0f} MB decoded; {options.crops} crops")
    print(f"{(free_memory() or 0) / 2**20:.0f} MB of memory free")
    heads = ("random/s", "near/s", "times") if options.near else ("crops/s", "filled", "times")
    print(f"{'blocks':10} {'cache MB':>9} {heads[0]:>8} {heads[1]:>8} {heads[2]:>6} ", end="")
    print(f"{'workers' if options.near else 'filled':>7}")
    for layout in options.layouts:
        with tempfile.TemporaryDirectory() as folder:
            path = write_file(Path(folder) / "a.tif", options.size, LAYOUTS[layout])
            scene = scene_from_rasters([Modality("m", tuple("abcd"))], {"m": path})
            (show_orders if options.near else show)(layout, scene, options)


def show(layout: str, scene: Scene, options: argparse.Namespace) -> None:
    windows = choose_windows(options.crops, options.crop, options.size)
    caches = [BEFORE_MB, *options.budgets]
    rates: dict[int, list[tuple[float, float]]] = {cache: [] for cache in caches}
    first = None
    for _ in range(options.repeats):
        for cache in caches:
            rate, digest = measure(scene, windows, cache)
            rates[cache].append(rate)
            first = first or digest
            assert digest == first, "the crops differ"
    medians = {
        cache: [statistics.median(part) for part in zip(*found, strict=True)]
        for cache, found in rates.items()
    }
    for cache, (overall, filled) in medians.items():
        before = medians[BEFORE_MB]
        print(
            f"{layout:10} {cache:9} {overall:8.1f} {filled:8.1f} "
            f"{overall / before[0]:6.1f} {filled / before[1]:7.1f}",
            flush=True,
        )


def show_orders(layout: str, scene: Scene, options: argparse.Namespace) -> None:
    """Compare orders of the crops: rates over the second half, where caches are filled."""
    windows = choose_windows(options.crops, options.crop, options.size)
    height, width = scene.block_shape
    places = [
        (0, (w.row + w.height // 2) // height, (w.col + w.width // 2) // width) for w in windows
    ]
    order = NearOrder(places.__getitem__, len(windows), 0)
    order.size = options.group
    near = [windows[order(position)] for position in range(len(windows))]
    for workers in options.workers:
        own = [i for i in range(len(windows)) if i // BATCH % workers == 0]
        for cache in [BEFORE_MB, *options.budgets]:
            rates: list[list[float]] = [[], []]
            for _ in range(options.repeats):
                for found, ordered in zip(rates, (windows, near), strict=True):
                    found.append(measure(scene, [ordered[i] for i in own], cache)[0][1])
            before, after = map(statistics.median, rates)
            print(
                f"{layout:10} {cache:9} {before:8.1f} {after:8.1f} {after / before:6.1f} "
                f"{workers:7}",
                flush=True,
            )


def choose_windows(crops: int, crop: int, size: int) -> list[Window]:
    rng = np.random.default_rng(1)
    places = rng.integers(0, size - crop + 1, (crops, 2))
    return [Window(int(row), int(col), crop, crop) for row, col in places]


def measure(scene: Scene, windows: list[Window], cache_mb: int) -> tuple[tuple[float, float], int]:
    """Crops per second over all and over the second half; a checksum of all crops."""
    pool.close()  # and with its files the blocks of them
    limit_resources(cache_mb=cache_mb)
    spent, digest = [], 0
    for window in windows:
        start = time.process_time()
        image = scene.read(window).images["m"]
        spent.append(time.process_time() - start)
        digest = zlib.crc32(image.numpy().tobytes(), digest)
    half = len(windows) // 2
    return (len(windows) / sum(spent), (len(windows) - half) / sum(spent[half:])), digest


def write_file(path: Path, size: int, blocks: dict[str, Any]) -> Path:
    """An image with the statistics of one, written by rows: smooth ground and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(BANDS, size // 32, size // 32)).astype(np.float32)
    rows = 512
    with rasterio.open(
        path, "w", driver="GTiff", count=BANDS, height=size, width=size, dtype="uint16",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 10, 10), compress="deflate",
        predictor=2, zlevel=1, interleave="pixel", photometric="minisblack", **blocks,
    ) as dataset:  # fmt: skip
        for top in range(0, size, rows):
            part = coarse[:, top // 32 : (top + rows) // 32]
            ground = 1000 + 200 * part.repeat(32, axis=1).repeat(32, axis=2)
            noise = 20 * rng.standard_normal(ground.shape, np.float32)
            window = rasterio.windows.Window(0, top, size, ground.shape[1])
            dataset.write((ground + noise).clip(1).astype(np.uint16), window=window)
    return path


if __name__ == "__main__":
    main()
