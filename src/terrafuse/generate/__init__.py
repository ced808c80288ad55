"""A second modality generated from a photo: segments or depth, with or without a model."""

from terrafuse.generate.depth import DepthGenerator
from terrafuse.generate.generators import Generator, Maker
from terrafuse.generate.masks import MaskGenerator
from terrafuse.generate.models import Model, find_model
from terrafuse.generate.rasters import (
    Generated,
    PhotoJob,
    WindowedGenerator,
    generate_raster,
    refuse_other_settings,
)
from terrafuse.generate.segments import paint
from terrafuse.generate.superpixels import SuperpixelGenerator
from terrafuse.generate.targets import (
    choose_modality,
    describe_modality,
    extend_manifest,
    plan_image,
    plan_jobs,
)
from terrafuse.generate.workers import WindowRunner

__all__ = [
    "DepthGenerator",
    "Generated",
    "Generator",
    "Maker",
    "MaskGenerator",
    "Model",
    "PhotoJob",
    "SuperpixelGenerator",
    "WindowRunner",
    "WindowedGenerator",
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
