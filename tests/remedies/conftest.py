"""A small place whose files and settings a test puts a fault into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.config import RunConfig, load_run_config
from terrafuse.data import Manifest, Scene, load_manifest
from terrafuse.doctor import Finding, check_manifest

SIDE = 32
SPLITS = ("train", "val", "test")


class Place:
    """A data set of two modalities with labels, a scene per split, and its run.yaml."""

    def __init__(self, folder: Path, make_raster: Callable[..., Path]) -> None:
        self.folder, self.make_raster = folder, make_raster
        self.values: dict[str, Any] = {
            "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
            "modalities": {
                "a": {"kind": "optical", "bands": ["x", "y"]},
                "b": {"kind": "other", "bands": ["z"]},
            },
            "scenes": [
                {"id": s, "split": s, "a": f"{s}_a.tif", "b": f"{s}_b.tif", "labels": f"{s}_l.tif"}
                for s in SPLITS
            ],
        }
        self.run: dict[str, Any] = {
            "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
            "method": {"name": "late_fusion", "backbone": "resnet10t", "decoder": "linear"},
            "training": {"steps": 2, "accelerator": "cpu"},
        }
        for split in SPLITS:
            for name in "abl":
                self.raster(f"{split}_{name}.tif", self.pixels(split, name))

    @property
    def manifest(self) -> Path:
        return self.folder / "dataset.yaml"

    def modality(self, name: str = "a") -> dict[str, Any]:
        """Keys of a modality in the manifest."""
        return self.values["modalities"][name]  # type: ignore[no-any-return]

    def entry(self, id: str = "train") -> dict[str, Any]:
        """Keys of a scene in the manifest."""
        return next(item for item in self.values["scenes"] if item["id"] == id)  # type: ignore[no-any-return]

    def pixels(self, split: str = "train", name: str = "a") -> np.ndarray:
        """Sound pixels of a modality, or of the labels ("l")."""
        rng = np.random.default_rng([SPLITS.index(split), *name.encode()])
        if name == "l":
            return rng.integers(0, 2, (1, SIDE, SIDE)).astype(np.uint8)
        if name == "b":
            return rng.normal(-10, 3, (1, SIDE, SIDE)).astype(np.float32)
        return rng.integers(10, 200, (2, SIDE, SIDE)).astype(np.uint8)

    def raster(self, name: str, array: np.ndarray, **options: Any) -> Path:
        """Write a raster where the split that its name begins with lies."""
        east = 500_000 + 10_000 * SPLITS.index(name.split("_")[0])
        place = {"transform": from_origin(east, 5_000_000, 10, 10)}
        return self.make_raster(self.folder / name, array, **place | options)

    def add(self, name: str, pixels: Callable[[str], np.ndarray], **keys: Any) -> None:
        """Add a modality to every scene: its pixels by split, and its keys in the manifest."""
        self.values["modalities"][name] = keys
        for entry in self.values["scenes"]:
            entry[name] = f"{entry['id']}_{name}.tif"
            self.raster(entry[name], pixels(entry["id"]))

    def write(self) -> None:
        self.manifest.write_text(yaml.safe_dump(self.values, sort_keys=False))
        (self.folder / "run.yaml").write_text(yaml.safe_dump(self.run, sort_keys=False))

    def load(self) -> Manifest:
        self.write()
        return load_manifest(self.manifest)

    def config(self) -> RunConfig:
        self.write()
        return load_run_config(self.folder / "run.yaml")

    def open(self, id: str = "train") -> Scene:
        return self.load().scene(id)

    def read(self, id: str = "train") -> dict[str, np.ndarray]:
        """All of a scene: its images, and "labels"."""
        scene = self.open(id)
        sample = scene.read(scene.full_window)
        images = {name: image.numpy() for name, image in sample.images.items()}
        return images if sample.labels is None else images | {"labels": sample.labels.numpy()}

    def check(self, **how: Any) -> list[Finding]:
        """Findings of the doctor."""
        return check_manifest(self.load(), workers=1, **how)

    def codes(self, **how: Any) -> set[str]:
        return {finding.code for finding in self.check(**how)}


@pytest.fixture
def place(tmp_path: Path, make_raster: Callable[..., Path]) -> Place:
    return Place(tmp_path, make_raster)
