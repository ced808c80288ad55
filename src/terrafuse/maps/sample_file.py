"""GeoPackage of a reference sample: points to label in any GIS, and what estimates need to know.

docs/reference/sample.md describes its layers.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from terrafuse.data import Grid
from terrafuse.data.grid import apply_affine
from terrafuse.errors import DataError, LabelError, OutputError, cut, unknown_name
from terrafuse.maps.strata import DrawnPixels, Stratum, centres
from terrafuse.version import VERSION
from terrafuse.writing import claimed_file, written_whole

#: Layer that is labelled, and the tables beside it.
POINTS, DESIGN, STRATA, SAMPLE = "points", "design", "strata", "sample"
#: Column for the true class, and that of the class on the map, which `blind` leaves out.
REFERENCE, MAPPED = "reference", "mapped"
SUFFIX = ".gpkg"
#: Version of the format.
FORMAT = 1
_DOMAIN = "reference_class"
_TABLES = (POINTS, DESIGN, STRATA, SAMPLE)
_SCHEMA_PAGE = "http://www.geopackage.org/spec121/#extension_schema"


@dataclass(frozen=True)
class SampleFile:
    """A reference sample.

    Args:
        grid: Of the map it was drawn from.
        strata: All classes of that map, and what was abstained from.
        abstains: Whether the last stratum is of pixels without class.
        classes: Names that a reference label may have.
        pixels: The drawn pixels, in the order of their ids, which are 1, 2, …
        about: How it was drawn: map, allocation, seed.
    """

    grid: Grid
    strata: tuple[Stratum, ...]
    abstains: bool
    classes: tuple[str, ...]
    pixels: DrawnPixels
    about: Mapping[str, Any]


def write_sample(path: Path, sample: SampleFile, *, blind: bool = False) -> None:
    """Write a sample without labels.

    Args:
        path: Ends in .gpkg. A sample that nobody has labelled is replaced, any other file is not.
        sample: What to write.
        blind: True: the points do not say which class they have on the map.

    Raises:
        OutputError: The file holds labels or is no sample, or cannot be written.
    """
    with claimed_file(path, "sample"):
        _refuse_labelled(path)
        with written_whole(path) as (partial,):
            _write_points(partial, sample, blind)
            _write_tables(partial, sample)
            _declare_classes(partial, sample)


def read_sample(path: str | Path) -> SampleFile:
    """Read what a sample was drawn from.

    Raises:
        DataError: The file is no sample of ours, or of a later version.
    """
    path = Path(path)
    with _reading(path) as database:
        about = {key: json.loads(text) for key, text in database.execute(
            "SELECT key, value FROM sample"
        )}  # fmt: skip
        if about["format"] != FORMAT:
            raise DataError(
                f"'{path}' is a sample of format {about['format']}, of which this version knows "
                f"{FORMAT}. Update terrafuse"
            )
        strata = tuple(
            Stratum(str(name), int(value), int(pixels), hectares)
            for name, value, pixels, hectares in database.execute(
                "SELECT name, value, pixels, area_ha FROM strata ORDER BY stratum"
            )
        )
        rows = np.array(
            database.execute('SELECT id, stratum, "row", col FROM design ORDER BY id').fetchall(),
            np.int64,
        ).reshape(-1, 4)
        grid = _grid_of(about.pop("grid"))
        abstains, classes = bool(about.pop("abstains")), tuple(map(str, about.pop("classes")))
    if (rows[:, 0] != np.arange(len(rows)) + 1).any() or (rows[:, 1] >= len(strata)).any():
        raise DataError(
            f"'{path}': its table '{DESIGN}' was changed. Take the file as it was drawn"
        )
    pixels = DrawnPixels(*(rows[:, n].copy() for n in (1, 2, 3)))
    return SampleFile(grid, strata, abstains, classes, pixels, about)


def read_labels(path: str | Path, sample: SampleFile) -> NDArray[np.int64]:
    """Class of every point by its position in `sample.classes` (n,); -1 = no label.

    Points that were deleted have none.

    Args:
        path: The labelled file.
        sample: Of the same file.

    Raises:
        DataError: A point was added, doubled, or moved off its pixel.
        LabelError: A label is no class.
    """
    path = Path(path)
    with _reading(path) as database:
        rows = _labelled_rows(database, path)
    ids = [_id_of(row[0], path) for row in rows]
    count = len(sample.pixels)
    for id_ in ids:
        if not 1 <= id_ <= count:
            raise DataError(
                f"'{path}' has a point {id_}, which was not drawn (ids are 1 to {count}): an added "
                "point belongs to no stratum. Delete it"
            )
    if doubled := [id_ for id_, n in Counter(ids).items() if n > 1]:
        raise DataError(f"'{path}' has point {doubled[0]} twice. Delete one of them")
    _check_places(path, sample, ids, [row[2] for row in rows])
    found = np.full(count, -1, np.int64)
    positions = {name: k for k, name in enumerate(sample.classes)}
    for id_, (_, label, _) in zip(ids, rows, strict=True):
        text = "" if label is None else str(label).strip()
        if not text:
            continue
        if text not in positions:
            raise LabelError(
                f"'{path}', point {id_}: {unknown_name('class', text, positions)} A class that the "
                "map does not have is named when the sample is drawn: --also NAME"
            )
        found[id_ - 1] = positions[text]
    return found


def write_labels(path: str | Path, labels: Mapping[int, str | None]) -> None:
    """Set the reference class of points; the others keep theirs.

    Args:
        path: A sample.
        labels: Id of a point → name of its class; None takes its label away.

    Raises:
        DataError: The file is no sample, or a point is not in it.
        LabelError: A label is no class.
    """
    path = Path(path)
    sample = read_sample(path)
    for id_, label in labels.items():
        if not 1 <= id_ <= len(sample.pixels):
            raise DataError(f"'{path}' has no point {id_}; its ids are 1 to {len(sample.pixels)}")
        if label is not None and label not in sample.classes:
            raise LabelError(f"point {id_}: {unknown_name('class', label, sample.classes)}")
    with claimed_file(path, "label"), _reading(path, write=True) as database:
        database.executemany(
            "UPDATE points SET reference = ? WHERE id = ?",
            [(label, id_) for id_, label in labels.items()],
        )
        database.commit()


def _refuse_labelled(path: Path) -> None:
    if not path.exists():
        return
    try:
        with _reading(path) as database:
            labelled = sum(1 for _, label, _ in _labelled_rows(database, path) if label)
    except DataError:
        raise OutputError(
            f"'{path}' exists and is no reference sample; it is not replaced. Choose another name"
        ) from None
    if labelled:
        raise OutputError(
            f"'{path}' holds {labelled} labels, which a new sample would take away. Choose another "
            "name, or remove the file"
        )


def _write_points(path: Path, sample: SampleFile, blind: bool) -> None:
    pixels = sample.pixels
    count = len(pixels)
    points = shapely.points(*centres(sample.grid, pixels.row, pixels.col))
    names = np.array([one.name for one in sample.strata], object)
    nothing = np.full(count, None, object)
    columns: dict[str, NDArray[Any]] = {"id": np.arange(1, count + 1)}
    if not blind:
        columns[MAPPED] = names[pixels.stratum]
    columns |= {REFERENCE: nothing, "note": nothing.copy()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*'crs' was not provided.*")
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(points),
            field_data=list(columns.values()),
            fields=list(columns),
            geometry_type="Point",
            crs=sample.grid.crs.to_wkt() if sample.grid.crs else None,
            driver="GPKG",
            layer=POINTS,
            # Its triggers call functions of GDAL, so that nobody else could write a label.
            layer_options={"SPATIAL_INDEX": "NO"},
        )


def _write_tables(path: Path, sample: SampleFile) -> None:
    pixels, strata = sample.pixels, sample.strata
    hectares = [np.nan if one.hectares is None else one.hectares for one in strata]
    grid = sample.grid
    about = {
        "format": FORMAT,
        "software": f"terrafuse {VERSION}",
        "classes": list(sample.classes),
        "abstains": sample.abstains,
        "grid": {
            "crs": grid.crs.to_wkt() if grid.crs else None,
            "transform": list(grid.transform)[:6],
            "height": grid.height,
            "width": grid.width,
        },
        **sample.about,
    }
    drawn = np.bincount(pixels.stratum, minlength=len(strata))
    _append(path, DESIGN, {
        "id": np.arange(1, len(pixels) + 1), "stratum": pixels.stratum,
        "row": pixels.row, "col": pixels.col,
    })  # fmt: skip
    _append(path, STRATA, {
        "stratum": np.arange(len(strata)),
        "name": np.array([one.name for one in strata], object),
        "value": np.array([one.value for one in strata], np.int64),
        "pixels": np.array([one.pixels for one in strata], np.int64),
        "area_ha": np.array(hectares),
        "points": drawn.astype(np.int64),
    })  # fmt: skip
    _append(path, SAMPLE, {
        "key": np.array(list(about), object),
        "value": np.array([json.dumps(v, ensure_ascii=False) for v in about.values()], object),
    })  # fmt: skip


def _append(path: Path, table: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """A table without geometry."""
    pyogrio.raw.write(
        path, geometry=None, field_data=list(columns.values()), fields=list(columns),
        driver="GPKG", layer=table, geometry_type=None,
    )  # fmt: skip


def _declare_classes(path: Path, sample: SampleFile) -> None:
    """Say which values the reference may have, as the schema extension of GeoPackage does.

    QGIS also finds a style: a list to choose from, and squares of the size of a pixel.
    """
    allowed = [(_DOMAIN, "enum", name, None, None, None, None, None) for name in sample.classes]
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_SCHEMA_TABLES)
        database.executemany(
            "INSERT INTO gpkg_data_column_constraints VALUES (?, ?, ?, ?, ?, ?, ?, ?)", allowed
        )
        database.execute(
            "INSERT INTO gpkg_data_columns VALUES (?, ?, NULL, ?, ?, NULL, ?)",
            (POINTS, REFERENCE, "reference class", "true class of the pixel", _DOMAIN),
        )
        database.executemany(
            "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_schema', ?, 'read-write')",
            [(table, _SCHEMA_PAGE) for table in
             ("gpkg_data_columns", "gpkg_data_column_constraints")],
        )  # fmt: skip
        database.execute(
            "INSERT INTO layer_styles (f_table_name, f_geometry_column, styleName, styleQML, "
            "useAsDefault) VALUES (?, 'geom', 'label', ?, 1)",
            (POINTS, _style(sample)),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        database.commit()


_SCHEMA_TABLES = """
CREATE TABLE IF NOT EXISTS gpkg_extensions (
  table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
  scope TEXT NOT NULL, CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
CREATE TABLE gpkg_data_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT,
  mime_type TEXT, constraint_name TEXT,
  CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
  CONSTRAINT gdc_tn UNIQUE (table_name, name));
