"""Mutated rasters: `data check` reports a finding for them and judges the others all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin

from fuzzing import assert_silent, byte_changes, change_bytes, few, judge, many
from terrafuse import api
from terrafuse.data.handles import pool

# rasterio decodes GDAL's warnings as UTF-8 before it logs them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. 'rasterio._env.log_error':pytest.PytestUnraisableExceptionWarning"
)
SIDE = 24
PLACES = {"bad": 500_000, "good": 600_000}
# Files of which a mutated one takes the place, and how they are written.
KINDS: dict[str, dict[str, Any]] = {
    "plain.tif": {},
    "tiles.tif": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    "lzw.tif": {"compress": "lzw", "predictor": 2, "nodata": 7},
    "jpeg.tif": {"compress": "jpeg"},
    "big.tif": {"BIGTIFF": "YES", "interleave": "band"},
    "picture.png": {"driver": "PNG"},
    "photo.jpg": {"driver": "JPEG"},
}
VRT = """<VRTDataset rasterXSize="24" rasterYSize="24">
  <SRS>EPSG:32633</SRS>
  <GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>
  <VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue>
    <ComplexSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename>
      <SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="24" ySize="24"/>
      <DstRect xOff="0" yOff="0" xSize="24" ySize="24"/><NODATA>0</NODATA></ComplexSource>
  </VRTRasterBand>
  <VRTRasterBand dataType="Float32" band="2">
    <SimpleSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename>
      <SourceBand>2</SourceBand></SimpleSource>
  </VRTRasterBand>
</VRTDataset>
"""
# Part of the file at its beginning that holds what readers go by.
HEADERS = {"picture.png": 0.1, "photo.jpg": 0.5}
# Texts of the document, and what stands in their place.
TEXTS = ("24", "500000", "10", "-10", "Byte", "Float32", "EPSG:32633", "source.tif", "1", "0", "2")
OTHERS = (
    "0", "-1", "1e9", "1000000000", "99999999999", "nan", "inf", "", "x", "CInt16", "Int8",
    "UInt64", "EPSG:4326", "EPSG:99999", "EPSG:4978", "LOCAL_CS[&quot;x&quot;]", "bad.vrt",
    "/dev/zero", "/etc/passwd", "<a/>", "&lt;VRTDataset", "/vsistdin/", "1,2,3", "65536",
)  # fmt: skip


class Place:
    """Two scenes, of which one holds what is mutated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        labels = (np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE) // 5 % 2).astype(np.uint8)
        for scene in PLACES:
            self.write(f"{scene}_labels.tif", labels, scene)
            self.write(f"{scene}_image.tif", self.image(rng), scene)
        self.write("source.tif", self.image(rng), "bad")
        self.seeds = {"mosaic.vrt": VRT.encode()}
        for name, options in KINDS.items():
            self.seeds[name] = self.write(name, self.image(rng), "bad", **options).read_bytes()

    def image(self, rng: np.random.Generator) -> np.ndarray:
        return np.cumsum(rng.integers(1, 9, (2, SIDE, SIDE)), axis=2).astype(np.uint8)

    def write(self, name: str, array: np.ndarray, scene: str, **options: Any) -> Path:
        path = self.folder / name
        options = {"driver": "GTiff", "crs": "EPSG:32633"} | options
        if options["driver"] != "GTiff":
            array = array[:1]
        with rasterio.open(
            path, "w", count=len(array), height=SIDE, width=SIDE, dtype=array.dtype,
            transform=from_origin(PLACES[scene], 5_000_000, 10, 10), **options,
        ) as dataset:  # fmt: skip
            dataset.write(array)
        for aside in self.folder.glob("*.aux.xml"):  # photos mostly have no place
            aside.unlink()
        return path

    def put(self, kind: str, content: bytes, labelled: bool = True) -> Path:
        """The manifest, with a scene of that file."""
        pool.close()
        name = f"bad{Path(kind).suffix}"
        (self.folder / name).write_bytes(content)
        bands = 1 if kind in ("picture.png", "photo.jpg") else 2
        values = {
            "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
            "modalities": {
                "a": {"kind": "optical", "bands": ["x", "y"][:bands]},
                "b": {"kind": "optical", "bands": ["x", "y"], "required": False},
            },
            "scenes": [
                {"id": "bad", "split": "train", "a": name},
                {"id": "good", "split": "val", "b": "good_image.tif", "labels": "good_labels.tif"},
            ],
        }  # fmt: skip
        values["modalities"]["a"]["required"] = False
        if labelled and bands == 2:
            values["scenes"][0]["labels"] = "bad_labels.tif"
        path = self.folder / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("rasters"))
    for kind, seed in place.seeds.items():
        found = api.data_check(place.put(kind, seed), workers=1)
        assert not [f for f in found if f.severity == "error" and f.scene], kind
    return place


mutated = st.tuples(
    st.sampled_from([*KINDS, "mosaic.vrt"]),
    byte_changes,
    st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 9), st.sampled_from(OTHERS)),
             min_size=1, max_size=2),
    st.booleans(),
)  # fmt: skip


def content_of(place: Place, case: Any) -> bytes:
    kind, changes, texts, as_text = case
    seed = place.seeds[kind]
    if kind == "mosaic.vrt" and as_text:
        for old, number, new in texts:
            parts = seed.split(old.encode())
            at = 1 + number % max(1, len(parts) - 1)
            seed = old.encode().join(parts[:at]) + (
                new.encode() + old.encode().join(parts[at:]) if len(parts) > at else b""
            )
        return seed
    return change_bytes(seed, changes, HEADERS.get(kind, 0.25))


def check(place: Place, case: Any, noise: pytest.CaptureFixture[str]) -> None:
    kind = case[0]
    path = place.put(kind, content_of(place, case))
    findings: list[Any] = []
    judge(lambda: findings.extend(api.data_check(path, workers=1)))
    own = [f for f in findings if f.scene == "bad"]
    assert findings, "the check ended without findings"
    for finding in own:
        assert len(finding.message) < 2_000
    # The other scene is judged as ever: with nothing but what is true of it.
    others = {f.code for f in findings if f.scene == "good"}
    assert others <= {"leak", "small", "duplicate"}, others
    unreadable = any(f.code == "unreadable" for f in own)
    message = judge(lambda: api.data_stats(path, split="train"))
    if unreadable:
        assert "bad" in message, message
    assert_silent(noise)


@few(100)
@given(case=mutated)
def test_some_rasters(place: Place, capfd: pytest.CaptureFixture[str], case: Any) -> None:
    check(place, case, capfd)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_rasters(place: Place, capfd: pytest.CaptureFixture[str], case: Any) -> None:
    check(place, case, capfd)
