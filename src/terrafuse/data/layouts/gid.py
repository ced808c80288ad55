"""GID (Gaofen Image Dataset) in its editions, and Five-Billion-Pixels on the same GF-2 scenes.

Reference: Tong et al., "Land-cover classification with high-resolution remote sensing images using
transferable deep models", RSE 237 (2020) 111322; Tong et al., "Enabling country-scale land cover
mapping with meter-resolution satellite imagery", ISPRS J. 196 (2023) 178-196.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from terrafuse.data.files import inspect_raster
from terrafuse.data.layouts.facts import Facts, draw_by_name, read_facts
from terrafuse.data.layouts.layout import Layout, Reading
from terrafuse.data.layouts.published import (
    Chosen,
    choice,
    compose,
    look_through,
    need_split,
    read_options,
    warn,
)
from terrafuse.data.layouts.tree import FileKind, Found, Tree

# A date after the double underscore is the mark of a contest's issue, with other classes.
_SCENE = r"(?P<id>GF2_PMS[12]__?L1A\d+-MSS[12])"
_SIZE = (7200, 6800)
_NIR_FIRST = ("nir", "red", "green", "blue")
_BLUE_FIRST = ("blue", "green", "red", "nir")
_RGB = ("red", "green", "blue")
_UM = {"blue": 0.485, "green": 0.555, "red": 0.66, "nir": 0.83}
# Where no list is published.
_VAL_SHARE, _TEST_SHARE = 0.125, 0.2


def _to_id(match: re.Match[str]) -> str:
    return re.sub(r"^(GF2_PMS\d)_+", r"\1__", match["id"].upper())


def _scenes(
    name: str, folders: tuple[str, ...], bands: tuple[str, ...] = (), *, end: str = "",
    dtype: str = "uint8",
) -> FileKind:  # fmt: skip
    return FileKind(name, folders, _SCENE + end, bands, dtype=dtype, size=_SIZE, to_id=_to_id)


def _readings(four: str, three: tuple[str, ...] = ()) -> dict[str, Reading]:
    """One sensor, split into two modalities."""
    return {
        "rgb": Reading("optical", _RGB, (four, *three), nodata=0),
        "nir": Reading("optical", ("nir",), (four,), nodata=0),
        "nirrgb": Reading("optical", _NIR_FIRST, (four,), nodata=0),
    }


def _layout(title: str, kinds: tuple[FileKind, ...], **options: Any) -> Layout:
    values: dict[str, Any] = {
        "readings": _readings("image_NirRGB", ("image_RGB",)),
        "default": ("rgb", "nir"),
        "wavelengths_um": _UM,
    }
    return Layout(title, kinds, **(values | options))


_IMAGES = (
    _scenes("image_NirRGB", ("image_NirRGB",), _NIR_FIRST),
    _scenes("image_RGB", ("image_RGB",), _RGB),
)
_GID5 = _layout(
    "GID-5",
    (*_IMAGES, _scenes("label", ("label_5classes",), end="_label")),
    avoid={"label_gray": "its codes are a third party's, of unknown order"},
    expected=150,
)
_FINE = _layout(
    "GID-15",
    (*_IMAGES, _scenes("label", ("label_15classes",), end="_(?:15)?label")),
    expected=10,
)
_CHALLENGE = _layout(
    "GID-15",
    (
        _scenes("img_dir", (r"img_dir/(?:train|val|test)",), _NIR_FIRST),
        _scenes("ann_dir", (r"ann_dir/(?:train|val)",), end="_15label"),
    ),
    readings=_readings("img_dir"),
)
_CHALLENGE_RGB = _layout(
    "GID-15",
    (_scenes("img_dir", (r"img_dir/(?:train|val|test)",), _RGB), _CHALLENGE.kinds[1]),
    readings={"rgb": Reading("optical", _RGB, ("img_dir",), nodata=0)},
    default=("rgb",),
)
_IMAGES_8, _IMAGES_16 = "Image__8bit_NirRGB", "Image_16bit_BGRNir"
_BILLIONS = (
    _scenes(_IMAGES_8, ("Image_+8bit_NirRGB",), _NIR_FIRST),
    _scenes(_IMAGES_16, ("Image_+16bit_BGRNir",), _BLUE_FIRST, dtype="uint16"),
    _scenes("Annotation__index", ("Annotation_+index",), end="_24label"),
    _scenes("Annotation__color", ("Annotation_+color",), end="_24label"),
)


def describe_gid5(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """GID-5: 150 GF-2 scenes, five classes; folders image_NirRGB and label_5classes.

    Args:
        root: The folder.
        options: "split": sound (tested on the 30 scenes of Five-Billion-Pixels; validation drawn
            by name) or official (likewise, without validation; the paper's own list was not
            published). "modalities": some of rgb, nir (default: both, from image_NirRGB), nirrgb.
            "incomplete": refuse or allow.

    Raises:
        DataError: No such files, or not all of them.
    """
    facts = read_facts("gid-5")
    chosen = read_options(_GID5, facts, options)
    tree = look_through(root, _GID5)
    labels = tree.find(_GID5.kind("label"))
    every = [tree.find(kind) for kind in _GID5.kinds]
    split = _split(facts, chosen, (id for found in every for id in found.files))
    return compose(tree, _GID5, chosen, split, facts.classes, facts.void, labels=labels)


def describe_gid15(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """GID-15: fifteen classes; the fine set (label_15classes) or the challenge (img_dir, ann_dir).

    The edition is told by the folders, never by the number of classes.

    Args:
        root: The folder.
        options: "split": sound or official. Of the challenge, whose test scenes have no labels,
            'val' is the test split and 'sound' draws validation scenes from 'train' by name. The
            fine set comes without a list. "modalities" and "incomplete" as for GID-5.

    Raises:
        DataError: No such files, or not all of them.
    """
    if any("img_dir" in map(str.lower, path.parts) for path in Tree.walk(root).paths):
        return _describe_challenge(root, options)
    facts = read_facts("gid-15")
    chosen = read_options(_FINE, facts, options)
    tree = look_through(root, _FINE)
    labels = tree.find(_FINE.kind("label"))
    split = _split(facts, chosen, labels.files)
    if split:
        warn(
            "GID-15: this is the fine set, told by 'label_15classes'. No list of its splits is "
            "published; 'test' and 'val' are drawn by the names of the scenes"
        )
    classes, void = facts.colored_classes(), ["#000000"]
    return compose(tree, _FINE, chosen, split, classes, void, labels=labels)


def describe_five_billion_pixels(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """Five-Billion-Pixels: 24 classes on the scenes of GID; Image__8bit_NirRGB, Annotation__index.

    Args:
        root: The folder.
        options: "split": sound (30 published test scenes, validation drawn by name) or official
            (without validation). "images": 8bit (nir, red, green, blue) or 16bit (blue, green,
            red, nir). "modalities" and "incomplete" as for GID-5.

    Raises:
        DataError: No such files, or not all of them.
    """
    images = choice(options, "images", ("8bit", "16bit"))
    layout = _layout(
        "Five-Billion-Pixels",
        _BILLIONS,
        readings=_readings(_IMAGES_8 if images == "8bit" else _IMAGES_16),
        expected=150,
        choices=("images",),
    )
    facts = read_facts("five-billion-pixels")
    chosen = read_options(layout, facts, options)
    tree = look_through(root, layout)
    labels, colors = (tree.find(layout.kind(f"Annotation__{n}")) for n in ("index", "color"))
    classes, void = facts.classes, facts.void
    if not labels.files and colors.files:
        labels, classes, void = colors, facts.colored_classes(), ["#000000"]
    every = [tree.find(kind) for kind in layout.kinds]
    split = _split(facts, chosen, (id for found in every for id in found.files))
    return compose(tree, layout, chosen, split, classes, void, labels=labels)


def _describe_challenge(root: Path, options: dict[str, str]) -> dict[str, Any]:
    facts = read_facts("gid-15")
    images = Tree.walk(root).find(_CHALLENGE.kinds[0])
    first = next(iter(images.files.values()), None)
    bands = 4 if first is None else inspect_raster(root / first, "an image of GID-15").count
    layout = _CHALLENGE_RGB if bands == 3 else _CHALLENGE
    chosen = read_options(layout, facts, options)
    tree = look_through(root, layout)
    warn(
        "GID-15: this is the challenge's edition, told by 'img_dir'. Its test scenes have no "
        "labels: they are split 'unlabelled', and its 'val' is the split 'test'"
        + (". Files of three bands hold no near infrared" if bands == 3 else "")
    )
    return compose(
        tree, layout, chosen, _challenge_split(facts, chosen, images), facts.classes, facts.void,
        labels=tree.find(layout.kinds[1]), unlabelled="unlabelled",
    )  # fmt: skip


def _challenge_split(facts: Facts, chosen: Chosen, images: Found) -> dict[str, str]:
    names = {"train": "train", "val": "test", "test": "unlabelled"}
    split = {id: names[path.parent.name.lower()] for id, path in images.files.items()}
    if _drawn(facts, chosen):
        train = [id for id, name in split.items() if name == "train"]
        split |= dict.fromkeys(draw_by_name(train, _VAL_SHARE), "val")
    return split


def _split(facts: Facts, chosen: Chosen, ids: Iterable[str]) -> dict[str, str]:
    """The published test scenes, if there are; the rest by name."""
    every = set(ids)
    known = facts.more.get("test")
    test = draw_by_name(every, _TEST_SHARE) if known is None and every else set(known or ())
    split = {id: "test" if id in test else "train" for id in every | test}
    if _drawn(facts, chosen):
        train = [id for id, name in split.items() if name == "train"]
        split |= dict.fromkeys(draw_by_name(train, _VAL_SHARE), "val")
    return split if every else {}


def _drawn(facts: Facts, chosen: Chosen) -> bool:
    """Whether validation scenes are drawn; the official lists have none."""
    return need_split(facts, chosen, ("sound", "official")) == "sound"
