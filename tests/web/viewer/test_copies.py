"""Rasters as the page reads them: what is served as it lies, and what is copied how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling

from terrafuse.data import Grid
from terrafuse.data.raster_file import inspect_raster
from terrafuse.samples import Window
from terrafuse.web.viewer import copies
from terrafuse.web.viewer.copies import (
    class_encoding,
    float_encoding,
    read_small,
    suits,
    thin_out,
    write_copy,
)

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def grid_of(height: int, width: int) -> Grid:
    return Grid(CRS.from_epsg(32633), TRANSFORM, height, width)


@pytest.mark.parametrize(("height", "width", "bands"), [(5, 7, 1), (700, 1300, 3), (2049, 515, 1)])
def test_copies_hold_what_was_read(tmp_path: Path, height: int, width: int, bands: int) -> None:
    rng = np.random.default_rng(height)
    values = rng.normal(0, 1, (bands, height, width)).astype(np.float32)
    values[:, : height // 3, : width // 2] = np.nan
    seen: list[tuple[int, int]] = []

    def read(window: Window) -> NDArray[Any]:
        assert window.height <= 512
        return values[:, *window.slices()]

    path = tmp_path / "copy.tif"
    names = [f"b{n}" for n in range(bands)]
    write_copy(
        path, grid_of(height, width), float_encoding(bands), read,
        names=names, progress=lambda *at: seen.append(at),
    )  # fmt: skip
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), values, equal_nan=True)
        assert (dataset.crs, dataset.transform) == (CRS.from_epsg(32633), TRANSFORM)
        assert dataset.descriptions == tuple(names)
        halves = [2**n for n in range(1, 9) if max(height, width) > 512 * 2 ** (n - 1)]
        assert dataset.overviews(1) == halves
    assert seen[-1] == (height * width, height * width)
    assert seen == sorted(seen)
    served = suits(inspect_raster(path, "copy"), grid_of(height, width))
    assert served is not None
    assert (served.path, served.pixels) == (path, (1, 1))


def test_overviews_of_classes_have_the_most_frequent_one(tmp_path: Path) -> None:
    values = np.zeros((1, 514, 2), np.uint8)
    values[0, :2] = [[1, 2], [2, 7]]
    values[0, 2:4] = [[9, 9], [9, 3]]
    path = tmp_path / "copy.tif"
    write_copy(path, grid_of(514, 2), class_encoding(9), lambda window: values[:, *window.slices()])
    small, known = read_small(path, 257)
    assert small[0, :3, 0].tolist() == [2, 3, 0]
    assert known.all()


def as_it_is(path: Path, **options: Any) -> None:
    size = options.pop("size", 1100)
    height, width = size if isinstance(size, tuple) else (size, size)
    profile = {
        "driver": "GTiff", "count": 1, "dtype": "uint8", "height": height, "width": width,
        "crs": "EPSG:32633", "transform": TRANSFORM, "tiled": True, "compress": "DEFLATE",
    } | options  # fmt: skip
    halves = profile.pop("halves", [2])
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.ones((profile["count"], height, width), profile["dtype"]))
    if halves:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews(halves, Resampling.nearest)


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ({}, (1, 1)),
        ({"compress": "LZW", "predictor": 2}, (1, 1)),
        ({"count": 3, "interleave": "pixel", "photometric": "MINISBLACK"}, (1, 1)),
        ({"size": 550, "transform": TRANSFORM * Affine.scale(2), "halves": []}, (2, 2)),
        ({"size": (550, 1100), "transform": TRANSFORM * Affine.scale(1, 2)}, (2, 1)),
        ({"halves": []}, None),
        ({"halves": [2, 8]}, None),
        ({"compress": "JPEG"}, None),
        ({"tiled": False, "blockysize": 1}, None),
        ({"nbits": 4}, None),
        ({"dtype": "complex64", "predictor": 1}, None),
        ({"crs": "EPSG:32632"}, None),
        ({"transform": TRANSFORM * Affine.translation(1, 0)}, None),
        ({"transform": TRANSFORM * Affine.translation(0, 0.5)}, None),
        ({"transform": TRANSFORM * Affine.rotation(1)}, None),
        ({"size": 1050}, None),
        ({"size": (1100, 1101)}, None),
    ],
)
def test_what_is_served_as_it_lies(
    tmp_path: Path, options: dict[str, Any], pixels: tuple[float, float] | None
) -> None:
    path = tmp_path / "raster.tif"
    as_it_is(path, **options)
    served = suits(inspect_raster(path, "raster"), grid_of(1100, 1100))
    assert (served and served.pixels) == pixels


def test_masks_and_overviews_beside_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "raster.tif"
    as_it_is(path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.tri(1100, dtype=np.uint8) * 255)
    assert suits(inspect_raster(path, "raster"), grid_of(1100, 1100)) is None
    as_it_is(path)
    path.with_name("raster.tif.ovr").touch()
    assert suits(inspect_raster(path, "raster"), grid_of(1100, 1100)) is None


def test_old_copies_make_room(tmp_path: Path) -> None:
    for n, name in enumerate(("old", "rested", "new")):
        file = tmp_path / f"{name}.tif"
        file.write_bytes(b"0" * 10)
        os.utime(file, (1_000_000 * n, 1_000_000 * n))
    (tmp_path / "other.txt").write_bytes(b"0" * 100)
    thin_out(tmp_path, most=15, now=2_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.tif", "other.txt"]
    for name in ("old", "rested"):
        (tmp_path / f"{name}.tif").write_bytes(b"0" * 10)
    thin_out(tmp_path, most=15, now=None)  # all were used today but one
    assert (tmp_path / "old.tif").exists()


def test_copies_go_to_the_first_folder_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    store = copies.Store(tmp_path / "file", tmp_path / "data")
    assert store.folder == tmp_path / "data" / ".terrafuse" / "view"
    assert (tmp_path / "data" / ".terrafuse" / ".gitignore").read_text() == "*\n"
    assert copies.Store(tmp_path / "file").folder == tmp_path / "cache" / "terrafuse" / "view"
