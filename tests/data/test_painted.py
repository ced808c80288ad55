"""Painted polygons: the file beside the manifest, and labels that training draws from it."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
import yaml
from affine import Affine

from terrafuse.api import data_check, validate
from terrafuse.config import DataConfig
from terrafuse.data import Manifest, class_counts, load_manifest, open_dataset
from terrafuse.data import painted as painting
from terrafuse.data.kept import open_keeper
from terrafuse.data.painted import (
    NOTHING,
    PaintedPolygon,
    StalePolygonsError,
    checked_shape,
    painted_path,
    pixel_shapes,
    read_layer,
    read_painted,
    write_layer,
)
from terrafuse.errors import ConfigError, DataError, LabelError, OutputError
from terrafuse.samples import Window
from terrafuse.sampling import labelled_scenes

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
MakeRaster = Callable[..., Path]
ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(33) @ Affine.scale(10, -7)
GRIDS: dict[str, tuple[str | None, Affine]] = {
    "rotated": ("EPSG:32630", ROTATED),
    "degrees": ("EPSG:4326", Affine(1e-4, 0, 7.3, 0, -0.7e-4, 47.1)),
    "local": ('LOCAL_CS["site",UNIT["metre",1]]', Affine(0.5, 0, 10, 0, -0.5, 90)),
    "none": (None, Affine.identity()),
}
HEIGHT, WIDTH = 20, 30


def box(left: float, top: float, right: float, bottom: float) -> Any:
    return shapely.multipolygons([shapely.box(left, top, right, bottom)])


def polygon(id: str, name: str, *edges: float) -> PaintedPolygon:
    return PaintedPolygon(id, name, box(*edges))


@pytest.fixture
def make_manifest(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a data set of scenes "a/1", "b" (no labels), "v" and "t" on a grid."""

    def make(kind: str = "rotated", **further: Any) -> Path:
        crs, transform = GRIDS[kind]
        rng = np.random.default_rng(3)
        scenes = []
        for id, split in (("a/1", "train"), ("b", "train"), ("v", "val"), ("t", "test")):
            stem = id.replace("/", "_")
            image = rng.integers(1, 200, (1, HEIGHT, WIDTH)).astype(np.uint8)
            make_raster(tmp_path / f"{stem}.tif", image, crs=crs, transform=transform)
            entry = {"id": id, "split": split, "rgb": f"{stem}.tif"}
            if id != "b":
                labels = rng.integers(0, 2, (1, HEIGHT, WIDTH)).astype(np.uint8)
                make_raster(tmp_path / f"{stem}_l.tif", labels, crs=crs, transform=transform)
                entry["labels"] = f"{stem}_l.tif"
            scenes.append(entry)
        values = {
            "classes": [{"name": n, "code": k} for k, n in enumerate(("soil", "crop", "mine"))],
            "modalities": {"rgb": {"kind": "optical", "bands": ["r"]}},
            "scenes": scenes,
            **further,
        }
        path = tmp_path / "dataset.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        long_ago = time.time() - 60
        for file in tmp_path.glob("*.tif"):
            os.utime(file, (long_ago, long_ago))
        return path

    return make


@pytest.fixture
def manifest(make_manifest: Callable[..., Path]) -> Manifest:
    return load_manifest(make_manifest())


def paint(manifest: Manifest, scene: str, *polygons: PaintedPolygon) -> Path:
    path = painted_path(manifest.path)
    write_layer(path, scene, manifest.scene(scene).grid, polygons)
    return path


def opened(manifest: Manifest, **settings: Any) -> Manifest:
    return open_dataset(DataConfig(manifest=manifest.path, **settings))


