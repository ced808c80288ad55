"""The viewer's page on a large raster: seconds to open, bytes read, milliseconds per frame.

Run `python benchmarks/page.py` (some minutes: it writes a map and a photo of 20,000 × 20,000 pixels
first; `--side 4000` is quicker). Chromium opens the page from a server on loopback, and the map is
then dragged across at three zooms. A frame's time is what passed since the one before.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window

from machine import processor

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from browsing import Shown, chromium, looking, serving_app
from terrafuse.prediction.class_values import NAMES_TAG, VALUES_TAG
from terrafuse.web.viewer.serving import open_viewer

NAMES = ("water", "field", "forest", "town")
ZOOMS = {"whole scene": None, "1 : 4": -2, "1 : 1": 0}
STRIP = 512
RECORD = """() => {
  window.frames_ = []; let last = performance.now(); window.isMeasured_ = true;
  const step = () => {
    const now = performance.now(); window.frames_.push(now - last); last = now;
    if (window.isMeasured_) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000, help="of the rasters, in pixels")
    options = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, {processor()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rasters(folder, options.side)
        print(f"{options.side} × {options.side}: {_megabytes(folder):.0f} MB on disk")
        manifest = f"{folder / 'data' / 'dataset.yaml'}#a"
        _, app = open_viewer(folder / "map", scenes=[manifest])
        with serving_app(app) as address, chromium() as browser:
            measure(browser, address, options.side)


def write_rasters(folder: Path, side: int) -> None:
    """Write a class map and a photo of three bands, tiled and with overviews."""
    rng = np.random.default_rng(1)
    for each in ("map", "data"):
        (folder / each).mkdir()
    coarse = rng.integers(0, len(NAMES), (side // 64 + 1, side // 64 + 1), np.uint8)
    common: dict[str, Any] = {
        "driver": "GTiff", "height": side, "width": side, "dtype": "uint8", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1,
        "crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 1, 1),
    }  # fmt: skip
    map_path, photo_path = folder / "map" / "class_map.tif", folder / "data" / "photo.tif"
    with (
        rasterio.open(map_path, "w", count=1, nodata=255, **common) as classes,
        rasterio.open(photo_path, "w", count=3, nodata=0, interleave="pixel", **common) as photo,
    ):
        classes.update_tags(
            **{NAMES_TAG: json.dumps(NAMES), VALUES_TAG: json.dumps([*range(len(NAMES))])}
        )
        for row in range(0, side, STRIP):
            rows = min(STRIP, side - row)
            drawn = coarse[(np.arange(row, row + rows) // 64)[:, None], np.arange(side) // 64]
            window = Window(0, row, side, rows)  # type: ignore[call-arg]
            classes.write(drawn, 1, window=window)
            noise = rng.integers(1, 9, (3, rows, side), np.uint8)
            photo.write(noise + drawn * 40, window=window)
    factors = [2**k for k in range(1, 12) if side / 2**k >= 128]
    for path, how in ((map_path, Resampling.nearest), (photo_path, Resampling.average)):
        with rasterio.open(path, "r+") as file:
            file.build_overviews(factors, how)
    manifest = {
        "classes": [{"name": name, "code": code} for code, name in enumerate(NAMES)],
        "modalities": {"photo": {"kind": "optical", "bands": ["red", "green", "blue"]}},
        "scenes": [{"id": "a", "split": "test", "photo": "photo.tif"}],
    }
    (folder / "data" / "dataset.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def measure(browser: Any, address: str, side: int) -> None:
    """Print what opening and dragging take."""
    start = time.perf_counter()
    with looking(browser, address) as shown:
        sizes: list[int] = []
        shown.page.on("response", lambda answer: sizes.append(_length(answer)))
        shown.settle()
        print(f"opened and drawn after {time.perf_counter() - start:.1f} s")
        shown.page.reload()
        sizes.clear()
        shown.settle()
        print(f"read to open: {sum(sizes) / 1e6:.1f} MB in {len(sizes)} requests")
        print(f"{'':12} {'frames':>7} {'median ms':>10} {'p95 ms':>8} {'longest ms':>11}")
        for title, zoom in ZOOMS.items():
            if zoom is not None:
                shown.link(
                    scene="map",
                    at=f"{side / 2},{side / 2}",
                    zoom=zoom,
                    layers="photo,class_map*0.5",
                )
            frames = np.array(drag(shown))
            p95 = np.percentile(frames, 95)
            line = f"{len(frames):7d} {np.median(frames):10.0f} {p95:8.0f} {frames.max():11.0f}"
            print(f"{title:12} {line}")


def drag(shown: Shown) -> list[float]:
    """Drag the map to and fro; milliseconds of the frames meanwhile."""
    box, mouse = shown.box(), shown.page.mouse
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.evaluate(RECORD)
    for _ in range(3):
        mouse.move(x + 250, y)
        mouse.down()
        mouse.move(x - 250, y - 120, steps=40)
        mouse.up()
    shown.page.evaluate("() => { window.isMeasured_ = false }")
    return list(shown.page.evaluate("() => window.frames_.slice(2)"))


def _length(answer: Any) -> int:
    return int(answer.headers.get("content-length", 0))


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.tif")) / 1e6


if __name__ == "__main__":
    main()
