"""Engine cost of prediction: CPU-µs per scene pixel with a 1×1 model, by part.

    python benchmarks/engine.py [--size 4096] [--classes 8] [--bands 4] [--crop 512] [--overlap 128]

The scene is an uncompressed tiled GeoTIFF of uint16 on the scene's own grid. CPU time of all
threads is counted (`time.process_time`), so waiting for the disk or for another thread costs
nothing, and a second thread is no gain. "model" is the segmenter (normalising, masking, a 1×1
convolution); the engine is everything else. Beside it runs a loop over windows as people write it
(`benchmarks/peers/loop.py`).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import nn

from peers.loop import map_scene
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.modalities import Modality
from terrafuse.prediction import (
    DEFAULT_PRODUCTS,
    Accumulator,
    Part,
    ScenePredictor,
    WindowSettings,
    find_products,
    open_map,
    plan_units,
)
from terrafuse.samples import Window
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.version import VERSION

MEAN, STD = 2000, 400


class OneByOne(Segmenter):
    """A 1×1 convolution: the cheapest model there is."""

    title = "1×1 convolution"

    def __init__(self, modality: Modality, num_classes: int) -> None:
        super().__init__([modality], num_classes)
        self.stride = 1
        self.name = modality.name
        self.head = nn.Conv2d(len(modality.bands), num_classes, 1)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """See the base class."""
        return SegmenterOutput(self.head(inputs.images[self.name]))


class Timed(OneByOne):
    """Knows how long its calls took in this thread, while another one reads."""

    seconds = 0.0

    def forward(self, *args: Any, **kwargs: Any) -> SegmenterOutput:
        """See the base class."""
        start = time.thread_time()
        output = super().forward(*args, **kwargs)
        self.seconds += time.thread_time() - start
        return output


class Normalize(nn.Module):
    """To the mean and deviation of the scene, as the segmenter does."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Of physical values."""
        return (image - MEAN) / STD


class Clock:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measure what is done inside, over all threads."""
        start = time.process_time()
        yield
        self.add(part, time.process_time() - start)

    def add(self, part: str, seconds: float) -> None:
        """Add seconds measured elsewhere."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def make_scene(folder: Path, size: int, bands: int) -> Scene:
    """Smooth fields with a little noise, so that files compress as real maps do."""
    generator = np.random.default_rng(0)
    path = folder / "image.tif"
    coarse = generator.normal(size=(bands, size // 64 + 2, size // 64 + 2))
    rows = np.arange(size) / 64
    index, share = rows.astype(int), rows % 1
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=bands, dtype="uint16",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 10, 10), nodata=0,
        tiled=True, blockxsize=512, blockysize=512,
    ) as dataset:  # fmt: skip
        for band, field in enumerate(coarse, start=1):
            across = field[:, index] * (1 - share) + field[:, index + 1] * share
            full = across[index] * (1 - share)[:, None] + across[index + 1] * share[:, None]
            noise = generator.normal(size=full.shape, scale=0.02)
            dataset.write((2000 + 400 * (full + noise)).astype(np.uint16), band)
    modality = Modality("image", tuple(f"B{i}" for i in range(bands)), kind="optical")
    return scene_from_rasters([modality], {"image": path})


def measure_parts(predictor: ScenePredictor, scene: Scene, scheme: ClassScheme, out: Path) -> Clock:
    """The same work as `predict`, one part after the other in one thread."""
    clock = Clock()
    lattice = predictor.lattice(scene)
    predictor.segmenter.eval()
    products = find_products(DEFAULT_PRODUCTS)
    plan = plan_units(lattice, scheme.num_classes)
    with (
        open_map(out, scene.grid, scheme, products, plan=plan) as writer,
        torch.inference_mode(),
    ):
        for run in writer.job.tasks():
            part = Part(lattice, run)
            with clock("blend"):
                sums = Accumulator(part, scheme.num_classes, arrays=predictor.model.arrays)
            for row, stop in pairwise([*part.row_starts, run.row_stop]):
                for col in part.col_starts:
                    window = Window(row, col, lattice.size, lattice.size)
                    with clock("read"):
                        sample = scene.read(window, labels=False)
                    with clock("model"):
                        images = {m: x[None] for m, x in sample.images.items()}
                        valid = {m: x[None] for m, x in sample.valid.items()}
                        logits = predictor.segmenter(images, valid).logits[0]
                    with clock("blend"):
                        sums.add(window, logits, sample.valid["image"])
                with clock("argmax and confidence"):
                    strip = sums.advance(stop, products)
                if strip:
                    with clock("write"):
                        writer.write(strip)
        with clock("write"):
            writer.finish()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="side of the scene, in pixels")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of torch, per operation")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    scheme = ClassScheme(tuple(f"class {i}" for i in range(args.classes)))
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder), args.size, args.bands)
        segmenter = Timed(scene.modalities[0], args.classes)
        segmenter.get_buffer("mean_image").fill_(MEAN)
        segmenter.get_buffer("std_image").fill_(STD)
        predictor = ScenePredictor(
            segmenter,
            WindowSettings(args.crop, args.overlap, batch_size=args.batch),
            device="cpu",
        )
        predictor.class_map(scene)  # first use of everything
        parts = measure_parts(predictor, scene, scheme, Path(folder) / "parts")
        whole = Clock()
        segmenter.seconds = 0.0
        wall = time.perf_counter()
        with whole("predict"):
            predictor.predict(scene, Path(folder) / "map", scheme=scheme)
        wall = time.perf_counter() - wall
        whole.add("model", segmenter.seconds)
        with whole("loop"):
            normalised = torch.nn.Sequential(Normalize(), segmenter.head)
            map_scene(normalised, Path(folder) / "image.tif", Path(folder), args.crop, args.overlap)
    report(args, parts, whole, wall)


def report(args: argparse.Namespace, parts: Clock, whole: Clock, wall: float) -> None:
    pixels = args.size**2
    print(
        f"terrafuse {VERSION}, torch {torch.__version__}, GDAL {rasterio.__gdal_version__}, "
        f"{datetime.date.today()}, {os.cpu_count()} cores {platform.machine()}"
    )
    print(
        f"{args.size}² pixels, {args.bands} bands uint16, {args.classes} classes, "
        f"windows {args.crop}², overlap {args.overlap}"
    )
    for part, seconds in parts.seconds.items():
        print(f"{part:24s} {seconds / pixels * 1e6:8.4f} CPU-µs/pixel")
    engine = whole.seconds["predict"] - whole.seconds["model"]
    rows = {
        "predict()": whole.seconds["predict"],
        "without model": engine,
        "a loop over windows": whole.seconds["loop"],
    }
    for name, seconds in rows.items():
        print(
            f"{name:24s} {seconds / pixels * 1e6:8.4f} CPU-µs/pixel, "
            f"{pixels / seconds / 1e6:5.1f} Mpixel per CPU-second"
        )
    print(f"{'wall clock':24s} {pixels / wall / 1e6:8.1f} Mpixel/s")
    print(f"loop / predict()         {rows['a loop over windows'] / rows['predict()']:8.2f}")


if __name__ == "__main__":
    main()