CREATE TABLE gpkg_data_column_constraints (
  constraint_name TEXT NOT NULL, constraint_type TEXT NOT NULL, value TEXT, min NUMERIC,
  min_is_inclusive BOOLEAN, max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
  CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value));
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT, f_table_schema TEXT,
  f_table_name TEXT, f_geometry_column TEXT, styleName TEXT, styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT, ui TEXT,
  update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')));
"""


def _style(sample: SampleFile) -> str:
    """A style of QGIS."""
    width, height = sample.grid.pixel_size
    options = "".join(
        f'<Option type="Map"><Option type="QString" name={quoteattr(name)} '
        f"value={quoteattr(name)}/></Option>"
        for name in sample.classes
    )
    symbol = {
        "name": "square", "size": f"{(width * height) ** 0.5:.12g}", "size_unit": "MapUnit",
        "color": "0,0,0,0", "outline_color": "255,0,255,255", "outline_width": "0.5",
        "outline_width_unit": "MM",
    }  # fmt: skip
    marks = "".join(f'<Option type="QString" name="{k}" value="{v}"/>' for k, v in symbol.items())
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
        '<qgis version="3.22" styleCategories="Symbology|Fields|Forms">'
        '<renderer-v2 type="singleSymbol"><symbols><symbol type="marker" name="0" alpha="1">'
        '<layer class="SimpleMarker" enabled="1" locked="0" pass="0">'
        f'<Option type="Map">{marks}</Option></layer></symbol></symbols></renderer-v2>'
        f'<fieldConfiguration><field name="{REFERENCE}"><editWidget type="ValueMap"><config>'
        f'<Option type="Map"><Option type="List" name="map">{options}</Option></Option>'
        "</config></editWidget></field></fieldConfiguration></qgis>"
    )


@contextmanager
def _reading(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database of a sample; failures are messages of ours.

    Raises:
        DataError: The file is missing, or no sample.
    """
    if not path.is_file():
        raise DataError(f"'{path}' is no file. Give the GeoPackage of `terrafuse sample`")
    mode = "rw" if write else "ro"
    remedy = "Give the GeoPackage of `terrafuse sample`, or a copy of it, with your labels in it"
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if lacking := [table for table in _TABLES if table not in names]:
                raise DataError(f"'{path}' has no table '{lacking[0]}'. {remedy}")
            yield database
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"'{path}' cannot be read as a reference sample: {cut(error)}. {remedy}"
        ) from None


