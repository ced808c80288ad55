"""Painted polygons: classes drawn over scenes by hand, kept beside the manifest for training.

`dataset.painted.gpkg` beside `dataset.yaml` has a layer per scene, in the scene's own CRS; without
CRS its coordinates are pixels (column, row), or what the raster's transform makes of them. The
layer's identifier is the id of the scene; its name is the same as far as names of tables allow.
A polygon has the columns `id` (text, unique in its layer), `class` (name), `painted_at` and
`software`; further columns stay as they are. The file opens in any GIS and may be edited there.

Training draws the polygons over the labels of scenes of its splits, a later one over an earlier
one. What it draws is read once, into memory: the file may change while a run goes on.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import sqlite3
import struct
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from terrafuse.classes import ClassScheme
from terrafuse.data.grid import Grid, apply_affine
from terrafuse.data.labels import Labels
from terrafuse.data.polygons import PolygonsAstrayWarning, burn, check_crossings, polygons_on
from terrafuse.errors import (
    ConfigError,
    DataError,
    InUseError,
    LabelError,
    OutputError,
    cut,
    unknown_name,
)
from terrafuse.samples import IGNORE_INDEX, Window
from terrafuse.version import VERSION
from terrafuse.writing import claimed_file, written_whole

#: End of the name of the file, after that of the manifest.
SUFFIX = ".painted.gpkg"
#: Columns of a layer.
COLUMNS = ("id", "class", "painted_at", "software")
#: Of a run folder: the file as it was when the run was begun, and what the run learns from.
PAINTED, PAINTED_JSON = "painted.gpkg", "painted.json"
#: Vertices that the polygons of a scene may have.
MOST_VERTICES = 500_000
_RESERVED = ("gpkg_", "sqlite_", "rtree_", "idx_")
_REMEDY = "Mend it in a GIS, restore a copy, or move it away to begin anew"
# Vertices are told apart to this part of a pixel, as when labels are drawn.
_SNAP = 2.0**16
# Two that save at the same moment follow one another.
_PATIENCE_S, _PAUSE_S = 10.0, 0.05
_BLOCK = 1024


@dataclass(frozen=True)
class PaintedLayer:
    """The polygons of one scene, in the order in which they are drawn.

    Args:
        crs: WKT of the coordinates; None: none.
        classes: Name of the class of each.
        shapes: WKB of each.
        ids: Of each, unique.
        painted_at: Time of each, as text.
        more: Values of all columns but the geometry's, per polygon.
        table: Its table in the file.
    """

    crs: str | None
    classes: tuple[str, ...]
    shapes: tuple[bytes, ...]
    ids: tuple[str, ...] = field(default=(), compare=False)
    painted_at: tuple[str | None, ...] = field(default=(), compare=False)
    more: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    table: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def etag(self) -> str:
        """State of the polygons: equal exactly if nothing that can be seen of them differs."""
        return _hash((self.crs, self.ids, self.classes, self.shapes))

    def without_texts(self) -> PaintedLayer:
        """The layer with what drawing needs, and no more."""
        return PaintedLayer(self.crs, self.classes, self.shapes)


#: A scene over which nothing is painted.
NOTHING = PaintedLayer(None, (), ())


@dataclass(frozen=True)
class PaintedPolygon:
    """A polygon to be kept; the shape is in pixels of its scene (x = column, y = row)."""

    id: str
    name: str
    shape: Any


@dataclass(frozen=True)
class Painted:
    """The polygons that a run learns from, as they are when its data set is opened.

    Args:
        path: Their file.
        layers: Scene → polygons, of the scenes of its training splits that have some.
        others: Split → number of polygons not learnt from; "": scenes in no split.
        strangers: Number of polygons per layer that belongs to no scene.
        content: The file, for the run folder.
    """

    path: Path
    layers: Mapping[str, PaintedLayer]
    others: Mapping[str, int]
    strangers: Mapping[str, int]
    content: bytes = field(repr=False, compare=False)

    @property
    def digest(self) -> str:
        """State of all that is learnt from."""
        known = sorted(self.layers.items())
        return _hash([(id, own.crs, own.classes, own.shapes) for id, own in known])

    def counts(self) -> dict[str, dict[str, int]]:
        """Scene → class → number of polygons that are learnt from."""
        return {id: dict(Counter(layer.classes)) for id, layer in self.layers.items()}

    def summary(self) -> dict[str, Any]:
        """Plain values: file, polygons, scenes, and what is not learnt from."""
        return {
            "file": str(self.path),
            "polygons": sum(map(len, self.layers.values())),
            "scenes": len(self.layers),
            "not_learnt_from": {**self.others, **{f"layer {k}": n for k, n in
                                                  self.strangers.items()}},
        }  # fmt: skip

    def lines(self, pixels: int | None = None) -> Iterator[str]:
        """Say what is learnt from and what is not.

        Args:
            pixels: Number of scene pixels painted; None: not counted.
        """
        number = sum(map(len, self.layers.values()))
        counted = "" if pixels is None else f", {pixels:,} pixels"
        yield (
            f"painted: {_polygons(number)} in {_scenes(len(self.layers))}{counted}, "
            f"from '{self.path}'"
        )
        for split, count in self.others.items():
            where = f"split '{split}'" if split else "no split"
            yield f"painted: {_polygons(count)} in scenes of {where} are not learnt from"
        for name, count in self.strangers.items():
            yield (
                f"painted: {_polygons(count)} of layer '{cut(name)}' are not learnt from: the "
                "manifest has no such scene"
            )


def painted_path(manifest: Path) -> Path:
    """The file beside a manifest."""
    return manifest.with_name(manifest.stem + SUFFIX)


def find_painted(
    setting: str | Path,
    manifest: Path,
    splits: Mapping[str, str | None],
    train_splits: Sequence[str],
    classes: Sequence[str],
) -> Painted | None:
    """Read the polygons that a run is to learn from.

    Args:
        setting: `data.painted`: "auto" (the file beside the manifest, if there is one), "ignore",
            or a path.
        manifest: Path of the manifest.
        splits: Scene → its split.
        train_splits: Splits that are learnt from.
        classes: Names of the class scheme.

    Returns:
        The polygons; None where there is no file, or it is ignored.

    Raises:
        ConfigError: There is no file of the path given.
        DataError: The file cannot be read.
        LabelError: A polygon to be learnt from has a class that the scheme does not know, or none.
    """
    if setting == "ignore":
        return None
    path = painted_path(manifest) if setting == "auto" else Path(setting)
    if not path.is_file():
        if setting == "auto" and not path.exists():
            return None
        raise ConfigError(
            f"data.painted: there is no file '{path}'. Correct the path, or leave the key out to "
            f"take '{painted_path(manifest).name}' beside the manifest where it exists"
        )
    content, layers = read_painted(path)
    own: dict[str, PaintedLayer] = {}
    others, strangers = Counter[str](), {}
    for id, layer in layers.items():
        if not len(layer):
            continue
        if id not in splits:
            strangers[id] = len(layer)
        elif (split := splits[id]) in train_splits:
            _check_classes(layer, classes, f"'{path}', scene '{id}'")
            own[id] = layer.without_texts()
        else:
            others[split or ""] += len(layer)
    return Painted(path, own, dict(others), strangers, content)


class PaintedLabels:
    """Labels of a scene with painted polygons over them; without labels, nothing else is labelled.

    A pixel has the class of the last polygon that covers its centre.

    Args:
        base: Labels below; None: none.
        layer: The polygons.
        grid: The scene's grid.
        where: Names the polygons in messages.

    Raises:
        LabelError: Shapes are no polygons.
        GridMismatchError: Only one of layer and grid has a CRS, or none leads to the other.
    """

    def __init__(
        self,
        base: Labels | None,
        layer: PaintedLayer,
        scheme: ClassScheme,
        grid: Grid,
        where: str,
    ) -> None:
        self.base, self._grid, self._where = base, grid, where
        shapes = shapely.from_wkb(np.array(layer.shapes, object))
        self._polygons, index = polygons_on(shapes, layer.crs, grid, where)
        indices = {name: number for number, name in enumerate(scheme.names)}
        self._classes = np.array([indices[name] for name in layer.classes], np.intp)[index]
        self._tree = shapely.STRtree(self._polygons)
        inside = shapely.box(0, 0, grid.width, grid.height)
        if not len(self._tree.query(inside, predicate="intersects")):
            warnings.warn(
                f"{where}: no polygon lies within the scene. If its raster was replaced, paint "
                "them again, or remove them in a GIS",
                PolygonsAstrayWarning,
                stacklevel=2,
            )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w); 255 = ignore, also outside the scene."""
        labels = (
            np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
            if self.base is None
            else self.base.read(window)
        )
        inner = window.intersection(self._grid.window)
        drawn = None if inner is None else self._draw(inner)
        if inner is None or drawn is None:
            return labels
        part = labels[inner.slices(window)]
        labels[inner.slices(window)] = np.where(drawn == IGNORE_INDEX, part, drawn)
        return labels

    def count_pixels(self) -> int:
        """Count the pixels that are painted."""
        if not len(self._polygons):
            return 0
        left, top, right, bottom = shapely.total_bounds(self._polygons)
        count = 0
        for row in range(int(max(0, top)) // _BLOCK * _BLOCK, int(bottom) + 1, _BLOCK):
            for col in range(int(max(0, left)) // _BLOCK * _BLOCK, int(right) + 1, _BLOCK):
                inner = Window(row, col, _BLOCK, _BLOCK).intersection(self._grid.window)
                drawn = None if inner is None else self._draw(inner)
                count += 0 if drawn is None else int((drawn != IGNORE_INDEX).sum())
        return count

    def close(self) -> None:
        """Close the files of the labels below."""
        if self.base is not None:
            self.base.close()

    def _draw(self, window: Window) -> NDArray[np.uint8] | None:
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        found = np.sort(self._tree.query(box))
        if not len(found):
            return None
        shapes = [(self._polygons[i], int(self._classes[i])) for i in found]
        return burn(shapes, window, IGNORE_INDEX, self._where)


def read_painted(path: Path) -> tuple[bytes, dict[str, PaintedLayer]]:
    """Read a file as it is at one moment.

    Returns:
        Its content as one file, and scene → polygons.

    Raises:
        DataError: It is damaged, or no file of painted polygons.
    """
    with _told(path):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            content = database.serialize()
        # Bytes 18 and 19 tell of a log beside the file, whose content is in these bytes.
        content = content[:18] + b"\x01\x01" + content[20:]
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(content)
            layers = dict(_layers_of(database, path))
    return content, layers


def read_layer(path: Path, scene: str) -> PaintedLayer:
    """Read the polygons of a scene; none where there is no file or no layer of it.

    Raises:
        DataError: The file is damaged, or no file of painted polygons.
    """
    return read_painted(path)[1].get(scene, NOTHING) if path.exists() else NOTHING


def write_layer(
    path: Path,
    scene: str,
    grid: Grid,
    polygons: Sequence[PaintedPolygon],
    *,
    expected: str | None = None,
) -> PaintedLayer:
    """Replace the polygons of a scene; those of other scenes stay as they are.

    Polygons that are as they were keep their time and all that a GIS has added to them.

    Args:
        polygons: In the order in which they are drawn.
        expected: `PaintedLayer.etag` of the state that the new one is made from; None: any.

    Returns:
        What is kept now.

    Raises:
        StalePolygonsError: The polygons of the scene are no longer those expected.
        DataError: The file is damaged, or no file of painted polygons.
        OutputError: The file is open for editing elsewhere, or cannot be written.
    """
    with _turn(path):
        _refuse_open(path)
        content, layers = read_painted(path) if path.exists() else (b"", {})
        before = layers.get(scene, NOTHING)
        if expected is not None and before.etag != expected:
            raise StalePolygonsError(
                f"the painted polygons of scene '{scene}' were changed elsewhere since they were "
                "read here. Load them again, and paint once more what is missing"
            )
        if not polygons and not len(before):
            return before
        rows = _rows(before, polygons, grid)
        crs = grid.crs.to_wkt() if grid.crs else None
        with written_whole(path) as (partial,), _told(path):
            if content:
                partial.write_bytes(content)
            table = before.table
            if not table or _crs(before.crs) != grid.crs:
                table = _make_layer(partial, before.table or _table_name(scene, layers), scene, crs)
            _replace_rows(partial, table, rows)
            return read_painted(partial)[1][scene]


def remove_layer(path: Path, scene: str) -> int:
    """Remove the polygons of a scene; return how many there were.

    Raises:
        DataError: The file is damaged, or no file of painted polygons.
        OutputError: The file is open for editing elsewhere, or cannot be written.
    """
    with _turn(path):
        _refuse_open(path)
        content, layers = read_painted(path)
        layer = layers.get(scene, NOTHING)
        if len(layer):
            with written_whole(path) as (partial,), _told(path):
                partial.write_bytes(content)
                _replace_rows(partial, layer.table, [])
        return len(layer)


def learnt_in(folder: Path) -> dict[str, Any] | None:
    """What a run learnt from painted polygons, as its folder says; None: nothing."""
    try:
        found: dict[str, Any] = json.loads((folder / PAINTED_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("polygons") else None


def pixel_shapes(layer: PaintedLayer, grid: Grid) -> list[Any]:
    """Polygons of a scene in its pixels (x = column, y = row).

    Raises:
        GridMismatchError: Only one of layer and grid has a CRS, or none leads to the other.
    """
    if not len(layer):
        return []
    shapes = shapely.from_wkb(np.array(layer.shapes, object))
    if _crs(layer.crs) == grid.crs:
        inverse = ~grid.transform
        return list(shapely.transform(shapes, lambda p: _snap(_moved(inverse, p))))
    where = "painted polygons"
    found: dict[int, list[Any]] = {}
    for polygon, number in zip(*polygons_on(shapes, layer.crs, grid, where), strict=True):
        found.setdefault(int(number), []).append(polygon)
    return [shapely.multipolygons(found.get(i, [])) for i in range(len(layer))]


class StalePolygonsError(InUseError):
    """Painted polygons were changed elsewhere since they were read."""


def _rows(
    before: PaintedLayer, polygons: Sequence[PaintedPolygon], grid: Grid
) -> list[tuple[bytes, dict[str, Any]]]:
    """WKB and columns of each polygon; of those that did not change, as they were."""
    was = dict(zip(before.ids, zip(before.classes, before.shapes, before.more, strict=True),
                   strict=True))  # fmt: skip
    in_pixels = dict(zip(before.ids, pixel_shapes(before, grid), strict=True))
    is_same_crs = _crs(before.crs) == grid.crs
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = []
    for polygon in polygons:
        name, shape, more = was.get(polygon.id, ("", b"", {}))
        is_same = name == polygon.name and shapely.equals_identical(
            shapely.multipolygons(shapely.get_parts(in_pixels[polygon.id])),
            shapely.multipolygons(shapely.get_parts(polygon.shape)),
        )
        if not (is_same and is_same_crs):
            moved = shapely.transform(polygon.shape, lambda p: _moved(grid.transform, p))
            shape = shapely.to_wkb(shapely.multipolygons(shapely.get_parts(moved)))
        own = {"id": polygon.id, "class": polygon.name}
        stamp = {} if is_same else {"painted_at": now, "software": f"terrafuse {VERSION}"}
        rows.append((shape, {**more, **own, **stamp}))
    return rows


def _moved(transform: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(apply_affine(transform, points[:, 0], points[:, 1]), axis=1)


def _snap(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(points * _SNAP) / _SNAP


def checked_shape(shape: Any, grid: Grid, where: str) -> tuple[Any, str]:
    """Bring a shape in pixels into the form in which it is kept: valid, and within the scene.

    Returns:
        The polygon or polygons, and what was changed, in words; "" if nothing.

    Raises:
        LabelError: No polygon, coordinates that are not finite, no area, outside the scene, or an
            outline that crosses itself too often.
    """
    if shape.geom_type not in ("Polygon", "MultiPolygon") or shape.is_empty:
        raise LabelError(f"{where} is a {shape.geom_type} without area; draw a polygon")
    points = shapely.get_coordinates(shape)
    if not np.isfinite(points).all() or np.abs(points).max() > 1e9:
        raise LabelError(f"{where} has coordinates that are not finite, or beyond 10⁹ pixels")
    said = []
    if not shape.is_valid:
        check_crossings(shapely.get_parts(shape), where)
        shape = _areas(shapely.make_valid(shape, method="structure", keep_collapsed=False))
        said.append("an outline that crossed itself was mended")
    scene = shapely.box(0, 0, grid.width, grid.height)
    if not shapely.covers(scene, shape):
        shape = _areas(shapely.intersection(shape, scene))
        said.append("what lay outside the scene was cut off")
    shape = shapely.transform(shape, _snap)
    if not shape.is_valid:
        shape = _areas(shapely.make_valid(shape, method="structure", keep_collapsed=False))
    if shape.is_empty or not shape.area:
        raise LabelError(f"{where} has no area within the scene. Draw it again, or leave it out")
    return shape, " and ".join(said)


def _areas(shape: Any) -> Any:
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.multipolygons([part for part in parts if part.geom_type == "Polygon"])


def _check_classes(layer: PaintedLayer, classes: Iterable[str], where: str) -> None:
    known = set(classes)
    for id, name in zip(layer.ids, layer.classes, strict=True):
        if name not in known:
            what = f"painted polygon '{cut(id)}' ({where})"
            if not name:
                raise LabelError(f"{what} has no class. Give it one in a GIS, or remove it")
            raise LabelError(
                f"{what}: {unknown_name('class', name, known)} Correct it in a GIS or in the "
                "viewer, or leave painted polygons out with 'data.painted: ignore'"
            )


def _layers_of(database: sqlite3.Connection, path: Path) -> Iterator[tuple[str, PaintedLayer]]:
    tables = database.execute(
        "SELECT c.table_name, c.identifier, g.column_name, g.srs_id FROM gpkg_contents c JOIN "
        "gpkg_geometry_columns g ON g.table_name = c.table_name WHERE c.data_type = 'features' "
        "ORDER BY c.rowid"
    ).fetchall()
    for table, identifier, geometry, srs in tables:
        scene = str(identifier or table)
        yield scene, _layer_of(database, table, geometry, _wkt(database, srs), path)


def _layer_of(
    database: sqlite3.Connection, table: str, geometry: str, crs: str | None, path: Path
) -> PaintedLayer:
    columns = database.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
    names = [column[1] for column in columns]
    if "class" not in names:
        raise DataError(
            f"layer '{cut(table)}' of '{path}' has no column 'class'; it has "
            f"{', '.join(map(cut, names))}. Name the one that holds the class so, or remove the "
            "layer"
        )
    key = next((column[1] for column in columns if column[5]), "rowid")  # the primary one
    query = f"SELECT * FROM {_quoted(table)} ORDER BY {_quoted(key)}"  # noqa: S608 - quoted
    ids: dict[str, None] = {}
    classes, shapes, more = [], [], []
    for values in database.execute(query):
        row = dict(zip(names, values, strict=True))
        shape = _wkb(row.pop(geometry), f"feature {row.get(key)} of layer '{table}'")
        if shape is None:
            continue  # a row without shape, as a GIS may leave one
        fid = row.pop(key, len(ids))
        id = str(row.get("id") or "").strip()
        ids[id if id and id not in ids else f"feature-{fid}"] = None
        classes.append(str(row["class"] or "").strip())
        shapes.append(shape)
        more.append(row)
    stamps = tuple(None if row.get("painted_at") is None else str(row["painted_at"])
                   for row in more)  # fmt: skip
    return PaintedLayer(crs, tuple(classes), tuple(shapes), tuple(ids), stamps, tuple(more), table)


def _wkb(blob: bytes | None, where: str) -> bytes | None:
    """The WKB of a geometry of a GeoPackage, which has a header before it; None if empty."""
    if blob is None:
        return None
    if blob[:2] != b"GP":
        raise ValueError(f"{where} is no geometry")
    shape = shapely.force_2d(_shape(blob))
    if shape.is_empty:
        return None
    if shape.geom_type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{where} is a {shape.geom_type}, and no polygon")
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ValueError(f"{where} has coordinates that are not finite")
    found: bytes = shapely.to_wkb(shape)
    return found


def _wkt(database: sqlite3.Connection, srs: int) -> str | None:
    row = database.execute(
        "SELECT srs_name, organization, organization_coordsys_id, definition "
        "FROM gpkg_spatial_ref_sys WHERE srs_id = ?", (srs,),
    ).fetchone()  # fmt: skip
    if row is None or str(row[0]).startswith("Undefined"):
        return None
    name, organization, number, definition = row
    if str(organization).upper() == "EPSG":
        return str(CRS.from_epsg(int(number)).to_wkt())
    if definition == "undefined":
        raise ValueError(f"its CRS '{name}' has no definition")
    return str(definition)


def _crs(wkt: str | None) -> CRS | None:
    return None if wkt is None else CRS.from_wkt(wkt)


def _table_name(scene: str, layers: Mapping[str, PaintedLayer]) -> str:
    """A name for the layer of a scene: its id, as far as tables may have it."""
    taken = {layer.table.lower() for layer in layers.values()}
    stem = re.sub(r"[^\w .-]+", "_", scene)[:60].strip() or "scene"
    if stem.lower().startswith(_RESERVED):
        stem = f"scene {stem}"
    names = [stem, *(f"{stem} {number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name.lower() not in taken)


def _make_layer(path: Path, table: str, scene: str, crs: str | None) -> str:
    """Make an empty layer, in place of one of that name."""
    import pyogrio

    nothing = np.empty(0, object)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*'crs' was not provided.*")
        pyogrio.raw.write(
            path,
            geometry=nothing,
            field_data=[nothing] * len(COLUMNS),
            fields=list(COLUMNS),
            geometry_type="MultiPolygon",
            crs=crs,
            driver="GPKG",
            layer=table,
            # Its triggers call functions of GDAL, and few polygons need none.
            layer_options={"SPATIAL_INDEX": "NO", "IDENTIFIER": scene},
        )
    return table


def _replace_rows(path: Path, table: str, rows: Sequence[tuple[bytes, Mapping[str, Any]]]) -> None:
    """Replace the rows of a layer, and what the file says of its extent."""
    with closing(sqlite3.connect(path)) as database:
        _add_functions(database)
        geometry, srs = database.execute(
            "SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", (table,)
        ).fetchone()
        present = {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")}
        wanted = {*COLUMNS, *(name for _, values in rows for name in values)}
        for name in sorted(wanted - present):  # removed in a GIS, or of a layer made anew
            database.execute(f"ALTER TABLE {_quoted(table)} ADD COLUMN {_quoted(name)} TEXT")
        database.execute(f"DELETE FROM {_quoted(table)}")  # noqa: S608 - quoted
        for wkb, values in rows:
            names = [geometry, *values]
            columns, marks = ", ".join(map(_quoted, names)), ", ".join("?" * len(names))
            header = struct.pack("<2sBBi", b"GP", 0, 1, srs)
            database.execute(
                f"INSERT INTO {_quoted(table)} ({columns}) VALUES ({marks})",  # noqa: S608
                [header + wkb, *values.values()],
            )
        shapes = shapely.from_wkb(np.array([wkb for wkb, _ in rows], object))
        box = shapely.total_bounds(shapes).tolist() if rows else [None] * 4
        database.execute(
            "UPDATE gpkg_contents SET min_x = ?, min_y = ?, max_x = ?, max_y = ?, last_change = "
            "strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE table_name = ?", (*box, table),
        )  # fmt: skip
        database.commit()


def _add_functions(database: sqlite3.Connection) -> None:
    """Give a database the functions that triggers of a spatial index call."""

    def bound(number: int) -> Any:
        return lambda blob: float(shapely.bounds(_shape(blob))[number])

    for name, number in (("ST_MinX", 0), ("ST_MinY", 1), ("ST_MaxX", 2), ("ST_MaxY", 3)):
        database.create_function(name, 1, bound(number), deterministic=True)
    database.create_function(
        "ST_IsEmpty", 1, lambda blob: None if blob is None else int(_shape(blob).is_empty),
        deterministic=True,
    )  # fmt: skip


def _shape(blob: bytes) -> Any:
    """The geometry behind the header of a GeoPackage's, which may have an envelope."""
    envelope = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}[blob[3] >> 1 & 0b111]
    return shapely.from_wkb(blob[8 + envelope :])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait for those who write the file, for some seconds, and keep others from it.

    Raises:
        InUseError: They are still at it.
    """
    until = time.monotonic() + _PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claimed_file(path, "label"))
                break
            except InUseError:
                if time.monotonic() > until:
                    raise
            time.sleep(_PAUSE_S)
        yield


def _refuse_open(path: Path) -> None:
    """Refuse to replace a file that another program has open: what is edited there would be lost.

    Raises:
        OutputError: It has.
    """
    beside = [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]
    if not any(other.exists() for other in beside):
        return
    # A log that a program left behind when it ended is taken up by the next one that opens it.
    with _told(path), closing(sqlite3.connect(path)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    for other in beside:
        if other.exists():
            raise OutputError(
                f"'{path}' is open in another program ('{other.name}' lies beside it). Save and "
                "close it there, then save here again"
            )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn failures into one message.

    Raises:
        DataError: The file is damaged, or no file of painted polygons.
    """
    try:
        yield
    except (DataError, OutputError):
        raise
    except (
        sqlite3.Error, KeyError, TypeError, ValueError, IndexError, CRSError, struct.error,
        shapely.errors.ShapelyError,  # type: ignore[attr-defined]
    ) as error:  # fmt: skip
        raise DataError(
            f"'{path}' cannot be read as painted polygons: {cut(error, 200)}. {_REMEDY}"
        ) from None


def _polygons(count: int) -> str:
    return "1 polygon" if count == 1 else f"{count:,} polygons"


def _scenes(count: int) -> str:
    return "1 scene" if count == 1 else f"{count:,} scenes"


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:32]