@pytest.mark.parametrize("kind", GRIDS)
def test_a_pixel_has_the_class_of_the_last_polygon_over_its_centre(
    kind: str, make_manifest: Callable[..., Path]
) -> None:
    manifest = load_manifest(make_manifest(kind))
    paint(
        manifest, "a/1",
        polygon("p", "mine", 4, 3, 9.4, 11),  # cols 4 to 8: the centre of 9 is at 9.5
        polygon("q", "crop", 7, 9, 20, 12.6),  # rows 9 to 12: the centre of 12 is at 12.5
    )  # fmt: skip
    before = manifest.scene("a/1").read_labels(Window(0, 0, HEIGHT, WIDTH))
    wanted = before.copy()
    wanted[3:11, 4:9] = 2
    wanted[9:13, 7:20] = 1
    scene = opened(manifest).scene("a/1")
    np.testing.assert_array_equal(scene.read_labels(Window(0, 0, HEIGHT, WIDTH)), wanted)
    beyond = scene.read_labels(Window(-2, 5, 8, 40))
    np.testing.assert_array_equal(beyond[2:, : WIDTH - 5], wanted[:6, 5:])
    assert (beyond[:2] == 255).all()
    assert (beyond[:, WIDTH - 5 :] == 255).all()
    assert scene.painted_pixels == 8 * 5 + 4 * 13 - 2 * 2
    assert pickle.loads(pickle.dumps(scene)).painted_pixels == scene.painted_pixels


@pytest.mark.parametrize("kind", GRIDS)
def test_shapes_come_back_as_they_were_painted(
    kind: str, make_manifest: Callable[..., Path]
) -> None:
    manifest = load_manifest(make_manifest(kind))
    grid = manifest.scene("b").grid
    outline = shapely.Polygon(
        [(1.25, 2), (17.5, 3.125), (12, 15)], holes=[[(8, 5), (10, 5), (9, 7)]]
    )
    shape, said = checked_shape(outline, grid, "it")
    assert not said
    path = painted_path(manifest.path)
    layer = write_layer(path, "b", grid, [PaintedPolygon("h", "crop", shape)])
    assert shapely.equals_exact(pixel_shapes(layer, grid)[0], shapely.multipolygons([outline]), 0)
    again = write_layer(path, "b", grid, [PaintedPolygon("h", "crop", shape)])
    assert (again.etag, again.painted_at) == (layer.etag, layer.painted_at)
    assert again.shapes == layer.shapes
    name, geometry, *_ = pyogrio.list_layers(path)[0]
    assert (name, geometry) == ("b", "MultiPolygon")


def test_a_scene_without_labels_is_labelled_where_it_is_painted(manifest: Manifest) -> None:
    assert [s.id for s in labelled_scenes(opened(manifest), ["train"])] == ["a/1"]
    paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    dataset = opened(manifest)
    scenes = labelled_scenes(dataset, ["train"])
    assert [scene.id for scene in scenes] == ["a/1", "b"]
    labels = scenes[1].read_labels(Window(0, 0, HEIGHT, WIDTH))
    assert (labels[:2, :3] == 2).all()
    assert (labels == 2).sum() == 6
    assert (labels == 255).sum() == 594
    counts = class_counts(scenes, dataset.scheme)
    assert counts[2] == 6
    assert class_counts(scenes[:1], dataset.scheme)[2] == 0
    assert scenes[1].read(Window(0, 0, 4, 4)).labels is not None


def test_truth_of_validation_and_test_scenes_is_never_changed(manifest: Manifest) -> None:
    for scene in ("v", "t", "t"):
        paint(manifest, scene, polygon("p", "mine", 0, 0, 30, 20), polygon("q", "mine", 1, 1, 5, 5))
    paint(manifest, "a/1", polygon("p", "mine", 0, 0, 30, 20))
    dataset, whole = opened(manifest), Window(0, 0, HEIGHT, WIDTH)
    for id in ("v", "t"):
        np.testing.assert_array_equal(
            dataset.scene(id).read_labels(whole), manifest.scene(id).read_labels(whole)
        )
    assert (dataset.scene("a/1").read_labels(whole) == 2).all()
    # Planted: splits that are trained on are painted, whatever they are called.
    learnt = opened(manifest, train_splits=("train", "test"))
    assert (learnt.scene("t").read_labels(whole) == 2).all()
    np.testing.assert_array_equal(
        learnt.unpainted().scene("t").read_labels(whole), manifest.scene("t").read_labels(whole)
    )
    assert dataset.painted is not None
    said = list(dataset.painted.lines(600))
    assert said[0].startswith("painted: 1 polygon in 1 scene, 600 pixels, from '")
    assert "painted: 2 polygons in scenes of split 'test' are not learnt from" in said
    assert "painted: 2 polygons in scenes of split 'val' are not learnt from" in said


