"""terrafuse: rasters in, map out.

Multimodal land-cover segmentation on vision and remote-sensing foundation models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from terrafuse.version import VERSION

if TYPE_CHECKING:
    from terrafuse.api import (
        Run,
        describe_model,
        evaluate,
        generate,
        load,
        predict,
        sweep,
        train,
    )
    from terrafuse.backbones import create_backbone
    from terrafuse.classes import ClassScheme
    from terrafuse.data import Manifest, Scene, load_manifest
    from terrafuse.methods import create_segmenter
    from terrafuse.modalities import Modality
    from terrafuse.prediction import ScenePredictor
    from terrafuse.segmenter import Segmenter
else:  # torch and rasterio take seconds to import; `--help` must not wait
    import sys
    from types import ModuleType

    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.api": (
                "Run",
                "describe_model",
                "evaluate",
                "load",
                "predict",
                "sweep",
                "train",
            ),
            "terrafuse.backbones": ("create_backbone",),
            "terrafuse.classes": ("ClassScheme",),
            "terrafuse.data": ("Manifest", "Scene", "load_manifest"),
            "terrafuse.methods": ("create_segmenter",),
            "terrafuse.modalities": ("Modality",),
            "terrafuse.prediction": ("ScenePredictor",),
            "terrafuse.segmenter": ("Segmenter",),
        },
    )

    class _Package(ModuleType):
        """The package; `generate` is the verb here although a subpackage has the same name."""

        @property
        def generate(self):
            from terrafuse.api import generate

            return generate

        @generate.setter
        def generate(self, room):
            """Keep the verb when the subpackage is imported; that stays importable by its name."""

    sys.modules[__name__].__class__ = _Package

__version__ = VERSION
__all__ = [
    "ClassScheme",
    "Manifest",
    "Modality",
    "Run",
    "Scene",
    "ScenePredictor",
    "Segmenter",
    "__version__",
    "create_backbone",
    "create_segmenter",
    "describe_model",
    "evaluate",
    "generate",
    "load",
    "load_manifest",
    "predict",
    "sweep",
    "train",
]


def __dir__() -> list[str]:
    return __all__
