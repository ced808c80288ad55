"""Polygons of a map as files: GeoPackage, GeoParquet and GeoJSON, written batch by batch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from terrafuse.data.grid import apply_affine
from terrafuse.errors import ConfigError, unknown_name
from terrafuse.extras import from_extra
from terrafuse.maps.class_raster import ClassRaster
from terrafuse.maps.degrees import to_degrees
from terrafuse.maps.vectorizing import Polygons

#: Layer of a GeoPackage.
LAYER = "classes"
_M2_PER_HA = 10_000.0


class VectorWriter(Protocol):
    """Writer of batches of polygons."""

    def write(self, shapes: NDArray[Any], columns: Columns) -> None:
        """Append polygons in coordinates of the map, and their attributes."""


Columns = dict[str, NDArray[Any]]


def columns_of(polygons: Polygons, raster: ClassRaster) -> Columns:
    """Attributes by name; an area without CRS, and a confidence without raster, are no columns."""
    names = np.array(raster.names, object)
    values = np.array(raster.values, np.int64)
    columns: Columns = {
        "class": names[polygons.classes],
        "value": values[polygons.classes],
        "pixels": polygons.pixels,
    }
    if raster.grid.crs is not None:
        columns["area_ha"] = polygons.m2 / _M2_PER_HA
    if raster.confidence is not None:
        columns["confidence"] = polygons.confidence
    return columns


def to_map(shapes: NDArray[Any], raster: ClassRaster) -> NDArray[Any]:
    """Polygons in pixels → in coordinates of the map, outlines counter-clockwise."""

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(apply_affine(raster.grid.transform, *points.T), axis=1)

    oriented: NDArray[Any] = shapely.orient_polygons(shapely.transform(shapes, moved))
    return oriented


@contextmanager
def _geopackage(path: Path, crs: CRS | None) -> Iterator[VectorWriter]:
    yield _GeoPackage(path, crs)


class _GeoPackage:
    def __init__(self, path: Path, crs: CRS | None) -> None:
        self._path, self._crs = path, crs.to_wkt() if crs else None

    def write(self, shapes: NDArray[Any], columns: Columns) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*'crs' was not provided.*")
            pyogrio.raw.write(
                self._path,
                geometry=shapely.to_wkb(shapes),
                field_data=list(columns.values()),
                fields=list(columns),
                geometry_type="Polygon",
                crs=self._crs,
                driver="GPKG",
                layer=LAYER,
                append=self._path.exists(),
            )


@contextmanager
def _geojson(path: Path, crs: CRS | None) -> Iterator[VectorWriter]:
    """RFC 7946: longitude and latitude on WGS 84."""
    if crs is None:
        raise ConfigError(
            "GeoJSON holds longitudes and latitudes, which a map without CRS does not have. "
            "Choose a name that ends in .gpkg or .parquet"
        )
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        yield _GeoJson(file.write, crs)
        file.write("\n]}\n")


class _GeoJson:
    def __init__(self, put: Callable[[str], Any], crs: CRS) -> None:
        self._put, self._crs, self._between = put, crs, "\n"

    def write(self, shapes: NDArray[Any], columns: Columns) -> None:
        rows = zip(*(_plain(column) for column in columns.values()), strict=True)
        for shape, row in zip(to_degrees(shapes, self._crs), rows, strict=True):
            properties = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
            self._put(
                f'{self._between}{{"type": "Feature", "properties": {properties}, '
                f'"geometry": {shapely.to_geojson(shape)}}}'
            )
            self._between = ",\n"


def _plain(column: NDArray[Any]) -> list[Any]:
    values: list[Any] = column.tolist()
    if column.dtype.kind != "f":
        return values
    return [None if np.isnan(value) else round(value, 6) for value in values]


@contextmanager
def _geoparquet(path: Path, crs: CRS | None) -> Iterator[VectorWriter]:
    """GeoParquet 1.1, see https://geoparquet.org/releases/v1.1.0."""
    with from_extra("parquet", "a GeoParquet file"):
        import pyarrow  # noqa: F401

    writer = _GeoParquet(path, crs)
    try:
        yield writer
    finally:
        writer.close()


class _GeoParquet:
    def __init__(self, path: Path, crs: CRS | None) -> None:
        self._path, self._crs = path, crs
        self._file: Any = None
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def write(self, shapes: NDArray[Any], columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        corners = shapely.bounds(shapes).T
        self._bounds[:2] = np.minimum(self._bounds[:2], corners[:2].min(axis=1))
        self._bounds[2:] = np.maximum(self._bounds[2:], corners[2:].max(axis=1))
        box = pa.StructArray.from_arrays(
            [pa.array(side) for side in corners], ["xmin", "ymin", "xmax", "ymax"]
        )
        table = pa.table(
            {
                **{name: _arrow(column) for name, column in columns.items()},
                "bbox": box,
                "geometry": pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary()),
            }
        )
        if self._file is None:
            # With Arrow's own schema in the file, readers would not see what is added at the end.
            self._file = pq.ParquetWriter(
                self._path, table.schema, compression="zstd", store_schema=False
            )
        self._file.write_table(table)

    def close(self) -> None:
        if self._file is None:
            return
        covering = {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
        column = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": self._crs.to_dict(projjson=True) if self._crs else None,
            "orientation": "counterclockwise",
            "edges": "planar",
            "bbox": self._bounds.tolist(),
            "covering": {"bbox": covering},
        }
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._file.add_key_value_metadata({"geo": json.dumps(geo)})
        self._file.close()


def _arrow(column: NDArray[Any]) -> Any:
    import pyarrow as pa

    return pa.array(column, from_pandas=True)  # NaN is no value


#: Endings of files that can be written.
FORMATS = {
    ".gpkg": _geopackage,
    ".parquet": _geoparquet,
    ".geojson": _geojson,
}


def check_format(path: Path, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """Refuse a file of another format.

    Raises:
        ConfigError: Its name has another ending.
    """
    if path.suffix.lower() not in formats:
        raise ConfigError(unknown_name("ending of a file of polygons", path.suffix, formats))


def open_vector(path: Path, crs: CRS | None) -> Any:
    """Open a writer of the format that the path's ending names; a context manager.

    Raises:
        ConfigError: A map without CRS as GeoJSON.
        MissingDependencyError: The package for GeoParquet is missing.
    """
    return FORMATS[path.suffix.lower()](path, crs)
