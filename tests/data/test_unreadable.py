"""Rasters and vectors that cannot be read: one message that names file and scene."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from rasterio._err import CPLE_AppDefinedError
from rasterio.errors import CRSError, RasterioIOError
from rasterio.transform import from_origin

from fuzzing import in_time
from terrafuse import api
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.data.handles import pool
from terrafuse.data.on_disk import obstacle, shown
from terrafuse.data.raster_file import inspect_raster
from terrafuse.errors import LabelError, RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Window

SIZE = 16
VRT = """<VRTDataset rasterXSize="{size}" rasterYSize="{size}">{head}
<VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""
CRS = "<SRS>EPSG:32633</SRS>"
PLACE = "<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    pool.close()
    with in_time(60):
        yield


class Folder:
    """A folder with two scenes; the raster or the labels of 'bad' are replaced."""

    def __init__(self, folder: Path, make_raster: Callable[..., Path]) -> None:
        self.folder, self.make_raster = folder, make_raster
        rng = np.random.default_rng(0)
        for scene, east in (("bad", 500_000), ("good", 700_000)):
            place = {"transform": from_origin(east, 5_000_000, 10, 10)}
            image = rng.integers(1, 200, (1, SIZE, SIZE)).astype(np.uint8)
            make_raster(folder / f"{scene}.tif", image, **place)
            labels = (np.arange(SIZE * SIZE).reshape(1, SIZE, SIZE) // 7 % 2).astype(np.uint8)
            make_raster(folder / f"{scene}_labels.tif", labels, **place)

    def vrt(
        self, name: str, source: str = "bad.tif", head: str = CRS + PLACE, size: Any = 16
    ) -> str:
        (self.folder / name).write_text(VRT.format(size=size, head=head, source=source))
        return name

    def vector(self, content: Any, name: str = "bad.geojson") -> str:
        (self.folder / name).write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
        return name

    def manifest(self, image: str = "bad.tif", labels: str = "bad_labels.tif") -> Path:
        scenes = [
            {"id": "bad", "split": "train", "m": image, "labels": labels},
            {"id": "good", "split": "train", "m": "good.tif", "labels": "good_labels.tif"},
        ]
        values = {
            "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
            "labels": {"attribute": "code", "background": 0},
            "modalities": {"m": {"bands": ["x"]}},
            "scenes": scenes,
        }
        path = self.folder / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def refused(self, *texts: str, code: str = "unreadable", **scene: str) -> str:
        """Check that all verbs name the file, and that the check judges the other scene too."""
        path = self.manifest(**scene)
        for workers in (1, 2):
            found = api.data_check(path, workers=workers)
            errors = [finding for finding in found if finding.severity == "error"]
            assert [(finding.scene, finding.code) for finding in errors] == [("bad", code)]
            for text in ("'bad'", *texts):
                assert text in errors[0].message, errors[0].message
        # Both scenes have the same labels: 'good' was read, if it is counted.
        if "labels" not in scene:
            with pytest.raises(RasterReadError, match=r"scene 'bad'") as stopped:
                api.data_stats(path)
            assert all(text in str(stopped.value) for text in texts), str(stopped.value)
        assert load_manifest(path).scene("good").read(Window(0, 0, 4, 4)).labels is not None
        return errors[0].message


@pytest.fixture
def folder(tmp_path: Path, make_raster: Callable[..., Path]) -> Folder:
    return Folder(tmp_path, make_raster)


# Files that are none -----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.folder / "pipe.tif")
    told = folder.refused("pipe.tif' is a named pipe", "to a file first", image="pipe.tif")
    assert told.count("pipe.tif") == 1
    os.mkfifo(folder.folder / "pipe.geojson")
    folder.refused("pipe.geojson' is a named pipe", labels="pipe.geojson")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("tag", ["SourceFilename", "SourceDataset"])
def test_a_pipe_that_a_vrt_names_is_not_waited_for(folder: Folder, tag: str) -> None:
    os.mkfifo(folder.folder / "a & b.tif")
    name = folder.vrt("mosaic.vrt", "a &amp; b.tif")
    path = folder.folder / name
    path.write_text(path.read_text().replace("SourceFilename", tag))
    folder.refused("mosaic.vrt", "a & b.tif' is a named pipe", image=name)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(folder: Folder, device: str) -> None:
    folder.refused(f"'{device}' is a device", image=device)


def test_a_folder_is_no_raster(folder: Folder) -> None:
    (folder.folder / "empty.tif").mkdir()
    folder.refused("empty.tif' cannot be opened as a raster", image="empty.tif")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x" * 400 + ".tif", "File name too long"),
        ("~nobody-of-that-name/a.tif", "there is no file"),
        ("loop.tif", "symbolic links"),
    ],
)
def test_paths_that_can_be_none(folder: Folder, name: str, told: str) -> None:
    (folder.folder / "loop.tif").symlink_to("loop.tif")
    folder.refused(told, image=name)


