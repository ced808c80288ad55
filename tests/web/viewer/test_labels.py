"""Routes of painted polygons and of the labels of a sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from affine import Affine
from rasterio.crs import CRS

from terrafuse.config import DataConfig
from terrafuse.data import Grid, Manifest, load_manifest, open_dataset
from terrafuse.data.painted import painted_path, read_layer
from terrafuse.errors import DataError, LabelError, SceneNotFoundError
from terrafuse.maps import DrawnPixels, SampleFile, Stratum, read_labels, read_sample, write_sample
from terrafuse.samples import Window

fastapi = pytest.importorskip("fastapi", reason="the extra 'web' is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from terrafuse.web.viewer import labels as routes  # noqa: E402
from terrafuse.web.viewer.app import answer_errors  # noqa: E402
from terrafuse.web.viewer.labels import (  # noqa: E402
    labelling_of,
    labels_router,
    sample_router,
    sampling_of,
)

ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(33) @ Affine.scale(10, -7)
HEIGHT, WIDTH = 20, 30
ADDRESS = "/views/0/labels"


@pytest.fixture
def manifest(make_raster: Callable[..., Path], tmp_path: Path) -> Manifest:
    scenes = []
    for id, split in (("a/1", "train"), ("t", "test")):
        name = id.replace("/", "_")
        image = np.arange(1, HEIGHT * WIDTH + 1, dtype=np.uint16).reshape(1, HEIGHT, WIDTH)
        make_raster(tmp_path / f"{name}.tif", image, crs="EPSG:32630", transform=ROTATED)
        scenes.append({"id": id, "split": split, "rgb": f"{name}.tif"})
    values = {
        "classes": [{"name": n, "code": k} for k, n in enumerate(("soil", "crop", "mine"))],
        "modalities": {"rgb": {"kind": "optical", "bands": ["r"]}},
        "scenes": scenes,
    }
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_manifest(path)


@pytest.fixture
def client(manifest: Manifest) -> TestClient:
    app = fastapi.FastAPI()
    answer_errors(app)
    app.include_router(labels_router(manifest, {"0": "a/1", "1": "t"}), prefix="/views")
    return TestClient(app)


def feature(id: Any, name: Any, *rings: Any, **further: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {
        "type": "Feature",
        "properties": {"id": id, "class": name},
        "geometry": geometry,
    } | further


def square(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def put(client: TestClient, *features: Any, tag: str = "*", address: str = ADDRESS) -> Any:
    body = {"type": "FeatureCollection", "features": list(features)}
    return client.put(address, json=body, headers={"If-Match": tag})


def test_a_painted_polygon_is_kept_and_learnt_from(client: TestClient, manifest: Manifest) -> None:
    empty = client.get(ADDRESS)
    assert empty.json()["features"] == []
    assert not painted_path(manifest.path).exists()
    hole = [[8, 5], [10, 5], [10, 7], [8, 7], [8, 5]]
    tag = empty.headers["ETag"]
    kept = put(client, feature("p", "mine", square(4, 3, 14, 11), hole), tag=tag)
    assert kept.status_code == 200
    assert kept.json()["notes"] == []
    read = client.get(ADDRESS)
    assert read.json()["features"] == kept.json()["features"]
    assert read.headers["ETag"] == kept.headers["ETag"] != tag
    (found,) = read.json()["features"]
    assert found["properties"]["class"] == "mine"
    assert found["properties"]["painted_at"]
    assert sorted(map(tuple, found["geometry"]["coordinates"][0][:-1])) == [
        (4, 3), (4, 11), (14, 3), (14, 11)
    ]  # fmt: skip
    scene = open_dataset(DataConfig(manifest=manifest.path)).scene("a/1")
    labels = scene.read_labels(Window(0, 0, HEIGHT, WIDTH))
    wanted = np.full((HEIGHT, WIDTH), 255)
    wanted[3:11, 4:14] = 2
    wanted[5:7, 8:10] = 255
    np.testing.assert_array_equal(labels, wanted)


def test_the_second_of_two_pages_is_refused_and_loses_nothing(client: TestClient) -> None:
    tag = client.get(ADDRESS).headers["ETag"]
    first = put(client, feature("p", "mine", square(0, 0, 3, 3)), tag=tag)
    second = put(client, feature("q", "crop", square(5, 5, 9, 9)), tag=tag)
    assert (first.status_code, second.status_code) == (200, 412)
    assert "Load them again" in second.json()["error"]
    assert client.get(ADDRESS).json()["features"] == first.json()["features"]
    other = put(
        client, feature("q", "crop", square(5, 5, 9, 9)), tag=tag, address="/views/1/labels"
    )
    assert other.status_code == 200  # another scene
    without = client.put(ADDRESS, json={"type": "FeatureCollection", "features": []})
    assert without.status_code == 428
    assert "If-Match" in without.json()["error"]
    removed = put(client, tag=first.headers["ETag"])
    assert (removed.json()["features"] == [] and removed.headers["ETag"] != tag) or removed
    assert len(client.get("/views/1/labels").json()["features"]) == 1


def test_a_class_that_was_renamed_stops_no_painting(client: TestClient, manifest: Manifest) -> None:
    old = put(client, feature("p", "mine", square(0, 0, 3, 3)))
    text = manifest.path.read_text()
    manifest.path.write_text(text.replace("mine", "quarry"))
    # The viewer that was started before would go on in classes that there are no more.
    error = put(client, feature("q", "crop", square(5, 5, 9, 9)), tag=old.headers["ETag"])
    assert error.status_code == 409
    assert error.json()["error"] == (
        "'dataset.yaml' has other classes than when this viewer was started, or cannot be read. "
        "Start the viewer again"
    )
    assert client.get(ADDRESS).json()["features"] == old.json()["features"]
    app = fastapi.FastAPI()
    answer_errors(app)
    app.include_router(labels_router(load_manifest(manifest.path), {"0": "a/1"}), prefix="/views")
    again = TestClient(app)
    (found,) = again.get(ADDRESS).json()["features"]
    both = put(again, found, feature("q", "crop", square(5, 5, 9, 9)), tag=old.headers["ETag"])
    assert both.status_code == 200
    (note,) = both.json()["notes"]
    assert note.startswith("class 'mine' is not in the manifest any more")
    with pytest.raises(LabelError, match="unknown class 'mine'"):
        open_dataset(DataConfig(manifest=manifest.path))
    other = put(again, feature("p", "pit", square(0, 0, 3, 3)), tag=both.headers["ETag"])
    assert other.status_code == 422
    # As the note says.
    painted = feature("p", "quarry", square(0, 0, 3, 3))
    assert put(again, painted, tag=both.headers["ETag"]).json()["notes"] == []
    assert open_dataset(DataConfig(manifest=manifest.path)).painted is not None
    manifest.path.write_text(manifest.path.read_text() + "\n# a remark\n")
    assert put(again, painted).status_code == 200


def test_what_is_changed_of_a_polygon_is_said(client: TestClient) -> None:
    bow = [[0, 0], [4, 4], [4, 0], [0, 4]]
    kept = put(client, feature("p", "mine", bow), feature("q", "crop", square(28, 1, 40, 9)))
    notes = kept.json()["notes"]
    assert notes[0] == "polygon 'p': an outline that crossed itself was mended"
    assert notes[1] == "polygon 'q': what lay outside the scene was cut off"
    kinds = [f["geometry"]["type"] for f in kept.json()["features"]]
    assert kinds == ["MultiPolygon", "Polygon"]


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown class": (feature("p", "mien", square(0, 0, 3, 3)), "Did you mean 'mine'"),
    "class is a number": (feature("p", 2, square(0, 0, 3, 3)), "unknown class '2'"),
    "no id": (feature(None, "mine", square(0, 0, 3, 3)), "has no 'id'"),
    "long id": (feature("x" * 101, "mine", square(0, 0, 3, 3)), "1 to 100 characters"),
    "outside": (feature("p", "mine", square(-9, 0, -3, 3)), "no area within the scene"),
    "line": (feature("p", "mine", [[0, 0], [1, 1], [0, 0]]), "fewer than three corners"),
    "text": (feature("p", "mine", [["1", 0], [1, 1], [0, 4], [0, 0]]), "two numbers each"),
    "ragged": (feature("p", "mine", [[0], [1, 1], [0, 4], [0]]), "two numbers each"),
    "huge": (feature("p", "mine", [[10**400, 0], [1, 1], [0, 4]]), "two numbers each"),
    "nested": (feature("p", "mine", [[[1, 2], 0], [1, 1], [0, 4]]), "two numbers each"),
    "far": (feature("p", "mine", square(0, 0, 1e30, 3)), "beyond 10⁹ pixels"),
    "point": (
        feature("p", "mine", geometry={"type": "Point", "coordinates": [1, 2]}),
        "type Point",
    ),
    "no geometry": (feature("p", "mine", geometry=None), "type None"),
    "no outline": (feature("p", "mine"), "no outline"),
    "no feature": (7, "number 2 of the collection is no feature"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_polygon_is_one_message_and_leaves_nothing(
    client: TestClient, manifest: Manifest, what: str
) -> None:
    wrong, message = REFUSED[what]
    answer = put(client, feature("ok", "mine", square(0, 0, 3, 3)), wrong)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert not painted_path(manifest.path).exists()
    assert [p.name for p in manifest.path.parent.iterdir() if "partial" in p.name] == []


def test_what_is_no_collection_is_refused(
    client: TestClient, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(body: bytes) -> tuple[int, str]:
        answer = client.put(ADDRESS, content=body, headers={"If-Match": "*"})
        return answer.status_code, answer.json()["error"]

    assert send(b"{")[0] == 400
    assert send(b"[" * 100_000)[0] == 400
    assert send(b"\xff\xfe")[0] == 400
    assert send(b"[]") == (422, "the body is no GeoJSON FeatureCollection")
    text = json.dumps(
        {"type": "FeatureCollection", "features": [feature("p", "mine", square(0, 0, 3, 3))]}
    )
    assert send(text.replace("3.0", "NaN").replace("3]", "NaN]").encode())[1].endswith("no number")
    assert send(text.replace("3]", "1e999]").encode())[1].endswith("not finite")
    twice = put(client, *[feature("p", "mine", square(0, 0, 3, 3))] * 2)
    assert "is there twice" in twice.json()["error"]
    monkeypatch.setattr(routes, "MOST_VERTICES", 9)
    many = put(client, *[feature(f"{n}", "mine", square(0, 0, 3, 3)) for n in range(2)])
    assert many.status_code == 422
    assert "more than 9 vertices" in many.json()["error"]
    assert client.get("/views/2/labels").status_code == 404
    assert client.get("/views/..%2F/labels").status_code == 404
    assert not painted_path(manifest.path).exists()


def test_a_damaged_file_is_told_and_kept(client: TestClient, manifest: Manifest) -> None:
    path = painted_path(manifest.path)
    path.write_bytes(b"no database, but text")
    for answer in (client.get(ADDRESS), put(client, feature("p", "mine", square(0, 0, 3, 3)))):
        assert answer.status_code == 409
        assert "cannot be read as painted polygons" in answer.json()["error"]
    assert path.read_bytes() == b"no database, but text"


def test_the_page_is_told_what_can_be_painted(manifest: Manifest) -> None:
    found = labelling_of(manifest, "a/1", href="labels")
    assert [entry.name for entry in found.classes] == ["soil", "crop", "mine"]
    assert [entry.colour for entry in found.classes] == list(manifest.scheme.colors)
    assert (found.file, found.split, found.is_used) == ("dataset.painted.gpkg", "train", True)
    assert not labelling_of(manifest, "t").is_used
    assert labelling_of(manifest, "t", train_splits=("test",)).is_used
    with pytest.raises(SceneNotFoundError):
        labelling_of(manifest, "none")


def write_drawn(path: Path, *, blind: bool) -> Grid:
    grid = Grid(CRS.from_epsg(32630), ROTATED, HEIGHT, WIDTH)
    pixels = DrawnPixels(np.array([1, 0, 1]), np.array([3, 7, 19]), np.array([29, 0, 5]))
    strata = (Stratum("soil", 0, 300, 2.1), Stratum("mine", 2, 300, 2.1))
    sample = SampleFile(grid, strata, False, ("soil", "mine"), pixels, {"blind": blind})
    write_sample(path, sample, blind=blind)
    return grid


@pytest.mark.parametrize("blind", [True, False])
def test_a_sample_is_labelled_point_by_point(tmp_path: Path, blind: bool) -> None:
    path = tmp_path / "sample.gpkg"
    grid = write_drawn(path, blind=blind)
    sampling, places = sampling_of(path, grid=grid)
    assert (sampling.ids, sampling.is_blind) == ((1, 2, 3), blind)
    assert sampling.classes == ("soil", "mine")
    assert [(p.row, p.col) for p in places.places] == [(3, 29), (7, 0), (19, 5)]
    texts = [p.text for p in places.places]
    assert texts == [f"point {n}" for n in (1, 2, 3)] if blind else "mapped as mine" in texts[0]
    app = fastapi.FastAPI()
    answer_errors(app)
    app.include_router(sample_router(path), prefix="/views/0")
    client = TestClient(app)
    assert client.get("/views/0/sample").json() == {"labels": {"1": None, "2": None, "3": None}}
    set_ = client.put("/views/0/sample", json={"labels": {"1": "mine", "3": "soil"}})
    assert set_.json() == {"labels": {"1": "mine", "2": None, "3": "soil"}}
    unset = client.put("/views/0/sample", json={"labels": {"3": None}})
    assert unset.json()["labels"] == {"1": "mine", "2": None, "3": None}
    assert read_labels(path, read_sample(path)).tolist() == [1, -1, -1]
    for labels, message in (
        ({"9": "mine"}, "no point 9"),
        ({"x": "mine"}, "no id of a point"),
        ({"1": 2}, "a label is the name of a class"),
        ({"1": "mien"}, "unknown class 'mien'"),
        (None, "the body is not"),
    ):
        answer = client.put("/views/0/sample", json={"labels": labels})
        assert 400 <= answer.status_code < 500
        assert message in answer.json()["error"]
    assert read_labels(path, read_sample(path)).tolist() == [1, -1, -1]


def test_a_sample_of_another_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.gpkg"
    grid = write_drawn(path, blind=False)
    other = Grid(grid.crs, grid.transform, HEIGHT + 1, WIDTH)
    with pytest.raises(DataError, match="was drawn from a map of 20 × 30 pixels"):
        sampling_of(path, grid=other)
    assert read_layer(tmp_path / "none.gpkg", "a") is not None
