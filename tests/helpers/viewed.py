"""A scene in any grid, and a map of it, for the viewer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

import made_maps
from made_maps import NAMES, TEN_M, UTM

SIDE = 192
#: Name → CRS and transform.
GRIDS: dict[str, tuple[str | None, Affine]] = {
    "utm": (UTM, TEN_M),
    "degrees": ("EPSG:4326", Affine(1e-4, 0, 179.99, 0, -1e-4, -16.2)),
    "rotated": (
        "EPSG:3035",
        Affine.translation(4_321_000, 3_210_000) * Affine.rotation(30) * Affine.scale(5, -5),
    ),
    "none": (None, Affine.identity()),
}


def write(
    path: Path, values: NDArray[Any], grid: str, *, pixels: float = 1, **options: Any
) -> None:
    """Write a raster (C, h, w) on a grid, with pixels of so many of its own."""
    crs, transform = GRIDS[grid]
    tags, scales = options.pop("tags", {}), options.pop("scales", None)
    names = options.pop("names", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver=options.pop("driver", "GTiff"), count=len(values),
            height=values.shape[1], width=values.shape[2], dtype=values.dtype, crs=crs,
            transform=transform * Affine.scale(pixels), **options,
        ) as file:  # fmt: skip
            file.write(values)
            file.update_tags(**tags)
            if scales:
                file.scales = scales
            if names:
                file.descriptions = names


def make_scene(folder: Path, grid: str = "utm") -> Path:
    """Write a data set of one scene "a": photo, radar and heights of other pixels; its manifest.

    The photo is stored in numbers of 1/100, the radar has pixels of two, and the heights lie in
    strips of bytes.
    """
    rng = np.random.default_rng(3)
    truth = np.kron(rng.integers(0, 3, (6, 6)), np.ones((32, 32))).astype(np.uint8)
    photo = (500 + 100 * truth.astype(int) + rng.integers(1, 50, (4, SIDE, SIDE))).astype(np.uint16)
    photo[:, :7, :9] = 0
    radar = rng.normal(-12, 2, (1, SIDE // 2, SIDE // 2)).astype(np.float32)
    radar[0, 3:5, 4:9] = np.nan
    heights = rng.integers(0, 255, (1, SIDE, SIDE)).astype(np.uint8)
    write(folder / "photo.tif", photo, grid, nodata=0, scales=(0.01,) * 4)
    write(folder / "radar.tif", radar, grid, pixels=2)
    write(folder / "heights.png", heights, grid, driver="PNG", nodata=0)
    write(folder / "labels.tif", truth[None] * 10, grid, nodata=255)
    manifest = {
        "classes": [{"name": name, "code": 10 * k} for k, name in enumerate(NAMES)],
        "modalities": {
            "photo": {"kind": "optical", "bands": ["blue", "green", "red", "nir"]},
            "radar": {"kind": "sar", "bands": ["vv"], "unit": "db", "scale": 2},
            "heights": {"kind": "elevation", "bands": ["h"], "unit": "m"},
        },
        "grid": "photo",
        "scenes": [
            {"id": "a", "split": "test", "photo": "photo.tif", "radar": "radar.tif",
             "heights": "heights.png", "labels": "labels.tif"},
        ],
    }  # fmt: skip
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


def write_map(
    folder: Path, classes: NDArray[Any], grid: str = "utm", **products: NDArray[Any]
) -> Path:
    """Write a map as ours are: indices of classes, other products in levels."""
    crs, transform = GRIDS[grid]
    made_maps.write_map(
        folder / "class_map.tif", classes, crs=crs, transform=transform,
        confidence=products.pop("confidence", None),
    )  # fmt: skip
    for name, values in products.items():
        own: dict[str, Any] = {"nodata": 255}
        if name == "attribution":
            names = {0: "none alone", 1: "photo", 2: "radar"}
            own["tags"] = {"modalities": json.dumps(names)}
        else:
            own["scales"] = (1 / 254,)
        write(folder / f"{name}.tif", values[None].astype(np.uint8), grid, **own)
    return folder
