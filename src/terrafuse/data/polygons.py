"""Labels of a scene from polygons, rasterised window by window."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize

from terrafuse.classes import ClassScheme, Code, VoidCode
from terrafuse.data.grid import Grid, full_turn
from terrafuse.data.handles import GDAL_FAILURES, explain_failure, warning_filter, without_warnings
from terrafuse.data.labels import LabelRules
from terrafuse.data.names import gdal_path, local_file, split_layer
from terrafuse.data.on_disk import obstacle
from terrafuse.data.overlap import extent_in, project
from terrafuse.errors import (
    ConfigError,
    GridMismatchError,
    LabelError,
    RasterReadError,
    TerrafuseError,
    cut,
    exact_number,
    unknown_name,
)
from terrafuse.samples import IGNORE_INDEX, Window

SUFFIXES = (
    ".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".kml", ".shp.zip", ".gpkg.zip",
)  # fmt: skip
# GEOS type numbers.
_POLYGON, _AREAL_TYPES = 3, (3, 6)
# Words in the geometry types of layers that may hold polygons.
_AREAL = ("polygon", "surface", "collection", "unknown")
_MOST_LISTED = 12
_MOST_DEGREES = 360
Box = tuple[float, float, float, float]
# Edges are straight in the file's CRS: points are put in at this distance before reprojection.
_SEGMENT_PX = 32
# Pixel coordinates are snapped to this, so that moving the window by whole pixels is exact and a
# pixel does not depend on the window it is read in.
_SNAP = 2.0**16
# Mending takes a minute at some 10⁵ crossings of an outline with itself. They are estimated from
# those of a few edges.
_MOST_CROSSINGS, _EDGES_TRIED = 20_000, 40
_LONGEST_REASON = 300
# shapely exports its own without saying so.
_FAILURES = (
    RuntimeError, ValueError, LookupError, OSError,
    NameError,  # of pyogrio, after a CRS that is not UTF-8
    shapely.errors.ShapelyError,  # type: ignore[attr-defined]
)  # fmt: skip


def is_vector(path: str) -> bool:
    """Tell whether labels in this file are polygons."""
    plain = split_layer(path)[0]
    # GPKG:a.gpkg:name is a raster.
    return plain.lower().endswith(SUFFIXES)


class PolygonsAstrayWarning(UserWarning):
    """Polygons of a scene none of which lies within it."""


class PolygonLabels:
    """Labels from polygons: a pixel has the class of the polygon that covers its centre.

    Where polygons overlap, the later one in the file wins.

    Args:
        path: Vector file, in any CRS.
        grid: The scene's grid.
        where: Names the labels in messages.
        shared: Whether the file is of several scenes, of which some may hold no polygon.

    Raises:
        RasterReadError: Missing or unreadable file.
        GridMismatchError: Only one of file and grid has a CRS.
        LabelError: Codes outside the class scheme, or geometries other than polygons.
        ConfigError: The rules do not fit the file.
    """

    def __init__(
        self,
        path: str,
        scheme: ClassScheme,
        rules: LabelRules,
        grid: Grid,
        where: str,
        *,
        shared: bool = False,
    ) -> None:
        self._grid = grid
        #: Why no polygon lies within the scene although the file holds some; "" if some does.
        self.astray = ""
        self._where = where = f"{where} ({path})"
        table = _class_table(scheme)
        self._background = _background(rules.background, table, where)
        file = _VectorFile.open(path, rules.layer, "layer", where)
        found = _read_polygons(file, rules.attribute, grid)
        if found.codes is None:
            only = _only_class(scheme, self._background, file)
            classes = np.full(len(found.features), only)
        else:
            classes = _classes(found.codes, table, where)[found.features]
        self._polygons, self._classes = found.polygons, classes
        self._tree = shapely.STRtree(found.polygons)
        if not _meets(self._tree, grid):
            self.astray = explain_astray(file, grid, shared=shared)
        self._area: list[Any] | None = None
        if rules.area is not None:
            place = f"area of {where} ({rules.area})"
            area = _VectorFile.open(rules.area, rules.area_layer, "area_layer", place)
            self._area = list(_read_polygons(area, None, grid).polygons)
            if not _meets(shapely.STRtree(self._area), grid):
                self.astray = self.astray or explain_astray(area, grid, shared=shared)
        if self.astray:
            warnings.warn(self.astray, PolygonsAstrayWarning, stacklevel=2)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w); 255 = ignore, also outside the scene."""
        labels = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        inner = window.intersection(self._grid.window)
        if inner is None:
            return labels
        box = shapely.box(inner.col, inner.row, inner.col_stop, inner.row_stop)
        found = np.sort(self._tree.query(box))  # in the order of the file
        shapes = [(self._polygons[i], int(self._classes[i])) for i in found]
        part = burn(shapes, inner, self._background, self._where)
        if self._area is not None:
            inside = burn([(polygon, 1) for polygon in self._area], inner, 0, self._where)
            part[inside == 0] = IGNORE_INDEX
        labels[inner.slices(window)] = part
        return labels

    def close(self) -> None:
        """Do nothing: no file stays open."""


