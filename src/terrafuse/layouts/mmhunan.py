"""MMHunan: Sentinel-2, Sentinel-1 and terrain of Hunan, 500 patches of 256 pixels.

Reference: Li et al., "DKDFN: Domain knowledge-guided deep collaborative fusion network for
multimodal unitemporal remote sensing land cover classification", ISPRS J. 186 (2022) 170-189.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from terrafuse.errors import LabelError
from terrafuse.layouts.codes import peek
from terrafuse.layouts.facts import PublishedFacts, read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import Chosen, choice, read_options
from terrafuse.layouts.published import compose, look_through, warn
from terrafuse.layouts.tree import FileKind, Found, Tree

_UM = {
    "B01": 0.443, "B02": 0.490, "B03": 0.560, "B04": 0.665, "B05": 0.705, "B06": 0.740,
    "B07": 0.783, "B08": 0.842, "B8A": 0.865, "B09": 0.945, "B10": 1.375, "B11": 1.610,
    "B12": 2.190,
}  # fmt: skip
_SPLITS = ("train", "val", "test")
_MOST_LOOKED_AT = 40


def _to_id(match: re.Match[str]) -> str:
    return str(int(match["id"]))


def _patches(name: str, bands: tuple[str, ...] = ()) -> FileKind:
    folders = tuple(f"{split}/{name}" for split in _SPLITS)
    # MFNet's script renames files: those of its users may have lost the prefix of the number.
    stem = rf"(?:{name}_)?(?P<id>\d+)"
    return FileKind(name, folders, stem, bands, "", (256, 256), _to_id)


_LAYOUT = Layout(
    title="MMHunan",
    kinds=(
        # Only blue, green, red as second to fourth are certain; the rest is in the usual order.
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
    tells=("lc",),  # other data may be called s1 and s2
    labels=("lc",),
)


def _prepared(name: str, bands: tuple[str, ...] = ()) -> FileKind:
    return FileKind(name, (name,), r"(?P<id>\d+)", bands, "", (256, 256), _to_id)


# As MFNet's script writes it: each band of each patch stretched to 8 bits.
_MFNET = Layout(
    title="MMHunan as MFNet prepared it",
    kinds=(
        _prepared("images_png", ("B04", "B03", "B02")),
        _prepared("dsm_pngs", ("height",)),
        _prepared("masks_png"),
    ),
    readings={
        "rgb": Reading("optical", ("B04", "B03", "B02"), ("images_png",)),
        "dem": Reading("elevation", ("height",), ("dsm_pngs",)),
    },
    default=("rgb", "dem"),
    wavelengths_um=_UM,
    choices=("classes",),
    tells=("dsm_pngs",),  # LoveDA uses the other names too
    labels=("masks_png",),
)
EDITIONS = (_LAYOUT, _MFNET)


def describe_mmhunan(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """MMHunan: train, val, test with s2, s1, topo and lc; or images_png, dsm_pngs and masks_png.

    Args:
        options: "split": sound (the published folders, 400 / 50 / 50), official (the same), mfnet
            (450 / 50 by list) or mfnet-val (the same with 50 of the 450 for validation). "classes":
            original, or mfnet, which ignores shrubs instead of merging them with forest; for labels
            already remapped, how they were. "modalities": some of s2, rgb, s1, dem, topo.
            "without": ids to leave out. "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing.
        LabelError: Remapped labels are mixed with raw ones.
    """
    facts = read_facts("mmhunan")
    if Tree.walk(root).find(_MFNET.kind("dsm_pngs")).files:
        return _describe_prepared(root, facts, options)
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    s1 = tree.find(_LAYOUT.kind("s1"))
    layout = replace(_LAYOUT, readings={**_LAYOUT.readings, **_s1_in_its_unit(tree, s1)})
    labels = tree.find(layout.kind("lc"))
    classes, void = _classes(tree, labels, facts, chosen)
    if chosen.split in ("sound", "official"):
        every = [tree.find(kind).files for kind in layout.kinds]
        split = {id: path.parts[-3].lower() for files in every for id, path in files.items()}
    else:
        split = facts.split(chosen.split, further=("sound", "official"))
    return compose(tree, layout, chosen, split, classes, void, labels=labels)


def _describe_prepared(
    root: Path, facts: PublishedFacts, options: dict[str, str]
) -> dict[str, Any]:
    chosen = read_options(_MFNET, facts, options)
    tree = look_through(root, _MFNET)
    labels = tree.find(_MFNET.kind("masks_png"))
    classes, void = _remapped(facts, choice(chosen.more, "classes", ("mfnet", "original")))
    if chosen.split == "sound":
        warn(
            "MMHunan: MFNet's tree does not say which patches were published for training, "
            "validation and test; 'sound' is its own list, with 50 of its 450 for validation "
            "(mfnet-val)"
        )
        chosen = replace(chosen, split="mfnet-val")
    split = facts.split(chosen.split, further=("sound",))
    return compose(tree, _MFNET, chosen, split, classes, void, labels=labels)


def _classes(
    tree: Tree, labels: Found, facts: PublishedFacts, chosen: Chosen
) -> tuple[list[dict[str, Any]], list[int | str]]:
    """Return the classes of raw codes, or of those that MFNet's script replaced them by."""
    every = list(labels.files.items())
    looked = every[:: max(1, len(every) // _MOST_LOOKED_AT)]
    kinds = {id: kind for id, path in looked if (kind := _kind_of_codes(tree, path))}
    if len(set(kinds.values())) > 1:
        ids = {kind: next(id for id in kinds if kinds[id] == kind) for kind in ("raw", "int8")}
        raise LabelError(
            f"MMHunan: label {ids['raw']} holds raw codes, label {ids['int8']} those of MFNet's "
            "script (int8, -1 to 6): it was interrupted. Unpack 'lc' again"
        )
    if "int8" in kinds.values():
        warn(
            "MMHunan: labels 'lc' hold -1 to 6 in int8, as MFNet's script writes them, not raw "
            "codes; they are read as such"
        )
        return _remapped(facts, choice(chosen.more, "classes", ("mfnet", "original")))
    if choice(chosen.more, "classes", ("original", "mfnet")) == "mfnet":
        return facts.more["mfnet_classes"], facts.more["mfnet_void"]
    return facts.classes, facts.void


def _kind_of_codes(tree: Tree, path: PurePosixPath) -> str | None:
    values = peek(tree.root / path, 1)
    if values is None:
        return None
    return "int8" if values.dtype == np.int8 or (values < 0).any() else "raw"


def _remapped(
    facts: PublishedFacts, convention: str
) -> tuple[list[dict[str, Any]], list[int | str]]:
    """Return the classes of labels that a script numbered 0 to 6.

    MFNet's script has impervious as 5 and bare as 6; the data's readme the other way round.
    """
    classes = facts.more["mfnet_classes"] if convention == "mfnet" else facts.classes
    if convention == "original":
        return [item | {"code": n} for n, item in enumerate(classes)], [-1, 7, 255]
    return [item | {"code": n} for n, item in enumerate(classes)], [-1, 255]


def _s1_in_its_unit(tree: Tree, s1: Found) -> Mapping[str, Reading]:
    """Determine the unit, which is not published: backscatter below 0 can only be decibels."""
    first = next(iter(s1.files.values()), None)
    values = None if first is None else peek(tree.root / first, 1)
    negative = values is not None and float(np.nanmin(values)) < 0
    return {"s1": replace(_LAYOUT.readings["s1"], unit="db" if negative else "dn")}
