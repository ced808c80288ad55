"""A data set and a method small enough that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin
from torch import nn

from terrafuse import methods
from terrafuse.backbones import Backbone
from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput

SIZE = 48


class TinyBackbone(Backbone):
    """One convolution with batch norm."""

    channels = (8,)
    strides = (1,)
    stride = 1

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, image: Any) -> list[Any]:
        return [self.body(image).relu()]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


class Tiny(Segmenter):
    """Stacks its modalities; batch norm and dropout make exact resuming worth a test."""

    def __init__(
        self, modalities: Sequence[Modality], num_classes: int, *, dropout: float = 0.5
    ) -> None:
        super().__init__(modalities, num_classes)
        self.backbone = TinyBackbone(sum(len(m.bands) for m in modalities))
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(8, num_classes, 1))
        self.stride = 1

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        import torch

        stacked = torch.cat([inputs.images[m.name] for m in self.modalities], dim=1)
        return SegmenterOutput(self.head(self.backbone(stacked)[0]))


@pytest.fixture(autouse=True)
def tiny_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """`method: {name: tiny}`."""
    monkeypatch.setitem(methods.METHODS, "tiny", Tiny)  # type: ignore[arg-type]


@pytest.fixture
def make_dataset(tmp_path: Path, make_raster: Callable[..., Path]) -> Callable[..., Path]:
    """Function that writes scenes of two modalities that tell two classes apart."""

    def write(splits: Sequence[str] = ("train", "train", "val"), **changes: Any) -> Path:
        folder = tmp_path / "data"
        scenes = []
        for i, split in enumerate(splits):
            rng = np.random.default_rng(i)
            labels = rng.integers(0, 2, (6, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            noise = rng.normal(0, 1, (3, SIZE, SIZE))
            images = {"a": labels + noise[:2] + 10, "b": 3 * labels - noise[2:]}
            place = {"transform": from_origin(500_000 + 10_000 * i, 5_000_000, 10, 10)}
            for name, image in images.items():
                make_raster(folder / f"{name}{i}.tif", image.astype(np.float32), **place)
            make_raster(folder / f"labels{i}.tif", labels[None], **place)
            files = {name: f"{name}{i}.tif" for name in ("a", "b", "labels")}
            scenes.append({"id": f"scene{i}", "split": split, **files})
        manifest = {
            "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
            "modalities": {
                "a": {"kind": "optical", "bands": ["red", "nir"]},
                "b": {"kind": "sar", "bands": ["vv"]},
            },
            "scenes": scenes,
        }
        path = folder / "dataset.yaml"
        path.write_text(yaml.safe_dump(manifest | changes, sort_keys=False))
        return path

    return write


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    """Function that gives settings for 8 steps; keyword arguments replace whole sections' keys."""

    def create(manifest: Path, **sections: Mapping[str, Any]) -> RunConfig:
        values: dict[str, dict[str, Any]] = {
            "data": {"manifest": manifest, "crop_size": 16, "batch_size": 2, "workers": 0},
            "method": {"name": "tiny"},
            "training": {"steps": 8, "lr": 0.01, "validate_every": 4, "accelerator": "cpu"},
            "prediction": {"crop_size": 48, "overlap": 0},
        }
        for name, changes in sections.items():
            values.setdefault(name, {}).update(changes)
        return parse_settings(RunConfig, values, "run.yaml")

    return create
