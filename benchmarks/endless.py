"""Memory of mapping against the size of the scene, and how soon a vast one begins.

    python benchmarks/endless.py [--sizes 2048x2048 8192x8192 2048x262144] [--run 8192x8192]

Scenes are sparse GeoTIFFs of 4 × uint16, windows 256 with overlap 64, 8 classes, a 1×1 model.
Without a nodata value the model runs everywhere; with one nothing is even read, as the file says
by itself that it has no data. Each row is a process of
its own; its highest resident memory is counted from the moment when the model is built and torch is
loaded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import rasterio
import torch
from rasterio.transform import from_origin

from engine import OneByOne
from machine import processor
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.modalities import Modality
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.version import VERSION

CLASSES = 8
VAST = (100_000, 100_000)
MODALITY = Modality("image", ("B0", "B1", "B2", "B3"), kind="optical")


class BegunError(Exception):
    """The first windows are done."""


def make_scene(folder: Path, height: int, width: int, *, empty: bool) -> Scene:
    """A raster that takes no space; all of it is 0, which is nodata if it is to be empty."""
    path = folder / f"{height}x{width}.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=4, dtype="uint16",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 10, 10),
        nodata=0 if empty else None, tiled=True, blockxsize=512, blockysize=512,
        sparse_ok=True, bigtiff="YES",
    ):  # fmt: skip
        pass
    return scene_from_rasters([MODALITY], {"image": path})


def status(name: str) -> int:
    """A number of bytes in /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(height: int, width: int, *, empty: bool, stop_early: bool = False) -> dict[str, Any]:
    """Map once; run in a process of its own."""
    torch.set_num_threads(1)
    scheme = ClassScheme(tuple(f"class {i}" for i in range(CLASSES)))
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder), height, width, empty=empty)
        predictor = ScenePredictor(OneByOne(MODALITY, CLASSES), WindowSettings(256, 64))
        small = make_scene(Path(folder), 512, 512, empty=False)
        predictor.class_map(small)  # first use of everything
        before, start = status("VmRSS"), time.perf_counter()

        def watch(done: int, _: int) -> None:
            if stop_early and done:
                raise BegunError

        try:
            predictor.predict(scene, Path(folder) / "map", scheme=scheme, progress=watch)
        except BegunError:
            pass
        except Exception as error:
            if "no pixel has data" not in str(error):
                raise
        seconds = time.perf_counter() - start
        plan = predictor.plan(scene)
        return {
            "seconds": seconds,
            "MiB": (status("VmHWM") - before) / 2**20,
            "units": len(plan),
            "twice": plan.twice,
        }


def in_process(size: tuple[int, int], **options: bool) -> dict[str, Any]:
    call = [sys.executable, __file__, "--one", json.dumps({"size": size, **options})]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parse(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["2048x2048", "8192x8192", "32768x32768", "2048x262144"]
    parser.add_argument("--sizes", nargs="*", default=default, help="mapped without the model")
    parser.add_argument("--run", nargs="*", default=default[:2], help="mapped with the model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        asked = json.loads(args.one)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(json.dumps(measure(*asked.pop("size"), **asked)))
        return
    print(f"terrafuse {VERSION}, {datetime.date.today()}, {processor()}")
    print("| scene | model | units | windows twice | peak above the start, MiB | s |")
    print("|---|---|---:|---:|---:|---:|")
    rows = [(parse(t), False) for t in args.run] + [(parse(t), True) for t in args.sizes]
    for size, empty in rows:
        show(size, "nowhere" if empty else "everywhere", in_process(size, empty=empty))
    show(VAST, "first windows only", in_process(VAST, empty=False, stop_early=True))


def show(size: tuple[int, int], model: str, found: dict[str, Any]) -> None:
    print(
        f"| {size[0]} × {size[1]} | {model} | {found['units']} | {found['twice']:.1%} | "
        f"{found['MiB']:.0f} | {found['seconds']:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
