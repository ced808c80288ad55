"""Painted polygons: what the messages say to do, done."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import shapely
from rasterio.transform import from_origin

from remedies import refused, said, warned
from terrafuse.data import Scene, open_dataset
from terrafuse.data.painted import (
    PaintedPolygon,
    PolygonsAstrayWarning,
    checked_shape,
    painted_path,
    read_layer,
    write_layer,
)


@pytest.fixture
def path(place: Any) -> Path:
    """Columns 3 to 9 and rows 2 to 5 of the scene "train", painted wet."""
    paint(place, "wet", 3, 2, 10, 6)
    return painted_path(place.manifest)


def paint(place: Any, name: str, *edges: float, expected: str | None = None) -> None:
    shape = shapely.multipolygons([shapely.box(*edges)])
    polygons = [PaintedPolygon("p", name, shape)]
    target = painted_path(place.manifest)
    write_layer(target, "train", place.open().grid, polygons, expected=expected)


def learnt(place: Any, **data: Any) -> Scene:
    place.run["data"] |= data
    return open_dataset(place.config().data).scene("train")


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize("way", ["copy", "anew"])
def test_a_damaged_file(place: Any, path: Path, way: str) -> None:
    copy = shutil.copy(path, place.folder / "copy.gpkg")
    path.write_bytes(path.read_bytes()[:9000])
    with refused("data.painted: | Mend it in a GIS, restore a copy, or move it away to begin anew"):
        learnt(place)
    path.unlink()
    if way == "copy":
        shutil.copy(copy, path)
    else:
        paint(place, "wet", 3, 2, 10, 6)
    assert learnt(place).painted_pixels == 28


@pytest.mark.parametrize("way", ["correct", "leave out"])
def test_a_path_to_no_file(place: Any, path: Path, way: str) -> None:
    with refused("data.painted:find_painted | Correct the path, or leave the key out to take"):
        learnt(place, painted="none.gpkg")
    found = learnt(place, painted=path.name if way == "correct" else "auto")
    assert found.painted_pixels == 28


@pytest.mark.parametrize("way", ["again", "remove"])
def test_polygons_of_a_raster_that_was_replaced(place: Any, path: Path, way: str) -> None:
    far = from_origin(800_000, 5_000_000, 10, 10)
    for name in "abl":
        place.raster(f"train_{name}.tif", place.pixels(name=name), transform=far)
    claim = "data.painted:PaintedLabels.__init__ | paint them again, or remove them in a GIS"
    with warned(claim, PolygonsAstrayWarning):
        assert learnt(place).painted_pixels == 0
    if way == "remove":
        change(path, "DELETE FROM train")
    else:
        paint(place, "wet", 3, 2, 10, 6)
    assert learnt(place).painted_pixels == (28 if way == "again" else 0)


def test_polygons_that_another_page_changed(place: Any, path: Path) -> None:
    seen = read_layer(path, "train").etag
    paint(place, "dry", 3, 2, 10, 6)
    with refused("data.painted:write_layer | Load them again, and paint once more what is missing"):
        paint(place, "wet", 3, 2, 10, 7, expected=seen)
    paint(place, "wet", 3, 2, 10, 7, expected=read_layer(path, "train").etag)
    assert learnt(place).painted_pixels == 35


def test_shapes_without_area(place: Any) -> None:
    grid = place.open().grid
    with refused("data.painted:checked_shape | without area; draw a polygon"):
        checked_shape(shapely.LineString([(0, 0), (3, 3)]), grid, "it")
    with refused("data.painted:checked_shape | Draw it again, or leave it out"):
        checked_shape(shapely.box(-9, -9, -1, -1), grid, "it")
    assert checked_shape(shapely.box(1, 1, 2, 2), grid, "it")[0].area == 1


@pytest.mark.parametrize("way", ["give", "remove"])
def test_a_polygon_without_class(place: Any, path: Path, way: str) -> None:
    change(path, "UPDATE train SET class = NULL")
    with refused("data.painted:_check_classes | Give it one in a GIS, or remove it"):
        learnt(place)
    given = "UPDATE train SET class = 'dry'"
    change(path, given if way == "give" else "DELETE FROM train")
    assert learnt(place).painted_pixels == (28 if way == "give" else 0)


@pytest.mark.parametrize("way", ["gis", "viewer", "ignore"])
def test_a_class_that_the_scheme_does_not_know(place: Any, path: Path, way: str) -> None:
    change(path, "UPDATE train SET class = 'moist'")
    claim = "data.painted:_check_classes | Correct it in a GIS or in the viewer, or leave painted"
    with refused(claim):
        learnt(place)
    if way == "gis":
        change(path, "UPDATE train SET class = 'wet'")
    elif way == "viewer":
        paint(place, "wet", 3, 2, 10, 6, expected=read_layer(path, "train").etag)
    found = learnt(place, painted="ignore" if way == "ignore" else "auto")
    assert found.painted_pixels == (0 if way == "ignore" else 28)


@pytest.mark.parametrize("way", ["name", "remove"])
def test_a_layer_without_classes(place: Any, path: Path, way: str) -> None:
    change(path, "ALTER TABLE train RENAME COLUMN class TO kind")
    with refused("data.painted:_layer_of | Name the one that holds the class so, or remove the"):
        learnt(place)
    if way == "name":
        change(path, "ALTER TABLE train RENAME COLUMN kind TO class")
    else:
        change(
            path, "DELETE FROM gpkg_geometry_columns", "DELETE FROM gpkg_contents",
            "DELETE FROM gpkg_ogr_contents", "DROP TABLE train",
        )  # fmt: skip
    assert learnt(place).painted_pixels == (28 if way == "name" else 0)


def test_a_file_that_a_gis_has_open(place: Any, path: Path) -> None:
    with closing(sqlite3.connect(path)) as gis:
        gis.execute("PRAGMA journal_mode=WAL")
        gis.execute("UPDATE train SET class = 'dry'")
        gis.commit()
        with refused("data.painted:_refuse_open | Save and close it there, then save here again"):
            paint(place, "wet", 3, 2, 10, 7)
    paint(place, "wet", 3, 2, 10, 7)
    assert learnt(place).painted_pixels == 35


def test_bodies_that_a_page_sends(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fastapi = pytest.importorskip("fastapi", reason="the extra 'web' is not installed")
    from fastapi.testclient import TestClient

    from terrafuse.web.viewer import labels as routes
    from terrafuse.web.viewer.app import answer_errors

    app = fastapi.FastAPI()
    answer_errors(app)
    app.include_router(routes.labels_router(place.load(), {"0": "train"}))
    client = TestClient(app)

    def answer(*ids: Any, address: str = "/0/labels", tag: str = "*") -> str:
        features = [
            {"type": "Feature", "properties": {"id": id, "class": "wet"}, "geometry":
             {"type": "Polygon", "coordinates": [[[1, 1], [4, 1], [4, 3], [1, 1]]]}}
            for id in ids
        ]  # fmt: skip
        body = {"type": "FeatureCollection", "features": features}
        got = client.put(address, json=body, headers={"If-Match": tag} if tag else {})
        return str(got.json().get("error", ""))

    said("web.viewer.labels:_polygons_in | give each polygon an id of its own", answer("a", "a"))
    said("web.viewer.labels:_properties | give it a text of 1 to ", answer("a", 7))
    monkeypatch.setattr(routes, "MOST_VERTICES", 8)
    several = "web.viewer.labels:_shape | paint with fewer, or leave some out"
    said(several, answer("a", "b", "c"))
    assert not answer("a", "b")