@dataclass(frozen=True)
class RegionFile:
    """Regions: polygons of a vector file, by the values of a column or one by one.

    Args:
        path: Vector file, in any CRS.
        column: Polygons of one value are one region; None: each feature is one.
    """

    path: str
    column: str | None = None

    @classmethod
    def parse(cls, text: str) -> RegionFile:
        """Parse FILE or FILE:COLUMN.

        Raises:
            ConfigError: It is no vector file by its name.
        """
        path, colon, column = text.rpartition(":")
        if not is_vector(text) and colon and column and is_vector(path):
            return cls(path, column)
        if not is_vector(text):
            raise ConfigError(
                f"regions are '{cut(text)}'; give a vector file ({', '.join(SUFFIXES)}), and after "
                "a colon the column that names them: districts.gpkg:name"
            )
        return cls(text)

    def state(self) -> dict[str, Any]:
        """What masks depend on, as plain values."""
        file = local_file(split_layer(self.path)[0])
        content = "" if file is None or not file.is_file() else _digest(file)
        return {"path": self.path, "column": self.column, "sha256": content}

    def masks(self, grid: Grid) -> Iterator[tuple[str, Window, NDArray[np.bool_]]]:
        """Yield regions that meet a scene: name, window around, and pixels by their centre (h, w).

        Raises:
            RasterReadError: Missing or unreadable file.
            ConfigError: No such column, or several layers.
            GridMismatchError: Only one of file and grid has a CRS.
            LabelError: Geometries other than polygons.
        """
        where = f"regions ({self.path})"
        file = _VectorFile.open(self.path, None, "layer", where)
        found = _read_polygons(file, self.column, grid)
        values = found.ids if found.codes is None else found.codes
        names = np.array([_region_name(value) for value in values.tolist()], object)
        of_polygon = names[found.features] if len(names) else names
        for name in dict.fromkeys(of_polygon):
            polygons = found.polygons[of_polygon == name]
            left, top, right, bottom = shapely.total_bounds(polygons)
            row, col = (max(0, floor(start)) for start in (top, left))
            height, width = ceil(bottom) - row, ceil(right) - col
            if height <= 0 or width <= 0:
                continue
            window = Window(row, col, height, width).intersection(grid.window)
            if window is not None:
                burnt = burn([(polygon, 1) for polygon in polygons], window, 0, where)
                yield name, window, burnt == 1


def _region_name(value: Any) -> str:
    """The name of a region as text."""
    key = _key(value, {})
    return "(no value)" if key is None else str(key)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def burn(shapes: list[tuple[Any, int]], window: Window, fill: int, where: str) -> NDArray[np.uint8]:
    """Draw polygons in scene pixels on a window, later ones over earlier ones (h, w).

    Raises:
        LabelError: They cannot be drawn.
    """
    size = (window.height, window.width)
    if not shapes:
        return np.full(size, fill, np.uint8)
    corner = Affine.translation(window.col, window.row)
    try:
        # rasterio changes the filters of warnings, which are those of all threads.
        with without_warnings():
            burnt: NDArray[np.uint8] = rasterize(
                shapes, out_shape=size, fill=fill, transform=corner, dtype=np.uint8
            )
    except GDAL_FAILURES as error:
        raise LabelError(f"{where} cannot be drawn: {explain_failure(error)}") from error
    return burnt


