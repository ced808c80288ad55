"""What `terrafuse generate` costs without the model itself, and how good its seams are.

Run `python benchmarks/generate.py`. A picture of 2000 × 3000 pixels is turned into segments and
depth in windows of 1024 pixels: by superpixels, by a tiny Segment Anything and a tiny Depth
Anything with random weights (through the real pipelines), and by makers that know the answer and
take no time. Memory is the peak of the process beyond what it had once everything was imported and
the model loaded. Target: below 1.5 GB beyond the model.

Seams are measured on a relief that every window sees on a scale and level of its own, tilted and
with noise: the step across the middle of each overlap, beyond that of the relief itself, in
standard deviations of the relief; beside it what windows put side by side would show.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy import ndimage

from machine import processor

CASES = ("known segments", "known depth", "superpixels", "watershed", "sam, tiny", "depth, tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=2000)
    parser.add_argument("--width", type=int, default=3000)
    parser.add_argument("--case", choices=CASES, help="only this one, in this process")
    parser.add_argument("--photo", type=Path, help="for --case")
    options = parser.parse_args()
    if options.case:
        measure(options.case, options.photo)
        return
    print(f"{date.today()}, {platform.machine()}, {processor()}")
    megapixels = options.height * options.width / 1e6
    print(f"{options.height} × {options.width} pixels, windows of 1024 that share 128")
    print(f"{'':16} {'s/megapixel':>12} {'memory, GB':>11}   result")
    with tempfile.TemporaryDirectory() as folder:
        photo = write_photo(Path(folder) / "photo.tif", options.height, options.width)
        for case in CASES:
            # In a process of its own, whose memory is nobody else's.
            words = [sys.executable, __file__, "--case", case, "--photo", str(photo)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            seconds, gigabytes, result = done.stdout.strip().split("\t")
            print(
                f"{case:16} {float(seconds) / megapixels:12.2f} {float(gigabytes):11.2f}   {result}"
            )
    show_seams()


def write_photo(path: Path, height: int, width: int) -> Path:
    """Fields, each of one colour, with noise; their numbers are in the colours."""
    labels = known_segments(height, width)
    image = np.stack([labels % 256, labels // 256 % 256, labels * 0 + 90]).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=height, width=width, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 0.2, 0.2), tiled=True,
        compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(image)
    return path


def known_segments(height: int, width: int) -> np.ndarray:
    """Uneven fields from 1 on, of about 40 pixels, none of them straight."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    for grid in (rows, cols):
        noise = ndimage.zoom(rng.normal(size=(height // 16 + 2, width // 16 + 2)), 16, order=1)
        grid += 8 * noise[:height, :width].astype(np.float32)
    rows, cols = (np.maximum(grid, 0).astype(np.int64) // 40 for grid in (rows, cols))
    return np.unique(rows * 10_000 + cols, return_inverse=True)[1].reshape(height, width) + 1


def measure(case: str, photo: Path) -> None:
    from terrafuse.data import ReadingRules
    from terrafuse.generate import PhotoJob, WindowedGenerator, WindowRunner, generate_raster
    from terrafuse.generate.photos import open_photo
    from terrafuse.generate.products import RasterFiles
    from terrafuse.modalities import Modality

    with tempfile.TemporaryDirectory() as folder:
        generator = make_generator(case, Path(folder))
        generator.build()(np.zeros((64, 64, 3), np.uint8))
        modality = Modality("rgb", ("red", "green", "blue"), kind="optical")
        opened = open_photo("photo", modality, [str(photo)], ReadingRules(), (0, 1, 2))
        job = PhotoJob(opened, RasterFiles(Path(folder) / "made.tif"))
        before, start = peak_gb(), time.perf_counter()
        with WindowRunner(generator) as runner:
            made = generate_raster(
                job, WindowedGenerator(generator, 1024, 128), runner, preview=show
            )
        result = made.record["result"]
        text = f"{result['segments']} segments" if "segments" in result else "depth"
        if case == "known segments":
            text += f" of {int(from_colors(read(photo)).max())}"
        print(f"{time.perf_counter() - start}\t{peak_gb() - before}\t{text}")


def make_generator(case: str, folder: Path) -> Any:
    from terrafuse.generate import DepthGenerator, MaskGenerator, SuperpixelGenerator, find_model

    if case.startswith("known"):
        return KnownRecipe("depth" if "depth" in case else "segments")
    if case in ("superpixels", "watershed"):
        return SuperpixelGenerator(method="slic" if case == "superpixels" else "watershed")
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny_models

    if case.startswith("sam"):
        tiny_models.save_sam(folder / "model")
        model = find_model(str(folder / "model"), "mask-generation")
        return MaskGenerator(model, points=4, iou=0.0, stability=0.0, nms=1.0)
    tiny_models.save_depth(folder / "model", tiny_models.depth_config())
    return DepthGenerator(find_model(str(folder / "model"), "depth-estimation"))


class KnownRecipe:
    """Reads the answer off the picture."""

    def __init__(self, result: str) -> None:
        self.result, self.aligned = result, True

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"kind": "known", "result": self.result}

    note = describe

    def build(self) -> Any:
        """A function from picture to answer."""
        if self.result == "segments":
            return lambda picture: from_colors(np.moveaxis(picture, -1, 0))
        return lambda picture: picture.mean(axis=-1, dtype=np.float32)


def from_colors(image: np.ndarray) -> np.ndarray:
    return image[0].astype(np.int64) + 256 * image[1].astype(np.int64)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def show(image: np.ndarray) -> np.ndarray:
    grey = np.nan_to_num(image[0]).astype(np.int64).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def show_seams() -> None:
    from terrafuse.generate.alignment import Alignment, align_windows
    from terrafuse.generate.stitching import stitch_depth
    from terrafuse.generate.windows import WindowPlan

    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(1200, 1600)), 12)
    relief = (noise / noise.std()).astype(np.float32)
    plan = WindowPlan(*relief.shape, 512, 64)
    windows = []
    for window in plan.windows:
        rows, cols = np.mgrid[-1 : 1 : window.height * 1j, -1 : 1 : window.width * 1j]
        tilt = 0.1 * rng.normal() * rows + 0.1 * rng.normal() * cols
        seen = relief[window.slices()] + tilt + 0.02 * rng.normal(size=tilt.shape)
        windows.append((np.exp(0.5 * rng.normal()) * seen + 5 * rng.normal()).astype(np.float32))
    load = windows.__getitem__
    identity = Alignment.identity(len(windows))
    aligned = align_windows(plan, load)
    print("\nsteps where windows meet, in standard deviations of the relief (mean, largest):")
    hard = np.empty_like(relief)
    for number, core in enumerate(plan.cores):
        hard[core.slices()] = aligned.apply(number, load(number))[core.slices(plan.windows[number])]
    blended = [np.concatenate(list(stitch_depth(plan, load, a))) for a in (identity, aligned)]
    cases = {"not aligned, blended": blended[0], "aligned, side by side": hard,
             "aligned, blended": blended[1]}  # fmt: skip
    columns = sorted({core.col for core in plan.cores} - {0})
    for name, found in cases.items():
        slope, offset = np.polyfit(found.ravel(), relief.ravel(), 1)
        error = slope * found + offset - relief
        smooth = ndimage.uniform_filter1d(error, 31, axis=0)  # what the noise is not
        steps = np.abs(np.concatenate([smooth[:, c] - smooth[:, c - 1] for c in columns]))
        print(f"  {name:24} {steps.mean():.4f} {steps.max():.4f}, error {error.std():.3f}")


if __name__ == "__main__":
    main()
