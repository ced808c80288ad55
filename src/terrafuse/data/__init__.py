"""Rasters → samples: grids, scenes and manifests, read where they lie, and learning from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.data.augment import describe_augmentation
    from terrafuse.data.balance import SplitReport, report_split
    from terrafuse.data.dataset import TrainingDataset, TrainingLoader, training_loader
    from terrafuse.data.doctor import check_manifest, iterate_findings
    from terrafuse.data.findings import Finding, refuse_untrainable
    from terrafuse.data.grid import Grid, typical_pixel_size_m
    from terrafuse.data.label_shares import (
        KeptShare,
        LabelUnits,
        label_units,
        labelled_scenes,
        share_labels,
    )
    from terrafuse.data.landscape import make_landscape
    from terrafuse.data.layouts import describe, recognise_layout, summarise
    from terrafuse.data.manifest import Manifest, load_manifest, write_manifest
    from terrafuse.data.normalization import apply_normalization, open_dataset
    from terrafuse.data.rasters import ReadingRules
    from terrafuse.data.scene import Scene, scene_from_rasters
    from terrafuse.data.splitting import split_manifest
    from terrafuse.data.statistics import class_counts, compute_statistics
    from terrafuse.data.unknown_labels import count_unknown_labels
    from terrafuse.data.views import Views, ViewsDataset, views_loader
else:  # each with the module that has it: who lists layouts does not wait for torch
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.data.augment": ("describe_augmentation",),
            "terrafuse.data.balance": ("SplitReport", "report_split"),
            "terrafuse.data.dataset": ("TrainingDataset", "TrainingLoader", "training_loader"),
            "terrafuse.data.doctor": ("check_manifest", "iterate_findings"),
            "terrafuse.data.findings": ("Finding", "refuse_untrainable"),
            "terrafuse.data.grid": ("Grid", "typical_pixel_size_m"),
            "terrafuse.data.label_shares": (
                "KeptShare",
                "LabelUnits",
                "label_units",
                "labelled_scenes",
                "share_labels",
            ),
            "terrafuse.data.landscape": ("make_landscape",),
            "terrafuse.data.layouts": ("describe", "recognise_layout", "summarise"),
            "terrafuse.data.manifest": ("Manifest", "load_manifest", "write_manifest"),
            "terrafuse.data.normalization": ("apply_normalization", "open_dataset"),
            "terrafuse.data.rasters": ("ReadingRules",),
            "terrafuse.data.scene": ("Scene", "scene_from_rasters"),
            "terrafuse.data.splitting": ("split_manifest",),
            "terrafuse.data.statistics": ("class_counts", "compute_statistics"),
            "terrafuse.data.unknown_labels": ("count_unknown_labels",),
            "terrafuse.data.views": ("Views", "ViewsDataset", "views_loader"),
        },
    )

__all__ = [
    "Finding",
    "Grid",
    "KeptShare",
    "LabelUnits",
    "Manifest",
    "ReadingRules",
    "Scene",
    "SplitReport",
    "TrainingDataset",
    "TrainingLoader",
    "Views",
    "ViewsDataset",
    "apply_normalization",
    "check_manifest",
    "class_counts",
    "compute_statistics",
    "count_unknown_labels",
    "describe",
    "describe_augmentation",
    "iterate_findings",
    "label_units",
    "labelled_scenes",
    "load_manifest",
    "make_landscape",
    "open_dataset",
    "recognise_layout",
    "refuse_untrainable",
    "report_split",
    "scene_from_rasters",
    "share_labels",
    "split_manifest",
    "summarise",
    "training_loader",
    "typical_pixel_size_m",
    "views_loader",
    "write_manifest",
]
