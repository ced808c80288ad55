"""Time that many scenes cost before anything is read from them.

    python benchmarks/manifests.py [--scenes 20000]

A manifest of so many scenes with two modalities and labels is written, read and used; each scene is
the same three small rasters under other names (hard links). CPU seconds of this process, imports
apart; `rasters opened` counts what GDAL opens. Goal: 2 CPU-s for each of the first rows with 20,000
scenes. `--plain` reads by PyYAML's own parser, as where libyaml is missing.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.transform import from_origin

from machine import processor
from terrafuse import api
from terrafuse.config import yaml_reading
from terrafuse.data import handles, load_manifest, write_manifest

RUN = """\
data: {manifest: dataset.yaml, crop_size: 32, batch_size: 2, workers: 0}
method: {name: late_fusion, backbone: resnet10t, decoder_options: {channels: 16}}
training: {steps: 1, accelerator: cpu}
"""
BANDS = {"s1": 2, "s2": 3, "labels": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--plain", action="store_true", help="without libyaml")
    options = parser.parse_args()
    if options.plain:
        yaml_reading.CParser = None
    parser_name = "PyYAML's own parser" if options.plain else f"libyaml, PyYAML {yaml.__version__}"
    print(f"{date.today()}, {platform.machine()}, {processor()}, {parser_name}")
    print(f"{options.scenes:,} scenes\n\n{'':34} {'CPU-s':>6} {'rasters opened':>15}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = make_scenes(folder, options.scenes)
        small, large = folder / "small.yaml", folder / "dataset.yaml"
        write_manifest(values | {"scenes": values["scenes"][:5]}, small)
        described = folder / "described.yaml"
        api.data_describe(make_few(folder), folder / "few_described.yaml", options={})
        warnings.filterwarnings("ignore", "of .* scenes, evenly spread ones were opened")
        rasters = folder / "rasters"
        measure("data describe", lambda: api.data_describe(rasters, described, options={}))
        measure("write the manifest", lambda: write_manifest(values, large))
        (folder / "run.yaml").write_text(RUN)
        # What is imported on first use is imported here.
        few = {"data.manifest": str(small)}
        warnings.filterwarnings("ignore", "scenes .* show the same ground")  # they are the same
        api.train(folder / "run.yaml", folder / "run", overrides=few, progress=False)
        run, one = api.load(folder / "run"), values["scenes"][-1]["id"]
        api.validate(folder / "run.yaml", few)
        api.describe_model(folder / "run.yaml", few)
        run.predict(folder / "map_0", scene=f"{small}#00000", device="cpu")
        measure("load_manifest", lambda: load_manifest(large))
        measure("validate", lambda: api.validate(folder / "run.yaml"))
        measure("describe", lambda: api.describe_model(folder / "run.yaml"))
        scene = f"{large}#{one}"
        measure("predict one scene", lambda: run.predict(folder / "map", scene=scene, device="cpu"))
        measure("evaluate: first window of all", lambda: begin_scores(run, large))
        measure("scenes of a split, not opened", lambda: load_manifest(large).scenes("train"))
        scenes = load_manifest(large).scenes("train")[:1000]
        measure("open 1,000 scenes", lambda: [scene.grid for scene in scenes])


class _BegunError(Exception):
    """There is a first window."""


def begin_scores(run: api.Run, manifest: Path) -> None:
    """Score all scenes of a manifest until the first window is done."""

    def stop(*_: int) -> None:
        raise _BegunError

    with suppress(_BegunError):
        run.evaluate(manifest=manifest, scenes=["*"], device="cpu", progress=stop)


def measure(title: str, action: Callable[[], Any]) -> None:
    opened, real = 0, handles.open_stored

    def count(spec: str) -> Any:
        nonlocal opened
        opened += 1
        return real(spec)

    handles.open_stored = count
    start = time.process_time()
    action()
    seconds = time.process_time() - start
    handles.open_stored = real
    print(f"{title:34} {seconds:6.2f} {opened:15,}", flush=True)


def make_scenes(folder: Path, count: int) -> dict[str, Any]:
    """Write the rasters; return the values of their manifest."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "width": 32, "height": 32, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_000_000, 10, 10),
    }  # fmt: skip
    for name, bands in BANDS.items():
        (folder / "rasters" / name).mkdir(parents=True)
        with rasterio.open(folder / f"{name}.tif", "w", count=bands, **profile) as file:
            file.write(rng.integers(0, 2, (bands, 32, 32)).astype(np.uint8))
    scenes = []
    for number in range(count):
        scene = {"id": f"{number:05d}", "split": "val" if number % 5 == 4 else "train"}
        for name in BANDS:
            scene[name] = f"rasters/{name}/{number:05d}.tif"
            os.link(folder / f"{name}.tif", folder / scene[name])
        scenes.append(scene)
    return {
        "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
        "modalities": {
            "s1": {"kind": "sar", "bands": ["VV", "VH"]},
            "s2": {"kind": "optical", "bands": ["B12", "B8", "B4"]},
        },
        "scenes": scenes,
    }


def make_few(folder: Path) -> Path:
    """Two scenes in a folder of their own."""
    for name in BANDS:
        (folder / "few" / name).mkdir(parents=True)
        for number in range(2):
            os.link(folder / f"{name}.tif", folder / "few" / name / f"{number}.tif")
    return folder / "few"


if __name__ == "__main__":
    main()
