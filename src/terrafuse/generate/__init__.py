"""A second modality out of a photo: segments or depth, by a vision foundation model or without."""

from terrafuse.generate.depth import DepthRecipe
from terrafuse.generate.generators import Maker, Recipe
from terrafuse.generate.masks import MaskRecipe
from terrafuse.generate.models import Model, find_model
from terrafuse.generate.rasters import (
    Generated,
    Generator,
    Job,
    generate_raster,
    refuse_other_settings,
)
from terrafuse.generate.segments import paint
from terrafuse.generate.superpixels import SuperpixelRecipe
from terrafuse.generate.targets import (
    choose_modality,
    describe_modality,
    extend_manifest,
    plan_image,
    plan_jobs,
)
from terrafuse.generate.workers import WindowRunner

__all__ = [
    "DepthRecipe",
    "Generated",
    "Generator",
    "Job",
    "Maker",
    "MaskRecipe",
    "Model",
    "Recipe",
    "SuperpixelRecipe",
    "WindowRunner",
    "choose_modality",
    "describe_modality",
    "extend_manifest",
    "find_model",
    "generate_raster",
    "paint",
    "plan_image",
    "plan_jobs",
    "refuse_other_settings",
]
