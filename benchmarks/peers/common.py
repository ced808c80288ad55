"""What all peers have in common: raster, model, output and clock. Imports nothing of ours.

The raster is that of `benchmarks/engine.py` (smooth fields with a little noise, uint16, tiles of
512), the model its 1×1 convolution behind a normalisation. CPU-seconds of all threads are counted.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rasterio
import torch
from torch import nn

MEAN, STD = 2000.0, 400.0


class OneByOne(nn.Module):
    """Normalises, and gives scores of each pixel by itself."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(bands, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float tensor (N, C, h, w) → (N, K, h, w)."""
        scores: torch.Tensor = self.head((image - MEAN) / STD)
        return scores


def arguments(description: str) -> argparse.Namespace:
    """Options that all have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raster", type=Path, help="made by benchmarks/peers/raster.py")
    parser.add_argument("--out", type=Path, default=Path("peer-map"), help="folder of the map")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def output_profile(source: Any) -> dict[str, Any]:
    """How the map is stored: as ours is, without overviews."""
    return {
        "driver": "GTiff", "width": source.width, "height": source.height, "count": 1,
        "dtype": "uint8", "crs": source.crs, "transform": source.transform, "nodata": 255,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1,
    }  # fmt: skip


def measure(package: str, args: argparse.Namespace, run: Callable[[], None]) -> None:
    """Run and print megapixels per CPU-second of each round."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    with rasterio.open(args.raster) as source:
        pixels = source.width * source.height
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"{package} {version(package)}, torch {torch.__version__}, {datetime.date.today()}")
    print(f"windows {args.crop}, overlap {args.overlap}, {args.classes} classes; load {load}")
    for _ in range(args.rounds):
        start = time.process_time()
        with torch.inference_mode():
            run()
        seconds = time.process_time() - start
        print(
            f"{seconds / pixels * 1e6:8.4f} CPU-µs/pixel, {pixels / seconds / 1e6:5.1f} Mpixel per "
            "CPU-second"
        )
