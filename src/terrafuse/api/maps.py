"""Commands on finished maps: vectorize, mosaic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from terrafuse.maps import Vectorized, mosaic_maps, vectorize_map
from terrafuse.prediction import Products
from terrafuse.progress import Progress
from terrafuse.stopping import when_stopped

_STOPPED = "nothing was written; run the same command again"


def vectorize(
    path: str | Path,
    out: str | Path,
    *,
    simplify: float = 0.0,
    min_area: float = 0.0,
    classes: Mapping[str, int] | None = None,
    confidence: str | Path | None = None,
    progress: Progress | None = None,
) -> Vectorized:
    """Write the polygons of a class map.

    Pixels of one class that share a side are one polygon, with attributes class, value, pixels,
    area_ha (on the ground, as in `areas.csv`) and confidence (mean). Memory depends on the width
    of the map and on the polygons that are not finished, not on its height.

    Args:
        path: A class map of ours or its folder, or a raster of one band that names its classes.
        out: Ends in .gpkg, .parquet (GeoParquet 1.1) or .geojson (longitude and latitude).
        simplify: How far lines may be simplified, in metres (pixels without CRS). Neighbours keep
            a common line, so that there are neither gaps nor overlaps.
        min_area: Smaller polygons are left out, in m² (pixels without CRS).
        classes: Name → pixel value, where the raster does not say so; other values are no class.
        confidence: Raster of the confidence; default: `confidence.tif` beside `class_map.tif`.
        progress: Called with (rows done, rows in all).

    Raises:
        ConfigError: A setting is wrong.
        DataError: It is no class map, or nothing in it has a class.
        OutputError: The file cannot be written, or is the map itself.
    """
    with when_stopped(_STOPPED):
        return vectorize_map(
            path,
            out,
            simplify=simplify,
            min_area=min_area,
            classes=classes,
            confidence=confidence,
            progress=progress,
        )


def mosaic(
    maps: Sequence[str | Path],
    out: str | Path,
    *,
    by: str | None = None,
    like: str | Path | None = None,
    tiles: int | None = None,
    progress: Progress | None = None,
) -> Products:
    """Join class maps into one, on the grid of the first.

    Maps whose pixels coincide with the grid's are copied; others are resampled (nearest pixel),
    which is told.

    Args:
        maps: Class maps or their folders; all have the same class names.
        out: Folder of the mosaic: class_map.tif, confidence.tif if all maps have one, and
            prediction.json, which lists the maps.
        by: Which class a pixel gets where maps overlap: that of the largest "confidence", or of
            the "first" or "last" map; default: confidence where all maps have it, else last.
        like: Raster whose grid the mosaic gets.
        tiles: Side of the files that products are divided into, as of `predict`; None: one file
            each.
        progress: Called with (rows done, rows in all).

    Raises:
        ConfigError: No such rule, or tiles of a side that is not allowed.
        DataError: A map is none, or has other classes than the first.
        GridMismatchError: A map cannot be brought onto the grid.
        OutputError: The folder cannot be written, or holds one of the maps.
    """
    with when_stopped(_STOPPED):
        return mosaic_maps(maps, out, by=by, like=like, tiles=tiles, progress=progress)
