"""Mutated labels, rasters and vectors: a scene with them opens and reads, or says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin

from fuzzing import (
    assert_silent,
    byte_changes,
    change_bytes,
    change_tree,
    few,
    judge,
    many,
    tree_edits,
)
from terrafuse import api
from terrafuse.data.handles import pool

# rasterio decodes GDAL's warnings as UTF-8 before it logs them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. 'rasterio._env.log_error':pytest.PytestUnraisableExceptionWarning"
)
SIDE = 24
CORNER = (500_000, 5_000_000)
TRANSFORM = from_origin(*CORNER, 10, 10)


def square(east: float, north: float, side: float) -> list[list[float]]:
    x, y = CORNER[0] + east, CORNER[1] - north
    return [[x, y], [x + side, y], [x + side, y - side], [x, y - side], [x, y]]


COLLECTION = {
    "type": "FeatureCollection",
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
    "features": [
        {
            "type": "Feature",
            "properties": {"code": 1, "note": "a"},
            "geometry": {"type": "Polygon", "coordinates": [square(12, 15, 90)]},
        },
        {
            "type": "Feature",
            "properties": {"code": 0, "note": "b"},
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[square(120, 20, 60)], [square(30, 130, 80), square(50, 150, 20)]],
            },
        },
        {
            "type": "Feature",
            "properties": {"code": 1, "note": None},
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [square(140, 140, 50)]}],
            },
        },
    ],
}
# What stands in the place of numbers and geometries.
GEOMETRIES: tuple[Any, ...] = (
    None, float("nan"), float("inf"), 1e308, -1e308, 1e-308, 0, 10**30, "x", [], {}, [[]],
    {"type": "Point", "coordinates": [500_100, 4_999_900]}, {"type": "Polygon", "coordinates": []},
    {"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [1, 2]]]},
    {"type": "Polygon", "coordinates": [square(0, 0, 1e9)]},
    {"type": "Polygon", "coordinates": [square(0, 0, 200)[:-1]]},
    {"type": "Polygon", "coordinates": [square(0, 0, 200)] * 40},
    {"type": "GeometryCollection", "geometries": []},
    {"type": "GeometryCollection", "geometries": [
        {"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": [square(10, 10, 100)]}]}]},
    {"type": "LineString", "coordinates": [[500_100, 4_999_900], [500_200, 4_999_800]]},
    {"type": "CurvePolygon", "coordinates": [square(0, 0, 100)]},
    {"type": "Polygon", "coordinates": [[[500_000 + 37 * k % 240, 5_000_000 - 91 * k % 240]
                                         for k in range(200)] + [[500_000, 5_000_000]]]},
)  # fmt: skip


class Place:
    """A scene, and labels of several kinds that fit it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self._raster("image.tif", rng.integers(1, 200, (1, SIDE, SIDE)).astype(np.uint8))
        labels = (np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE) // 5 % 2).astype(np.uint8)
        self.seeds = {
            "labels.tif": self._raster("labels.tif", labels).read_bytes(),
            "packed.tif": self._raster(
                "packed.tif", labels, compress="deflate", nodata=255
            ).read_bytes(),
            "labels.geojson": json.dumps(COLLECTION).encode(),
        }
        for name, driver in (("l.gpkg", "GPKG"), ("l.shp", "ESRI Shapefile"), ("l.fgb", None)):
            path = folder / name
            shapes = [shapely.Polygon(square(12, 15, 90)), shapely.Polygon(square(120, 20, 60))]
            pyogrio.raw.write(
                path, shapely.to_wkb(np.array(shapes)), [np.array([1, 0])], ["code"],
                driver=driver or "FlatGeobuf", geometry_type="Polygon", crs="EPSG:32633",
            )  # fmt: skip
            self.seeds[name] = path.read_bytes()
        # Also the other files of a shapefile are mutated, beside the first one as it was.
        for suffix in (".dbf", ".shx", ".prj"):
            self.seeds[f"l{suffix}"] = (folder / f"l{suffix}").read_bytes()

    def _raster(self, name: str, array: np.ndarray, **options: Any) -> Path:
        path = self.folder / name
        with rasterio.open(
            path, "w", driver="GTiff", count=len(array), height=SIDE, width=SIDE,
            dtype=array.dtype, crs="EPSG:32633", transform=TRANSFORM, **options,
        ) as dataset:  # fmt: skip
            dataset.write(array)
        return path

    def put(self, kind: str, content: bytes) -> Path:
        """The manifest, with a scene whose labels have that content."""
        pool.close()
        suffix = Path(kind).suffix
        (self.folder / f"bad{suffix}").write_bytes(content)
        if suffix in (".dbf", ".shx", ".prj", ".shp"):
            for other in {".dbf", ".shx", ".prj", ".shp"} - {suffix}:
                (self.folder / f"bad{other}").write_bytes(self.seeds[f"l{other}"])
            suffix = ".shp"
        is_vector = suffix not in (".tif",)
        values = {
            "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
            "modalities": {"a": {"kind": "optical", "bands": ["x"]}},
            "scenes": [
                {"id": "bad", "split": "train", "a": "image.tif", "labels": f"bad{suffix}"}
            ],
        }  # fmt: skip
        if is_vector:
            values["labels"] = {"attribute": "code", "background": 0}
        path = self.folder / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("labels"))
    for kind, seed in place.seeds.items():
        found = api.data_check(place.put(kind, seed), quick=True)
        assert not [f for f in found if f.severity == "error" and f.scene], kind
    return place