def test_a_file_that_may_not_be_read_is_not_called_damaged(folder: Folder, monkeypatch) -> None:
    # Tests may run as root, who may read all.
    refused = {str(folder.folder / "bad.tif"), str(folder.folder / "bad.geojson")}
    ours = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: str(p) not in refused and ours(p, mode))
    (folder.folder / "bad.tif").chmod(0o240)
    message = folder.refused("bad.tif' may not be read", "0240", "chmod +r")
    assert not any(word in message for word in ("damaged", "complete", "no file"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_an_ordinary_user_may_not_read(folder: Folder) -> None:
    (folder.folder / "bad.tif").chmod(0)
    folder.refused("bad.tif' may not be read", "0000")


def test_long_and_odd_names_are_shown_short() -> None:
    assert shown("a\x1b[31m\nb") == r"a\x1b[31m\nb"
    assert shown("Grün 1.tif") == "Grün 1.tif"
    assert len(shown("ab" * 500)) < 310
    told = obstacle("a\0b.tif")  # as from Python; YAML holds none
    assert "embedded null byte" in told
    assert "\0" not in told
    assert obstacle(__file__) == ""
    assert obstacle(Path(__file__).parent) == ""  # several formats are folders
    assert obstacle("/none/a.nc", "NETCDF:/none/a.nc:v").endswith(
        "'/none/a.nc', which 'NETCDF:/none/a.nc:v' names"
    )


# Headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ("nan, 10, 0, 5000000, 0, -10", "is not finite"),
        ("500000, 10, 0, inf, 0, -10", "is not finite"),
        ("500000, 1e308, 0, 5000000, 0, -1e308", "leads beyond all numbers"),
        ("500000, 10, 10, 5000000, 10, 10", "puts all pixels on one line or point"),
        ("0, 0, 0, 0, 0, 0", "puts all pixels on one line or point"),
        ("500000, 1e-300, 0, 5000000, 0, -1e-300", "puts all pixels on one line or point"),
        ("500000, 1e-10, 0, 5000000, 0, -1e-10", "cannot tell apart"),
    ],
)
@pytest.mark.parametrize("crs", [CRS, ""], ids=["crs", "no crs"])
def test_transforms_that_place_no_pixel(folder: Folder, numbers: str, told: str, crs: str) -> None:
    head = f"{crs}<GeoTransform>{numbers}</GeoTransform>"
    name = folder.vrt("nowhere.vrt", head=head)
    with pytest.raises(RasterReadError, match=r"nowhere.vrt' lies nowhere: its transform") as error:
        inspect_raster(folder.folder / name, "it")
    assert told in str(error.value)
    if crs:
        folder.refused(told, "rio edit-info --transform", image=name)


def test_small_pixels_far_from_the_origin_are_told_apart(folder: Folder) -> None:
    # 1 mm in Web Mercator, and a hundred-millionth of a degree.
    for head in (
        "<SRS>EPSG:3857</SRS><GeoTransform>2e7, 0.001, 0, 2e7, 0, -0.001</GeoTransform>",
        "<SRS>EPSG:4326</SRS><GeoTransform>179, 1e-8, 0, 89, 0, -1e-8</GeoTransform>",
    ):
        grid = inspect_raster(folder.folder / folder.vrt("fine.vrt", head=head), "it").grid
        assert grid.crs is not None


@pytest.mark.parametrize("srs", ["EPSG:99999", "PROJCS[&quot;here&quot;"])
def test_a_crs_that_nobody_knows_is_not_none(folder: Folder, srs: str) -> None:
    name = folder.vrt("far.vrt", head=f'<SRS dataAxisToSRSAxisMapping="1,2">{srs}</SRS>{PLACE}')
    told = srs.replace("&quot;", '"')
    folder.refused("far.vrt' has the CRS", told, "which PROJ does not know", image=name)
    folder.vrt("far.vrt", head=CRS + PLACE)  # as it says
    assert inspect_raster(folder.folder / name, "it").grid.crs is not None
    for none in (PLACE, f"<SRS></SRS>{PLACE}"):
        folder.vrt("far.vrt", head=none)
        assert inspect_raster(folder.folder / name, "it").grid.crs is None


