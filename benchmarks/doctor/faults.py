"""Faults as they happen to data, each put into a sound data set of its own.

Every fault is a function that changes the files of a synthetic landscape, and what the doctor has
to say of it: codes of findings, the scene, the modality. `CATALOGUE` lists them.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from faulty_data import OTHER, SCENE, Array, Catalogue, DataSet, disc, rewrite
from scipy import ndimage

CATALOGUE = Catalogue()
fault = CATALOGUE.add


# Files


@fault("download cut off after two thirds", "unreadable")
def _(data: DataSet) -> None:
    path = data.raster("dsm")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@fault("file of 0 bytes", "unreadable", modality="sar")
def _(data: DataSet) -> None:
    data.raster("sar").write_bytes(b"")


@fault("Git LFS pointer in place of the raster", "unreadable", modality="optical")
def _(data: DataSet) -> None:
    data.raster("optical").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    )


@fault("login page saved as .tif", "unreadable", modality="labels")
def _(data: DataSet) -> None:
    data.raster("labels").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")


# Structure


@fault("CRS tag of the neighbouring UTM zone", "grid")
def _(data: DataSet) -> None:
    rewrite(data.raster("sar"), lambda x: x, crs="EPSG:32632")


@fault("raster of another scene", "grid")
def _(data: DataSet) -> None:
    shutil.copy(data.raster("dsm", OTHER), data.raster("dsm"))


@fault("transform with twice the pixel size", "pixel-size", modality="dsm")
def _(data: DataSet) -> None:
    path = data.raster("dsm")
    with rasterio.open(path) as dataset:
        transform = dataset.transform * Affine.scale(2)
    rewrite(path, lambda x: x, transform=transform)


@fault("a raster that covers a third of the scene", "coverage", modality="sar")
def _(data: DataSet) -> None:
    rewrite(data.raster("sar"), lambda x: x[:, : x.shape[1] // 3])


@fault("a band is missing from the file", "bands")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: x[:3])


# Registration


@fault("SAR shifted by 5 and 3 of its pixels", "registration", modality="sar")
def _(data: DataSet) -> None:
    rewrite(data.raster("sar"), lambda x: np.roll(x, (5, 3), (1, 2)))


@fault("labels shifted by 6 px", "registration", modality="labels")
def _(data: DataSet) -> None:
    rewrite(data.raster("labels"), lambda x: np.roll(x, (6, -6), (1, 2)))


# Bands


@fault("near infrared stands first in the file", "band-order", modality="optical")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: x[[3, 2, 1, 0]])


@fault("red written twice, once in place of green", "identical-bands", modality="optical")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: x[[0, 2, 2, 3]])


@fault("a band is constant", "constant-in-scene", "constant-band", modality="optical")
def _(data: DataSet) -> None:
    def level(x: Array) -> Array:
        x[1] = 900
        return x

    rewrite(data.raster("optical"), level)


@fault("optical clipped at half its brightness", "saturated", modality="optical")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: np.minimum(x, np.median(x[3])).astype(x.dtype))


# Scales


@fault("one scene in 0–10000, the others in 0–1", "mixed-scale", modality="optical")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: x, keep_scale=False)


@fault("one scene stretched to 8 bits", "mixed-scale", modality="optical")
def _(data: DataSet) -> None:
    def stretch(x: Array) -> Array:
        low, high = np.percentile(x[x > 0], (2, 98))
        return np.clip((x - low) / (high - low) * 254 + 1, 1, 255).astype(np.uint8)

    rewrite(data.raster("optical"), stretch, keep_scale=False)


@fault("offset of 1000 of newer Sentinel-2 products in one scene", "offset", modality="optical")
def _(data: DataSet) -> None:
    rewrite(data.raster("optical"), lambda x: np.where(x > 0, x + 1000, 0).astype(x.dtype))


@fault("one SAR scene linear, the others in dB", "mixed-scale", modality="sar")
def _(data: DataSet) -> None:
    rewrite(data.raster("sar"), lambda x: (10 ** (x / 10)).astype(x.dtype))


@fault("all SAR linear, manifest says dB", "unit", scene=None, modality="sar")
def _(data: DataSet) -> None:
    for path in sorted((data.folder / "sar").iterdir()):
        rewrite(path, lambda x: (10 ** (x / 10)).astype(x.dtype))


# No data


@fault("black border that the nodata tag does not tell", "undeclared-nodata", modality="optical")
def _(data: DataSet) -> None:
    def blacken(x: Array) -> Array:
        rows, cols = np.ogrid[: x.shape[1], : x.shape[2]]
        outside = rows + 0.3 * cols < x.shape[1] // 4  # as of a swath that ends here
        return np.where(outside, 0, x).astype(x.dtype)

    for path in sorted((data.folder / "optical").iterdir()):
        rewrite(path, lambda x: x, nodata=None)
    rewrite(data.raster("optical"), blacken, nodata=None)
    data.edit(lambda values: values["modalities"]["optical"].pop("nodata"))


@fault("fill of 65535 where the manifest says nodata 0", "undeclared-nodata", modality="optical")
def _(data: DataSet) -> None:
    def fill(x: Array) -> Array:
        x[:, :, :12] = 65535
        return x

    rewrite(data.raster("optical"), fill)


@fault("NaN beside a nodata tag of 0", "nan-beside-nodata", modality="sar")
def _(data: DataSet) -> None:
    def punch(x: Array) -> Array:
        x[:, disc(x.shape, data.rng, 9)] = np.nan
        return x

    rewrite(data.raster("sar"), punch, nodata=0)


# Elevation


@fault("holes of −9999 without a nodata tag", "elevation-fill", modality="dsm")
def _(data: DataSet) -> None:
    rewrite(data.raster("dsm"), lambda x: np.where(disc(x.shape, data.rng, 8), -9999, x))


@fault("holes filled with 0", "elevation-holes", modality="dsm")
def _(data: DataSet) -> None:
    rewrite(
        data.raster("dsm"), lambda x: np.where(disc(x.shape, data.rng, 8), 0, x).astype(x.dtype)
    )


@fault("spike of a bird or a crane", "elevation-outlier", modality="dsm")
def _(data: DataSet) -> None:
    rewrite(data.raster("dsm"), lambda x: np.where(disc(x.shape, data.rng, 2), x + 900, x))


@fault("heights stretched to 8 bits", "elevation-8bit", modality="dsm")
def _(data: DataSet) -> None:
    def stretch(x: Array) -> Array:
        return ((x - x.min()) / np.ptp(x) * 255).astype(np.uint8)

    rewrite(data.raster("dsm"), stretch)


# Labels and splits


@fault("a code that is no class", "labels")
def _(data: DataSet) -> None:
    rewrite(
        data.raster("labels"),
        lambda x: np.where(disc(x.shape, data.rng, 9), 17, x).astype(np.uint8),
    )


@fault("labels resized with interpolation", "labels")
def _(data: DataSet) -> None:
    def spread(values: dict[str, Any]) -> None:
        for item in values["classes"]:
            item["code"] = 10 * item["code"]

    for path in sorted((data.folder / "labels").iterdir()):
        rewrite(path, lambda x: np.where(x == 255, 255, 10 * x.astype(int)).astype(np.uint8))
    data.edit(spread)
    rewrite(
        data.raster("labels"),
        lambda x: ndimage.zoom(ndimage.zoom(x, (1, 0.5, 0.5), order=1), (1, 2, 2), order=1),
    )


@fault("a class that is nowhere in training", "class-missing", scene=None)
def _(data: DataSet) -> None:
    for number in (1, 2, 3):
        path = data.raster("labels", f"train_{number}")
        rewrite(path, lambda x: np.where(x == 4, 255, x).astype(np.uint8))


@fault("label rasters unpacked over the images", "labels-over-image", modality="picture")
def _(data: DataSet) -> None:
    colors = data.rng.integers(0, 256, (256, 3), dtype=np.uint8)

    def picture(values: dict[str, Any]) -> None:
        values["modalities"]["picture"] = {"kind": "optical", "bands": ["r", "g", "b"]}
        for scene in values["scenes"]:
            with rasterio.open(data.folder / scene["optical"]) as dataset:
                x, profile = dataset.read([3, 2, 1]), dataset.profile
            path = data.folder / "picture" / f"{scene['id']}.tif"
            path.parent.mkdir(exist_ok=True)
            if scene["id"] == SCENE:
                with rasterio.open(data.folder / scene["labels"]) as dataset:
                    x = np.moveaxis(colors[dataset.read(1)], -1, 0)
            profile.update(count=3, dtype="uint8", nodata=None)
            with rasterio.open(path, "w", **profile) as dataset:
                dataset.write(np.minimum(x // 16, 255).astype(np.uint8))
            scene["picture"] = f"picture/{scene['id']}.tif"

    data.edit(picture)


@fault("labels among the inputs", "labels-as-input", modality="old_map")
def _(data: DataSet) -> None:
    def add(values: dict[str, Any]) -> None:
        values["modalities"]["old_map"] = {"kind": "structure", "bands": ["code"]}
        for scene in values["scenes"]:
            path = data.folder / "old_map" / f"{scene['id']}.tif"
            path.parent.mkdir(exist_ok=True)
            shutil.copy(data.folder / scene["labels"], path)
            rewrite(path, lambda x: (3 * x.astype(np.uint16) + 7).astype(np.uint16), nodata=None)
            scene["old_map"] = f"old_map/{scene['id']}.tif"

    data.edit(add)


@fault("training and test show the same ground", "split-overlap", scene=None)
def _(data: DataSet) -> None:
    def overlap(values: dict[str, Any]) -> None:
        one = next(scene for scene in values["scenes"] if scene["id"] == SCENE)
        values["scenes"].append(one | {"id": "more", "split": "test", "window": [64, 64, 96, 96]})

    data.edit(overlap)


@fault("a training scene again in test, moved", "leak", scene=None)
def _(data: DataSet) -> None:
    for name in ("optical", "sar", "dsm", "labels"):
        with rasterio.open(data.raster(name, "test_1")) as dataset:
            transform = dataset.transform
        path = data.raster(name, "test_1")
        shutil.copy(data.raster(name, OTHER), path)
        rewrite(path, lambda x: x, transform=transform)
