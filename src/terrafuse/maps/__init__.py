"""Finished maps: polygons, mosaics, a picture, and a STAC item."""

from terrafuse.maps.beside import picture_and_item
from terrafuse.maps.class_raster import ClassRaster, open_class_raster, parse_classes
from terrafuse.maps.mosaic import MosaicRule, mosaic_maps
from terrafuse.maps.vectorize import Vectorized, vectorize_map
from terrafuse.maps.vectorizing import Polygons, polygonize

__all__ = [
    "ClassRaster",
    "MosaicRule",
    "Polygons",
    "Vectorized",
    "mosaic_maps",
    "open_class_raster",
    "parse_classes",
    "picture_and_item",
    "polygonize",
    "vectorize_map",
]