def _labelled_rows(database: sqlite3.Connection, path: Path) -> list[tuple[Any, Any, bytes | None]]:
    """Id, label and geometry of every point."""
    found = database.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (POINTS,)
    ).fetchone()
    columns = {row[1] for row in database.execute("PRAGMA table_info(points)")}
    if lacking := [name for name in ("id", REFERENCE) if name not in columns]:
        raise DataError(
            f"the layer '{POINTS}' of '{path}' has no column '{lacking[0]}'; it has "
            f"{', '.join(sorted(map(str, columns)))}. Rename the one that holds it"
        )
    geometry = '"' + str(found[0] if found else "geom").replace('"', '""') + '"'
    query = f"SELECT id, reference, {geometry} FROM points"  # noqa: S608 - it is quoted
    return database.execute(query).fetchall()


def _id_of(value: Any, path: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(
            f"'{path}' has a point without id: it was not drawn, and belongs to no stratum. Delete "
            "it"
        ) from None


def _check_places(
    path: Path, sample: SampleFile, ids: Sequence[int], blobs: Sequence[bytes | None]
) -> None:
    """Refuse points that no longer lie in the pixel that was drawn."""
    to_pixel = ~sample.grid.transform
    for id_, blob in zip(ids, blobs, strict=True):
        place = _point_of(blob)
        row, col = int(sample.pixels.row[id_ - 1]), int(sample.pixels.col[id_ - 1])
        if place is not None:
            at_col, at_row = apply_affine(to_pixel, *(np.array([v]) for v in place))
            if np.floor(at_row[0]) == row and np.floor(at_col[0]) == col:
                continue
        what = (
            "has no place"
            if place is None
            else (f"was moved to ({place[0]:.10g}, {place[1]:.10g}), outside its pixel")
        )
        x, y = centres(sample.grid, np.array([row]), np.array([col]))
        raise DataError(
            f"'{path}': point {id_} {what}, and what lies elsewhere was not drawn. Move it back to "
            f"({x[0]:.10g}, {y[0]:.10g}), and label what is there"
        )


def _point_of(blob: bytes | None) -> tuple[float, float] | None:
    """Coordinates in a geometry of a GeoPackage, which is a header before WKB."""
    if not blob or blob[:2] != b"GP":
        return None
    envelope = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}.get(blob[3] >> 1 & 0b111, 0)
    try:
        shape = shapely.from_wkb(blob[8 + envelope :])
    except shapely.errors.ShapelyError:  # type: ignore[attr-defined]
        return None
    if shape is None or shape.is_empty or shape.geom_type not in ("Point", "MultiPoint"):
        return None
    x, y = shapely.get_coordinates(shape)[0].tolist()
    return float(x), float(y)


def _grid_of(values: Mapping[str, Any]) -> Grid:
    try:
        crs = CRS.from_wkt(values["crs"]) if values["crs"] else None
    except CRSError as error:
        raise ValueError(str(error)) from None
    transform = Affine(*values["transform"])
    return Grid(crs, transform, int(values["height"]), int(values["width"]))
