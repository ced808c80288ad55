"""WHU-OPT-SAR: 100 map sheets of Hubei, GF-1 optical and GF-3 SAR.

Reference: Li et al., "MCANet: A joint semantic segmentation framework of optical and SAR images for
land use classification", JAG 106 (2022) 102638.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from terrafuse.data.layouts.facts import read_facts
from terrafuse.data.layouts.layout import Layout, Reading
from terrafuse.data.layouts.peek import peek
from terrafuse.data.layouts.published import choice, compose, look_through, read_options
from terrafuse.data.layouts.tree import FileKind, Found, Tree
from terrafuse.errors import LabelError

_SHEET = r"(?P<id>N[A-Z]\d{2}E\d{6})"
_SIZE = (5556, 3704)
_MOST_LOOKED_AT = 3


def _to_id(match: re.Match[str]) -> str:
    return match["id"].upper()


def _sheets(name: str, folders: tuple[str, ...], bands: tuple[str, ...] = ()) -> FileKind:
    return FileKind(name, folders, _SHEET, bands, dtype="uint8", size=_SIZE, to_id=_to_id)


_OPTICAL = ("blue", "green", "red", "nir")  # the order on disk, as the authors say
_LAYOUT = Layout(
    title="WHU-OPT-SAR",
    kinds=(
        _sheets("optical", ("optical", "image"), _OPTICAL),
        _sheets("sar", ("sar",), ("sar",)),
        _sheets("lbl", ("lbl", "labels?")),
    ),
    readings={
        # Black where the sensor saw nothing. SAR is stretched to 8 bits: neither dB nor linear.
        "optical": Reading("optical", _OPTICAL, ("optical",), nodata=0),
        "rgb": Reading("optical", ("red", "green", "blue"), ("optical",), nodata=0),
        "nir": Reading("optical", ("nir",), ("optical",), nodata=0),
        "sar": Reading("sar", ("sar",), ("sar",)),
    },
    default=("optical", "sar"),
    wavelengths_um={"blue": 0.485, "green": 0.555, "red": 0.66, "nir": 0.83},
    avoid={
        "predictions?": "it holds what a network made, no labels",
        r"intro/lbl": "it holds labels of an older upload that differ from the published ones",
    },
    series=lambda id: id[:5],
    hint="Copies with about fifty sheets NH49E and no others are in circulation.",
    choices=("codes",),
)


def describe_whu_opt_sar(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """WHU-OPT-SAR: folders optical (or image), sar and lbl with sheets such as NH49E001013.tif.

    Args:
        root: The folder.
        options: "split": sound (60 / 20 / 20 sheets) or official (80 / 20). "modalities": some of
            optical, sar, rgb, nir. "codes": tens (10 to 70, as published) or ones (1 to 7, as some
            scripts leave them). "incomplete": refuse or allow.

    Raises:
        DataError: No such files, or not all of them.
        LabelError: Label codes are not those that `codes` says.
    """
    facts = read_facts("whu-opt-sar")
    chosen = read_options(_LAYOUT, facts, options)
    codes = choice(chosen.more, "codes", ("tens", "ones"))
    tree = look_through(root, _LAYOUT)
    labels = tree.find(_LAYOUT.kind("lbl"))
    _check_codes(tree, labels, codes)
    divisor = 10 if codes == "ones" else 1
    classes = [item | {"code": item["code"] // divisor} for item in facts.classes]
    split = facts.split(chosen.split)
    return compose(tree, _LAYOUT, chosen, split, classes, facts.void, labels=labels)


def _check_codes(tree: Tree, labels: Found, codes: str) -> None:
    """The two sets of codes share only 0: a few sheets tell which it is."""
    for path in list(labels.files.values())[:_MOST_LOOKED_AT]:
        values = peek(tree.root / path, 1)
        seen = {int(value) for value in np.unique(values)} - {0} if values is not None else set()
        ones = seen <= set(range(1, 8))
        if seen and ones != (codes == "ones"):
            listed = ", ".join(map(str, sorted(seen)[:8]))
            raise LabelError(
                f"labels '{path}' hold the codes {listed}, but -O codes={codes} (the default is "
                f"tens) stands for {'1 to 7' if codes == 'ones' else '10, 20 … 70'}. Give -O "
                f"codes={'ones' if ones else 'tens'}"
            )
