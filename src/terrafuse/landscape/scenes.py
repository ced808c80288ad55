"""The synthetic place as files: GeoTIFFs and their manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from terrafuse.data.manifest import write_manifest
from terrafuse.errors import ConfigError, OutputError
from terrafuse.landscape.surfaces import PIXEL_M, VOID, class_codes, class_scheme

CRS = "EPSG:32633"
MIN_SIZE = 64
MARGIN = 9  # odd, so that the SAR pixels of twice the size begin one pixel outside the scene
MODALITIES: dict[str, dict[str, Any]] = {
    "optical": {
        "kind": "optical",
        "bands": ["blue", "green", "red", "nir"],
        "wavelengths_um": [0.49, 0.56, 0.665, 0.842],
        "unit": "reflectance",
        "nodata": 0,
    },
    "sar": {"kind": "sar", "bands": ["VV", "VH"], "unit": "db", "scale": 2.0},
    "dsm": {"kind": "elevation", "bands": ["height"], "unit": "m"},
}


@dataclass(frozen=True)
class Rasters:
    """One scene before it is written; all arrays (C, H, W).

    Args:
        optical: Uint16 reflectance × 10000, 0 = no data.
        sar: Float32 VV and VH in dB; pixels twice as large, shifted by half a pixel.
        dsm: Float32 height in metres.
        labels: Uint8 class codes, 255 = void.
    """

    optical: NDArray[np.uint16]
    sar: NDArray[np.float32]
    dsm: NDArray[np.float32]
    labels: NDArray[np.uint8]


def make_landscape(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 512,
    train: int = 4,
    val: int = 1,
    test: int = 2,
    synergy: bool = False,
) -> Path:
    """Write scenes and the manifest of a synthetic place; `terrafuse.landscape` describes it.

    Args:
        folder: Output folder; created if needed. Files of an earlier landscape are replaced.
        seed: The same seed gives the same scenes, however many there are of another split.
        size: Height and width of the optical image in pixels of 10 m, at least 64.
        train: Number of training scenes.
        val: Number of validation scenes.
        test: Number of test scenes.
        synergy: Add two classes, wheat and rape, which only colour and backscatter together
            separate. They take most of the fields; the rest of the place does not change.

    Returns:
        The path of `dataset.yaml`.

    Raises:
        ConfigError: The size is too small, or a number is negative.
        OutputError: The folder is not writable.
    """
    if size < MIN_SIZE:
        raise ConfigError(f"a landscape of {size} pixels is too small; use {MIN_SIZE} or more")
    counts = {"train": train, "val": val, "test": test}
    if min(seed, *counts.values()) < 0 or not any(counts.values()):
        raise ConfigError(f"seed {seed} and {counts} scenes: none may be negative, nor all 0")
    scenes = []
    try:
        for part, (split, count) in enumerate(counts.items()):
            for number in range(count):
                rng = np.random.default_rng([seed, part, number])
                rasters = make_rasters(rng, size, blank_clouds=number % 2 == 1, synergy=synergy)
                corner = (400_000 + 8_000 * number, 5_300_000 - 8_000 * part)
                paths = _write(folder, f"{split}_{number + 1}", rasters, corner)
                scenes.append({"id": f"{split}_{number + 1}", "split": split} | paths)
        scheme = class_scheme(synergy=synergy)
        values = scheme.to_dict() | {"modalities": MODALITIES, "grid": "optical"}
        write_manifest(values | {"scenes": scenes}, folder / "dataset.yaml")
    except (OSError, RasterioError) as error:
        raise OutputError(f"the landscape cannot be written to '{folder}': {error}") from error
    return folder / "dataset.yaml"


def make_rasters(
    rng: np.random.Generator, size: int, *, blank_clouds: bool, synergy: bool = False
) -> Rasters:
    """Render one place as all sensors see it.

    Args:
        size: H = W of the optical image, in pixels.
        blank_clouds: Whether thick cloud becomes nodata.
        synergy: Add the classes that `make_landscape` describes.
    """
    # Parts of scipy that nothing else in this package needs take a second to import.
    from terrafuse.landscape.cover import make_cover
    from terrafuse.landscape.ground import make_ground
    from terrafuse.landscape.sensors import make_sky, see_optical, see_radar, see_surface

    ground = make_ground(rng, size + 2 * MARGIN)
    cover = make_cover(rng, ground, synergy=synergy)
    sky = make_sky(rng, size + 2 * MARGIN, share=rng.uniform(0.07, 0.2))
    optical = see_optical(rng, ground, cover, sky, blank_clouds=blank_clouds)
    inner = slice(MARGIN, MARGIN + size)
    first = (MARGIN - 1) // 2
    coarse = slice(first, first + size // 2 + 1)
    return Rasters(
        optical=optical[:, inner, inner],
        sar=see_radar(rng, ground, cover)[:, coarse, coarse],
        dsm=see_surface(rng, ground, cover)[:, inner, inner],
        labels=class_codes()[cover.surface][None, inner, inner],
    )


def _write(
    folder: Path, scene_id: str, rasters: Rasters, corner: tuple[float, float]
) -> dict[str, str]:
    west, north = corner
    fine = Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north)
    coarse = Affine(2 * PIXEL_M, 0, west - PIXEL_M, 0, -2 * PIXEL_M, north + PIXEL_M)
    paths = {}
    for name, transform, nodata in (
        ("optical", fine, 0),
        ("sar", coarse, None),
        ("dsm", fine, None),
        ("labels", fine, VOID),
    ):
        paths[name] = f"{name}/{scene_id}.tif"
        bands = MODALITIES[name]["bands"] if name in MODALITIES else ["class"]
        _write_raster(folder / paths[name], getattr(rasters, name), transform, nodata, bands)
    return paths


def _write_raster(
    path: Path, array: NDArray[Any], transform: Affine, nodata: int | None, bands: list[str]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=array.dtype,
        crs=CRS, transform=transform, nodata=nodata, tiled=True, blockxsize=256, blockysize=256,
        compress="deflate", zlevel=1, predictor=3 if array.dtype.kind == "f" else 2,
    ) as dataset:  # fmt: skip
        dataset.write(array)
        dataset.descriptions = tuple(bands)
        if array.dtype == np.uint16:
            dataset.scales = (1e-4,) * count
