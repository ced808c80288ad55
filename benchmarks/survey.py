"""CPU time before the first step: part by part, in one pass, and with what that pass has kept.

Run `python benchmarks/survey.py` (20,000 chips: several minutes), or with `--run run.yaml` for data
of your own. Each row prepares the same run in a process of its own: everything before the first
step but imports. "part by part" opens and decodes the data for the check, the statistics, the
labels and the crops one after the other, as was done before there was a pass.
"""

from __future__ import annotations

import argparse
import os
import platform
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

from machine import processor

ROWS = {"part by part": "parts", "first time": "fresh", "second time": "again"}
RUN = """
data: {manifest: dataset.yaml, crop_size: 64, batch_size: 4, workers: 0}
method: {name: early_fusion, backbone: resnet18, decoder: upernet}
training: {steps: 2}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=64, help="side of a chip")
    parser.add_argument("--run", type=Path, help="prepare this run instead")
    parser.add_argument("--row", choices=ROWS.values(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(prepare(options.run, options.row))
        return
    print(f"{date.today()}, {platform.machine()}, {processor()}, GDAL {rasterio.__gdal_version__}")
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or make_chips(Path(folder), options.chips, options.size)
        time.sleep(2)  # files just written are not trusted
        print(f"{'':14} {'CPU seconds':>12}")
        for title, row in ROWS.items():
            command = [sys.executable, __file__, "--run", str(run), "--row", row]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"{title:14} {float(found.stdout):12.2f}", flush=True)


def prepare(run: Path, row: str) -> float:
    """CPU seconds until the first crop could be read."""
    if row == "parts":
        os.environ["TERRAFUSE_KEEP"] = "off"
    from terrafuse.config import load_run_config
    from terrafuse.progress import Display
    from terrafuse.training import survey
    from terrafuse.training.run_state import Position
    from terrafuse.training.train import train

    training: Any = sys.modules[train.__module__]
    if row == "parts":
        survey._may_survey = lambda _: False
    config = load_run_config(run)
    data = config.data.model_copy(update={"manifest": config.data.manifest.resolve()})
    config = config.model_copy(update={"data": data})
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Display(False) as display:
        out = Path(folder) / "run"
        prepared = training._prepare(config, out, Position(), row == "fresh", display)
        training._loader_factory(prepared, lambda: None)(0, 1)
    return time.process_time() - started


def make_chips(folder: Path, count: int, size: int) -> Path:
    """Write chips of two modalities with labels, and a run on them."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (4, size, size), dtype=np.uint8)
    lines = []
    for number in range(count):
        image = np.roll(base, number, axis=2)
        labels = (image[:1] > 127).astype(np.uint8)
        images = {"rgb": image, "dsm": image[:1].astype(np.float32) / 10, "labels": labels}
        row, col = divmod(number, 200)
        left, top = 500_000 + col * 20 * size, 5_000_000 - row * 20 * size
        for name, values in images.items():
            with rasterio.open(
                folder / f"{name}{number}.tif", "w", driver="GTiff", height=size, width=size,
                count=len(values), dtype=values.dtype, crs="EPSG:32632", compress="deflate",
                transform=from_origin(left, top, 10, 10),
            ) as file:  # fmt: skip
                file.write(values)
        files = ", ".join(f"{name}: {name}{number}.tif" for name in images)
        split = "val" if number % 10 == 9 else "train"
        lines.append(f"- {{id: s{number}, split: {split}, {files}}}\n")
    (folder / "dataset.yaml").write_text(
        "classes:\n- {name: dark, code: 0}\n- {name: bright, code: 1}\nmodalities:\n"
        "  rgb: {kind: optical, bands: [blue, green, red, nir]}\n"
        "  dsm: {kind: elevation, bands: [dsm]}\nscenes:\n" + "".join(lines)
    )
    run = folder / "run.yaml"
    run.write_text(RUN)
    return run


if __name__ == "__main__":
    main()
