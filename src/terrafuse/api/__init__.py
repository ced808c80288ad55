"""Every verb as one function, composed from the rooms.

The command line and the web server call these; so can a notebook:

    import terrafuse
    run = terrafuse.load("runs/flood")
    run.predict("out/map", rasters={"s1": "s1.tif", "s2": "s2.tif"})
"""

from terrafuse.api.datasets import data_check, data_describe, data_split, data_stats
from terrafuse.api.runs import Rasters, Run, load, train, validate
from terrafuse.overview import describe_model

__all__ = [
    "Rasters",
    "Run",
    "data_check",
    "data_describe",
    "data_split",
    "data_stats",
    "describe_model",
    "load",
    "train",
    "validate",
]
