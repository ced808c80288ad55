"""Rasters on disk → scenes and manifests, read where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.data.grid import Grid, typical_pixel_size_m
    from terrafuse.data.manifest import Manifest, load_manifest, write_manifest
    from terrafuse.data.normalization import apply_normalization, open_dataset
    from terrafuse.data.rasters import ReadingRules
    from terrafuse.data.scene import Scene, scene_from_rasters
    from terrafuse.data.statistics import class_counts, compute_statistics
else:  # each with the libraries that it needs, and no others
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.data.grid": (
                "Grid",
                "typical_pixel_size_m",
            ),
            "terrafuse.data.manifest": (
                "Manifest",
                "load_manifest",
                "write_manifest",
            ),
            "terrafuse.data.normalization": (
                "apply_normalization",
                "open_dataset",
            ),
            "terrafuse.data.rasters": ("ReadingRules",),
            "terrafuse.data.scene": (
                "Scene",
                "scene_from_rasters",
            ),
            "terrafuse.data.statistics": (
                "class_counts",
                "compute_statistics",
            ),
        },
    )

__all__ = [
    "Grid",
    "Manifest",
    "ReadingRules",
    "Scene",
    "apply_normalization",
    "class_counts",
    "compute_statistics",
    "load_manifest",
    "open_dataset",
    "scene_from_rasters",
    "typical_pixel_size_m",
    "write_manifest",
]