def test_painted_polygons_can_be_ignored_or_taken_from_elsewhere(
    manifest: Manifest, tmp_path: Path
) -> None:
    path = paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    assert opened(manifest, painted="ignore").painted is None
    other = tmp_path / "others" / "mine.gpkg"
    other.parent.mkdir()
    path.rename(other)
    assert opened(manifest).painted is None
    assert list(opened(manifest, painted=other).painted.layers) == ["b"]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"data\.painted: there is no file '.*none\.gpkg'"):
        opened(manifest, painted=tmp_path / "none.gpkg")


def test_what_is_kept_of_a_data_set_changes_with_the_polygons(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrafuse.data.kept._SETTLED_NS", -(10**12))
    digests = [open_keeper(opened(manifest)).digest]
    for edge in (3, 4):
        paint(manifest, "b", polygon("p", "mine", 0, 0, edge, 2))
        digests.append(open_keeper(opened(manifest)).digest)
    paint(manifest, "b", polygon("p", "crop", 0, 0, 4, 2))
    digests.append(open_keeper(opened(manifest)).digest)
    assert len(set(digests)) == 4
    assert all(digests)
    paint(manifest, "t", polygon("p", "crop", 0, 0, 4, 2))  # nothing that is learnt from
    assert open_keeper(opened(manifest)).digest == digests[-1]


def test_validate_and_check_see_the_polygons(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAFUSE_KEEP", "no")
    assert any(
        f.code == "no-labels" and f.scene == "b" for f in data_check(manifest.path, quick=True)
    )
    paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    said: list[str] = []
    found = data_check(manifest.path, quick=True, say=said.append)
    assert not [f for f in found if f.code in ("no-labels", "class-missing")]
    assert said[0].startswith("painted: 1 polygon in 1 scene, from")
    run = tmp_path / "run.yaml"
    run.write_text(
        "data: {manifest: dataset.yaml, crop_size: 16}\n"
        "method: {name: single, backbone: resnet10t}\n"
    )
    facts = validate(run)
    assert facts["painted"]["polygons"] == 1
    assert facts["painted"]["scenes"] == 1


def test_unknown_classes_are_refused_with_their_polygon(manifest: Manifest) -> None:
    path = paint(manifest, "b", polygon("p1", "mine", 0, 0, 3, 2))
    text = manifest.path.read_text().replace("mine", "quarry")
    manifest.path.write_text(text)
    with pytest.raises(
        LabelError, match=r"painted polygon 'p1' \('.*', scene 'b'\): unknown class"
    ):
        opened(manifest)
    assert opened(manifest, painted="ignore").painted is None
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE b SET class = NULL")
        database.commit()
    with pytest.raises(LabelError, match=r"has no class\. Give it one in a GIS, or remove it"):
        opened(manifest)


def test_polygons_of_a_place_that_moved_are_told(
    manifest: Manifest, make_raster: MakeRaster
) -> None:
    paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    image = np.ones((1, HEIGHT, WIDTH), np.uint8)
    far = Affine.translation(9_000, 0) @ GRIDS["rotated"][1]
    make_raster(manifest.path.parent / "b.tif", image, crs="EPSG:32630", transform=far)
    with pytest.warns(painting.PolygonsAstrayWarning, match="no polygon lies within the scene"):
        opened(manifest).scene("b")


def test_other_scenes_and_what_a_gis_added_stay(manifest: Manifest) -> None:
    paint(manifest, "a/1", polygon("p", "mine", 0, 0, 3, 2), polygon("q", "crop", 5, 5, 9, 9))
    path = paint(manifest, "b", polygon("z", "soil", 1, 1, 4, 4))
    # As a GIS would: another column, an index, a polygon of its own without id, and a doubled one.
    with closing(sqlite3.connect(path)) as database:
        painting._add_functions(database)
        database.execute("ALTER TABLE a_1 ADD COLUMN note TEXT")
        database.execute("UPDATE a_1 SET note = 'seen in May' WHERE id = 'q'")
        database.execute("CREATE TABLE log (text TEXT)")
        database.execute(
            "CREATE TRIGGER index_insert AFTER INSERT ON a_1 WHEN NOT ST_IsEmpty(NEW.geom) BEGIN "
            "INSERT INTO log VALUES (ST_MinX(NEW.geom) || ST_MaxY(NEW.geom)); END"
        )
        database.execute("INSERT INTO a_1 (geom, class) SELECT geom, 'soil' FROM a_1 WHERE id='p'")
        database.execute("INSERT INTO a_1 (geom, id, class) SELECT geom, 'p', 'crop' FROM a_1 "
                         "WHERE id = 'q'")  # fmt: skip
        database.commit()
    layer = read_layer(path, "a/1")
    assert layer.ids == ("p", "q", "feature-3", "feature-4")
    assert layer.classes == ("mine", "crop", "soil", "crop")
    grid, other = manifest.scene("a/1").grid, read_layer(path, "b")
    shapes = pixel_shapes(layer, grid)
    rows = zip(layer.ids, layer.classes, shapes, strict=True)
    keep = [PaintedPolygon(*row) for row in rows if row[0] != "p"]
    after = write_layer(path, "a/1", grid, keep, expected=layer.etag)
    assert after.ids == ("q", "feature-3", "feature-4")
    assert [more["note"] for more in after.more] == ["seen in May", None, None]
    assert after.painted_at == layer.painted_at[1:]
    assert read_layer(path, "b") == other
    assert read_layer(path, "b").etag == other.etag
    assert read_layer(path, "none") is NOTHING
    columns = set(pyogrio.read_info(path, layer="a_1")["fields"])
    assert columns == {*painting.COLUMNS, "note"}


def test_scenes_of_alike_names_have_layers_of_their_own(manifest: Manifest) -> None:
    path, grid = painted_path(manifest.path), manifest.scene("b").grid
    ids = ["x/1", "x?1", "X_1", "gpkg_contents", "ü 1", 'a"b']
    for number, id in enumerate(ids, start=1):
        write_layer(path, id, grid, [polygon("p", "mine", 0, 0, number, 2)])
    _, layers = read_painted(path)
    assert list(layers) == ids
    assert len({layer.table.lower() for layer in layers.values()}) == len(ids)
    for number, id in enumerate(ids, start=1):
        assert shapely.total_bounds(pixel_shapes(layers[id], grid))[2] == number
    dataset = opened(manifest)
    assert dataset.painted is not None
    assert dict(dataset.painted.strangers) == dict.fromkeys(ids, 1)
    assert any("the manifest has no such scene" in line for line in dataset.painted.lines())


def test_a_lost_update_is_refused(manifest: Manifest) -> None:
    path = paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    grid, seen = manifest.scene("b").grid, read_layer(path, "b").etag
    write_layer(path, "b", grid, [polygon("p", "crop", 0, 0, 3, 2)], expected=seen)
    content = path.read_bytes()
    with pytest.raises(StalePolygonsError, match="changed elsewhere since they were read"):
        write_layer(path, "b", grid, [], expected=seen)
    assert path.read_bytes() == content
    write_layer(path, "a/1", grid, [polygon("p", "crop", 0, 0, 3, 2)], expected=NOTHING.etag)


def test_two_that_save_at_once_lose_nothing(manifest: Manifest) -> None:
    path, grid = painted_path(manifest.path), manifest.scene("b").grid
    failures: list[Exception] = []

    def save(scene: str) -> None:
        try:
            for number in range(4):
                write_layer(path, scene, grid, [polygon("p", "mine", 0, 0, 2 + number, 2)])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(f"s{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    _, layers = read_painted(path)
    assert sorted(layers) == ["s0", "s1", "s2"]
    assert [p.name for p in path.parent.iterdir() if "partial" in p.name] == []


def test_a_file_that_is_open_elsewhere_is_not_replaced(manifest: Manifest) -> None:
    path = paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    grid = manifest.scene("b").grid
    with closing(sqlite3.connect(path)) as gis:
        gis.execute("PRAGMA journal_mode=WAL")
        gis.execute("UPDATE b SET class = 'crop'")
        gis.commit()
        assert read_layer(path, "b").classes == ("crop",)  # as it is in the log
        with pytest.raises(OutputError, match="is open in another program"):
            write_layer(path, "b", grid, [])
    assert write_layer(path, "b", grid, [polygon("p", "soil", 0, 0, 3, 2)]).classes == ("soil",)
    assert read_layer(path, "b").classes == ("soil",)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other", "points"])
def test_a_damaged_file_is_one_message(manifest: Manifest, damage: str) -> None:
    path = paint(manifest, "b", polygon("p", "mine", 0, 0, 3, 2))
    content = path.read_bytes()
    if damage == "other":
        path.unlink()
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE other (a)")
    elif damage == "points":
        with closing(sqlite3.connect(path)) as database:
            point = b"GP\0\1" + bytes(4) + shapely.to_wkb(shapely.Point(1, 2))
            database.execute("UPDATE b SET geom = ?", (point,))
            database.commit()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "text": b"no database, but text",
                          "empty": b""}[damage])  # fmt: skip
    with pytest.raises(DataError, match=r"cannot be read as painted polygons: .*Mend it in a GIS"):
        opened(manifest)
    damaged = path.read_bytes()
    with pytest.raises(DataError, match="cannot be read as painted polygons"):
        write_layer(path, "b", manifest.scene("b").grid, [])
    assert path.read_bytes() == damaged


def test_shapes_are_brought_into_order(manifest: Manifest) -> None:
    grid = manifest.scene("b").grid
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    shape, said = checked_shape(bow, grid, "it")
    assert shape.is_valid
    assert shape.area == 8
    assert "crossed itself" in said
    shape, said = checked_shape(shapely.box(-5, 18, 3, 25), grid, "it")
    assert shape.bounds == (0, 18, 3, HEIGHT)
    assert "outside the scene was cut off" in said
    for wrong in (shapely.box(40, 0, 50, 10), shapely.Polygon(), shapely.Point(1, 1),
                  shapely.Polygon([(0, 0), (1, 1), (2, 2)])):  # fmt: skip
        with pytest.raises(LabelError, match="area"):
            checked_shape(wrong, grid, "polygon 'x'")
    with pytest.raises(LabelError, match="not finite"):
        checked_shape(shapely.Polygon([(0, 0), (1e10, 0), (3, 3)]), grid, "polygon 'x'")


def test_painted_polygons_are_listed_and_removed(
    manifest: Manifest, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    listed = ("data", "labels", manifest.path)
    assert command_line(*listed)[1].startswith("nothing is painted beside '")
    paint(manifest, "a/1", polygon("p", "mine", 0, 0, 3, 2), polygon("q", "soil", 0, 0, 3, 2))
    path = paint(manifest, "t", polygon("p", "crop", 0, 0, 3, 2))
    code, text, _ = command_line(*listed)
    assert code == 0
    assert text.splitlines() == [
        str(path),
        "  a/1 (split train): 1 mine, 1 soil",
        "  t (split test, not learnt from): 1 crop",
    ]
    code, _, said = command_line(*listed, "--remove", "b")
    assert code == 2
    assert "unknown painted scene 'b'" in said
    code, text, _ = command_line(*listed, "--remove", "a/1", "--json")
    assert list(json.loads(text)["scenes"]) == ["t"]
    assert json.loads(text)["scenes"]["t"]["is_learnt_from"] is False
    assert read_layer(path, "a/1").ids == ()
    assert read_layer(path, "t").classes == ("crop",)
