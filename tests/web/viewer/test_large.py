"""A large map: opening it reads overviews, and no more."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

pytest.importorskip("fastapi", reason="the extra web is not installed")

from fastapi.testclient import TestClient

from terrafuse.web.viewer.serving import open_viewer
from viewed import write_map

SIDE = 20_000


def bytes_read() -> int:
    """What this process has read from files so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts what is read as Linux tells it")
def test_opening_reads_overviews_only(tmp_path: Path) -> None:
    small = np.zeros((8, 8))
    folder = write_map(tmp_path / "map", small, confidence=small)
    rng = np.random.default_rng(0)
    for name in ("class_map", "confidence"):
        with rasterio.open(folder / f"{name}.tif") as dataset:
            profile, tags, scales = dataset.profile, dataset.tags(), dataset.scales
        profile |= {"height": SIDE, "width": SIDE, "tiled": True, "blockxsize": 512,
                    "blockysize": 512, "compress": "DEFLATE", "zlevel": 1}  # fmt: skip
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as dataset:
            for row in range(0, SIDE, 512):
                rows = min(512, SIDE - row)
                block = rng.integers(0, 3, (rows, SIDE)).astype(np.uint8)
                dataset.write(block, 1, window=Window(0, row, SIDE, rows))
            dataset.update_tags(**tags)
            dataset.scales = scales
        with rasterio.open(folder / f"{name}.tif", "r+") as dataset:
            dataset.build_overviews([2, 4, 8, 16, 32], Resampling.nearest)
    open_viewer(write_map(tmp_path / "warm", small, confidence=small))  # imports are not its cost
    before, started = bytes_read(), time.perf_counter()
    _, app = open_viewer(folder)
    client = TestClient(app, base_url="http://127.0.0.1")
    view = client.get("/v/map/view.json").json()
    seconds, read = time.perf_counter() - started, bytes_read() - before
    print(f"opened {SIDE} × {SIDE} pixels in {seconds:.2f} s, read {read / 1e6:.1f} MB")
    assert read < 20e6
    assert sum(one["pixels"] for one in view["classes"]) == pytest.approx(SIDE**2, rel=1e-3)
    assert not list((folder / ".terrafuse").rglob("*.tif"))