class _VectorFile(NamedTuple):
    """A layer of a vector file.

    Args:
        path: As GDAL opens it.
        layer: Its name; None = the only one.
        fields: Names of its attributes.
        crs: As text, or None.
        bounds: Of all features, or None where there are none.
        where: Names it in messages.
    """

    path: str
    layer: str | None
    fields: tuple[str, ...]
    crs: str | None
    bounds: tuple[float, float, float, float] | None
    where: str

    @classmethod
    def open(cls, path: str, layer: str | None, key: str, where: str) -> _VectorFile:
        """Choose the layer and note what reading it needs.

        Args:
            path: File, URL or GDAL path, with the layer as QGIS writes it or without.
            layer: The layer, where `path` does not name it.
            key: Name of the setting that names it.
            where: Names the polygons in messages.

        Raises:
            RasterReadError: Missing or unreadable file.
            ConfigError: There is no such layer, or several and none is named.
        """
        import pyogrio  # GDAL a second time: only polygons wait for it

        path, named = split_layer(path)
        file = local_file(path)
        problem = "" if file is None else obstacle(file)
        if problem:
            raise RasterReadError(f"{where}: {problem}")
        path = gdal_path(path)
        with _failures_of(where):
            chosen = _choose_layer(path, named or layer, key, where)
            info = pyogrio.read_info(
                path, layer=chosen, force_total_bounds=True, force_feature_count=True
            )
        bounds = info["total_bounds"]
        if bounds is not None and not np.isfinite(bounds).all():
            bounds = None
        if bounds is None and info["features"] > 0:
            raise LabelError(
                f"{where} hold {_features(info['features'])}, none with finite coordinates. Write "
                "the file again with its geometries"
            )
        fields = tuple(map(str, info["fields"]))
        return cls(path, chosen, fields, info["crs"], bounds and tuple(map(float, bounds)), where)


@contextmanager
def _failures_of(where: str) -> Iterator[None]:
    """Turn failures of reading a vector file into one of ours; its warnings name the labels.

    Raises:
        RasterReadError: The file cannot be opened, or its features cannot be read.
    """
    import pyogrio

    with warning_filter, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            yield
        except TerrafuseError:
            raise
        except _FAILURES as error:
            text = " ".join(str(error).split()).partition("; It might help")[0].rstrip(".")
            verb = "opened" if isinstance(error, pyogrio.errors.DataSourceError) else "read"
            raise RasterReadError(
                f"{where} cannot be {verb} as polygons: {text[:_LONGEST_REASON]}. Check that the "
                "file is complete and a format GDAL reads (GeoPackage, GeoJSON, Shapefile …)"
            ) from None
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        warnings.warn(f"{where}: GDAL warns: {text[:_LONGEST_REASON]}", stacklevel=3)


def _choose_layer(path: str, layer: str | None, key: str, where: str) -> str | None:
    import pyogrio

    listed = pyogrio.list_layers(path)
    names = [str(name) for name, _ in listed]
    if not names:
        raise RasterReadError(
            f"{where} hold no layer at all. The file is incomplete: fetch it again"
        )
    if layer is not None:
        if layer not in names:
            raise ConfigError(unknown_name(f"layer of the {where}:", layer, names))
        return layer
    # Tables without geometry (styles, say) and layers of points hold no labels.
    kinds = {str(name): str(kind).lower() for name, kind in listed if kind is not None}
    able = [name for name, kind in kinds.items() if any(word in kind for word in _AREAL)]
    if len(able) > 1:
        counts = [int(pyogrio.read_info(path, layer=n, force_feature_count=True)["features"])
                  for n in able[:_MOST_LISTED]]  # fmt: skip
        text = ", ".join(f"'{n}' ({_features(c)})" for n, c in zip(able, counts, strict=False))
        more = f" … and {len(able) - _MOST_LISTED} more" if len(able) > _MOST_LISTED else ""
        raise ConfigError(
            f"{where} hold {len(able)} layers of polygons: {text}{more}. Say which in the "
            f"manifest: 'labels: {{{key}: {able[0]}}}', or with the file: "
            f"'{path}|layername={able[0]}'"
        )
    return able[0] if able else (names[0] if len(names) > 1 else None)


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count} features"


