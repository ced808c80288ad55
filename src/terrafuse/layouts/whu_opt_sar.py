"""WHU-OPT-SAR: 100 map sheets of Hubei, GF-1 optical and GF-3 SAR.

Reference: Li et al., "MCANet: A joint semantic segmentation framework of optical and SAR images for
land use classification", JAG 106 (2022) 102638.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from terrafuse.errors import LabelError
from terrafuse.layouts.codes import peek
from terrafuse.layouts.facts import read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import Chosen, choice, read_options
from terrafuse.layouts.pieces import Recipe, describe_pieces, which_form
from terrafuse.layouts.published import compose, look_through, warn
from terrafuse.layouts.tree import FileKind, Found, Tree

_SHEET = r"N[A-Z]\d{2}E\d{6}"
_SIZE, _CHIP = (5556, 3704), (256, 256)
# 21 × 14 of each of the hundred sheets.
_CHIPS = 29_400
_MOST_LOOKED_AT = 40


def _to_id(match: re.Match[str]) -> str:
    return match["id"].upper()


_FOLDERS = {
    "optical": ("optical", "image", "opt"),
    "sar": ("sar",),
    "lbl": ("lbl", "labels?"),
}
_OPTICAL = ("blue", "green", "red", "nir")  # the order on disk, as the authors say


def _layout(title: str, stem: str, size: tuple[int, int], expected: int | None) -> Layout:
    """Build the layout of sheets, or of chips of sheets: same folders, other names."""
    bands = {"optical": _OPTICAL, "sar": ("sar",), "lbl": ()}
    return Layout(
        title=title,
        kinds=tuple(
            FileKind(name, folders, stem, bands[name], "uint8", size, _to_id)
            for name, folders in _FOLDERS.items()
        ),
        readings={
            # Black where the sensor has no data. SAR is stretched to 8 bits: neither dB nor linear.
            "optical": Reading("optical", _OPTICAL, ("optical",), nodata=0),
            "rgb": Reading("optical", ("red", "green", "blue"), ("optical",), nodata=0),
            "nir": Reading("optical", ("nir",), ("optical",), nodata=0),
            "sar": Reading("sar", ("sar",), ("sar",)),
        },
        default=("optical", "sar"),
        wavelengths_um={"blue": 0.485, "green": 0.555, "red": 0.66, "nir": 0.83},
        avoid={
            "predictions?": "it holds a network's predictions, not labels",
            r"intro/lbl": "it holds labels of an older upload that differ from the published ones",
        },
        series=lambda id: id[:5],
        expected=expected,
        hint="Copies with about fifty sheets NH49E and no others are in circulation.",
        choices=("codes", "form"),
        tells=("optical", "sar"),
        labels=("lbl",),
    )


_LAYOUT = _layout("WHU-OPT-SAR", rf"(?P<id>{_SHEET})", _SIZE, None)
_CUT = _layout("WHU-OPT-SAR in chips", rf"(?P<id>{_SHEET}_\w+)", _CHIP, _CHIPS)
_RECIPE = Recipe("chips", _CUT, "optical", "lbl", re.compile(_SHEET))
EDITIONS = (_LAYOUT, _CUT)


def describe_whu_opt_sar(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """WHU-OPT-SAR: folders optical (image, opt), sar and lbl of sheets NH49E001013.tif or chips.

    Chips of 256 pixels, such as NH49E001013_1.tif, may lie in folders train, val and test.

    Args:
        options: "split": sound (60 / 20 / 20 sheets), authors (60 / 20 / 20, the two runs of their
            training list), official (80 / 20), or folders (for chips). "modalities": some of
            optical, sar, rgb, nir. "codes": tens (10 to 70, as published) or ones (1 to 7, as some
            scripts write them); default: as found. "form": scenes or chips; default: as found.
            "without": ids to leave out. "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing.
        LabelError: Label codes are not those of the option `codes`, or both kinds are mixed.
    """
    facts = read_facts("whu-opt-sar")
    form = choice(options, "form", ("scenes", "chips")) if "form" in options else None
    recipe = which_form(Tree.walk(root, _LAYOUT.avoid), _LAYOUT, (_RECIPE,), form)
    layout = _LAYOUT if recipe is None else recipe.layout
    chosen = read_options(layout, facts, options)
    tree = look_through(root, layout)
    labels = tree.find(layout.kind("lbl"))
    divisor = 10 if _find_codes(tree, labels, chosen) == "ones" else 1
    classes = [item | {"code": item["code"] // divisor} for item in facts.classes]
    if recipe is not None:
        return describe_pieces(tree, recipe, facts, chosen, classes, facts.void)
    split = facts.split(chosen.split)
    return compose(tree, layout, chosen, split, classes, facts.void, labels=labels)


def _find_codes(tree: Tree, labels: Found, chosen: Chosen) -> str:
    """Determine which of the two sets of codes the labels hold; they share only 0."""
    wanted = choice(chosen.more, "codes", ("tens", "ones")) if "codes" in chosen.more else None
    every = list(labels.files.values())
    seen: dict[str, tuple[PurePosixPath, list[int]]] = {}
    for path in every[:: max(1, len(every) // _MOST_LOOKED_AT)]:
        values = peek(tree.root / path, 1)
        codes = {int(value) for value in np.unique(values)} - {0} if values is not None else set()
        if codes:
            kind = "ones" if codes <= set(range(1, 8)) else "tens"
            seen.setdefault(kind, (path, sorted(codes)[:8]))
    if wanted is not None and set(seen) - {wanted}:
        other = next(kind for kind in seen if kind != wanted)
        raise LabelError(f"{_told(*seen[other])}, but -O codes={wanted} is given. Omit the option")
    if len(seen) == 2:
        raise LabelError(
            f"{_told(*seen['tens'])}, but {_told(*seen['ones'])}: two sets of labels are mixed. "
            "Keep one of them"
        )
    if "ones" in seen and wanted is None:
        warn(f"WHU-OPT-SAR: {_told(*seen['ones'])}: those published, divided by ten")
    return next(iter(seen), wanted or "tens")


def _told(path: PurePosixPath, codes: Sequence[int]) -> str:
    return f"labels '{path}' hold the codes {', '.join(map(str, codes))}"
