"""MMHunan: Sentinel-2, Sentinel-1 and terrain of Hunan, 500 patches of 256 pixels.

Reference: Li et al., "DKDFN: Domain knowledge-guided deep collaborative fusion network for
multimodal unitemporal remote sensing land cover classification", ISPRS J. 186 (2022) 170-189.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from terrafuse.data.layouts.facts import read_facts
from terrafuse.data.layouts.layout import Layout, Reading
from terrafuse.data.layouts.peek import peek
from terrafuse.data.layouts.published import choice, compose, look_through, read_options
from terrafuse.data.layouts.tree import FileKind, Found, Tree

_UM = {
    "B01": 0.443, "B02": 0.490, "B03": 0.560, "B04": 0.665, "B05": 0.705, "B06": 0.740,
    "B07": 0.783, "B08": 0.842, "B8A": 0.865, "B09": 0.945, "B10": 1.375, "B11": 1.610,
    "B12": 2.190,
}  # fmt: skip
_SPLITS = ("train", "val", "test")


def _to_id(match: re.Match[str]) -> str:
    return str(int(match["id"]))


def _patches(name: str, bands: tuple[str, ...] = ()) -> FileKind:
    folders = tuple(f"{split}/{name}" for split in _SPLITS)
    return FileKind(name, folders, rf"{name}_(?P<id>\d+)", bands, "", (256, 256), _to_id)


_LAYOUT = Layout(
    title="MMHunan",
    kinds=(
        # Only blue, green, red as second to fourth are certain; the rest is the usual order.
        _patches("s2", tuple(_UM)),
        _patches("s1", ("VV", "VH")),
        _patches("topo", ("height", "slope")),
        _patches("tri", ("ruggedness",)),
        _patches("lc"),
    ),
    readings={
        "s2": Reading("optical", tuple(_UM), ("s2",)),
        "rgb": Reading("optical", ("B04", "B03", "B02"), ("s2",)),
        "s1": Reading("sar", ("VV", "VH"), ("s1",)),
        "dem": Reading("elevation", ("height",), ("topo",), unit="m"),
        "topo": Reading("elevation", ("height", "slope"), ("topo",)),
    },
    default=("s2", "s1", "dem"),
    wavelengths_um=_UM,
    expected=500,
    choices=("classes",),
)


def describe_mmhunan(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """MMHunan: folders train, val and test, each with s2, s1, topo and lc.

    Args:
        root: The folder.
        options: "split": sound (the published folders, 400 / 50 / 50), official (the same), mfnet
            (450 / 50 by list) or mfnet-val (the same with 50 of the 450 to validate). "classes":
            original, or mfnet, which ignores shrubs instead of joining them to forest.
            "modalities": some of s2, rgb, s1, dem, topo. "incomplete": refuse or allow.

    Raises:
        DataError: No such files, or not all of them.
    """
    facts = read_facts("mmhunan")
    chosen = read_options(_LAYOUT, facts, options)
    convention = choice(chosen.more, "classes", ("original", "mfnet"))
    tree = look_through(root, _LAYOUT)
    s1 = tree.find(_LAYOUT.kind("s1"))
    layout = replace(_LAYOUT, readings={**_LAYOUT.readings, **_s1_in_its_unit(tree, s1)})
    classes, void = facts.classes, facts.void
    if convention == "mfnet":
        classes, void = facts.more["mfnet_classes"], facts.more["mfnet_void"]
    if chosen.split in ("sound", "official"):
        every = [tree.find(kind).files for kind in layout.kinds]
        split = {id: path.parts[-3].lower() for files in every for id, path in files.items()}
    else:
        split = facts.split(chosen.split, further=("sound", "official"))
    labels = tree.find(layout.kind("lc"))
    return compose(tree, layout, chosen, split, classes, void, labels=labels)


def _s1_in_its_unit(tree: Tree, s1: Found) -> Mapping[str, Reading]:
    """The unit is not published; backscatter below 0 can only be decibels."""
    first = next(iter(s1.files.values()), None)
    values = None if first is None else peek(tree.root / first, 1)
    negative = values is not None and float(np.nanmin(values)) < 0
    return {"s1": replace(_LAYOUT.readings["s1"], unit="db" if negative else "dn")}
