"""Reference samples and areas: what the message says to do, done."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from made_maps import write_map
from remedies import refused, said
from terrafuse.api import areas, sample
from terrafuse.evaluation import expected_accuracies, planned_size
from terrafuse.maps import (
    classes_at,
    count_strata,
    draw_pixels,
    open_class_raster,
    read_labels,
    read_sample,
    write_labels,
)
from terrafuse.stopping import how_to_go_on

TRUTH = np.repeat([[0, 1]], 40, axis=0).repeat(30, axis=1)


def label(path: Path, *ids: int) -> None:
    """Set the true class of points; without ids, of all."""
    drawn = read_sample(path)
    at = zip(drawn.pixels.row, drawn.pixels.col, strict=True)
    labels = {id_: drawn.classes[TRUTH[place]] for id_, place in enumerate(at, 1)}
    write_labels(path, {id_: name for id_, name in labels.items() if not ids or id_ in ids})


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a map and a sample of it that is labelled."""
    folder = tmp_path_factory.mktemp("drawn")
    write_map(folder / "map" / "class_map.tif", TRUTH, names=("sea", "land"))
    sample(folder / "map", folder / "s.gpkg", points=40)
    label(folder / "s.gpkg")
    return folder


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "own")


def test_numbers_of_points(folder: Path) -> None:
    def draw(**how: Any) -> int:
        return sum(sample(folder / "map", folder / "t.gpkg", **how).points.values())

    with refused("api.reference:sample | give the number of points (-n) or a target (--margin)"):
        draw()
    assert draw(points=30) == 30
    assert draw(margin=0.1) == 16
    with refused("evaluation.sample_design:planned_size | give a standard error above 0 and"):
        draw(margin=2)
    assert draw(margin=0.02) > 300
    with refused("evaluation.sample_design:allocate | points or more; give -n") as told:
        draw(points=3)
    least = int(told.find(r"give -n (\d+)"))
    assert draw(points=least) == least
    with refused("evaluation.sample_design:allocate | pixels; give fewer") as told:
        draw(points=2_401)
    most = int(told.find(r"the map's (\d+) pixels"))
    assert draw(points=most, allocation="proportional") == most == TRUTH.size


def test_expectations() -> None:
    weights = np.array([0.5, 0.5])
    with refused("evaluation.sample_design:planned_size | give a share below 1"):
        planned_size(weights, np.ones(2), 0.02, 1_000)
    assert planned_size(weights, np.full(2, 0.99), 0.02, 1_000) > 0
    with refused("evaluation.sample_design:expected_accuracies | give shares from 0 to 1"):
        expected_accuracies(["a"], 90, [False])
    assert expected_accuracies(["a"], 0.9, [False]).tolist() == [0.9]


def test_classes_that_the_map_does_not_have(folder: Path) -> None:
    path = folder / "t.gpkg"
    with refused("api.reference:_label_names | name classes that the map does not have, each once"):
        sample(folder / "map", path, points=20, also=["sea"])
    sample(folder / "map", path, points=20)
    edit(path, "UPDATE points SET reference = 'ice' WHERE id = 3")
    with refused("maps.sample_file:read_labels | A class that the map does not have is named when"):
        areas(folder / "map", path)
    path.unlink()
    sample(folder / "map", path, points=20, also=["ice"])
    label(path)
    write_labels(path, {3: "ice"})
    assert areas(folder / "map", path).classes[2].reference_points == 1


@pytest.mark.parametrize("way", ["another name", "remove"])
def test_files_that_are_not_replaced(folder: Path, way: str) -> None:
    for path, place in (
        (
            folder / "s.gpkg",
            "maps.sample_file:_refuse_labelled | Choose another name, or remove the file",
        ),
        (
            folder / "map.gpkg",
            "maps.sample_file:_refuse_labelled | it is not replaced. Choose another name",
        ),
    ):
        if path.name == "map.gpkg":
            path.write_text("points of mine")
        with refused(place):
            sample(folder / "map", path, points=20)
        if way == "remove":
            path.unlink()
        else:
            path = path.with_name(f"another_{path.name}")
        assert sample(folder / "map", path, points=20).path.exists()


def test_labels_that_are_lacking(folder: Path, command_line: Callable[..., Any]) -> None:
    path = folder / "t.gpkg"
    code, out, _ = command_line("sample", folder / "map", "-n", "20", "-o", path)
    assert code == 0
    told = said(
        "cli.reference:sample | fill the column 'reference' of its layer 'points'; next:", out
    )
    with refused("api.reference:_tell_unlabelled | Fill the column 'reference' of its layer"):
        areas(folder / "map", path)
    label(path, *range(1, 18))
    with refused("api.reference:_tell_unlabelled | Label them, or leave them out:") as lacking:
        areas(folder / "map", path)
    share = float(lacking.find(r"--allow-unlabelled ([\d.]+)"))
    assert areas(folder / "map", path, most_unlabelled=share).points == 17
    label(path)
    assert areas(folder / "map", path).points == 20
    words = told.find(r"next: terrafuse (.*)").split()
    code, out, _ = command_line(*words)
    assert (code, "overall accuracy" in out) == (0, True)


