"""Every verb as one function, composed from the rooms.

The command line and the web server call these; so can a notebook:

    import terrafuse
    run = terrafuse.load("runs/flood")
    run.predict("out/map", rasters={"s1": "s1.tif", "s2": "s2.tif"})
"""

from terrafuse.api.datasets import (
    data_check,
    data_describe,
    data_split,
    data_stats,
    data_stats_by_split,
    suggested_fixes,
)
from terrafuse.api.efficiency import LABEL_SHARES, label_efficiency
from terrafuse.api.expectations import expect_run
from terrafuse.api.generating import GeneratedSet, generate
from terrafuse.api.pretraining import pretrain, pretrained_weights
from terrafuse.api.runs import Rasters, Run, load, train, validate
from terrafuse.api.sweeps import Sweep, sweep
from terrafuse.api.thumbnails import data_preview
from terrafuse.overview import describe_model

__all__ = [
    "LABEL_SHARES",
    "GeneratedSet",
    "Rasters",
    "Run",
    "Sweep",
    "data_check",
    "data_describe",
    "data_preview",
    "data_split",
    "data_stats",
    "data_stats_by_split",
    "describe_model",
    "expect_run",
    "generate",
    "label_efficiency",
    "load",
    "pretrain",
    "pretrained_weights",
    "suggested_fixes",
    "sweep",
    "train",
    "validate",
]
