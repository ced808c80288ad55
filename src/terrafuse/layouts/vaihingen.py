"""ISPRS Vaihingen: 33 true orthophotos of 9 cm with surface models.

Reference: Rottensteiner et al., "The ISPRS benchmark on urban object classification and 3D building
reconstruction", ISPRS Annals I-3 (2012); data by DGPF (Cramer, 2010).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from terrafuse.layouts.facts import read_facts
from terrafuse.layouts.isprs import (
    ANYWHERE,
    WAVELENGTHS_UM,
    recipes,
    refuse_labels_as_images,
    void_colors,
    with_eroded,
)
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import choice, read_options
from terrafuse.layouts.pieces import describe_pieces, which_form
from terrafuse.layouts.published import compose, look_through
from terrafuse.layouts.tree import FileKind, Tree

_IRRG = ("nir", "red", "green")


def _to_id(match: re.Match[str]) -> str:
    return str(int(match["id"]))


_AREA = r"top_mosaic_09cm_area(?P<id>\d+)"
_HEIGHTS = r"dsm_09cm_matching_area(?P<id>\d+)"
_LAYOUT = Layout(
    title="ISPRS Vaihingen",
    kinds=(
        FileKind("top", ("top", "(?:train|val|test)_images?", "images?"), _AREA, _IRRG, "uint8",
                 to_id=_to_id),
        FileKind("dsm", ("dsm", "[^/]*dsm[^/]*", ANYWHERE), _HEIGHTS, ("height",), "float32",
                 to_id=_to_id),
        FileKind("ndsm", ("ndsm", "[^/]*normali[sz]ed[^/]*", ANYWHERE), _HEIGHTS + "_normalized",
                 ("height",), to_id=_to_id),
        # Same names as the images: only the folder distinguishes them. Some archives are flat.
        FileKind("gts", ("gts_for_participants", "[^/]*ground_truth_complete", "gts?|labels?",
                         "(?:train|val|test)_masks?",
                         "(?!top$|.*images?|.*eroded|.*predict|.*result|.*output)[^/]*"),
                 _AREA, to_id=_to_id),
        FileKind("gts_eroded", ("gts_eroded_for_participants", "[^/]*eroded[^/]*", ANYWHERE),
                 _AREA + "_noBoundary", to_id=_to_id),
    ),
    readings={
        "irrg": Reading("optical", _IRRG, ("top",)),
        "dsm": Reading("elevation", ("height",), ("dsm",), unit="m"),
        # From a report by M. Gerke; lossy: decimetres in 8 bits.
        "ndsm": Reading("elevation", ("height",), ("ndsm",), unit="dm"),
    },
    default=("irrg", "dsm", "ndsm"),
    optional=frozenset({"ndsm"}),
    wavelengths_um=WAVELENGTHS_UM,
    choices=("void", "form"),
    tells=("top", "dsm", "gts", "gts_eroded"),
    labels=("gts", "gts_eroded"),
)  # fmt: skip
_RECIPES = recipes("ISPRS Vaihingen", r"\d+", "top_mosaic_09cm_area", _IRRG, "irrg")
EDITIONS = (_LAYOUT, *(recipe.layout for recipe in _RECIPES))


def describe_vaihingen(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """ISPRS Vaihingen: folders top, dsm and ground truth, with or without eroded boundaries.

    World files are not needed: all files of a scene have its pixels, and none has a CRS. Eroded
    labels are used where there are no others. Pieces cut by scripts are recognised too.

    Args:
        root: The folder into which the archives were unpacked.
        options: "split": sound (13 / 3 / 17 scenes), official (16 / 17), geoseg, ssrs (12 / 4, as
            MFNet), ssrs-val (the same with 3 of the 12 for validation) or pagnet. "modalities":
            some of irrg, dsm, ndsm. "void": further label colours of no class. "form": scenes, or
            mmsegmentation or geoseg, the pieces of their scripts. "without": ids to leave out.
            "unknown": void, or the class that unknown colours become. "incomplete": refuse or
            allow.

    Raises:
        DataError: Files are missing, or labels were unpacked over images.
    """
    facts = read_facts("vaihingen")
    forms = ("scenes", *(recipe.name for recipe in _RECIPES))
    form = choice(options, "form", forms) if "form" in options else None
    recipe = which_form(Tree.walk(root), _LAYOUT, _RECIPES, form)
    if recipe is not None:
        chosen = read_options(recipe.layout, facts, options)
        tree = look_through(root, recipe.layout)
        return describe_pieces(tree, recipe, facts, chosen, recipe.classes(facts), recipe.void)
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    refuse_labels_as_images(tree, tree.find(_LAYOUT.kind("top")))
    split = facts.split(chosen.split)
    labels, eroded = (tree.find(_LAYOUT.kind(name)) for name in ("gts", "gts_eroded"))
    return compose(
        tree, _LAYOUT, chosen, split, facts.colored_classes(), void_colors(facts, chosen.more),
        labels=with_eroded(_LAYOUT, labels, eroded, split), eroded=eroded,
    )  # fmt: skip