@pytest.mark.parametrize("points", [1, 4])
def test_control_points_through_which_no_grid_goes(folder: Folder, points: int) -> None:
    gcps = "".join(f'<GCP Id="{n}" Pixel="{n}" Line="{n}" X="3" Y="4"/>' for n in range(points))
    head = f'<GCPList Projection="EPSG:32633">{gcps}</GCPList>'
    name = folder.vrt("points.vrt", head=head)
    folder.refused(f"{points} ground control points", "-gcp PIXEL LINE", image=name)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (10**9, "declares 1000000000 × 1000000000 pixels"),
        (4_000_000, "declares 4000000 × 4000000 pixels"),
        (0, "Invalid dataset dimensions : 0 x 0"),
        (-5, "Invalid dataset dimensions : -5 x -5"),
        (10**12, "Invalid dataset dimensions"),
    ],
)
def test_sizes_that_no_raster_has(folder: Folder, size: int, told: str) -> None:
    folder.refused("huge.vrt", told, image=folder.vrt("huge.vrt", size=size))


def test_a_raster_of_the_earth_is_not_too_large(folder: Folder) -> None:
    head = "<SRS>EPSG:4326</SRS><GeoTransform>-180, 1e-4, 0, 90, 0, -1e-4</GeoTransform>"
    text = VRT.format(size=1, head=head, source="bad.tif")
    text = text.replace(
        'rasterXSize="1" rasterYSize="1"', 'rasterXSize="3600000" rasterYSize="1800000"'
    )
    path = folder.folder / "earth.vrt"
    path.write_text(text)
    assert inspect_raster(path, "it").grid.width == 3_600_000


def test_descriptions_that_are_not_utf8_are_left_out_and_told(folder: Folder, make_raster) -> None:
    path = folder.folder / "bad.tif"
    with rasterio.open(path, "r+") as dataset:
        dataset.set_band_description(1, "abcdefgh")
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"gr\xfcn\xff\xfe\x80h"))
    found = [f for f in api.data_check(folder.manifest()) if f.code == "band-names"]
    assert [(f.severity, f.scene) for f in found] == [("note", "bad")]
    assert "is read without band names: its bands' descriptions are not UTF-8" in found[0].message
    api.data_stats(folder.manifest())


# VRTs --------------------------------------------------------------------------------------------


def test_vrts_that_name_each_other(folder: Folder) -> None:
    folder.vrt("one.vrt", "two.vrt")
    folder.vrt("two.vrt", "one.vrt")
    folder.refused("one.vrt", image="one.vrt")
    folder.refused("self.vrt", image=folder.vrt("self.vrt", "self.vrt"))


def test_a_long_chain_of_vrts(folder: Folder) -> None:
    for n in range(400):
        folder.vrt(f"{n}.vrt", f"{n + 1}.vrt" if n < 399 else "bad.tif")
    folder.refused("0.vrt", image="0.vrt")


def test_vrts_of_files_that_are_no_rasters(folder: Folder) -> None:
    folder.refused("none.tif', which is not there", image=folder.vrt("missing.vrt", "none.tif"))
    folder.refused("/etc/passwd", image=folder.vrt("outside.vrt", "/etc/passwd"))


def test_a_missing_file_is_told_by_every_vrt_that_names_it(folder: Folder) -> None:
    """GDAL tells of it once as long as any VRT is open, and then reads it as 0."""
    with rasterio.open(folder.folder / folder.vrt("sound.vrt")) as sound:
        sound.read()
        for name in ("one.vrt", "one.vrt", "two.vrt"):
            with pytest.raises(RasterReadError, match=r"none\.tif', which is not there"):
                inspect_raster(folder.folder / folder.vrt(name, "none.tif"), "it")


# Pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "GTiff"])
def test_half_a_file_is_refused_whatever_its_format(folder: Folder, driver: str) -> None:
    """A whole image is read in one go: GDAL's fast path for PNG would fill the rest with 0."""
    path = folder.folder / f"half.{driver.lower()}"
    image = np.random.default_rng(1).integers(1, 200, (1, 64, 64)).astype(np.uint8)
    with rasterio.open(
        path, "w", driver=driver, width=64, height=64, count=1, dtype=np.uint8, crs="EPSG:32633",
        transform=from_origin(500_000, 5_000_000, 10, 10),
    ) as dataset:  # fmt: skip
        dataset.write(image)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    scene = scene_from_rasters([Modality("m", ("x",))], {"m": path})
    with pytest.raises(RasterReadError, match=r"half\.\w+' cannot be decoded"):
        scene.read(scene.full_window)
    if driver != "JPEG":  # of which the labels' part is in the half that is there
        folder.refused(path.name, image=path.name)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (CPLE_AppDefinedError(3, 1, "Incompatible type."), "Incompatible type"),
        (SystemError("<method> returned NULL"), "GDAL failed without giving a reason"),
        (CRSError("The WKT is bad."), "The WKT is bad"),
        (RasterioIOError("Read failed"), "Read failed"),
    ],
)
def test_whatever_gdal_fails_with(folder: Folder, monkeypatch, failure, told: str) -> None:
    class Failing:
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getattr__(self, name: str) -> Any:
            return getattr(self._dataset, name)

        def read(self, *_: Any, **__: Any) -> None:
            raise failure

    from terrafuse.data import handles

    ours = handles.open_stored
    monkeypatch.setattr(
        handles, "open_stored",
        lambda spec: Failing(ours(spec)) if spec.endswith("/bad.tif") else ours(spec),
    )  # fmt: skip
    folder.refused("bad.tif", told)
    assert len(pool) < 4  # and the handle that failed is not kept
    monkeypatch.setattr(handles, "open_stored", lambda _: (_ for _ in ()).throw(failure))
    with pytest.raises(RasterReadError, match=told):
        inspect_raster(folder.folder / "bad.tif", "it")


# Vectors -----------------------------------------------------------------------------------------

SQUARE = [[500_020, 4_999_980], [500_090, 4_999_980], [500_090, 4_999_900], [500_020, 4_999_980]]


def features(*geometries: Any, code: Any = 1) -> dict[str, Any]:
    return {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
        "features": [
            {"type": "Feature", "properties": {"code": code}, "geometry": geometry}
            for geometry in geometries
        ],
    }


def polygon(*points: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [list(points)]}


GOOD = polygon(*SQUARE)


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (features(GOOD, polygon(SQUARE[0], [float("nan"), 4_999_980], *SQUARE[2:])), "labels",
         "coordinates are not finite in 1 feature (number 1)"),
        (features(polygon(*[[float("inf"), 1.0]] * 4)), "labels",
         "hold 1 feature, none with finite coordinates"),
        (features(None, None), "labels", "hold 2 features, none with finite coordinates"),
        (features(polygon(*SQUARE[:-1], [500_021, 4_999_981])), "unreadable",
         "cannot be read as polygons"),
        (json.dumps(features(GOOD))[:-40], "unreadable", "cannot be opened as polygons"),
        ("[" * 100_000, "unreadable", "cannot be opened as polygons"),
        ("null", "unreadable", "cannot be opened as polygons"),
        (features(GOOD, code=[1, 2]), "labels", "not in the class scheme: '[1, 2]'"),
        (features(GOOD, code={"a": 1}), "labels", "not in the class scheme: '{ \"a\": 1 }'"),
        (features({"type": "Point", "coordinates": SQUARE[0]}), "labels", "1 × Point"),
    ],
)  # fmt: skip
def test_vectors_that_are_no_labels(folder: Folder, content: Any, code: str, told: str) -> None:
    folder.refused("bad.geojson", told, code=code, labels=folder.vector(content))


def test_null_and_empty_geometries_are_no_obstacle(folder: Folder) -> None:
    collection = {"type": "GeometryCollection", "geometries": [GOOD]}
    content = features(None, {"type": "Polygon", "coordinates": []}, collection)
    path = folder.manifest(labels=folder.vector(content))
    labels = load_manifest(path).scene("bad").read_labels(Window(0, 0, SIZE, SIZE))
    # A triangle of 70 m by 80 m: the pixels whose centre lies in it.
    assert 25 <= (labels == 1).sum() <= 31
    assert set(np.unique(labels)) == {0, 1}


def test_a_tangle_is_refused_within_a_second(folder: Folder) -> None:
    """Mending 3,000 edges that cross each other a million times takes minutes."""
    rng = np.random.default_rng(0)
    points = [[500_000 + x, 5_000_000 - y] for x, y in (rng.random((3000, 2)) * 160).tolist()]
    content = features(polygon(*points, points[0]))
    folder.refused("3000 edges crosses itself about", code="labels", labels=folder.vector(content))


def test_a_star_is_mended_as_before(folder: Folder) -> None:
    """Five edges that cross one another: an outline that people draw."""
    angles = np.pi / 2 + np.arange(6) * 4 * np.pi / 5
    star = [[500_080 + 70 * np.cos(a), 4_999_920 + 70 * np.sin(a)] for a in angles]
    star[-1] = star[0]
    path = folder.manifest(labels=folder.vector(features(polygon(*star))))
    assert (load_manifest(path).scene("bad").read_labels(Window(0, 0, SIZE, SIZE)) == 1).sum() > 20


