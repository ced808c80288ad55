"""ISPRS Vaihingen: 33 true orthophotos of 9 cm with surface models.

Reference: Rottensteiner et al., "The ISPRS benchmark on urban object classification and 3D building
reconstruction", ISPRS Annals I-3 (2012); data by DGPF (Cramer, 2010).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from terrafuse.data.layouts.facts import read_facts
from terrafuse.data.layouts.isprs import WAVELENGTHS_UM, refuse_labels_as_images, void_colors
from terrafuse.data.layouts.layout import Layout, Reading
from terrafuse.data.layouts.published import compose, look_through, read_options
from terrafuse.data.layouts.tree import FileKind

_IRRG = ("nir", "red", "green")


def _to_id(match: re.Match[str]) -> str:
    return str(int(match["id"]))


_AREA = r"top_mosaic_09cm_area(?P<id>\d+)"
_HEIGHTS = r"dsm_09cm_matching_area(?P<id>\d+)"
_LAYOUT = Layout(
    title="ISPRS Vaihingen",
    kinds=(
        FileKind("top", ("top",), _AREA, _IRRG, "uint8", to_id=_to_id),
        FileKind("dsm", ("dsm", "[^/]*dsm[^/]*"), _HEIGHTS, ("height",), "float32", to_id=_to_id),
        FileKind("ndsm", ("ndsm", "[^/]*normali[sz]ed[^/]*", "[^/]*"), _HEIGHTS + "_normalized",
                 ("height",), to_id=_to_id),
        # Equal names as the images: only the folder tells them apart. Some archives are flat.
        FileKind("gts", ("gts_for_participants", "[^/]*ground_truth_complete", "gts?|labels?",
                         "(?!top$|[^/]*eroded)[^/]*"), _AREA, to_id=_to_id),
        FileKind("gts_eroded", ("gts_eroded_for_participants", "[^/]*eroded[^/]*", "[^/]*"),
                 _AREA + "_noBoundary", to_id=_to_id),
    ),
    readings={
        "irrg": Reading("optical", _IRRG, ("top",)),
        "dsm": Reading("elevation", ("height",), ("dsm",), unit="m"),
        # A report of M. Gerke's, lossy: decimetres in 8 bits.
        "ndsm": Reading("elevation", ("height",), ("ndsm",), unit="dm"),
    },
    default=("irrg", "dsm", "ndsm"),
    optional=frozenset({"ndsm"}),
    wavelengths_um=WAVELENGTHS_UM,
    choices=("void",),
)  # fmt: skip


def describe_vaihingen(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """ISPRS Vaihingen: folders top, dsm and ground truth, with or without eroded boundaries.

    World files are not needed: all files of a scene have its pixels, and none has a CRS.

    Args:
        root: The folder into which the archives were unpacked.
        options: "split": sound (13 / 3 / 17 scenes), official (16 / 17), geoseg, ssrs (12 / 4, as
            MFNet), ssrs-val (the same with 3 of the 12 to validate) or pagnet. "modalities": some
            of irrg, dsm, ndsm. "void": further label colours that are no class. "incomplete":
            refuse or allow.

    Raises:
        DataError: No such files, or not all of them, or labels unpacked over images.
    """
    facts = read_facts("vaihingen")
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    refuse_labels_as_images(tree, tree.find(_LAYOUT.kind("top")))
    return compose(
        tree, _LAYOUT, chosen, facts.split(chosen.split), facts.colored_classes(),
        void_colors(facts, chosen.more), labels=tree.find(_LAYOUT.kind("gts")),
        eroded=tree.find(_LAYOUT.kind("gts_eroded")),
    )  # fmt: skip
