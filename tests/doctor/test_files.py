from __future__ import annotations

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from terrafuse.data import load_manifest
from terrafuse.doctor import check_manifest

SIZE = 48
DEFAULT_TRANSFORM = from_origin(500_000, 5_000_000, 10, 10)


@pytest.fixture
def data(make_raster, tmp_path):
    """Function that writes a manifest of one scene and checks it."""
    rng = np.random.default_rng(0)
    for name in ("image.tif", "other.tif"):
        make_raster(tmp_path / name, rng.random((1, SIZE, SIZE)).astype(np.float32))
    labels = rng.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8)
    make_raster(tmp_path / "labels.tif", labels)

    def check(**scene: str) -> list:
        given = {"m": "image.tif", "n": "other.tif", "labels": "labels.tif"} | scene
        values = {
            "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
            "modalities": {"m": {"bands": ["b"]}, "n": {"bands": ["b"]}},
            "scenes": [{"id": "x", "split": "train"} | given],
        }
        values["modalities"] = values["scenes"][0].pop("modalities", values["modalities"])
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        return check_manifest(load_manifest(tmp_path / "dataset.yaml"))

    return check


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "is empty (0 bytes)", "fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer",
         "git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html>", "is a web page", "sign in and"),
        (b"<html><body>", "is a web page", "sign in and"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["image.tif", "labels.tif"])
def test_files_that_are_no_rasters(data, tmp_path, content, what, remedy, name):
    (tmp_path / name).write_bytes(content)
    finding = data()[0]
    assert (finding.severity, finding.code, finding.scene) == ("error", "unreadable", "x")
    assert what in finding.message
    assert finding.path == tmp_path / name
    assert remedy in finding.remedy


def test_rubbish_is_said_as_gdal_says_it(data, tmp_path):
    (tmp_path / "image.tif").write_bytes(b"rubbish" * 20)
    finding = data()[0]
    assert finding.code == "unreadable"
    assert "cannot be opened as a raster" in finding.message


def test_labels_as_jpeg(data, tmp_path):
    array = np.full((1, SIZE, SIZE), 0, np.uint8)
    array[:, :, 24:] = 1
    with rasterio.open(
        tmp_path / "labels.jpg", "w", driver="JPEG", count=1, height=SIZE, width=SIZE,
        dtype="uint8", quality=100, crs="EPSG:32633", transform=DEFAULT_TRANSFORM,
    ) as out:  # fmt: skip
        out.write(array)
    (finding,) = [f for f in data(labels="labels.jpg") if f.code == "lossy-labels"]
    assert (finding.severity, finding.modality) == ("warning", "labels")


def test_storage_that_is_slow_to_read(data, tmp_path, make_raster):
    values = np.random.default_rng(1).random((1, 60, 9000)).astype(np.float32)
    make_raster(tmp_path / "image.tif", values, blockysize=60, compress="deflate")
    notes = [f for f in data(n="image.tif", labels=None) if f.code == "slow-blocks"]
    assert [f.severity for f in notes] == ["note"] * len(notes)
    assert "blocks of 60 × 9000" in notes[0].message


def test_one_file_in_two_roles(data):
    codes = [(f.severity, f.code) for f in data(n="image.tif")]
    assert ("warning", "same-file") in codes
    codes = [(f.severity, f.code) for f in data(n="labels.tif")]
    assert ("error", "labels-as-input") in codes


def test_bands_of_different_dtypes_are_read_and_checked(data, make_raster, tmp_path):
    """Only a VRT has them: its bands come from other files."""
    one = np.random.default_rng(1).integers(1, 200, (1, SIZE, SIZE)).astype(np.uint8)
    two = one[:, ::-1] / np.float32(8)
    two[0, 3, 4] = np.nan
    make_raster(tmp_path / "one.tif", one)
    make_raster(tmp_path / "two.tif", two, nodata=-1)
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{n}"><NoDataValue>-1</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{name}</SourceFilename></SimpleSource></VRTRasterBand>'
        for n, (name, dtype) in enumerate((("two.tif", "Float32"), ("one.tif", "Byte")), start=1)
    )
    (tmp_path / "mixed.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    found = data(m="mixed.vrt", modalities={"m": {"bands": ["a", "b"]}, "n": {"bands": ["b"]}})
    (nan,) = (f for f in found if f.code == "nan-beside-nodata")
    assert "also 1 NaN values" in nan.message
    assert not [f for f in found if f.severity == "error" and f.modality == "m"]
    scene = load_manifest(tmp_path / "dataset.yaml").scene("x")
    image = scene.read(scene.grid.window).images["m"].numpy()
    np.testing.assert_array_equal(image, np.concatenate([two, one]))
    small = scene.read_decimated(4)["m"]
    np.testing.assert_array_equal(small[1], one[0, 2::4, 2::4])
