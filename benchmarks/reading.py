"""Read path of `Scene.read` against the raw block-decode rate of the same file.

Run `python benchmarks/reading.py`. Rates are megapixels × bands per second of decoded values; the
share is that of `Scene.read` in the rate of `rasterio`'s plain window read into the file's dtype.
Each case is read `--repeats` times alternately, from freshly opened files that the operating
system has in memory; medians are shown. Target for aligned reads: 0.8.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterWindow

from machine import processor
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.data.handles import pool
from terrafuse.modalities import Modality
from terrafuse.samples import Window

# Name → dtype, bands, nodata.
FILES: dict[str, tuple[str, int, float | None]] = {
    "uint8 × 4": ("uint8", 4, None),
    "int16 × 6": ("int16", 6, None),
    "int16 × 6, nodata": ("int16", 6, 0),
    "float32 × 2": ("float32", 2, None),
}
CASES = {"random 256": 256, "random 512": 512, "sequential 512": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=3072, help="height and width of the files")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, {processor()}, GDAL {rasterio.__gdal_version__}")
    print(f"tiled 512 × 512, deflate, {options.size} × {options.size} pixels")
    print(f"{'file':20} {'windows':16} {'decode':>9} {'Scene.read':>11} {'share':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (dtype, bands, nodata) in FILES.items():
            path = write_file(Path(folder) / "a.tif", options.size, dtype, bands, nodata)
            for case, size in CASES.items():
                windows = list(choose_windows(case, size, options.size))
                decode, ours = compare(path, bands, windows, options.repeats)
                values = sum(w.height * w.width for w in windows) * bands / 1e6
                print(
                    f"{name:20} {case:16} {values / decode:9.0f} {values / ours:11.0f} "
                    f"{decode / ours:6.2f}"
                )
        show_warped(Path(folder), options.size, options.repeats)


def write_file(path: Path, size: int, dtype: str, bands: int, nodata: float | None) -> Path:
    """An image with the statistics of one: smooth ground and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(bands, size // 32 + 1, size // 32 + 1))
    ground = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :size, :size]
    image = 100 + 20 * ground + 2 * rng.normal(size=ground.shape)
    if dtype != "float32":
        image = np.clip(image, 1, 255) if dtype == "uint8" else 10 * image
    profile: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    profile |= {"compress": "deflate", "predictor": 3 if dtype == "float32" else 2}
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=size, width=size, dtype=dtype,
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, 10, 10), nodata=nodata,
        photometric="minisblack", **profile,
    ) as dataset:  # fmt: skip
        dataset.write(image.astype(dtype))
    return path


def choose_windows(case: str, size: int, extent: int) -> Iterator[Window]:
    if case.startswith("sequential"):
        for row in range(0, extent - size + 1, size):
            for col in range(0, extent - size + 1, size):
                yield Window(row, col, size, size)
        return
    rng = np.random.default_rng(1)
    for row, col in rng.integers(0, extent - size + 1, (24, 2)):
        yield Window(int(row), int(col), size, size)


def compare(path: Path, bands: int, windows: list[Window], repeats: int) -> tuple[float, float]:
    """Median seconds of decoding all windows, and of reading them through a scene."""
    scene = scene_from_rasters([Modality("m", tuple(f"b{n}" for n in range(bands)))], {"m": path})
    decode, ours = [], []
    for _ in range(repeats):
        with opened(path) as read:
            decode.append(measure(read, windows))
        pool.close()
        ours.append(measure(lambda window: read_scene(scene, window), windows))
        pool.close()
    return statistics.median(decode), statistics.median(ours)


@contextmanager
def opened(path: Path) -> Iterator[Callable[[Window], Any]]:
    with rasterio.open(path) as dataset:
        yield lambda w: dataset.read(window=RasterWindow(w.col, w.row, w.width, w.height))


def read_scene(scene: Scene, window: Window) -> Any:
    return scene.read(window).images["m"]


def measure(read: Callable[[Window], Any], windows: list[Window]) -> float:
    start = time.perf_counter()
    for window in windows:
        read(window)
    return time.perf_counter() - start


def show_warped(folder: Path, size: int, repeats: int) -> None:
    """What other grids cost: no target, for orientation."""
    print("\non another grid (bilinear), million values per second:")
    path = write_file(folder / "a.tif", size, "int16", 6, 0)
    grids = {
        "aligned": ("EPSG:32633", (500_000, 5_000_000, 10)),
        "shifted, same CRS": ("EPSG:32633", (500_004, 4_999_997, 10)),
        "to 20 m, same CRS": ("EPSG:32633", (500_000, 5_000_000, 20)),
        "other UTM zone": ("EPSG:32632", (975_000, 5_015_000, 10)),
    }
    for name, (crs, (x, y, pixel)) in grids.items():
        shape = (size // 2, size // 2)
        with rasterio.open(
            folder / "grid.tif", "w", driver="GTiff", count=1, height=shape[0], width=shape[1],
            dtype="uint8", crs=crs, transform=from_origin(x, y, pixel, pixel), sparse_ok=True,
        ):  # fmt: skip
            pass
        scene = scene_from_rasters(
            [Modality("m", tuple(f"b{n}" for n in range(6))), Modality("grid", ("g",))],
            {"m": path, "grid": folder / "grid.tif"}, grid="grid",
        )  # fmt: skip
        windows = list(choose_windows("random", 256, min(shape)))
        times = []
        for _ in range(repeats):
            pool.close()
            times.append(measure(scene.read, windows))
        values = len(windows) * 256 * 256 * 6 / 1e6
        print(f"  {name:20} {values / statistics.median(times):6.0f}")


if __name__ == "__main__":
    main()
