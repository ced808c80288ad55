"""Rasters made up for the examples of the documentation, and settings that cut their training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

#: A fenced block of a page: language, text.
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

#: Cuts training; by verb, appended to its words.
SMALL = [
    "data.crop_size=32", "data.batch_size=2", "data.workers=0", "training.steps=2",
]  # fmt: skip
TINY = [
    "method.backbone=resnet10t", "method.backbone_options={strides: [2, 4, 8, 16]}",
    "prediction.crop_size=256", "prediction.overlap=0", "training.validate_every=2",
]  # fmt: skip

TWO_SENSORS: dict[str, Any] = {
    "classes": [{"name": "field", "code": 1}, {"name": "water", "code": 2}],
    "modalities": {
        "s1": {"kind": "sar", "bands": ["VV", "VH"], "unit": "db"},
        "s2": {"kind": "optical", "bands": ["blue", "green", "red", "nir"]},
    },
    "scenes": [
        {"id": id, "split": split, "s1": f"s1/{id}.tif", "s2": f"s2/{id}.tif",
         "labels": f"labels/{id}.tif"}
        for id, split in (("a", "train"), ("b", "train"), ("v", "val"), ("north", "test"))
    ],
}  # fmt: skip


def codes_of(values: Mapping[str, Any]) -> list[int]:
    codes: list[int] = []
    for i, item in enumerate(values["classes"]):
        code = item.get("code", i)
        codes += code if isinstance(code, list) else [code]
    return codes


def write(path: Path, array: np.ndarray, left: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=array.dtype,
        crs="EPSG:32633", transform=from_origin(left, 5_000_000, 10, 10),
        photometric="RGB" if count == 3 else "MINISBLACK",
    ) as dataset:  # fmt: skip
        dataset.write(array)


def make_rasters(
    folder: Path, values: Mapping[str, Any], height: int = 96, width: int = 96
) -> None:
    """Rasters of a manifest's scenes, apart from each other: classes in blocks, bands by class."""
    codes = codes_of(values)
    for n, scene in enumerate(values["scenes"]):
        rng = np.random.default_rng(n)
        left = 400_000 + 40_000 * n
        blocks = rng.integers(0, len(codes), (-(-height // 16), -(-width // 16)))
        index = np.kron(blocks, np.ones((16, 16), int))[:height, :width]
        if "labels" in scene:
            labels = np.array(codes, np.uint8)[index]
            write(folder / scene["labels"], labels[None], left)
        for name, item in values["modalities"].items():
            files = scene.get(name, [])
            files = [files] if isinstance(files, str) else files
            per_file = len(item["bands"]) // max(1, len(files))
            for k, file in enumerate(files):
                shape = (per_file, height, width)
                if item.get("kind") == "sar":
                    image = -12 + 2 * index + rng.normal(0, 1.5, shape) - k
                    image = image.astype(np.float32)
                else:
                    image = 400 + 250 * index + 60 * np.arange(per_file)[:, None, None]
                    image = (image + rng.normal(0, 120, shape)).clip(1).astype(np.uint16)
                write(folder / file, image, left)


def shrunk(words: Sequence[str], *, tiny: bool = True) -> list[str]:
    """The command with little training.

    Args:
        tiny: Whether TINY holds for its run file.
    """
    verb = words[1]
    if verb == "pretrain":
        settings = ["data.crop_size=64", "data.batch_size=4", "data.workers=0",
                    "training.steps=2", "training.warmup_steps=0"]  # fmt: skip
    elif verb in ("train", "sweep"):
        settings = [*SMALL, *(TINY if tiny else ())]
    else:
        return list(words)
    return [*words, *(part for setting in settings for part in ("-s", setting))]
