"""Class maps on disk, made of arrays."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.prediction.class_values import ABSTAINED_TAG, NAMES_TAG, VALUES_TAG

UTM = "EPSG:32633"
TEN_M = Affine(10, 0, 500_000, 0, -10, 5_000_000)
NAMES = ("sea", "wet land", "ice")


def write_map(
    path: Path,
    classes: Any,
    *,
    names: tuple[str, ...] = NAMES,
    values: tuple[int, ...] | None = None,
    crs: Any = UTM,
    transform: Affine = TEN_M,
    confidence: Any = None,
    tags: bool = True,
    abstained: int | None = None,
    **profile: Any,
) -> Path:
    """Write a map of classes as ours are; `confidence` in levels of 1/254 goes beside it."""
    array = np.asarray(classes)
    array = array.astype(profile.pop("dtype", np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"nodata": 255, "crs": crs, "transform": transform, **profile}
    _write(path, array, profile, names if tags else (), values or tuple(range(len(names))))
    if abstained is not None:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**{ABSTAINED_TAG: str(abstained)})
    if confidence is not None:
        beside = path.with_name("confidence.tif")
        _write(beside, np.asarray(confidence, np.uint8), profile | {"nodata": 255}, (), ())
        with rasterio.open(beside, "r+") as dataset:
            dataset.scales = (1 / 254,)
    return path


def _write(
    path: Path,
    array: NDArray[Any],
    profile: dict[str, Any],
    names: tuple[str, ...],
    values: tuple[int, ...],
) -> None:
    height, width = array.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=1, dtype=array.dtype,
            **profile,
        ) as dataset:  # fmt: skip
            dataset.write(array, 1)
            if names:
                dataset.update_tags(
                    **{NAMES_TAG: json.dumps(names), VALUES_TAG: json.dumps(values)}
                )