def test_crossings_are_counted() -> None:
    """A line to the right, and one that goes up and down across it, three times."""
    from terrafuse.data.polygons import _crossings

    line = np.array([[0, 0], [9, 0], [9, 2], [7, -1], [5, 1], [3, -1], [3, -3]], float)
    assert [_crossings(line, edge) for edge in range(6)] == [3, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
def test_a_truncated_geopackage(folder: Folder, part: float) -> None:
    path = folder.folder / "bad.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array([shapely.Polygon(SQUARE)])), [np.array([1])], ["code"],
        geometry_type="Polygon", crs="EPSG:32633", driver="GPKG",
    )  # fmt: skip
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    folder.refused("bad.gpkg", "as polygons", labels="bad.gpkg")


def test_warnings_of_gdal_name_the_labels(folder: Folder, monkeypatch) -> None:
    read = pyogrio.raw.read

    def warn(*given: Any, **options: Any) -> Any:
        warnings.warn("Non closed ring detected", RuntimeWarning, stacklevel=1)
        return read(*given, **options)

    monkeypatch.setattr(pyogrio.raw, "read", warn)
    path = folder.manifest(labels=folder.vector(features(GOOD)))
    (found,) = (f for f in api.data_check(path, workers=1) if "GDAL warns" in f.message)
    assert (found.severity, found.scene) == ("warning", "bad")
    assert found.message.endswith("bad.geojson): GDAL warns: Non closed ring detected")


# The terminal ------------------------------------------------------------------------------------


def test_gdal_prints_nothing(folder: Folder) -> None:
    """In a process of its own, as pytest and its plug-ins handle what is logged and printed."""
    rng = np.random.default_rng(0)
    whole = folder.make_raster(
        folder.folder / "w.tif", rng.integers(0, 9, (1, SIZE, SIZE)).astype(np.uint8), tiled=False
    ).read_bytes()
    (folder.folder / "cut.tif").write_bytes(whole[:400])
    # The place of the first directory, far beyond the end of the file: libtiff prints of it.
    (folder.folder / "far.tif").write_bytes(whole[:4] + struct.pack("<I", 2**32 - 2) + whole[8:])
    folder.vrt("crs.vrt", head="<SRS>EPSG:999999</SRS>" + PLACE)
    shutil.copy(folder.manifest(), folder.folder / "all.yaml")
    values = yaml.safe_load((folder.folder / "all.yaml").read_text())
    values["scenes"] = [
        {"id": str(n), "split": "train", "m": name}
        for n, name in enumerate(("cut.tif", "far.tif", "crs.vrt", "good.tif"))
    ]
    (folder.folder / "all.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, "-m", "terrafuse", "data", "check", str(folder.folder / "all.yaml"),
         "--json", "--workers", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if not line.startswith("checking: ")]
    assert told == []  # beside how far it is, on a slow machine
    assert done.returncode == 1
    assert {f["scene"] for f in json.loads(done.stdout) if f["code"] == "unreadable"} == {
        "0", "1", "2",
    }  # fmt: skip


def test_what_gdal_warns_of_is_a_finding(folder: Folder) -> None:
    """Zeros in the middle of a JPEG within a TIFF: GDAL goes on, with other pixels."""
    path = folder.folder / "bad.tif"
    rng = np.random.default_rng(0)
    image = rng.integers(1, 200, (1, 64, 64)).astype(np.uint8)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "jpeg"}
    labels = (image // 100).astype(np.uint8)
    folder.make_raster(folder.folder / "bad_labels.tif", labels)
    folder.make_raster(path, image, **options)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-400:-350] = bytes(50)
    path.write_bytes(content)
    found = [f for f in api.data_check(folder.manifest(), workers=2) if f.code == "gdal"]
    assert {(f.severity, f.scene) for f in found} == {("warning", "bad")}
    assert any("Corrupt JPEG data" in f.message and "CPLE" not in f.message for f in found)
    assert "copy or download" in found[0].remedy
    path.write_bytes(whole)
    assert not [f for f in api.data_check(folder.manifest(), workers=2) if f.code == "gdal"]


def test_a_label_error_of_drawing_names_the_labels(folder: Folder, monkeypatch) -> None:
    from terrafuse.data import polygons

    def fail(*_: Any, **__: Any) -> None:
        raise CPLE_AppDefinedError(3, 1, "no memory")

    scene = load_manifest(folder.manifest(labels=folder.vector(features(GOOD)))).scene("bad")
    monkeypatch.setattr(polygons, "rasterize", fail)
    with pytest.raises(LabelError, match=r"scene 'bad'.*bad\.geojson.*no memory"):
        scene.read_labels(Window(0, 0, SIZE, SIZE))
