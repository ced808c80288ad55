"""Prediction of whole scenes: window lattice, blending of logits, products on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.prediction.areas import ClassArea, PixelAreas, describe_areas
    from terrafuse.prediction.blending import Accumulator, Strip, taper
    from terrafuse.prediction.calibrated import (
        CALIBRATION_JSON,
        Calibration,
        SubsetCalibration,
        read_calibration,
        write_calibration,
    )
    from terrafuse.prediction.class_values import (
        ClassValues,
        ValuesName,
        choose_values,
        read_class_map,
    )
    from terrafuse.prediction.devices import find_device
    from terrafuse.prediction.lattice import Blending, Lattice, Part, check_windows
    from terrafuse.prediction.leaving_out import LEFT_OUT, absence, leave_out
    from terrafuse.prediction.predictor import ScenePredictor
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
    from terrafuse.prediction.torch_model import unchanging
    from terrafuse.prediction.units import UnitPlan, plan_units
    from terrafuse.prediction.windows import Precision, WindowSettings
else:  # `generate` and its workers need no model of ours, which takes seconds to import
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.prediction.areas": ("ClassArea", "PixelAreas", "describe_areas"),
            "terrafuse.prediction.blending": ("Accumulator", "Strip", "taper"),
            "terrafuse.prediction.calibrated": (
                "CALIBRATION_JSON",
                "Calibration",
                "SubsetCalibration",
                "read_calibration",
                "write_calibration",
            ),
            "terrafuse.prediction.class_values": (
                "ClassValues",
                "ValuesName",
                "choose_values",
                "read_class_map",
            ),
            "terrafuse.prediction.devices": ("find_device",),
            "terrafuse.prediction.lattice": ("Blending", "Lattice", "Part", "check_windows"),
            "terrafuse.prediction.leaving_out": ("LEFT_OUT", "absence", "leave_out"),
            "terrafuse.prediction.predictor": ("ScenePredictor",),
            "terrafuse.prediction.product_table": (
                "DEFAULT_PRODUCTS",
                "PRODUCTS",
                "FinalRows",
                "Product",
                "find_products",
                "levels",
            ),
            "terrafuse.prediction.products": ("Beside", "MapWriter", "Products", "open_map"),
            "terrafuse.prediction.profile": ("MapProfile", "describe_profile"),
            "terrafuse.prediction.settings": ("MapSettings", "SampledRows"),
            "terrafuse.prediction.sharing": ("EngineName", "Shard", "WorkerSettings"),
            "terrafuse.prediction.timing": ("describe_device", "forward_seconds"),
            "terrafuse.prediction.torch_model": ("unchanging",),
            "terrafuse.prediction.units": ("UnitPlan", "plan_units"),
            "terrafuse.prediction.windows": ("Precision", "WindowSettings"),
        },
    )

__all__ = [
    "CALIBRATION_JSON",
    "DEFAULT_PRODUCTS",
    "LEFT_OUT",
    "PRODUCTS",
    "Accumulator",
    "Beside",
    "Blending",
    "Calibration",
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
    "SubsetCalibration",
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
    "read_calibration",
    "read_class_map",
    "taper",
    "unchanging",
    "write_calibration",
]
