"""GDAL's names of what lies inside a file are taken wherever a path is."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
import yaml

from terrafuse.api import data_check, data_split
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.data.names import (
    absolute_name,
    gdal_path,
    is_part,
    is_remote,
    local_file,
    moved_name,
    with_option,
)
from terrafuse.data.polygons import is_vector
from terrafuse.errors import RasterReadError
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
# Two bands that no flip or exchange leaves equal.
TWO = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
LABELS = (np.arange(48).reshape(1, 6, 8) % 3 == 0).astype(np.uint8)


@pytest.fixture
def folder(make_raster: MakeRaster, tmp_path: Path) -> Path:
    """`data/` with the second band of TWO in containers, archives and as a page."""
    data = tmp_path / "data"
    make_raster(data / "two.tif", TWO)
    make_raster(data / "b.tif", TWO[1:])
    make_raster(data / "l.tif", LABELS)
    rasterio.shutil.copy(data / "two.tif", data / "c.nc", driver="netCDF")
    rasterio.shutil.copy(data / "b.tif", data / "c.zarr", driver="Zarr")
    make_raster(data / "pages.tif", TWO[:1])
    make_raster(data / "pages.tif", TWO[1:], APPEND_SUBDATASET="YES")
    with zipfile.ZipFile(data / "z.zip", "w") as archive:
        archive.write(data / "b.tif", "in/b.tif")
        archive.write(data / "c.nc", "c.nc")
    with tarfile.open(data / "t.tar", "w") as archive:
        archive.add(data / "b.tif", "b.tif")
    return data


# {} is where the data lie.
NAMES = {
    "netcdf": "NETCDF:{}c.nc:Band2",
    "netcdf in quotes": 'NETCDF:"{}c.nc":Band2',
    "small letters": "netcdf:{}c.nc:Band2",
    "page": "GTIFF_DIR:2:{}pages.tif",
    "zarr": 'ZARR:"{}c.zarr":/c',
    "vsizip": "/vsizip/{}z.zip/in/b.tif",
    "vsizip in braces": "/vsizip/{{{}z.zip}}/in/b.tif",
    "vsitar": "/vsitar/{}t.tar/b.tif",
    "zip url": "zip://{}z.zip!in/b.tif",
    "zip url with a stroke": "zip://{}z.zip!/in/b.tif",
    "netcdf in an archive": "NETCDF:/vsizip/{}z.zip/c.nc:Band2",
    "vrt url": "vrt://{}two.tif?bands=2",
}


def write_manifest(folder: Path, image: str, labels: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "dataset.yaml"
    values = {
        "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
        "modalities": {"m": {"bands": ["x"]}},
        "scenes": [{"id": "s", "split": "train", "m": image, "labels": labels}],
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("start", ["relative", "absolute"])
@pytest.mark.parametrize("kind", NAMES)
def test_names_work_in_a_manifest(folder: Path, tmp_path: Path, kind: str, start: str) -> None:
    place = "../data/" if start == "relative" else f"{folder}/"
    path = write_manifest(tmp_path / "lists", NAMES[kind].format(place), f"{place}l.tif")
    manifest = load_manifest(path)
    scene = manifest.scene("s")
    sample = scene.read(scene.full_window)
    np.testing.assert_array_equal(sample.images["m"][0], TWO[1])
    # What holds it is the file that is told of.
    (file,) = scene.paths()["m"]
    assert file.exists()
    assert file.parent.resolve() == folder
    assert manifest.local_files(manifest.entries[0])["m"] == (file,)
    assert not [f for f in data_check(path) if f.severity == "error"]


@pytest.mark.parametrize("kind", NAMES)
def test_names_work_from_python_and_are_relative_to_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(folder.parent)
    scene = scene_from_rasters([Modality("m", ("x",))], {"m": NAMES[kind].format("data/")})
    np.testing.assert_array_equal(scene.read(scene.full_window).images["m"][0], TWO[1])


@pytest.mark.parametrize("kind", NAMES)
def test_split_writes_names_that_hold_from_another_folder(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    old, new = tmp_path, tmp_path / "deep" / "er"
    name = NAMES[kind].format("data/")
    moved = moved_name(name, old, new)
    assert absolute_name(moved, new).replace("deep/er/../../", "") == absolute_name(name, old)
    assert moved_name(NAMES[kind].format(f"{folder}/"), old, new) in (
        NAMES[kind].format(f"{folder}/"),
        gdal_path(NAMES[kind].format(f"{folder}/")),
    )


def test_split_in_another_folder_reads_the_same_pixels(
    make_raster: MakeRaster, folder: Path, tmp_path: Path
) -> None:
    path = write_manifest(tmp_path, "NETCDF:data/c.nc:Band2", "GTIFF_DIR:1:data/labels.tif")
    make_raster(folder / "labels.tif", LABELS)
    make_raster(folder / "labels.tif", LABELS, APPEND_SUBDATASET="YES")
    out = tmp_path / "new" / "split.yaml"
    out.parent.mkdir()
    data_split(path, out, shares={"train": 0.5, "val": 0.5}, block_px=4, buffer_px=0)
    for scene in load_manifest(out).scenes():
        window = scene.full_window
        sample = scene.read(window)
        corner = ~rasterio.open(folder / "b.tif").transform * (
            scene.grid.transform.c, scene.grid.transform.f,
        )  # fmt: skip
        col, row = (round(v) for v in corner)
        part = (slice(row, row + window.height), slice(col, col + window.width))
        np.testing.assert_array_equal(sample.images["m"][0], TWO[1][part])
        np.testing.assert_array_equal(sample.labels, LABELS[0][part])


def test_the_parts_that_a_container_lists_can_be_named(folder: Path, tmp_path: Path) -> None:
    path = write_manifest(tmp_path, "data/c.nc", "data/l.tif")
    with pytest.raises(
        RasterReadError, match=r"holds no bands itself\. Name one of its parts"
    ) as e:
        load_manifest(path).scene("s")
    parts = str(e.value).rpartition("in its place: ")[2].split(", ")
    assert len(parts) == 2
    for part, band in zip(parts, TWO, strict=True):
        # As a person pastes it, unquoted, into a line.
        text = path.read_text().replace("data/c.nc", part)
        other = path.with_name("other.yaml")
        other.write_text(text)
        scene = load_manifest(other).scene("s")
        np.testing.assert_array_equal(scene.read(scene.full_window).images["m"][0], band)


def test_a_missing_file_is_named_with_what_names_it(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, "NETCDF:data/none.nc:v", "l.tif")
    with pytest.raises(RasterReadError, match=r"no file '.*/data/none.nc', which 'NETCDF:.*:v'"):
        load_manifest(path).scene("s")


def test_what_is_on_this_disk() -> None:
    assert [is_remote(name) for name in ("a.tif", "NETCDF:a.nc:v", "/vsizip/a.zip/b.tif")] == [
        False, False, False,
    ]  # fmt: skip
    far = (
        "https://x.org/a.tif", "s3://b/a.tif", "/vsicurl/https://x.org/a.tif", "/vsimem/a.tif",
        "zip+https://x.org/a.zip!b.tif", "/vsizip/vsicurl/https://x.org/a.zip/b.tif",
        'NETCDF:"https://x.org/a.nc":v', "NETCDF:/vsis3/b/a.nc:v", "/vsizip//vsis3/b/a.zip/c.tif",
    )  # fmt: skip
    for name in far:
        assert is_remote(name), name
        assert local_file(name) is None
        assert moved_name(name, Path("/a"), Path("/b")) == name
    assert (
        gdal_path("zip+https://x.org/a.zip!b.tif") == "/vsizip//vsicurl/https://x.org/a.zip/b.tif"
    )
    assert gdal_path("file:///a/b.tif") == "/a/b.tif"


def test_the_file_is_found_in_names_of_many_forms(tmp_path: Path) -> None:
    forms = {
        "SENTINEL2_L2A:S2/MTD.xml:10m:EPSG_32632": "S2/MTD.xml",
        "SENTINEL2_L2A:/vsizip/S2.zip/S2.SAFE/MTD.xml:10m:EPSG_32632": "S2.zip",
        'HDF5:"a.h5"://group/v': "a.h5",
        "HDF5:a.h5://group/v": "a.h5",
        'HDF4_EOS:EOS_GRID:"MOD.hdf":grid:field': "MOD.hdf",
        "SENTINEL1_CALIB:UNCALIB:S1.SAFE/manifest.safe:IW1_VH:AMPLITUDE": "S1.SAFE/manifest.safe",
        "DERIVED_SUBDATASET:AMPLITUDE:slc.tif": "slc.tif",
        "GTIFF_DIR:off:8:a.tif": "a.tif",
        "C:/a.tif": "C:/a.tif",
    }
    for name, file in forms.items():
        assert local_file(name) == Path(file), name
        assert is_part(name) == (name != file)
        assert absolute_name(name, tmp_path) == name.replace(file, f"{tmp_path / file}")


def test_a_colon_in_a_file_name_is_no_prefix(make_raster: MakeRaster, tmp_path: Path) -> None:
    make_raster(tmp_path / "tile:7.tif", TWO[:1])
    make_raster(tmp_path / "l.tif", LABELS)
    scene = load_manifest(write_manifest(tmp_path, "tile:7.tif", "l.tif")).scene("s")
    np.testing.assert_array_equal(scene.read(scene.full_window).images["m"][0], TWO[0])
    assert not is_part(os.fspath(tmp_path / "tile:7.tif"))


def test_rasters_and_vectors_are_told_by_their_names() -> None:
    assert is_vector("a.gpkg")
    assert is_vector("/vsizip/a.zip/b.shp")
    assert is_vector("b.shp.zip")
    assert is_vector("a.gpkg|layername=b")
    assert not is_vector("GPKG:a.gpkg:table")
    assert not is_vector("a.tif")


def test_an_option_is_added_to_any_name(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    path = make_raster(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (0.5, 0.25, 0.125)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.tif")
    for name, bands in (
        (str(path), [0, 1, 2]),
        (f"/vsizip/{tmp_path}/a.zip/a.tif", [0, 1, 2]),
        (f"vrt://{path}", [0, 1, 2]),
        (f"vrt://{path}?bands=3,1", [2, 0]),
        (f"vrt://{path}?a_scale=7&bands=2", [1]),
    ):
        modality = Modality("m", tuple(f"b{n}" for n in bands))
        scene = scene_from_rasters([modality], {"m": with_option(name, "a_scale=1")})
        read = scene.read(scene.full_window).images["m"]
        np.testing.assert_array_equal(read, values[bands], err_msg=name)