mutated = st.tuples(
    st.sampled_from(
        ["labels.tif", "packed.tif", *["labels.geojson"] * 4, "l.gpkg", "l.gpkg", "l.shp", "l.dbf",
         "l.shx", "l.prj", "l.fgb"]
    ),
    byte_changes,
    tree_edits,
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(GEOMETRIES)), max_size=2),
    st.integers(0, 3),
)  # fmt: skip


def content_of(place: Place, case: Any) -> bytes:
    kind, changes, edits, geometries, how = case
    seed = place.seeds[kind]
    if kind != "labels.geojson" or how == 0:
        # GeoPackages are mostly empty pages.
        return change_bytes(seed, changes, 0.0 if kind == "l.gpkg" else 0.5)
    tree = json.loads(seed)
    if how > 1:
        for number, geometry in geometries:
            _put(tree, number, geometry)
    if how != 2:
        tree = change_tree(tree, edits)
    return json.dumps(tree, default=str).encode()


def _put(tree: Any, number: int, geometry: Any) -> None:
    """Replace one of the geometries, or one of the numbers in them."""
    feature = tree["features"][number % len(tree["features"])]
    if isinstance(geometry, dict | None) or number % 3 == 0:
        feature["geometry"] = geometry
        return
    node = feature["geometry"]
    while isinstance(node, dict):
        node = node.get("coordinates", node.get("geometries"))
        node = node[0] if isinstance(node, list) and node and isinstance(node[0], dict) else node
    while isinstance(node, list) and node and isinstance(node[0], list):
        node = node[number % len(node)]
    if isinstance(node, list) and node:
        node[number % len(node)] = geometry


def check(place: Place, case: Any, noise: pytest.CaptureFixture[str]) -> None:
    path = place.put(case[0], content_of(place, case))
    findings: list[Any] = []
    judge(lambda: findings.extend(api.data_check(path, quick=case[4] % 2 == 0, workers=1)))
    assert findings, "the check ended without findings"
    for finding in findings:
        assert len(finding.message) < 2_000
    assert_silent(noise)


@few(120)
@given(case=mutated)
def test_some_labels(place: Place, capfd: pytest.CaptureFixture[str], case: Any) -> None:
    check(place, case, capfd)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_labels(place: Place, capfd: pytest.CaptureFixture[str], case: Any) -> None:
    check(place, case, capfd)
