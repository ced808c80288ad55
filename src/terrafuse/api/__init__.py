"""Every command as one function, composed from the other subpackages.

The command line and the web server call these; so can a notebook:

    import terrafuse
    run = terrafuse.load("runs/flood")
    run.predict("out/map", rasters={"s1": "s1.tif", "s2": "s2.tif"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.api.batches import (
        Mapped,
        Place,
        places_of_items,
        places_of_manifest,
        predict_batch,
    )
    from terrafuse.api.calibrating import calibrate
    from terrafuse.api.checking import check_method
    from terrafuse.api.comparing import Judgement, Setting, compare
    from terrafuse.api.datasets import (
        data_check,
        data_describe,
        data_fix,
        data_labels,
        data_split,
        data_stats,
        data_stats_by_split,
        suggested_fixes,
    )
    from terrafuse.api.efficiency import LABEL_SHARES, label_efficiency
    from terrafuse.api.expectations import expect_run
    from terrafuse.api.exported import ExportedModel, open_model
    from terrafuse.api.exporting import Exported, export
    from terrafuse.api.generating import GeneratedSet, generate
    from terrafuse.api.inputs import Rasters
    from terrafuse.api.mapping import TrainedModel
    from terrafuse.api.maps import mosaic, vectorize
    from terrafuse.api.parameters import describe_parameters
    from terrafuse.api.pretraining import pretrain, pretrained_weights
    from terrafuse.api.reference import DrawnSample, areas, sample
    from terrafuse.api.reporting import SmallMaps, report
    from terrafuse.api.runs import Run, evaluate, load, predict, train, validate
    from terrafuse.api.sharing import push
    from terrafuse.api.shipped import CopiedConfigs, ShippedConfig, copy_configs, list_configs
    from terrafuse.api.sweeps import Sweep, sweep
    from terrafuse.api.synergies import check_synergy, read_synergy, synergy
    from terrafuse.describe.overview import describe_model
    from terrafuse.reports.thumbnails import data_preview
else:  # each command imports only the libraries that it needs
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.api.batches": (
                "Mapped",
                "Place",
                "places_of_items",
                "places_of_manifest",
                "predict_batch",
            ),
            "terrafuse.api.calibrating": ("calibrate",),
            "terrafuse.api.checking": ("check_method",),
            "terrafuse.api.comparing": ("Judgement", "Setting", "compare"),
            "terrafuse.api.datasets": (
                "data_check",
                "data_describe",
                "data_fix",
                "data_labels",
                "data_split",
                "data_stats",
                "data_stats_by_split",
                "suggested_fixes",
            ),
            "terrafuse.api.efficiency": ("LABEL_SHARES", "label_efficiency"),
            "terrafuse.api.expectations": ("expect_run",),
            "terrafuse.api.exported": ("ExportedModel", "open_model"),
            "terrafuse.api.exporting": ("Exported", "export"),
            "terrafuse.api.generating": ("GeneratedSet", "generate"),
            "terrafuse.api.mapping": ("TrainedModel",),
            "terrafuse.api.maps": ("mosaic", "vectorize"),
            "terrafuse.api.parameters": ("describe_parameters",),
            "terrafuse.api.pretraining": ("pretrain", "pretrained_weights"),
            "terrafuse.api.reference": ("DrawnSample", "areas", "sample"),
            "terrafuse.api.reporting": ("SmallMaps", "report"),
            "terrafuse.api.inputs": ("Rasters",),
            "terrafuse.api.runs": (
                "Run",
                "evaluate",
                "load",
                "predict",
                "train",
                "validate",
            ),
            "terrafuse.api.sharing": ("push",),
            "terrafuse.api.shipped": (
                "CopiedConfigs",
                "ShippedConfig",
                "copy_configs",
                "list_configs",
            ),
            "terrafuse.api.sweeps": ("Sweep", "sweep"),
            "terrafuse.api.synergies": ("check_synergy", "read_synergy", "synergy"),
            "terrafuse.reports.thumbnails": ("data_preview",),
            "terrafuse.describe.overview": ("describe_model",),
        },
    )

__all__ = [
    "LABEL_SHARES",
    "CopiedConfigs",
    "DrawnSample",
    "Exported",
    "ExportedModel",
    "GeneratedSet",
    "Judgement",
    "Mapped",
    "Place",
    "Rasters",
    "Run",
    "Setting",
    "ShippedConfig",
    "SmallMaps",
    "Sweep",
    "TrainedModel",
    "areas",
    "calibrate",
    "check_method",
    "check_synergy",
    "compare",
    "copy_configs",
    "data_check",
    "data_describe",
    "data_fix",
    "data_labels",
    "data_preview",
    "data_split",
    "data_stats",
    "data_stats_by_split",
    "describe_model",
    "describe_parameters",
    "evaluate",
    "expect_run",
    "export",
    "generate",
    "label_efficiency",
    "list_configs",
    "load",
    "mosaic",
    "open_model",
    "places_of_items",
    "places_of_manifest",
    "predict",
    "predict_batch",
    "pretrain",
    "pretrained_weights",
    "push",
    "read_synergy",
    "report",
    "sample",
    "suggested_fixes",
    "sweep",
    "synergy",
    "train",
    "validate",
    "vectorize",
]
