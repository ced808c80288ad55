"""Class map → file of polygons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from terrafuse.errors import ConfigError, DataError
from terrafuse.maps.class_raster import ClassRaster, open_class_raster
from terrafuse.maps.vector_files import check_format, columns_of, open_vector, to_map
from terrafuse.maps.vectorizing import Polygons, polygonize
from terrafuse.progress import Progress
from terrafuse.writing import claimed_file, refuse_inputs, written_whole

# Polygons of one batch of a file.
_BATCH = 20_000


@dataclass(frozen=True)
class Vectorized:
    """A file of polygons.

    Args:
        path: The file.
        polygons: How many it holds, by class.
        left_out: How many were smaller than asked for.
    """

    path: Path
    polygons: Mapping[str, int]
    left_out: int


def vectorize_map(
    path: str | Path,
    out: str | Path,
    *,
    simplify: float = 0.0,
    min_area: float = 0.0,
    classes: Mapping[str, int] | None = None,
    confidence: str | Path | None = None,
    progress: Progress | None = None,
) -> Vectorized:
    """Write the polygons of a class map; see `terrafuse.api.vectorize`.

    Raises:
        ConfigError: A length or area below 0; another ending than .gpkg, .parquet or .geojson.
        DataError: It is no class map, or no pixel has a class.
        OutputError: The file cannot be written, or is the map itself.
    """
    out = Path(out)
    check_format(out)
    for name, value in (("simplify", simplify), ("min-area", min_area)):
        if not isfinite(value) or value < 0:
            raise ConfigError(f"--{name} is {value}; give 0 or more")
    raster = open_class_raster(path, classes=classes, confidence=confidence)
    refuse_inputs([out], [p for p in (raster.path, raster.confidence) if p])
    tolerance_px = simplify / (raster.grid.pixel_size_m or 1.0)
    counts = np.zeros(len(raster.names), np.int64)
    left_out = 0
    with (
        claimed_file(out, "vectorize"),
        written_whole(out) as (partial,),
        open_vector(partial, raster.grid.crs) as writer,
    ):
        waiting = Batches()
        for found in polygonize(raster, tolerance_px=tolerance_px, progress=progress):
            large = _areas(found, raster) >= min_area
            left_out += int((~large).sum())
            waiting.add(found.select(large))
            counts += np.bincount(found.classes[large], minlength=len(counts))
            while batch := waiting.take(_BATCH):
                writer.write(to_map(batch.shapes, raster), columns_of(batch, raster))
        if batch := waiting.take():
            writer.write(to_map(batch.shapes, raster), columns_of(batch, raster))
        if not counts.any():
            raise DataError(_nothing(raster, left_out, min_area))
    polygons = dict(zip(raster.names, counts.tolist(), strict=True))
    return Vectorized(out, polygons, left_out)


class Batches:
    """Polygons that wait to be written."""

    def __init__(self) -> None:
        self._parts: list[Polygons] = []

    def add(self, polygons: Polygons) -> None:
        """Add some."""
        if len(polygons):
            self._parts.append(polygons)

    def take(self, least: int = 1) -> Polygons | None:
        """Take all, or none where they are fewer than `least`."""
        if sum(map(len, self._parts)) < least:
            return None
        taken, self._parts = Polygons.together(self._parts), []
        return taken


def _areas(found: Polygons, raster: ClassRaster) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """In m², or in pixels without CRS."""
    return found.m2 if raster.grid.crs else found.pixels.astype(np.float64)


def _nothing(raster: ClassRaster, left_out: int, min_area: float) -> str:
    if left_out:
        return (
            f"all {left_out} polygons of '{raster.path}' are smaller than {min_area:g}; give a "
            "smaller --min-area"
        )
    return f"no pixel of '{raster.path}' has a class: there is nothing to vectorize"
