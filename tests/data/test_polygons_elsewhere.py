"""Polygons none of which lies within the scene, and files of several layers."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
import yaml
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from terrafuse.data import load_manifest
from terrafuse.data.manifest import Manifest
from terrafuse.data.polygons import PolygonsAstrayWarning
from terrafuse.doctor import Finding, check_manifest
from terrafuse.errors import ConfigError, LabelError, RasterReadError

MakeRaster = Callable[..., Path]
UTM, DEGREES = "EPSG:32633", "EPSG:4326"
Ring = list[list[float]]


def corners(scene: int, rows: tuple[int, int] = (4, 12), cols: tuple[int, int] = (2, 10)) -> Ring:
    """A rectangle of pixels of scene n, in metres of its UTM zone."""
    x0, y0 = 500_000 + 1000 * scene, 5_000_000
    left, right = (x0 + 10 * c for c in cols)
    top, bottom = (y0 - 10 * r for r in rows)
    return [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]


def to_degrees(ring: Ring) -> Ring:
    lon, lat = transform(CRS.from_string(UTM), CRS.from_string(DEGREES), *zip(*ring, strict=True))
    return [list(point) for point in zip(lon, lat, strict=True)]


def geojson(path: Path, rings: list[Ring], crs: str | None = None) -> Path:
    values: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {"c": 1},
             "geometry": {"type": "Polygon", "coordinates": [ring]}}
            for ring in rings
        ],
    }  # fmt: skip
    if crs:
        values["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def dataset(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., Manifest]:
    """Function that makes a manifest of scenes with the label files given."""

    def make(*labels: str, **keys: Any) -> Manifest:
        scenes = []
        for i, file in enumerate(labels):
            image = np.random.default_rng(i).random((1, 16, 16)).astype(np.float32)
            make_raster(
                tmp_path / f"i{i}.tif",
                image,
                transform=from_origin(500_000 + 1000 * i, 5e6, 10, 10),
            )
            split = ("train", "val", "test")[i % 3]
            scenes.append({"id": f"s{i}", "split": split, "m": f"i{i}.tif", "labels": file})
        values = {
            "classes": [{"name": "other", "code": 0}, {"name": "field", "code": 1}],
            "modalities": {"m": {"bands": ["x"]}},
            "labels": {"attribute": "c", "background": 0, **keys},
            "scenes": scenes,
        }
        path = tmp_path / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_manifest(path)

    return make


def elsewhere(manifest: Manifest, *, deep: bool = True) -> list[Finding]:
    found = check_manifest(manifest, deep=deep)
    assert not [f for f in found if f.code == "reading"]
    return [f for f in found if f.code == "polygons-elsewhere"]


MISSES: dict[str, tuple[Callable[[Ring], Ring], str | None, str]] = {
    "metres without a CRS": (
        lambda r: r,
        None,
        "in the scene's CRS they would lie there: give the",
    ),
    "axes exchanged": (
        lambda r: [[y, x] for x, y in to_degrees(r)],
        None,
        "With x and y exchanged",
    ),
    "axes exchanged in metres": (lambda r: [[y, x] for x, y in r], UTM, "With x and y exchanged"),
    "another zone": (lambda r: r, "EPSG:32634", "Check that the file belongs to this scene"),
    "degrees called metres": (to_degrees, UTM, "give the file the CRS EPSG:4326"),
    "another place": (lambda r: [[x + 5000, y] for x, y in r], UTM, "Check that the file belongs"),
}


@pytest.mark.parametrize("kind", MISSES)
def test_one_scene_without_its_polygons_is_a_warning(
    dataset: Callable[..., Manifest], tmp_path: Path, kind: str
) -> None:
    change, crs, advice = MISSES[kind]
    geojson(tmp_path / "0.geojson", [corners(0)], UTM)
    geojson(tmp_path / "1.geojson", [change(corners(1))], crs)
    geojson(tmp_path / "2.geojson", [to_degrees(corners(2))])
    manifest = dataset("0.geojson", "1.geojson", "2.geojson")
    with pytest.warns(PolygonsAstrayWarning, match="no polygon lies within the scene"):
        manifest.scene("s1")
    (finding,) = elsewhere(manifest)
    assert (finding.severity, finding.scene, finding.modality) == ("warning", "s1", "labels")
    # Both extents, in the coordinates of the file.
    numbers = re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", finding.message.partition("They reach")[2])
    x = [p[0] for p in change(corners(1))]
    assert float(numbers[0]) == pytest.approx(min(x), abs=1e-4)
    assert float(numbers[1]) == pytest.approx(max(x), abs=1e-4)
    assert "the scene from x " in finding.message
    assert advice in finding.remedy
    (quick,) = elsewhere(manifest, deep=False)
    assert quick == finding


def test_no_scene_with_its_polygons_is_an_error(
    dataset: Callable[..., Manifest], tmp_path: Path
) -> None:
    for i in range(3):
        geojson(tmp_path / f"{i}.geojson", [corners(i)])
    manifest = dataset("0.geojson", "1.geojson", "2.geojson")
    (finding,) = elsewhere(manifest, deep=False)
    assert finding.severity == "error"
    assert "in none of 3 scenes lies a polygon of its labels" in finding.message
    # The remedy, followed.
    assert "the CRS, EPSG:32633" not in finding.remedy
    for i in range(3):
        geojson(tmp_path / f"{i}.geojson", [corners(i)], UTM)
    assert elsewhere(manifest) == []


def test_exchanged_axes_exchanged_again(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    ring = to_degrees(corners(0))
    geojson(tmp_path / "0.geojson", [[[y, x] for x, y in ring]])
    manifest = dataset("0.geojson")
    (finding,) = elsewhere(manifest)
    assert finding.severity == "error"
    assert "exchange them in the file" in finding.remedy
    geojson(tmp_path / "0.geojson", [ring])
    assert elsewhere(manifest) == []


def test_one_file_of_several_scenes_may_leave_some_empty(
    dataset: Callable[..., Manifest], tmp_path: Path
) -> None:
    geojson(tmp_path / "all.geojson", [corners(0), corners(2)], UTM)
    manifest = dataset("all.geojson", "all.geojson", "all.geojson")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PolygonsAstrayWarning)
        assert not (manifest.scene("s1").read_labels(manifest.scene("s1").full_window)).any()
    assert elsewhere(manifest) == []
    # Beyond the extent of all, it is said.
    geojson(tmp_path / "all.geojson", [corners(0), corners(1)], UTM)
    (finding,) = elsewhere(manifest)
    assert (finding.severity, finding.scene) == ("warning", "s2")


def test_a_file_without_polygons_says_that_there_are_none(
    dataset: Callable[..., Manifest], tmp_path: Path
) -> None:
    geojson(tmp_path / "0.geojson", [corners(0)], UTM)
    (tmp_path / "1.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"c": 1}, '
        '"geometry": null}]}'
    )
    assert elsewhere(dataset("0.geojson", "1.geojson")) == []


def test_an_area_that_misses_the_scene(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    geojson(tmp_path / "0.geojson", [corners(0)], UTM)
    geojson(tmp_path / "area.geojson", [corners(0)])
    manifest = dataset("0.geojson", area="area.geojson")
    with pytest.warns(PolygonsAstrayWarning, match=r"area of labels of scene 's0' .*: no polygon"):
        manifest.scene("s0")
    (finding,) = elsewhere(manifest)
    assert "give the file that CRS, EPSG:32633" in finding.remedy


def gpkg(path: Path, **layers: list[Ring]) -> Path:
    for name, rings in layers.items():
        shapes = np.array([shapely.to_wkb(shapely.polygons(ring)) for ring in rings])
        pyogrio.raw.write(
            path, shapes, [np.ones(len(rings), int)], ["c"], layer=name, crs=UTM,
            geometry_type="Polygon", append=path.exists(),
        )  # fmt: skip
    return path


def count(manifest: Manifest) -> int:
    scene = manifest.scene("s0")
    return int((scene.read_labels(scene.full_window) == 1).sum())


def test_of_several_layers_one_has_to_be_named(
    dataset: Callable[..., Manifest], tmp_path: Path
) -> None:
    gpkg(tmp_path / "l.gpkg", aoi=[corners(0, (0, 16), (0, 12))], fields=[corners(0), corners(0)])
    with pytest.raises(ConfigError) as error:
        dataset("l.gpkg").scene("s0")
    text = str(error.value)
    assert "hold 2 layers of polygons: 'aoi' (1 feature), 'fields' (2 features)" in text
    assert "Say which in the manifest: 'labels: {layer: aoi}', or with the file: '" in text
    # Both remedies, for the layer wanted.
    assert count(dataset("l.gpkg", layer="fields")) == 64
    assert count(dataset("l.gpkg", layer="aoi")) == 16 * 12
    manifest = dataset("l.gpkg|layername=fields")
    assert count(manifest) == 64
    assert manifest.scene("s0").paths()["labels"] == (tmp_path / "l.gpkg",)
    with pytest.raises(ConfigError, match=r"unknown layer of the labels .*'field'.* mean 'fields'"):
        dataset("l.gpkg", layer="field").scene("s0")


def test_area_and_labels_may_be_layers_of_one_file(
    dataset: Callable[..., Manifest], tmp_path: Path
) -> None:
    gpkg(tmp_path / "l.gpkg", aoi=[corners(0, (0, 16), (0, 6))], fields=[corners(0)])
    with pytest.raises(ConfigError, match=r"area of .*'labels: \{area_layer: aoi\}'"):
        dataset("l.gpkg", layer="fields", area="l.gpkg").scene("s0")
    manifest = dataset("l.gpkg", layer="fields", area="l.gpkg", area_layer="aoi")
    scene = load_manifest(manifest.path).scene("s0")
    labels = scene.read_labels(scene.full_window)
    assert (labels[:, 6:] == 255).all()
    assert (labels == 1).sum() == 8 * 4
    assert manifest.to_dict()["labels"]["area_layer"] == "aoi"


def test_tables_and_lines_are_no_choice(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    path = gpkg(tmp_path / "l.gpkg", fields=[corners(0)])
    line = np.array([shapely.to_wkb(shapely.linestrings([[0, 0], [1, 1]]))])
    pyogrio.raw.write(path, line, [np.array([1])], ["c"], layer="a_road", crs=UTM,
                      geometry_type="LineString", append=True)  # fmt: skip
    pyogrio.raw.write(path, None, [np.array(["red"])], ["style"], layer="a_style",
                      geometry_type=None, crs=None, append=True)  # fmt: skip
    assert count(dataset("l.gpkg")) == 64


def test_zipped_vectors(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    import zipfile

    geojson(tmp_path / "in.geojson", [corners(0)], UTM)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "in.geojson", "a/in.geojson")
    (tmp_path / "in.geojson").unlink()
    for name in ("/vsizip/z.zip/a/in.geojson", "zip://z.zip!a/in.geojson"):
        assert count(dataset(name)) == 64
    with pytest.raises(RasterReadError, match=r"there is no file '.*/none.geojson'"):
        dataset("none.geojson").scene("s0")


def test_values_that_are_null_can_be_void(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    path = geojson(tmp_path / "0.geojson", [corners(0), corners(0, (12, 16))], UTM)
    values = json.loads(path.read_text())
    values["features"][1]["properties"]["c"] = None
    path.write_text(json.dumps(values))
    manifest = dataset("0.geojson")
    with pytest.raises(LabelError, match=r"null \(1 polygons\).*or to 'void' in the manifest") as e:
        manifest.scene("s0")
    # The remedy as it is written.
    (remedy,) = re.findall(r"\('(void: \[.*\])'\)", str(e.value))
    text = manifest.path.read_text()
    manifest.path.write_text(f"{text}\n{remedy}\n")
    scene = load_manifest(manifest.path).scene("s0")
    labels = scene.read_labels(scene.full_window)
    assert (labels[12:16, 2:10] == 255).all()
    assert (labels == 1).sum() == 64


def test_rings_mean_what_they_enclose(dataset: Callable[..., Manifest], tmp_path: Path) -> None:
    shell, hole = corners(0, (2, 8), (2, 8)), corners(0, (10, 14), (10, 14))
    values = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": UTM}},
        "features": [
            {"type": "Feature", "properties": {"c": 1},
             "geometry": {"type": "Polygon", "coordinates": [shell, hole]}},
        ],
    }  # fmt: skip
    (tmp_path / "0.geojson").write_text(json.dumps(values))
    assert count(dataset("0.geojson")) == 36  # a hole outside its shell is nothing
    collection = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "Polygon", "coordinates": [shell]},
            {"type": "Point", "coordinates": shell[0]},
        ],
    }
    values["features"][0]["geometry"] = collection  # type: ignore[index]
    (tmp_path / "0.geojson").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="1 collections hold points or lines beside polygons"):
        assert count(dataset("0.geojson")) == 36
    collection["geometries"] = collection["geometries"][1:]
    (tmp_path / "0.geojson").write_text(json.dumps(values))
    with pytest.raises(LabelError, match="must be polygons, but hold 1 × GeometryCollection"):
        dataset("0.geojson").scene("s0")
