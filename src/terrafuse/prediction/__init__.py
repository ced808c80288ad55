"""Prediction of whole scenes: window lattice, blending of logits, products on disk."""

from terrafuse.prediction.areas import ClassArea, PixelAreas, describe_areas
from terrafuse.prediction.blending import Accumulator, Strip, taper
from terrafuse.prediction.class_values import (
    ClassValues,
    ValuesName,
    choose_values,
    read_class_map,
)
from terrafuse.prediction.lattice import Blending, Lattice, Part, check_windows
from terrafuse.prediction.leaving_out import LEFT_OUT, absence, leave_out
from terrafuse.prediction.predictor import ScenePredictor, find_device, unchanging
from terrafuse.prediction.product_table import (
    DEFAULT_PRODUCTS,
    PRODUCTS,
    FinalRows,
    Product,
    find_products,
    levels,
)
from terrafuse.prediction.products import Beside, MapWriter, Products, open_map
from terrafuse.prediction.profile import MapProfile, describe_profile
from terrafuse.prediction.settings import MapSettings, SampledRows
from terrafuse.prediction.sharing import EngineName, Shard, WorkerSettings
from terrafuse.prediction.timing import describe_device, forward_seconds
from terrafuse.prediction.units import UnitPlan, plan_units
from terrafuse.prediction.windows import Precision, WindowSettings

__all__ = [
    "DEFAULT_PRODUCTS",
    "LEFT_OUT",
    "PRODUCTS",
    "Accumulator",
    "Beside",
    "Blending",
    "ClassArea",
    "ClassValues",
    "EngineName",
    "FinalRows",
    "Lattice",
    "MapProfile",
    "MapSettings",
    "MapWriter",
    "Part",
    "PixelAreas",
    "Precision",
    "Product",
    "Products",
    "SampledRows",
    "ScenePredictor",
    "Shard",
    "Strip",
    "UnitPlan",
    "ValuesName",
    "WindowSettings",
    "WorkerSettings",
    "absence",
    "check_windows",
    "choose_values",
    "describe_areas",
    "describe_device",
    "describe_profile",
    "find_device",
    "find_products",
    "forward_seconds",
    "leave_out",
    "levels",
    "open_map",
    "plan_units",
    "read_class_map",
    "taper",
    "unchanging",
]
