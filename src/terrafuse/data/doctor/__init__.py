"""The doctor: looks for faults in a data set before a model learns from it.

Each scene is read once, block by block; every topic judges what was seen, in a module of its own:

| module | topic |
|---|---|
| files | damaged files, and files that are no rasters |
| structure | CRS, pixel size, extent, one file in two roles |
| values | constant, equal and saturated bands |
| scales | units, scales that differ between scenes, offsets |
| nodata | fill that counts as data, two marks for no data |
| bands | order of optical bands |
| elevation | holes, spikes, grey values |
| labels | unknown values, images and inputs that are labels |
| registration | shifts between modalities, and of labels |
| duplicates | scenes that are there twice |
| splits | classes per split, splits that show the same ground |
"""

from terrafuse.data.doctor.checkup import check_manifest, iterate_findings

__all__ = ["check_manifest", "iterate_findings"]
