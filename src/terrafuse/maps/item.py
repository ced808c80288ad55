"""`item.json`: a map as a STAC item, with the fields of the model that made it.

Reference: STAC 1.1.0 (https://stacspec.org); extensions projection 2.0.0, raster 2.0.0,
classification 2.0.0, and machine learning model (MLM) 1.4.0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from terrafuse.data import Grid
from terrafuse.data.grid import apply_affine
from terrafuse.maps.class_raster import ClassRaster, opened
from terrafuse.maps.degrees import to_degrees
from terrafuse.prediction import Products
from terrafuse.prediction.areas import AREAS_CSV
from terrafuse.weights.onnx_file import names_onnx
from terrafuse.weights.stac import CLASSIFICATION_SCHEMA, describe_classes

ITEM = "item.json"
_STAC = "https://stac-extensions.github.io"
_PROJECTION = f"{_STAC}/projection/v2.0.0/schema.json"
_RASTER = f"{_STAC}/raster/v2.0.0/schema.json"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_VRT = "application/x-gdal-vrt"
# Of each side of the footprint, so that it follows the curves of the grid in degrees.
_POINTS = 16


def describe_item(
    products: Products,
    raster: ClassRaster | None,
    *,
    name: str,
    made: datetime,
    model: Mapping[str, Any],
    model_file: Path,
    extra: Sequence[Path] = (),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return the item of a map.

    Args:
        products: Files of the map.
        raster: Its class map, if it has one.
        name: Of the item, such as the id of the scene.
        made: When; with a time zone.
        model: Content of `model.json`; its fields "mlm:…" are the item's.
        model_file: The weights.
        extra: Further files of the folder: "preview.png".
        folder: Where the map is going to lie, if it is still being made.
    """
    first = next(iter(products.files.values()))
    with opened(first) as dataset:
        grid = Grid.from_dataset(dataset)
    geometry = footprint(grid)
    fields = {key: value for key, value in model.items() if key.startswith("mlm:")}
    mlm = [url for url in model.get("stac_extensions", ()) if "/mlm/" in url] if fields else []
    folder = folder or first.parent
    time = made.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_PROJECTION, _RASTER, CLASSIFICATION_SCHEMA, *mlm],
        "id": re.sub(r"[^0-9A-Za-z._-]+", "_", name) or "map",
        "geometry": None if geometry is None else shapely.geometry.mapping(geometry),
        **({} if geometry is None else {"bbox": _bbox(geometry)}),
        "properties": {
            "datetime": time,
            "created": time,
            "title": f"Class map of {name}",
            **_projection(grid),
            **_bands_of(fields),
            **fields,
        },
        "links": [],
        "assets": {
            **{key: _asset(key, path, raster) for key, path in products.files.items()},
            **{path.stem: _tile(path) for path in products.parts if path.suffix == ".tif"},
            **_beside(products, extra),
            **(_model_asset(model_file, folder) if fields else {}),
        },
    }


def footprint(grid: Grid) -> Any:
    """Outline of a grid in longitude and latitude; None without CRS."""
    if grid.crs is None:
        return None
    edge = np.linspace(0, 1, _POINTS + 1)[:-1]
    cols = np.concatenate([edge, np.ones_like(edge), 1 - edge, np.zeros_like(edge)]) * grid.width
    rows = np.concatenate([np.zeros_like(edge), edge, np.ones_like(edge), 1 - edge]) * grid.height
    outline = np.stack(apply_affine(grid.transform, cols, rows), axis=1)
    try:
        (shape,) = to_degrees(np.array([shapely.polygons(outline)], object), grid.crs)
    except Exception:  # a CRS of another planet, or of none
        return None
    return shape if np.isfinite(shapely.get_coordinates(shape)).all() else None


def _bbox(shape: Any) -> list[float]:
    """Its box; west is larger than east where it lies across the antimeridian."""
    parts = list(getattr(shape, "geoms", [shape]))
    west, south, east, north = shape.bounds
    if len(parts) == 2 and east - west > 180:
        west, east = max(part.bounds[0] for part in parts), min(part.bounds[2] for part in parts)
    return [west, south, east, north]


def _projection(grid: Grid) -> dict[str, Any]:
    t = grid.transform
    place: dict[str, Any] = {
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f],
    }
    if grid.crs is None:
        return {"proj:code": None, **place}
    authority = grid.crs.to_authority()
    code = None if authority is None else ":".join(authority)
    wkt = {} if code else {"proj:wkt2": grid.crs.to_wkt(version="WKT2_2019")}
    return {"proj:code": code, **wkt, "proj:bbox": list(grid.bounds), **place}


def _bands_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bands that the inputs of the model name, as the MLM extension wants them told."""
    names = dict.fromkeys(
        name for one in fields.get("mlm:input", ()) for name in one.get("bands", ())
    )
    return {"bands": [{"name": name} for name in names]} if names else {}


def _asset(key: str, path: Path, raster: ClassRaster | None) -> dict[str, Any]:
    with opened(path) as dataset:
        nodata, dtype, scale = dataset.nodata, dataset.dtypes[0], dataset.scales[0]
        bands = [
            {"name": dataset.descriptions[n] or (key if dataset.count == 1 else f"{key}_{n + 1}")}
            for n in range(dataset.count)
        ]
    asset: dict[str, Any] = {
        "href": f"./{path.name}",
        "type": _VRT if path.suffix == ".vrt" else _COG,
        "title": key.replace("_", " ").capitalize(),
        "roles": ["data"],
        "data_type": dtype,
        "bands": bands,
    }
    if nodata is not None:
        is_whole = np.isfinite(nodata) and float(nodata).is_integer()
        asset["nodata"] = int(nodata) if is_whole else str(nodata)
    if scale != 1:
        asset["raster:scale"] = scale
    if raster is not None and path == raster.path:
        asset["classification:classes"] = describe_classes(
            raster.names, raster.colors, raster.values
        )
    return asset


def _tile(path: Path) -> dict[str, Any]:
    """A part of a raster that is divided into tiles; all about it stands with the whole."""
    return {"href": f"./{path.parent.name}/{path.name}", "type": _COG, "roles": ["data"]}


def _beside(products: Products, extra: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in extra:
        found[path.stem] = {
            "href": f"./{path.name}",
            "type": "image/png",
            "title": "Picture with legend",
            "roles": ["overview"],
        }
    found["record"] = {
        "href": f"./{products.record.name}",
        "type": "application/json",
        "title": "How the map was made",
        "roles": ["metadata"],
    }
    if products.areas_file is not None:
        found["areas"] = {
            "href": f"./{AREAS_CSV}",
            "type": "text/csv",
            "title": "Area of each class",
            "roles": ["metadata"],
        }
    return found


def _model_asset(file: Path, folder: Path) -> dict[str, Any]:
    kind, artifact = "framework=pytorch; format=safetensors", "safetensors.torch.save_file"
    if names_onnx(file):
        kind, artifact = "framework=onnx; format=onnx", "onnx.save_model"
    return {
        "model": {
            "href": Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix(),
            "type": f"application/octet-stream; {kind}",
            "title": "Weights of the model that made the map",
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": artifact,
        }
    }