class _Polygons(NamedTuple):
    """Polygons in pixel coordinates; codes and ids per feature; the feature of each polygon."""

    polygons: NDArray[Any]
    codes: NDArray[Any] | None
    ids: NDArray[Any]
    features: NDArray[np.intp]


def _read_polygons(file: _VectorFile, attribute: str | None, grid: Grid) -> _Polygons:
    """The polygons near a scene.

    Raises:
        ConfigError: There is no such attribute.
        GridMismatchError: Only one of file and grid has a CRS, or none leads to the other.
        LabelError: Geometries are no polygons.
    """
    if attribute is not None and attribute not in file.fields:
        kind = f"attribute of the {file.where}:"
        raise ConfigError(unknown_name(kind, attribute, file.fields))
    crs = _vector_crs(file.crs, grid, file.where)
    box = _reach(grid, crs, file.where)
    reach = box if crs == grid.crs else _widen(box)
    shapes, codes, ids = _read_shapes(file, attribute, reach, full_turn(crs))
    polygons, index = _onto(shapes, crs, grid, box, file.where)
    return _Polygons(polygons, codes, ids, index)


def polygons_on(
    shapes: NDArray[Any], crs: str | None, grid: Grid, where: str
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Bring shapes to the pixels of a scene; return single polygons, and the shape of each.

    Args:
        crs: Of the shapes, as text; None: coordinates as the grid has them without CRS.
        where: Names them in messages.

    Raises:
        GridMismatchError: Only one of shapes and grid has a CRS, or none leads to the other.
        LabelError: Shapes are no polygons.
    """
    known = _vector_crs(crs, grid, where)
    return _onto(shapes, known, grid, _reach(grid, known, where), where)


def _reach(grid: Grid, crs: CRS | None, where: str) -> Box:
    """The extent of a grid in another CRS."""
    try:
        return grid.bounds if crs == grid.crs else extent_in(grid, crs)
    except ValueError as error:
        raise GridMismatchError(f"{where} cannot be brought to the scene's CRS: {error}") from None


def _onto(
    shapes: NDArray[Any], crs: CRS | None, grid: Grid, box: Box, where: str
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    _check_types(shapes, where)
    shapes = _mend(shapes, where)
    if crs != grid.crs:
        longest = max(box[2] - box[0], box[3] - box[1]) / max(grid.height, grid.width)
        shapes = shapely.segmentize(_clip(shapes, _widen(box)), longest * _SEGMENT_PX)
    polygons, index = _single_polygons(shapes)
    return _to_pixels(polygons, crs, grid), index


def _read_shapes(
    file: _VectorFile, attribute: str | None, box: Box, turn: float | None
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]]:
    """Geometries that meet a box, codes and ids, in the order of the file.

    Where coordinates are longitudes, those that lie whole turns away come with them, moved there:
    300° is −60°, and across the date line a file may count either way.
    """
    import pyogrio

    columns = [] if attribute is None else [attribute]
    turns = [0.0] if turn is None else _turns(box, file.bounds, turn)
    found = []
    for away in turns:
        reach = (box[0] + away, box[1], box[2] + away, box[3])
        with _failures_of(file.where):
            _, fids, wkb, values = pyogrio.raw.read(
                file.path,
                layer=file.layer,
                columns=columns,
                bbox=reach,
                force_2d=True,
                return_fids=True,
            )
            shapes = shapely.from_wkb(wkb)
        _check_coordinates(shapes, fids, file.where)
        if away and len(shapes):
            shapes = shapely.transform(shapes, lambda p, by=away: p - np.array([by, 0.0]))
        found.append((fids, shapes, values[0] if values else None))
    fids, shapes = (np.concatenate([part[k] for part in found]) for k in (0, 1))
    codes = [part[2] for part in found if part[2] is not None]
    order = np.argsort(fids, kind="stable")
    return shapes[order], np.concatenate(codes)[order] if codes else None, fids[order]


def _check_coordinates(shapes: NDArray[Any], fids: NDArray[Any], where: str) -> None:
    """Refuse shapes with coordinates that are not finite.

    Raises:
        LabelError: There are some.
    """
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    wrong = np.unique(owner[~np.isfinite(points).all(axis=1)])
    if wrong.size:
        listed = ", ".join(str(fids[i]) for i in wrong[:_MOST_LISTED])
        more = f" and {wrong.size - _MOST_LISTED} more" if wrong.size > _MOST_LISTED else ""
        raise LabelError(
            f"{where}: coordinates are not finite in {_features(wrong.size)} (number {listed}"
            f"{more}). Correct or remove them"
        )


def _turns(box: Box, bounds: Box | None, turn: float) -> list[float]:
    """Distances from a box at which, whole turns away, something of a file may lie."""
    if bounds is None:
        return [0.0]
    able = [k * turn for k in range(-2, 3)]
    return [k for k in able if box[0] + k <= bounds[2] and box[2] + k >= bounds[0]] or [0.0]


def _meets(tree: Any, grid: Grid) -> bool:
    """True if any polygon reaches into the scene."""
    edge = 1e-6
    inside = shapely.box(edge, edge, grid.width - edge, grid.height - edge)
    return bool(len(tree.query(inside, predicate="intersects")))


def explain_astray(file: _VectorFile, grid: Grid, *, shared: bool) -> str:
    """Why no polygon of a file lies within the scene, as far as its extent tells; "" if it may.

    Args:
        file: The polygons.
        grid: The scene's grid.
        shared: Whether the file is of several scenes: then some may hold none, if they lie within
            the extent of all.
    """
    if file.bounds is None:
        return ""
    crs = None if file.crs is None else CRS.from_user_input(file.crs)
    scene = extent_in(grid, crs)
    turn = full_turn(crs)
    meets = _overlap(scene, file.bounds, turn)
    if shared and meets:
        return ""
    name = "no CRS" if crs is None else crs.to_string()[:40]
    return (
        f"{file.where}: no polygon lies within the scene. They reach from {_show(file.bounds)}; "
        f"the scene from {_show(scene)} ({name}). {_advise(file.bounds, scene, crs, grid)}"
    )


def _advise(bounds: Box, scene: Box, crs: CRS | None, grid: Grid) -> str:
    turn = full_turn(crs)
    swapped = (bounds[1], bounds[0], bounds[3], bounds[2])
    beyond = turn is not None and (
        max(abs(bounds[0]), abs(bounds[2])) > turn or max(abs(bounds[1]), abs(bounds[3])) > turn / 4
    )
    if beyond and _overlap(grid.bounds, bounds, None):
        assert grid.crs is not None
        return (
            "These are no degrees, but in the scene's CRS they would lie there: give the file "
            f"that CRS, {grid.crs.to_string()[:40]} (in GeoJSON the member 'crs')"
        )
    if _overlap(scene, swapped, turn):
        return "With x and y exchanged they would lie there: exchange them in the file"
    if beyond:
        return "These are no degrees: give the file the CRS of its coordinates"
    if turn is None and crs is not None and max(map(abs, bounds)) <= _MOST_DEGREES:
        degrees = CRS.from_epsg(4326)
        if _overlap(extent_in(grid, degrees), bounds, float(_MOST_DEGREES)):
            return "Taken as degrees they would lie there: give the file the CRS EPSG:4326"
    return "Check that the file belongs to this scene and that its CRS is right"


def _overlap(one: Box, other: Box, turn: float | None) -> bool:
    away = [0.0] if turn is None else [k * turn for k in range(-2, 3)]
    across = any(one[0] < other[2] + k and other[0] + k < one[2] for k in away)
    return across and one[1] < other[3] and other[1] < one[3]


def _show(box: Box) -> str:
    return f"x {box[0]:.10g} to {box[2]:.10g} and y {box[1]:.10g} to {box[3]:.10g}"


def _vector_crs(text: str | None, grid: Grid, where: str) -> CRS | None:
    try:
        crs = None if text is None else CRS.from_user_input(text)
    except CRSError as error:
        raise GridMismatchError(
            f"{where}: the CRS of the file cannot be understood: {str(error)[:_LONGEST_REASON]}. "
            "Give it its CRS (ogr2ogr -a_srs EPSG:…)"
        ) from None
    if (crs is None) != (grid.crs is None):
        have, has = ("no CRS", "one") if crs is None else ("a CRS", "none")
        raise GridMismatchError(
            f"{where} have {have}, but the scene's grid has {has}. Give both a CRS, or none (a "
            "GeoPackage without CRS, in the image's own coordinates; GeoJSON is always in degrees)"
        )
    return crs


def _check_types(shapes: NDArray[Any], where: str) -> None:
    parts, whose = shapely.get_parts(shapes, return_index=True)
    areal = np.isin(shapely.get_type_id(parts), _AREAL_TYPES) & ~shapely.is_empty(parts)
    with_area = set(whose[areal].tolist())
    # A collection may hold points beside its polygons.
    kinds = Counter(
        str(shape.geom_type)
        for i, shape in enumerate(shapes)
        if shape is not None and not shape.is_empty and i not in with_area
    )
    if kinds:
        listed = ", ".join(f"{n} × {kind}" for kind, n in kinds.items())
        raise LabelError(f"{where} must be polygons, but hold {listed}. Buffer or remove them")
    others = len(set(whose[~areal & ~shapely.is_empty(parts)].tolist()))
    if others:
        warnings.warn(
            f"{where}: {others} collections hold points or lines beside polygons; these are "
            "passed over",
            stacklevel=2,
        )


def _mend(shapes: NDArray[Any], where: str) -> NDArray[Any]:
    """Polygons that contradict themselves, as what their rings enclose: shells without holes.

    Raises:
        LabelError: Outlines cross themselves so often that they are no outlines.
    """
    wrong = ~shapely.is_missing(shapes) & ~shapely.is_valid(shapes)
    check_crossings(shapes[wrong], where)
    shapes = shapes.copy()
    for i in np.flatnonzero(wrong):
        parts = shapely.get_parts(shapely.get_parts(shapes[i]))
        mended = [_enclosed(part) for part in parts if shapely.get_type_id(part) == _POLYGON]
        shapes[i] = shapely.geometrycollections(mended)
    return shapes


def check_crossings(shapes: NDArray[Any], where: str) -> None:
    """Refuse outlines whose mending would take minutes, by the crossings of some of their edges.

    Raises:
        LabelError: There is such an outline.
    """
    for ring in shapely.get_rings(shapely.get_parts(shapely.get_parts(shapes))):
        points = shapely.get_coordinates(ring)
        count = len(points) - 1
        if count**2 < _MOST_CROSSINGS:
            continue
        seen = np.unique(np.linspace(0, count - 1, _EDGES_TRIED).astype(int))
        crossings = np.mean([_crossings(points, i) for i in seen]) * count / 2
        if crossings > _MOST_CROSSINGS:
            raise LabelError(
                f"{where}: an outline of {count} edges crosses itself about {crossings:,.0f} "
                "times: it is none of an area. Order its points along the boundary, or remove it"
            )


def _crossings(points: NDArray[np.float64], edge: int) -> int:
    """Edges of a line that one of its edges crosses."""
    (ax, ay), (bx, by) = points[edge], points[edge + 1]
    x, y = points[:, 0], points[:, 1]
    side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # of the edge's line, per point
    (px, py), (qx, qy) = (x[:-1], y[:-1]), (x[1:], y[1:])
    from_a = (qx - px) * (ay - py) - (qy - py) * (ax - px)  # of each edge's line, per end
    from_b = (qx - px) * (by - py) - (qy - py) * (bx - px)
    return int(((side[:-1] * side[1:] < 0) & (from_a * from_b < 0)).sum())


def _enclosed(polygon: Any) -> Any:
    rings = [shapely.polygons(ring) for ring in shapely.get_rings(polygon)]
    shell, *holes = shapely.make_valid(rings, method="structure", keep_collapsed=False)
    return shapely.difference(shell, shapely.union_all(holes)) if holes else shell


def _widen(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    # The extent was found on a lattice of points; the true one may bulge between them.
    x, y = 0.05 * (box[2] - box[0]), 0.05 * (box[3] - box[1])
    return box[0] - x, box[1] - y, box[2] + x, box[3] + y


def _clip(shapes: NDArray[Any], box: tuple[float, float, float, float]) -> NDArray[Any]:
    """Clip shapes that extend far beyond the scene: a projection may be undefined there."""
    bounds = shapely.bounds(shapes)
    beyond = (bounds[:, :2] < box[:2]).any(axis=1) | (bounds[:, 2:] > box[2:]).any(axis=1)
    shapes = shapes.copy()
    shapes[beyond] = shapely.clip_by_rect(shapes[beyond], *box)
    return shapes


def _single_polygons(shapes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Split multipolygons and collections into polygons; return the feature of each too."""
    parts, first = shapely.get_parts(shapes, return_index=True)
    parts, second = shapely.get_parts(parts, return_index=True)
    keep = (shapely.get_type_id(parts) == _POLYGON) & ~shapely.is_empty(parts)
    return parts[keep], first[second][keep]


def _to_pixels(polygons: NDArray[Any], crs: CRS | None, grid: Grid) -> NDArray[Any]:
    inverse = ~grid.transform

    def convert(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = project(crs, grid.crs, points[:, 0], points[:, 1])
        cols = inverse.a * x + inverse.b * y + inverse.c
        rows = inverse.d * x + inverse.e * y + inverse.f
        return np.round(np.stack([cols, rows], axis=1) * _SNAP) / _SNAP

    moved: NDArray[Any] = shapely.transform(polygons, convert)
    return moved


def _class_table(scheme: ClassScheme) -> dict[VoidCode, int]:
    """Codes, void values and class names → class index; a code wins over a name."""
    names: dict[VoidCode, int] = {name: index for index, name in enumerate(scheme.names)}
    return names | scheme.lookup()


def _background(code: Code | None, table: dict[VoidCode, int], where: str) -> int:
    if code is None:
        return IGNORE_INDEX
    if code not in table:
        raise ConfigError(unknown_name(f"background class of the {where}:", code, map(str, table)))
    return table[code]


def _only_class(scheme: ClassScheme, background: int, file: _VectorFile) -> int:
    left = [index for index in range(scheme.num_classes) if index != background]
    if len(left) == 1:
        return left[0]
    names = ", ".join(scheme.names[index] for index in left)
    listed = ", ".join(file.fields) or "none"
    raise ConfigError(
        f"{file.where}: the polygons may be {names}. Name the field that tells in "
        f"'labels.attribute' (fields: {listed})"
    )


def _classes(codes: NDArray[Any], table: dict[VoidCode, int], where: str) -> NDArray[np.intp]:
    keys = [_key(value, table) for value in codes.tolist()]
    unknown = Counter(key for key in keys if key not in table)
    if unknown:
        most = unknown.most_common(5)
        listed = ", ".join(f"{_written(k)} ({n} polygons{_near(k, table)})" for k, n in most)
        known = ", ".join(map(_written, list(table)[:20]))
        void = ", ".join(_written(key) for key, _ in most)
        raise LabelError(
            f"{where} hold values not in the class scheme: {listed}; known are {known}. Add them "
            f"to a class ('code') or to 'void' in the manifest ('void: [{void}]')"
        )
    return np.array([table[key] for key in keys], np.intp)


def _near(key: Any, table: dict[VoidCode, int]) -> str:
    """Name the class or code that a text is but for case or a slip of the pen."""
    names = {code.casefold(): code for code in table if isinstance(code, str)}
    found = difflib.get_close_matches(key.casefold(), names, 1, 0.8) if isinstance(key, str) else []
    return f", nearly {_written(names[found[0]])}" if found else ""


def _written(key: Any) -> str:
    """A value as it is written in a manifest."""
    if key is None:
        return "null"
    return exact_number(key) if isinstance(key, int | float) else repr(key)


def _key(value: Any, table: dict[VoidCode, int]) -> Any:
    if isinstance(value, list | np.ndarray):
        return str(np.asarray(value).tolist())  # of a list field; no code is one
    if isinstance(value, float) and np.isnan(value):
        return None  # of whole numbers, where some have none
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        if text not in table and text.lstrip("-").isdecimal():
            return int(text)
        return text.lower() if text.startswith("#") else text
    return value
