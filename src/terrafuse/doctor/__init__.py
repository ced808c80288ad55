"""The doctor: a search for faults in a data set before a model is trained on it.

Each scene is read once, block by block; every topic judges its summary in a module of its own:

| module | topic |
|---|---|
| files | damaged files, and files that are not rasters |
| structure | CRS, pixel size, extent, one file in two roles |
| values | constant, equal and saturated bands |
| scales | units, scales that differ between scenes, offsets |
| nodata | fill that counts as data, two markers for no data |
| bands | order of optical bands |
| elevation | holes, spikes, grey values |
| labels | unknown values, images and inputs that are labels |
| registration | shifts between modalities, and of labels |
| duplicates | scenes that occur twice |
| splits | classes per split, splits that show the same ground |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.doctor.checkup import check_manifest, iterate_findings
    from terrafuse.doctor.findings import Finding, refuse_untrainable
    from terrafuse.doctor.splits import told_of_missing
    from terrafuse.doctor.unknown_labels import count_unknown_labels
else:  # each with the libraries that it needs, and no others
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.doctor.checkup": ("check_manifest", "iterate_findings"),
            "terrafuse.doctor.findings": ("Finding", "refuse_untrainable"),
            "terrafuse.doctor.splits": ("told_of_missing",),
            "terrafuse.doctor.unknown_labels": ("count_unknown_labels",),
        },
    )

__all__ = [
    "Finding",
    "check_manifest",
    "count_unknown_labels",
    "iterate_findings",
    "refuse_untrainable",
    "told_of_missing",
]
