"""Rasters → samples: grids, scenes and manifests, read where they lie, and learning from them."""

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
