"""Pretrained RGB kernels on red, green, blue and near infrared: which start for the fourth band?

    python benchmarks/first_layer.py --out runs/first_layer

EfficientNet-Lite0 with ImageNet's weights on configs/chesapeake: how close its levels are, before
any training, to those that the same photo has in red, green and blue, and validation scores. Every
run stays under --out; one that is there is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from scores import machine
from terrafuse import api
from terrafuse.backbones import Backbone, bands_in_turn, colour, create_backbone, fit_bands
from terrafuse.backbones.timm import models as timm_models
from terrafuse.config import load_run_config
from terrafuse.data import Manifest, load_manifest
from terrafuse.evaluation import half_interval

CONFIG = Path("configs/chesapeake/run.yaml")


@dataclass(frozen=True)
class Start:
    """How kernels for three bands become kernels for four.

    Args:
        title: For the table.
        std: Size of the weights of the fourth; None = repeated in turn, as timm has it.
        factor: On all kernels.
        modality: Whose bands come in.
    """

    title: str
    std: float | None = None
    factor: float = 1.0
    modality: str = "rgbn"

    @contextmanager
    def used(self) -> Iterator[None]:
        """All backbones made within start so."""
        if self.std is None:
            with bands_in_turn():
                yield
            return

        def scaled(weight: Tensor, *args: object, **options: object) -> Tensor:
            return self.factor * fit_bands(weight, *args, **options)  # type: ignore[arg-type]

        with (
            patch.object(colour, "OTHER_BANDS_STD", self.std),
            patch.object(timm_models, "fit_bands", scaled),
        ):
            yield


STARTS = {
    "rgb": Start("red, green, blue alone", modality="rgb"),
    "timm": Start("repeated in turn, × 3/4 (timm)"),
    "0.1": Start("own kernels, others 0.1", 0.1),
    "0.3": Start("own kernels, others 0.3", 0.3),
    "0.3s": Start("own kernels, others 0.3, × 3/4", 0.3, 0.75),
    "1": Start("own kernels, others 1", 1.0),
}


def score(key: str, seed: int, out: Path) -> float:
    """Validation mIoU after the last step."""
    folder, start = out / f"{key}-{seed}", STARTS[key]
    if not (folder / "model.json").exists():
        values = {"training.seed": str(seed), "data.modalities": f"[{start.modality}]"}
        with start.used():
            api.train(CONFIG, folder, overrides=values, resume=folder.exists(), progress=False)
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [float(row["val_miou"]) for row in csv.DictReader(file) if row["val_miou"]][-1]


def levels(key: str, images: Tensor, manifest: Manifest) -> list[Tensor]:
    """Levels of the pretrained network before any step; images (N, 4, H, W) are standardised."""
    start, options = STARTS[key], load_run_config(CONFIG).method.options
    modality = manifest.modalities[start.modality]
    bands = len(modality.bands)
    build = partial(create_backbone, options["backbone"], bands, modalities=[modality])
    with start.used():
        network: Backbone = build(weights=options["weights"]).eval()
    with torch.no_grad():
        return list(network(images[:, :bands]))


def correlations(first: list[Tensor], second: list[Tensor]) -> list[float]:
    """Of all values of a level, by level."""
    pairs = [torch.stack([a.flatten(), b.flatten()]) for a, b in zip(first, second, strict=True)]
    return [float(torch.corrcoef(pair)[0, 1]) for pair in pairs]


def read_images(manifest: Manifest) -> Tensor:
    """All photos that train (N, 4, H, W), each band with mean 0 and deviation 1."""
    scenes = manifest.scenes("train")
    images = torch.stack([scene.read(scene.full_window).images["rgbn"] for scene in scenes])
    mean, std = (f(images, dim=(0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    return (images - mean) / std


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/first_layer"))
    args = parser.parse_args()
    manifest = load_manifest(load_run_config(CONFIG).data.manifest)
    images = read_images(manifest)
    known = levels("rgb", images, manifest)
    print(f"{machine()}; mean ± deviation of {args.seeds} seeds, ± half of the 95 % interval")
    print("| start | correlation of levels | mIoU | above timm |\n|---|---|---|---|")
    found = {key: [score(key, seed, args.out) for seed in range(args.seeds)] for key in STARTS}
    for key, start in STARTS.items():
        close = " / ".join(f"{r:.2f}" for r in correlations(known, levels(key, images, manifest)))
        apart = [a - b for a, b in zip(found[key], found["timm"], strict=True)]
        gain = f"{statistics.mean(apart):+.3f} ± {half_interval(apart):.3f}"
        values = f"{statistics.mean(found[key]):.3f} ± {statistics.stdev(found[key]):.3f}"
        cells = [start.title, close, values, "" if key == "timm" else gain]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
