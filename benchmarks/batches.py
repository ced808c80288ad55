"""What a training batch costs the reading process, the way between, and the training process.

Run `python benchmarks/batches.py`. Scenes are GeoTIFFs of 256 x 256 pixels without compression, as
what is compared comes after decoding: an optical image of 4 bands (uint16) and radar of 2 (uint8,
amplitudes). The same values as float32 show what integers are worth. Times are CPU time of one
thread per batch, the least of `--rounds` rounds, in which the ways alternate:

- reader: reading, augmentation as far as it is done there, and collating;
- batch: bytes that go from process to process, and to a GPU;
- trainer, on this processor: what is left to do before the model.

On a GPU the last column is its work; this shows what it takes over from the processor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

from machine import processor
from terrafuse.classes import ClassScheme
from terrafuse.config import AugmentConfig, AugmentPlace, DataConfig
from terrafuse.data import Scene, compute_statistics, scene_from_rasters
from terrafuse.modalities import Modality
from terrafuse.samples import Batch, collate
from terrafuse.sampling import TrainingDataset, change_batch

SIZE, SCENES, BATCH = 256, 8, 8
OPTICAL = Modality("optical", tuple("bgrn"), kind="optical")
RADAR = Modality("radar", ("vv", "vh"), kind="sar", unit="amplitude")
STILL = AugmentConfig(gain=0, offset=0, speckle=0, shift_db=0)
LEVELS = AugmentConfig(speckle=0)
CHANGES = {"flips and turns": STILL, "and levels": LEVELS, "and speckle": AugmentConfig()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}, {processor()}, torch {torch.__version__}; batches of {BATCH} × {SIZE}²")
    print(
        f"{'changes':16} {'stored as':10} {'on':7} {'reader, ms':>10} {'MB':>6} {'trainer, ms':>11}"
    )
    with tempfile.TemporaryDirectory() as folder:
        kinds = {kind: make_scenes(Path(folder) / kind, kind) for kind in ("float32", "integers")}
        for change, augment in CHANGES.items():
            ways: dict[tuple[str, AugmentPlace], Any] = {
                (kind, place): dataset(scenes, augment, place)
                for kind, scenes in kinds.items()
                for place in ("reader", "device")
            }
            found: dict[Any, list[tuple[float, int, float]]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, samples in ways.items():
                    found[way].append(measure(samples))
            for (kind, place), rows in found.items():
                reader, size, trainer = map(min, zip(*rows, strict=True))
                print(
                    f"{change:16} {kind:10} {place:7} {1e3 * reader:10.1f} {size / 1e6:6.1f} "
                    f"{1e3 * trainer:11.1f}",
                    flush=True,
                )


def make_scenes(folder: Path, kind: str) -> list[Scene]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    scenes = []
    for number in range(SCENES):
        images = {
            "optical": rng.integers(1, 10_000, (4, SIZE, SIZE)).astype(np.uint16),
            "radar": rng.integers(1, 255, (2, SIZE, SIZE)).astype(np.uint8),
            "labels": rng.integers(0, 3, (1, SIZE, SIZE), np.uint8),
        }
        paths = {name: folder / f"{name}_{number}.tif" for name in images}
        for name, values in images.items():
            stored = values.astype("float32") if kind == "float32" and name != "labels" else values
            with rasterio.open(
                paths[name], "w", driver="GTiff", count=len(stored), height=SIZE, width=SIZE,
                dtype=stored.dtype, crs="EPSG:32633",
                transform=from_origin(500_000, 5_000_000, 10, 10),
            ) as file:  # fmt: skip
                file.write(stored)
        scenes.append(
            scene_from_rasters(
                (OPTICAL, RADAR), {m: paths[m] for m in ("optical", "radar")}, id=str(number),
                labels=paths["labels"], scheme=ClassScheme(("x", "y", "z")), split="train",
            )
        )  # fmt: skip
    return scenes


def dataset(scenes: list[Scene], augment: AugmentConfig, place: AugmentPlace) -> TrainingDataset:
    config = DataConfig(manifest=Path("x"), crop_size=SIZE, batch_size=BATCH, augment=augment)
    modalities = (OPTICAL, RADAR)
    statistics = compute_statistics(scenes, modalities)
    return TrainingDataset(scenes, modalities, statistics, config, seed=0, augment_on=place)


def measure(samples: TrainingDataset) -> tuple[float, int, float]:
    """CPU seconds of the reader, bytes, and CPU seconds of the training process."""
    start = time.process_time()
    batch = collate([samples[number] for number in range(BATCH)])
    read = time.process_time()
    change_batch(batch)
    return read - start, size_of(batch), time.process_time() - read


def size_of(batch: Batch) -> int:
    held = [*batch.images.values(), *batch.valid.values(), *batch.draws.values()]
    return sum(x.nbytes for x in held) + (0 if batch.labels is None else batch.labels.nbytes)


if __name__ == "__main__":
    main()
