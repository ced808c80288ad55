"""Labels of a scene from polygons, rasterised window by window."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from terrafuse.classes import ClassScheme, Code
from terrafuse.data.grid import Grid
from terrafuse.data.labels import LabelRules
from terrafuse.data.overlap import extent_in, project
from terrafuse.errors import (
    ConfigError,
    GridMismatchError,
    LabelError,
    RasterReadError,
    unknown_name,
)
from terrafuse.samples import IGNORE_INDEX, Window

SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".kml")
_POLYGON = 3  # GEOS type number
# Edges are straight in the file's CRS: they are densified to this distance before reprojection.
_SEGMENT_PX = 32
# Pixel coordinates are snapped to this, so that moving the window by whole pixels is exact and a
# pixel does not depend on the window it is read in.
_SNAP = 2.0**16


def is_vector(path: str) -> bool:
    """Tell whether labels in this file are polygons."""
    return path.lower().endswith(SUFFIXES)


class PolygonLabels:
    """Labels from polygons: a pixel has the class of the polygon that covers its centre.

    Where polygons overlap, the later one in the file wins.

    Args:
        path: Vector file, in any CRS.
        grid: The scene's grid.
        where: Names the labels in messages.

    Raises:
        RasterReadError: Missing or unreadable file.
        GridMismatchError: Only one of file and grid has a CRS.
        LabelError: Codes outside the class scheme, or geometries other than polygons.
        ConfigError: The rules do not fit the file.
    """

    def __init__(
        self, path: str, scheme: ClassScheme, rules: LabelRules, grid: Grid, where: str
    ) -> None:
        self._grid = grid
        where = f"{where} ({path})"
        table = _class_table(scheme)
        self._background = _background(rules.background, table, where)
        polygons, codes, index = _read_polygons(path, rules.attribute, grid, where)
        if codes is None:
            classes = np.full(len(index), _only_class(scheme, self._background, path, where))
        else:
            classes = _classes(codes, table, where)[index]
        self._polygons, self._classes = polygons, classes
        self._tree = shapely.STRtree(polygons)
        self._area: list[Any] | None = None
        if rules.area is not None:
            self._area = list(_read_polygons(rules.area, None, grid, f"area of {where}")[0])

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class indices (h, w); 255 = ignore, also outside the scene."""
        labels = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        inner = window.intersection(self._grid.window)
        if inner is None:
            return labels
        box = shapely.box(inner.col, inner.row, inner.col_stop, inner.row_stop)
        found = np.sort(self._tree.query(box))  # in the order of the file
        shapes = [(self._polygons[i], int(self._classes[i])) for i in found]
        part = _burn(shapes, inner, self._background)
        if self._area is not None:
            inside = _burn([(polygon, 1) for polygon in self._area], inner, 0)
            part[inside == 0] = IGNORE_INDEX
        labels[inner.slices(window)] = part
        return labels

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _burn(shapes: list[tuple[Any, int]], window: Window, fill: int) -> NDArray[np.uint8]:
    size = (window.height, window.width)
    if not shapes:
        return np.full(size, fill, np.uint8)
    corner = Affine.translation(window.col, window.row)
    burnt: NDArray[np.uint8] = rasterize(
        shapes, out_shape=size, fill=fill, transform=corner, dtype=np.uint8
    )
    return burnt


