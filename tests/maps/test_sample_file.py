"""The GeoPackage of a reference sample: what a labeller may do to it, and what is refused."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from made_maps import NAMES, TEN_M, UTM
from terrafuse.data import Grid
from terrafuse.errors import DataError, LabelError, OutputError
from terrafuse.maps import (
    DrawnPixels,
    SampleFile,
    Stratum,
    read_labels,
    read_sample,
    write_labels,
    write_sample,
)

STRATA = (
    Stratum("sea", 0, 60, 0.6), Stratum("wet land", 7, 39, 0.39), Stratum("ice", 3, 0, 0.0),
    Stratum("abstained", 9, 1, 0.01),
)  # fmt: skip


def sample_of(
    crs: str | None = UTM, transform: Affine = TEN_M, hectares: bool = True
) -> SampleFile:
    grid = Grid(rasterio.CRS.from_string(crs) if crs else None, transform, 10, 12)
    stratum, row, col = (np.array(x) for x in ([1, 0, 3, 0], [2, 9, 0, 5], [0, 11, 4, 5]))
    strata = STRATA if hectares else tuple(Stratum(s.name, s.value, s.pixels, None) for s in STRATA)
    about = {"map": "maps/n/class_map.tif", "seed": 3}
    classes = (*NAMES, "cloud & snow")
    return SampleFile(grid, strata, True, classes, DrawnPixels(stratum, row, col), about)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("drawn") / "s.gpkg"
    write_sample(made, sample_of())
    return made


@pytest.fixture
def path(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copy(drawn, tmp_path / "s.gpkg")


def edit(path: Path, *statements: str) -> None:
    """What a GIS may do."""
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, TEN_M),
        ("EPSG:4326", Affine(0.01, 0.002, 10, 0.002, -0.01, 60)),
        (None, Affine.identity()),
    ],
)
def test_it_comes_back(tmp_path: Path, crs: str | None, transform: Affine) -> None:
    made = sample_of(crs, transform, hectares=crs is not None)
    path = tmp_path / "folder" / "s.gpkg"
    write_sample(path, made)
    found = read_sample(path)
    assert (found.grid, found.strata, found.classes) == (made.grid, made.strata, made.classes)
    assert found.abstains
    assert found.about["map"] == "maps/n/class_map.tif"
    for name in ("stratum", "row", "col"):
        np.testing.assert_array_equal(getattr(found.pixels, name), getattr(made.pixels, name))
    assert read_labels(path, found).tolist() == [-1] * 4
    assert [p.name for p in path.parent.iterdir()] == ["s.gpkg"]


def test_points_lie_in_the_middle_of_their_pixels(path: Path) -> None:
    info, _, wkb, values = pyogrio.raw.read(path, layer="points")
    assert info["crs"] == UTM
    assert info["fields"].tolist() == ["id", "mapped", "reference", "note"]
    assert shapely.get_coordinates(shapely.from_wkb(wkb)).tolist() == [
        [500_005, 4_999_975], [500_115, 4_999_905], [500_045, 4_999_995], [500_055, 4_999_945],
    ]  # fmt: skip
    assert values[0].tolist() == [1, 2, 3, 4]
    assert values[1].tolist() == ["wet land", "sea", "abstained", "sea"]
    assert values[2].tolist() == [None] * 4


def test_blind_points_do_not_say_their_class(tmp_path: Path) -> None:
    path = tmp_path / "s.gpkg"
    write_sample(path, sample_of(), blind=True)
    info, _, _, values = pyogrio.raw.read(path, layer="points")
    assert info["fields"].tolist() == ["id", "reference", "note"]
    assert not any("sea" in column.tolist() for column in values)
    assert read_sample(path).pixels.stratum.tolist() == [1, 0, 3, 0]


def test_the_classes_are_declared(path: Path) -> None:
    """By the schema extension of the standard, and in the style that QGIS applies by itself."""
    with closing(sqlite3.connect(path)) as database:
        named = database.execute(
            "SELECT c.constraint_type, c.value FROM gpkg_data_columns d JOIN "
            "gpkg_data_column_constraints c USING (constraint_name) "
            "WHERE d.table_name = 'points' AND d.column_name = 'reference' ORDER BY c.rowid"
        ).fetchall()
        extensions = database.execute(
            "SELECT table_name, extension_name FROM gpkg_extensions ORDER BY 1"
        ).fetchall()
        ((style,),) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_name = 'points' AND useAsDefault"
        ).fetchall()
    assert named == [("enum", name) for name in (*NAMES, "cloud & snow")]
    assert ("gpkg_data_columns", "gpkg_schema") in extensions
    from xml.etree import ElementTree

    root = ElementTree.fromstring(style)
    options = root.findall(".//editWidget[@type='ValueMap']//Option[@name='map']/Option/Option")
    assert [o.get("value") for o in options] == [*NAMES, "cloud & snow"]
    marks = {o.get("name"): o.get("value") for o in root.findall(".//layer/Option/Option")}
    assert (marks["name"], marks["size"], marks["size_unit"]) == ("square", "10", "MapUnit")


def test_labels_of_a_person(path: Path) -> None:
    write_labels(path, {2: "ice", 4: "cloud & snow"})
    edit(
        path,
        "UPDATE points SET reference = ' sea ' WHERE id = 1",
        "DELETE FROM points WHERE id = 3",
    )
    sample = read_sample(path)
    assert read_labels(path, sample).tolist() == [0, 2, -1, 3]
    write_labels(path, {2: None})
    edit(path, "UPDATE points SET reference = '  ' WHERE id = 4")
    assert read_labels(path, sample).tolist() == [0, -1, -1, -1]


def test_a_program_that_writes_the_layer_anew(path: Path) -> None:
    """Other order, other name of the geometry, a further column, a spatial index, points of 3-D."""
    info, _, wkb, values = pyogrio.raw.read(path, layer="points")
    order = [3, 1, 0, 2]
    raised = shapely.force_3d(shapely.from_wkb(wkb[order]), 7.0)
    labels = np.array(["ice", None, "sea", None], object)
    pyogrio.raw.write(
        path, geometry=shapely.to_wkb(raised), driver="GPKG", layer="points", crs=info["crs"],
        field_data=[values[0][order], labels, labels], fields=["id", "reference", "who"],
        geometry_type="Point Z", layer_options={"GEOMETRY_NAME": "the place"},
    )  # fmt: skip
    assert read_labels(path, read_sample(path)).tolist() == [0, -1, -1, 2]


def test_a_point_may_move_within_its_pixel(path: Path) -> None:
    move(path, 1, 500_000.01, 4_999_979.9)
    assert read_labels(path, read_sample(path)).tolist() == [-1] * 4


def move(path: Path, id_: int, x: float, y: float) -> None:
    with closing(sqlite3.connect(path)) as database:
        ((blob,),) = database.execute("SELECT geom FROM points WHERE id = ?", (id_,)).fetchall()
        moved = blob[:-21] + shapely.to_wkb(shapely.Point(x, y), byte_order=1)
        database.execute("UPDATE points SET geom = ? WHERE id = ?", (moved, id_))
        database.commit()


def labels_of(path: Path) -> Any:
    return read_labels(path, read_sample(path))


def edited(statement: str) -> Callable[[Path], None]:
    return lambda path: edit(path, statement)


REFUSED: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "moved": (
        lambda path: move(path, 3, 500_051, 4_999_995), DataError,
        r"point 3 was moved to \(500051, 4999995\), outside its pixel.*back to \(500045, 4999995\)",
    ),
    "no place": (
        edited("UPDATE points SET geom = NULL WHERE id = 2"), DataError,
        "point 2 has no place",
    ),
    "doubled": (
        edited("INSERT INTO points (id, geom) SELECT id, geom FROM points "
               "WHERE id = 4"), DataError, "has point 4 twice. Delete one",
    ),
    "added": (
        edited("INSERT INTO points (id) VALUES (5)"), DataError,
        r"has a point 5, which was not drawn \(ids are 1 to 4\).*Delete it",
    ),
    "without id": (
        edited("INSERT INTO points (reference) VALUES ('sea')"), DataError,
        "has a point without id",
    ),
    "other class": (
        edited("UPDATE points SET reference = 'wetland' WHERE id = 2"), LabelError,
        "point 2: unknown class 'wetland'. Did you mean 'wet land'.*--also NAME",
    ),
    "no column": (
        edited("ALTER TABLE points RENAME COLUMN reference TO truth"), DataError,
        "has no column 'reference'; it has .*truth. Rename",
    ),
    "no table": (
        edited("DROP TABLE design"), DataError, "has no table 'design'. Give the",
    ),
    "changed table": (
        edited("DELETE FROM design WHERE id = 2"), DataError,
        "its table 'design' was changed",
    ),
    "later format": (
        edited("UPDATE sample SET value = '2' WHERE key = 'format'"), DataError,
        "is a sample of format 2.*Update terrafuse",
    ),
    "no grid": (
        edited("DELETE FROM sample WHERE key = 'grid'"), DataError,
        "cannot be read as a reference sample: 'grid'",
    ),
    "no database": (
        lambda path: path.write_text("points"), DataError, "cannot be read as a reference sample",
    ),
    "missing": (lambda path: path.unlink(), DataError, "is no file. Give the GeoPackage"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, path: Path) -> None:
    change, kind, message = REFUSED[name]
    change(path)
    with pytest.raises(kind, match=message):
        labels_of(path)


def test_labels_are_not_written_over(path: Path, tmp_path: Path) -> None:
    write_sample(path, sample_of(), blind=True)  # nobody has labelled it
    write_labels(path, {1: "sea"})
    with pytest.raises(OutputError, match=r"holds 1 labels, which a new sample would take away"):
        write_sample(path, sample_of())
    assert read_labels(path, read_sample(path))[0] == 0
    other = tmp_path / "other.gpkg"
    other.write_text("mine")
    with pytest.raises(OutputError, match="exists and is no reference sample"):
        write_sample(other, sample_of())
    assert other.read_text() == "mine"


def test_labels_that_cannot_be_set(path: Path) -> None:
    with pytest.raises(DataError, match="has no point 9; its ids are 1 to 4"):
        write_labels(path, {9: "sea"})
    with pytest.raises(LabelError, match=r"point 1: unknown class 'see'. Did you mean 'sea'"):
        write_labels(path, {1: "see"})
