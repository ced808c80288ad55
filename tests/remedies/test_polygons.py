"""Labels from polygons: what the message says to do, done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError

from remedies import refused, told, warned
from terrafuse.data.polygons import PolygonsAstrayWarning

UTM = "EPSG:32633"


def square(shift: float = 0) -> list[list[float]]:
    """Rows 2 to 12 and columns 4 to 10 of the scene "train"."""
    x, y = 500_000 + shift, 5_000_000
    return [
        [x + 40, y - 120],
        [x + 100, y - 120],
        [x + 100, y - 20],
        [x + 40, y - 20],
        [x + 40, y - 120],
    ]


def write(
    path: Path, *rings: Any, crs: str | None = UTM, kind: str = "Polygon", **fields: Any
) -> None:
    features = [
        {"type": "Feature", "properties": {"c": 1, **fields},
         "geometry": {"type": kind, "coordinates": [ring] if kind == "Polygon" else ring}}
        for ring in rings
    ]  # fmt: skip
    values: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        values["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(values))


@pytest.fixture
def place(place: Any) -> Any:
    """The place with polygons as labels of one scene."""
    place.values["scenes"] = [place.entry() | {"labels": "l.geojson"}]
    place.values["labels"] = {"attribute": "c", "background": 0}
    write(place.folder / "l.geojson", square())
    return place


def wet(place: Any) -> int:
    return int((place.read()["labels"] == 1).sum())


def test_polygons_are_where_they_are_drawn(place: Any) -> None:
    assert wet(place) == 60


def test_metres_without_a_crs(place: Any) -> None:
    write(place.folder / "l.geojson", square(), crs=None)
    name = "data.polygons:_advise | in the scene's CRS they would lie there: give the file that"
    with warned(name, PolygonsAstrayWarning) as text:
        place.open()
    assert "(in GeoJSON the member 'crs')" in text
    write(place.folder / "l.geojson", square(), crs=text.find(r"that CRS, (EPSG:\d+) "))
    assert wet(place) == 60


def test_metres_of_nowhere_near(place: Any) -> None:
    """In a zone of their own, which no advice can name."""
    far = [[x - 180_000, y + 90_000] for x, y in square()]
    write(place.folder / "l.geojson", far, crs=None)
    with warned(
        "data.polygons:_advise | give the file the CRS of its coordinates", PolygonsAstrayWarning
    ):
        place.open()
    # The same square in another CRS, once without and then with it.
    from rasterio.warp import transform

    x, y = transform(UTM, "EPSG:3857", *zip(*square(), strict=True))
    ring = [list(point) for point in zip(x, y, strict=True)]
    write(place.folder / "l.geojson", ring, crs=None)
    with warned(
        "data.polygons:_advise | give the file the CRS of its coordinates", PolygonsAstrayWarning
    ):
        place.open()
    write(place.folder / "l.geojson", ring, crs="EPSG:3857")
    assert wet(place) == 60


def test_degrees_that_are_called_metres(place: Any) -> None:
    from rasterio.warp import transform

    x, y = transform(UTM, "EPSG:4326", *zip(*square(), strict=True))
    ring = [list(point) for point in zip(x, y, strict=True)]
    write(place.folder / "l.geojson", ring)
    name = "data.polygons:_advise | Taken as degrees they would lie there: give the file the CRS"
    with warned(name, PolygonsAstrayWarning) as text:
        place.open()
    write(place.folder / "l.geojson", ring, crs=text.find(r"the CRS (EPSG:\d+)$"))
    assert wet(place) == 60


@pytest.mark.parametrize("way", ["file", "crs"])
def test_polygons_of_another_scene_or_crs(place: Any, way: str) -> None:
    write(place.folder / "l.geojson", *([square(90_000)] if way == "file" else [square()]),
          crs=UTM if way == "file" else "EPSG:32634")  # fmt: skip
    name = "data.polygons:_advise | Check that the file belongs to this scene and that its CRS"
    with warned(name, PolygonsAstrayWarning):
        place.open()
    told(name, place.check())
    write(place.folder / "l.geojson", square())
    assert wet(place) == 60
    assert "polygons-elsewhere" not in place.codes()


def gpkg(place: Any, ring: Any, crs: str | None) -> None:
    path = place.folder / "l.gpkg"
    path.unlink(missing_ok=True)
    shapes = np.array([shapely.to_wkb(shapely.polygons(ring))])
    with pytest.warns(UserWarning, match="crs") if crs is None else _nothing():
        pyogrio.raw.write(path, shapes, [np.ones(1, int)], ["c"], crs=crs, geometry_type="Polygon")
    place.entry()["labels"] = "l.gpkg"


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("way", ["both", "none"])
def test_a_crs_on_one_side_only(place: Any, way: str) -> None:
    if way == "both":
        gpkg(place, square(), None)
    else:
        for name in "ab":
            place.raster(f"train_{name}.tif", place.pixels("train", name), crs=None)
    with refused("data.polygons:_vector_crs | Give both a CRS, or none (a GeoPackage without CRS"):
        place.open()
    gpkg(place, square(), UTM if way == "both" else None)
    assert wet(place) == 60


@pytest.mark.parametrize("way", ["buffer", "remove"])
def test_lines_among_polygons(place: Any, way: str) -> None:
    lines = json.loads((place.folder / "l.geojson").read_text())
    line = [[500_200, 4_999_800], [500_300, 4_999_800]]
    lines["features"].append(
        {
            "type": "Feature",
            "properties": {"c": 1},
            "geometry": {"type": "LineString", "coordinates": line},
        }
    )
    (place.folder / "l.geojson").write_text(json.dumps(lines))
    with refused("data.polygons:_check_types | Buffer or remove them"):
        place.open()
    wider = shapely.LineString(line).buffer(5, cap_style="flat")
    rings = [square(), *([list(map(list, wider.exterior.coords))] if way == "buffer" else [])]
    write(place.folder / "l.geojson", *rings)
    assert (wet(place) > 60) == (way == "buffer")


def test_which_class_the_polygons_are(place: Any) -> None:
    place.values["labels"] = {}
    with refused(
        "data.polygons:_only_class | Name the field that tells in 'labels.attribute'"
    ) as error:
        place.open()
    place.values["labels"] = {"attribute": error.find(r"\(fields: (\w+)\)")}
    assert wet(place) == 60


@pytest.mark.parametrize("way", ["code", "void"])
def test_values_that_are_no_class(place: Any, way: str) -> None:
    write(place.folder / "l.geojson", square(), c="pond")
    with refused("data.polygons:_classes | or to 'void' in the manifest ('void: [") as error:
        place.open()
    if way == "code":
        place.values["classes"][1]["code"] = [1, error.find(r"scheme: '(\w+)' \(")]
    else:
        (text,) = re.findall(r"\('(void: \[.*\])'\)", error.text)
        place.write()
        place.manifest.write_text(f"{place.manifest.read_text()}\n{text}\n")
        from terrafuse.data import load_manifest

        scene = load_manifest(place.manifest).scene("train")
        assert int((scene.read_labels(scene.full_window) == 255).sum()) == 60
        return
    assert wet(place) == 60


# Files that hold none


def test_features_without_coordinates(place: Any) -> None:
    path = place.folder / "l.geojson"
    content = json.loads(path.read_text())
    content["features"][0]["geometry"] = None
    path.write_text(json.dumps(content))
    with refused("data.polygons:_VectorFile.open | Write the file again with its geometries"):
        place.read()
    write(path, square())
    assert wet(place) == 60


def test_a_file_that_is_incomplete(place: Any) -> None:
    path = place.folder / "l.geojson"
    whole = path.read_text()
    path.write_text(whole[:-40])
    with refused("data.polygons:_failures_of | Check that the file is complete and a format GDAL"):
        place.read()
    path.write_text(whole)
    assert wet(place) == 60


def test_a_file_without_layers(place: Any) -> None:
    path = place.folder / "l.geojson"
    whole = path.read_text()
    path.write_text(
        '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document></Document></kml>'
    )
    with refused("data.polygons:_choose_layer | The file is incomplete: fetch it again"):
        place.read()
    path.write_text(whole)
    assert wet(place) == 60


@pytest.mark.filterwarnings("ignore:.*invalid value encountered in from_wkb:UserWarning")
@pytest.mark.parametrize("way", ["correct", "remove"])
def test_coordinates_that_are_not_finite(place: Any, way: str) -> None:
    other = [[500_200, 4_999_800], [500_220, 4_999_800], [500_220, 4_999_780], [500_200, 4_999_800]]
    write(place.folder / "l.geojson", square(), [other[0], [float("nan"), 4_999_800], *other[2:]])
    with refused("data.polygons:_check_coordinates | Correct or remove them") as error:
        place.read()
    assert error.find(r"\(number (\d+)\)") == "1"
    write(place.folder / "l.geojson", square(), *([other] if way == "correct" else []))
    assert (wet(place) > 60) == (way == "correct")


def test_a_crs_that_is_not_understood(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where GDAL knows a CRS that rasterio does not."""

    class Known(CRS):  # type: ignore[misc]
        @classmethod
        def from_user_input(cls, text: Any, *_: Any) -> Any:
            if "32634" in str(text):
                raise CRSError("no such CRS")
            return CRS.from_user_input(text)

    monkeypatch.setattr("terrafuse.data.polygons.CRS", Known)
    gpkg(place, square(), "EPSG:32634")
    with refused("data.polygons:_vector_crs | Give it its CRS (ogr2ogr -a_srs EPSG:…)"):
        place.read()
    gpkg(place, square(), UTM)  # the same coordinates with another CRS
    assert wet(place) == 60


@pytest.mark.parametrize("way", ["order", "remove"])
def test_an_outline_of_points_in_no_order(place: Any, way: str) -> None:
    angles = np.random.default_rng(0).random(3000) * 2 * np.pi
    east, north = 500_250 + 50 * np.cos(angles), 4_999_800 + 50 * np.sin(angles)
    points = np.stack([east, north], 1)
    write(place.folder / "l.geojson", square(), [*points.tolist(), points[0].tolist()])
    with refused("data.polygons:check_crossings | Order its points along the boundary, or remove"):
        place.read()
    ordered = points[np.argsort(angles)].tolist()
    rings = [[*ordered, ordered[0]]] if way == "order" else []
    write(place.folder / "l.geojson", square(), *rings)
    # A circle of 50 m has 78.5 pixels of 10 m.
    assert wet(place) == pytest.approx(60 + (78.5 if way == "order" else 0), abs=8 * len(rings))