def _read_polygons(
    path: str, attribute: str | None, grid: Grid, where: str
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.intp]]:
    """Read polygons in pixel coordinates, codes per feature, and the feature of each polygon."""
    import pyogrio  # loads GDAL a second time: only polygons need it

    info = _info(path, where)
    if attribute is not None and attribute not in info["fields"]:
        kind = f"attribute of the {where}:"
        raise ConfigError(unknown_name(kind, attribute, map(str, info["fields"])))
    crs = _vector_crs(info["crs"], grid, where)
    try:
        box = None if crs == grid.crs else extent_in(grid, crs)
    except ValueError as error:
        raise GridMismatchError(f"{where} cannot be brought to the scene's CRS: {error}") from None
    columns = [] if attribute is None else [attribute]
    reach = grid.bounds if box is None else _widen(box)
    _, _, wkb, values = pyogrio.raw.read(path, columns=columns, bbox=reach, force_2d=True)
    shapes = shapely.from_wkb(wkb)
    _check_types(shapes, where)
    if box is not None:
        longest = max(box[2] - box[0], box[3] - box[1]) / max(grid.height, grid.width)
        shapes = shapely.segmentize(_clip(shapes, reach), longest * _SEGMENT_PX)
    polygons, index = _single_polygons(shapes)
    return _to_pixels(polygons, crs, grid), values[0] if values else None, index


def _info(path: str, where: str) -> dict[str, Any]:
    import pyogrio

    if "://" not in path and not Path(path).exists():
        raise RasterReadError(f"{where}: there is no file '{path}'")
    try:
        info: dict[str, Any] = pyogrio.read_info(path)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise RasterReadError(f"{where} cannot be opened as polygons: {error}") from None
    return info


def _vector_crs(text: str | None, grid: Grid, where: str) -> CRS | None:
    crs = None if text is None else CRS.from_user_input(text)
    if (crs is None) != (grid.crs is None):
        have, has = ("no CRS", "one") if crs is None else ("a CRS", "none")
        raise GridMismatchError(
            f"{where} have {have}, but the scene's grid has {has}. Give both a CRS, or none (a "
            "GeoPackage without CRS, in the image's own coordinates; GeoJSON is always in degrees)"
        )
    return crs


def _check_types(shapes: NDArray[Any], where: str) -> None:
    kinds = Counter(
        str(shape.geom_type) for shape in shapes if shape is not None and not shape.is_empty
    )
    wrong = {kind: n for kind, n in kinds.items() if kind not in ("Polygon", "MultiPolygon")}
    if wrong:
        listed = ", ".join(f"{n} × {kind}" for kind, n in wrong.items())
        raise LabelError(f"{where} must be polygons, but hold {listed}. Buffer or remove them")


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


def _class_table(scheme: ClassScheme) -> dict[Code, int]:
    """Map codes, void values and class names to class indices; a code wins over a name."""
    return dict(zip(scheme.names, range(scheme.num_classes), strict=True)) | scheme.lookup()


def _background(code: Code | None, table: dict[Code, int], where: str) -> int:
    if code is None:
        return IGNORE_INDEX
    if code not in table:
        raise ConfigError(unknown_name(f"background class of the {where}:", code, map(str, table)))
    return table[code]


def _only_class(scheme: ClassScheme, background: int, path: str, where: str) -> int:
    left = [index for index in range(scheme.num_classes) if index != background]
    if len(left) == 1:
        return left[0]
    names = ", ".join(scheme.names[index] for index in left)
    listed = ", ".join(map(str, _info(path, where)["fields"])) or "none"
    raise ConfigError(
        f"{where}: the polygons may be {names}. Name the field that holds the class in "
        f"'labels.attribute' (fields: {listed})"
    )


def _classes(codes: NDArray[Any], table: dict[Code, int], where: str) -> NDArray[np.intp]:
    keys = [_key(value, table) for value in codes.tolist()]
    unknown = Counter(key for key in keys if key not in table)
    if unknown:
        listed = ", ".join(f"{key!r} ({n} polygons)" for key, n in unknown.most_common(5))
        known = ", ".join(repr(key) for key in list(table)[:20])
        raise LabelError(
            f"{where} hold values not in the class scheme: {listed}; known are {known}. Add them "
            "to a class ('code') or to 'void' in the manifest"
        )
    return np.array([table[key] for key in keys], np.intp)


def _key(value: Any, table: dict[Code, int]) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        if text not in table and text.lstrip("-").isdecimal():
            return int(text)
        return text.lower() if text.startswith("#") else text
    return value
