"""Prediction of whole scenes: window lattice, blending of logits, products on disk."""

from terrafuse.prediction.blending import Accumulator, Strip, taper
from terrafuse.prediction.lattice import Blending, Lattice, check_windows
from terrafuse.prediction.predictor import ScenePredictor, find_device
from terrafuse.prediction.product_table import (
    DEFAULT_PRODUCTS,
    PRODUCTS,
    FinalRows,
    Product,
    find_products,
    levels,
)
from terrafuse.prediction.products import MapWriter, Products, open_map
from terrafuse.prediction.timing import describe_device, forward_seconds
from terrafuse.prediction.windows import Precision, WindowSettings

__all__ = [
    "DEFAULT_PRODUCTS",
    "PRODUCTS",
    "Accumulator",
    "Blending",
    "FinalRows",
    "Lattice",
    "MapWriter",
    "Precision",
    "Product",
    "Products",
    "ScenePredictor",
    "Strip",
    "WindowSettings",
    "check_windows",
    "describe_device",
    "find_device",
    "find_products",
    "forward_seconds",
    "levels",
    "open_map",
    "taper",
]
