"""Finished maps: polygons, mosaics, a picture, a STAC item, and samples of their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.maps.beside import picture_and_item
    from terrafuse.maps.class_raster import ClassRaster, open_class_raster, parse_classes
    from terrafuse.maps.mosaic import MosaicRule, mosaic_maps
    from terrafuse.maps.sample_file import (
        SampleFile,
        read_labels,
        read_sample,
        write_labels,
        write_sample,
    )
    from terrafuse.maps.strata import DrawnPixels, Stratum, classes_at, count_strata, draw_pixels
    from terrafuse.maps.vectorize import Vectorized, vectorize_map
    from terrafuse.maps.vectorizing import Polygons, polygonize
else:  # maps are made without the libraries of polygons
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.maps.beside": ("picture_and_item",),
            "terrafuse.maps.class_raster": (
                "ClassRaster",
                "open_class_raster",
                "parse_classes",
            ),
            "terrafuse.maps.mosaic": (
                "MosaicRule",
                "mosaic_maps",
            ),
            "terrafuse.maps.sample_file": (
                "SampleFile",
                "read_labels",
                "read_sample",
                "write_labels",
                "write_sample",
            ),
            "terrafuse.maps.strata": (
                "DrawnPixels",
                "Stratum",
                "classes_at",
                "count_strata",
                "draw_pixels",
            ),
            "terrafuse.maps.vectorize": (
                "Vectorized",
                "vectorize_map",
            ),
            "terrafuse.maps.vectorizing": (
                "Polygons",
                "polygonize",
            ),
        },
    )

__all__ = [
    "ClassRaster",
    "DrawnPixels",
    "MosaicRule",
    "Polygons",
    "SampleFile",
    "Stratum",
    "Vectorized",
    "classes_at",
    "count_strata",
    "draw_pixels",
    "mosaic_maps",
    "open_class_raster",
    "parse_classes",
    "picture_and_item",
    "polygonize",
    "read_labels",
    "read_sample",
    "vectorize_map",
    "write_labels",
    "write_sample",
]