def test_a_stratum_without_labels(folder: Path) -> None:
    path = folder / "s.gpkg"
    stratum = read_sample(path).pixels.stratum
    land = [id_ for id_, h in enumerate(stratum, 1) if h == 1]
    write_labels(path, dict.fromkeys(land))
    place = "evaluation.area_estimates:_Design.__init__ | Label at least one point there"
    with refused(place):
        areas(folder / "map", path, most_unlabelled=1)
    label(path, land[0])
    assert areas(folder / "map", path, most_unlabelled=1).overall.standard_error is None
    label(path, land[1])
    assert areas(folder / "map", path, most_unlabelled=1).overall.standard_error == 0


def test_shares_that_are_none(folder: Path) -> None:
    for how in ({"confidence": 95}, {"most_unlabelled": 30}):
        with refused("api.reference:areas | give a share between 0 and 1"):
            areas(folder / "map", folder / "s.gpkg", **how)
        share = {key: value / 100 for key, value in how.items()}
        assert areas(folder / "map", folder / "s.gpkg", **share).points == 40


def test_points_that_were_changed(folder: Path) -> None:
    path = folder / "s.gpkg"

    def labels() -> Any:
        return read_labels(path, read_sample(path))

    before = labels().tolist()
    with closing(sqlite3.connect(path)) as database:
        ((blob,),) = database.execute("SELECT geom FROM points WHERE id = 7").fetchall()

    def move(x: float, y: float) -> None:
        with closing(sqlite3.connect(path)) as database:
            moved = blob[:-21] + shapely.to_wkb(shapely.Point(x, y), byte_order=1)
            database.execute("UPDATE points SET geom = ? WHERE id = 7", (moved,))
            database.commit()

    move(0, 0)
    with refused("maps.sample_file:_check_places | Move it back to") as told:
        labels()
    move(*map(float, told.find(r"Move it back to \((.*?)\)").split(", ")))
    assert labels().tolist() == before
    for change, place in (
        ("INSERT INTO points (id) VALUES (99)",
         "maps.sample_file:read_labels | an added point belongs to no stratum"),
        ("INSERT INTO points (note) VALUES ('here')",
         "maps.sample_file:_id_of | belongs to no stratum. Delete it"),
        ("INSERT INTO points (id, geom) SELECT id, geom FROM points WHERE id = 2",
         "maps.sample_file:read_labels | twice. Delete one of them"),
    ):  # fmt: skip
        edit(path, change)
        with refused(place):
            labels()
        edit(path, "DELETE FROM points WHERE fid = (SELECT max(fid) FROM points)")
        assert labels().tolist() == before
    edit(path, "ALTER TABLE points RENAME COLUMN reference TO truth")
    with refused("maps.sample_file:_labelled_rows | Rename the one that holds it"):
        labels()
    edit(path, "ALTER TABLE points RENAME COLUMN truth TO reference")
    assert labels().tolist() == before


def test_files_that_are_no_sample(folder: Path, drawn: Path) -> None:
    path = folder / "s.gpkg"
    path.unlink()
    with refused("maps.sample_file:_reading | is no file. Give the GeoPackage of"):
        read_sample(path)
    path.write_text("id,reference")
    with refused("maps.sample_file:_reading | or a copy of it, with your labels in it"):
        read_sample(path)
    shutil.copy(drawn / "s.gpkg", path)
    edit(path, "DELETE FROM design WHERE id = 1")
    with refused("maps.sample_file:read_sample | Take the file as it was drawn"):
        read_sample(path)
    shutil.copy(drawn / "s.gpkg", path)
    assert areas(folder / "map", path).points == 40


def test_maps_that_were_not_sampled(folder: Path) -> None:
    other = write_map(folder / "other.tif", TRUTH, names=("a", "b"))
    with refused("api.reference:_Judged.of | Give the map that was sampled, or another one of"):
        areas(other, folder / "s.gpkg")
    assert areas(folder / "map", folder / "s.gpkg").points == 40
    same = write_map(folder / "same.tif", 1 - TRUTH, names=("land", "sea"))
    assert areas(same, folder / "s.gpkg").overall.value == 1
    plain = write_map(folder / "plain.tif", TRUTH[1:], crs=None, transform=Affine.identity())
    drawn = read_sample(folder / "s.gpkg")
    at = drawn.pixels.row, drawn.pixels.col
    with refused("maps.strata:_moved | Give the map that the sample was drawn from"):
        classes_at(open_class_raster(plain), drawn.grid, *at)
    found = classes_at(open_class_raster(folder / "map"), drawn.grid, *at)
    assert (found == drawn.pixels.stratum).all()


def test_a_map_that_changes_while_it_is_read(folder: Path) -> None:
    path = folder / "map" / "class_map.tif"
    raster = open_class_raster(path)
    strata = count_strata(raster)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.ones(TRUTH.shape, np.uint8), 1)
    with refused("maps.strata:draw_pixels | Draw the sample again"):
        draw_pixels(raster, strata, [5, 5])
    assert sum(sample(folder / "map", folder / "t.gpkg", points=20).points.values()) == 20


def test_a_sample_that_is_stopped(folder: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for verb in (
        lambda **how: sample(folder / "map", folder / "t.gpkg", points=20, **how),
        lambda **how: areas(folder / "map", folder / "s.gpkg", out=folder / "out", **how),
    ):
        with pytest.raises(KeyboardInterrupt) as error:
            verb(progress=stop)
        place = "api.reference: | nothing was written; run the same command again"
        said(place, how_to_go_on(error.value))
        assert not (folder / "out").exists()
        verb()
    assert len(read_sample(folder / "t.gpkg").pixels) == 20
    assert (folder / "out" / "area_estimates.csv").exists()
