"""ISPRS Potsdam: 38 true orthophotos of 5 cm with surface models.

Reference: Rottensteiner et al., "The ISPRS benchmark on urban object classification and 3D building
reconstruction", ISPRS Annals I-3 (2012); data by BSF Swissphoto.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from terrafuse.layouts.facts import read_facts
from terrafuse.layouts.isprs import (
    ANYWHERE,
    WAVELENGTHS_UM,
    find_pictures,
    recipes,
    void_colors,
    with_eroded,
)
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import choice, read_options
from terrafuse.layouts.pieces import describe_pieces, which_form
from terrafuse.layouts.published import compose, look_through
from terrafuse.layouts.tree import FileKind, Tree

_SIZE = (6000, 6000)
# In some archives the full set's label of this scene is a photograph with labels drawn over it.
_OVERLAYS = ("4_12",)


def _to_id(match: re.Match[str]) -> str:
    """Normalise the id: surface models are numbered 02_10, everything else 2_10."""
    return f"{int(match['row'])}_{int(match['col'])}"


def _files(
    name: str, folders: tuple[str, ...], stem: str, bands: tuple[str, ...] = (),
    dtype: str = "uint8",
) -> FileKind:  # fmt: skip
    stem = stem.replace("ID", r"(?P<row>\d+)_(?P<col>\d+)")
    # Names identify a file wherever it was put: in one folder, or sorted into splits.
    return FileKind(name, (*folders, ANYWHERE), stem, bands, dtype, _SIZE, _to_id)


_RGB, _IRRG, _RGBIR = (
    ("red", "green", "blue"),
    ("nir", "red", "green"),
    ("red", "green", "blue", "nir"),
)
_HEIGHTS = r"dsm_potsdam_ID_normalized_"
_NORMALIZED = ("1_DSM_normali[sz]ation", "[^/]*ndsm[^/]*")
_LAYOUT = Layout(
    title="ISPRS Potsdam",
    kinds=(
        _files("4_Ortho_RGBIR", ("4_Ortho_RGBIR",), "top_potsdam_ID_RGBIR", _RGBIR),
        _files("2_Ortho_RGB", ("2_Ortho_RGB",), "top_potsdam_ID_RGB", _RGB),
        _files("3_Ortho_IRRG", ("3_Ortho_IRRG",), "top_potsdam_ID_IRRG", _IRRG),
        _files("1_DSM", ("1_DSM",), "dsm_potsdam_ID", ("height",), "float32"),
        _files("lastools", _NORMALIZED, _HEIGHTS + "lastools", ("height",)),
        _files("ownapproach", _NORMALIZED, _HEIGHTS + "ownapproach", ("height",)),
        _files("labels", ("5_Labels_for_participants", "5_Labels_all"), "top_potsdam_ID_label"),
        _files("labels_eroded", ("5_Labels_for_participants_no_?Boundary",
                                 "5_Labels_all_no_?Boundary"), "top_potsdam_ID_label_noBoundary"),
    ),
    readings={
        "rgbir": Reading("optical", _RGBIR, ("4_Ortho_RGBIR",)),
        "rgb": Reading("optical", _RGB, ("4_Ortho_RGBIR", "2_Ortho_RGB")),
        "nir": Reading("optical", ("nir",), ("4_Ortho_RGBIR", "3_Ortho_IRRG")),
        "irrg": Reading("optical", _IRRG, ("3_Ortho_IRRG", "4_Ortho_RGBIR")),
        "dsm": Reading("elevation", ("height",), ("1_DSM",), unit="m"),
        # Lossy, and the grey values per metre are not documented.
        "ndsm": Reading("elevation", ("height",), ("lastools", "ownapproach")),
    },
    default=("rgbir", "dsm", "ndsm"),
    optional=frozenset({"ndsm"}),
    wavelengths_um=WAVELENGTHS_UM,
    choices=("void", "form"),
    tells=("4_Ortho_RGBIR", "2_Ortho_RGB", "3_Ortho_IRRG", "1_DSM", "labels", "labels_eroded"),
    labels=("labels", "labels_eroded"),
)  # fmt: skip
# Both recipes cut the files of red, green and blue; GeoSeg's can cut IRRG, which no file records.
_RECIPES = recipes("ISPRS Potsdam", r"\d+_\d+", "top_potsdam_", _RGB, "rgb")
EDITIONS = (_LAYOUT, *(recipe.layout for recipe in _RECIPES))


def describe_potsdam(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """ISPRS Potsdam: folders 4_Ortho_RGBIR, 1_DSM, 1_DSM_normalisation and 5_Labels_…, as unpacked.

    Of two copies of a label, that of the participants is used; eroded labels are used where there
    are no others. Folders of other names and pieces cut by scripts are recognised too.

    Args:
        root: The folder into which the archives were unpacked.
        options: "split": sound (18 / 5 / 14 scenes, without the badly annotated 7_10), official
            (24 / 14), geoseg, ssrs (18 / 6, as MFNet) or ssrs-val (the same with 3 of the 18 for
            validation). "modalities": some of rgbir, rgb, nir, irrg, dsm, ndsm. "void": further
            label colours of no class. "form": scenes, or mmsegmentation or geoseg, the
            pieces of their scripts. "without": ids to leave out. "unknown": void, or the class that
            unknown colours become. "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing, or a label file is a picture.
    """
    facts = read_facts("potsdam")
    forms = ("scenes", *(recipe.name for recipe in _RECIPES))
    form = choice(options, "form", forms) if "form" in options else None
    recipe = which_form(Tree.walk(root), _LAYOUT, _RECIPES, form)
    if recipe is not None:
        chosen = read_options(recipe.layout, facts, options)
        tree = look_through(root, recipe.layout)
        return describe_pieces(tree, recipe, facts, chosen, recipe.classes(facts), recipe.void)
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    split = facts.split(chosen.split)
    classes, void = facts.colored_classes(), void_colors(facts, chosen.more)
    labels, eroded = (tree.find(_LAYOUT.kind(name)) for name in ("labels", "labels_eroded"))
    known = [item["code"] for item in classes] + void
    pictures = find_pictures(tree, labels, [id for id in _OVERLAYS if id in split], known)
    return compose(
        tree, _LAYOUT, chosen, split, classes, void, useless=pictures, eroded=eroded,
        labels=with_eroded(_LAYOUT, labels, eroded, split),
    )  # fmt: skip
