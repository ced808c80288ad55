"""GID (Gaofen Image Dataset) in its editions, and Five-Billion-Pixels on the same GF-2 scenes.

Reference: Tong et al., "Land-cover classification with high-resolution remote sensing images using
transferable deep models", RSE 237 (2020) 111322; Tong et al., "Enabling country-scale land cover
mapping with meter-resolution satellite imagery", ISPRS J. 196 (2023) 178-196.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from terrafuse.data.raster_file import inspect_raster
from terrafuse.layouts.facts import PublishedFacts, draw_by_name, read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import Chosen, choice, need_split, read_options
from terrafuse.layouts.published import compose, look_through, warn
from terrafuse.layouts.tree import FileKind, Found, Tree

# A date after the double underscore marks a contest's edition, with other classes.
_SCENE = r"(?P<id>GF2_PMS[12]__?L1A\d+-MSS[12])"
_SIZE = (7200, 6800)
_NIR_FIRST = ("nir", "red", "green", "blue")
_BLUE_FIRST = ("blue", "green", "red", "nir")
_RGB = ("red", "green", "blue")
_UM = {"blue": 0.485, "green": 0.555, "red": 0.66, "nir": 0.83}
# Shares drawn where no list is published.
_VAL_SHARE, _TEST_SHARE = 0.125, 0.2
#: Split, and key of the facts, of the scenes that a popular script cuts into pieces at random.
_FIFTEEN = "fifteen"


def _to_id(match: re.Match[str]) -> str:
    return re.sub(r"^(GF2_PMS\d)_+", r"\1__", match["id"].upper())


def _scenes(
    name: str, folders: tuple[str, ...], bands: tuple[str, ...] = (), *, end: str = "",
    dtype: str = "uint8",
) -> FileKind:  # fmt: skip
    return FileKind(name, folders, _SCENE + end, bands, dtype=dtype, size=_SIZE, to_id=_to_id)


def _below(folder: str) -> tuple[str, str]:
    """Return patterns of a published folder, and of folders of splits that users sort it into."""
    return folder, rf"{folder}/(?:train|val|test)"


_IMAGES = (
    _scenes("image_NirRGB", _below("image_NirRGB"), _NIR_FIRST),
    _scenes("image_RGB", _below("image_RGB"), _RGB),
    _scenes("Image__8bit_NirRGB", _below("Image_+8bit_NirRGB"), _NIR_FIRST),
    _scenes("Image_16bit_BGRNir", _below("Image_16bit_BGRNir"), _BLUE_FIRST, dtype="uint16"),
    # From a later upload; only the name gives the order.
    _scenes("Image_16bit_RGBNir", _below("Image_16bit_RGBNir"), (*_RGB, "nir"),
            dtype="uint16"),
)  # fmt: skip
_8BIT, _16BIT = (
    ("image_NirRGB", "Image__8bit_NirRGB"),
    ("Image_16bit_BGRNir", "Image_16bit_RGBNir"),
)


def _readings(four: tuple[str, ...], three: tuple[str, ...] = ()) -> dict[str, Reading]:
    """Return the readings of one sensor, split into two modalities."""
    return {
        "rgb": Reading("optical", _RGB, (*four, *three), nodata=0),
        "nir": Reading("optical", ("nir",), four, nodata=0),
        "nirrgb": Reading("optical", _NIR_FIRST, four, nodata=0),
    }


def _layout(title: str, labels: tuple[FileKind, ...], **options: Any) -> Layout:
    values: dict[str, Any] = {
        "kinds": (*_IMAGES, *labels),
        "readings": _readings((*_8BIT, *_16BIT), ("image_RGB",)),
        "default": ("rgb", "nir"),
        "wavelengths_um": _UM,
        "choices": ("images",),
        "tells": tuple(kind.name for kind in (*_IMAGES, *labels)),
        "labels": tuple(kind.name for kind in labels),
    }
    return Layout(title, **(values | options))


def _annotations(classes: int) -> tuple[FileKind, FileKind]:
    """Return the kinds of labels on images of Five-Billion-Pixels; names give the class count."""
    end = f"_{classes}label"
    index = r"(?!.*colou?r|label_15classes$|.*predict|.*result|.*output)[^/]*"
    return (
        _scenes("Annotation__index", (*_below("Annotation_+index"), index), end=end),
        _scenes("Annotation__color", _below("Annotation_+colou?r"), end=end),
    )


_GID5 = _layout(
    "GID-5",
    (_scenes("label_5classes", ("label_5classes",), end="_label"), *_annotations(5)),
    avoid={"label_gray": "its codes are a third party's, of unknown order"},
    expected=150,
)
_FINE = _layout(
    "GID-15",
    (_scenes("label_15classes", ("label_15classes",), end="_(?:15)?label"),),
    expected=10,
)
_GID15 = _layout("GID-15", _annotations(15), expected=150)
_BILLIONS = _layout("Five-Billion-Pixels", _annotations(24), expected=150)
_CHALLENGE = _layout(
    "GID-15",
    (_scenes("ann_dir", (r"ann_dir/(?:train|val)",), end="_15label"),),
    kinds=(
        _scenes("img_dir", (r"img_dir/(?:train|val|test)",), _NIR_FIRST),
        _scenes("ann_dir", (r"ann_dir/(?:train|val)",), end="_15label"),
    ),
    readings=_readings(("img_dir",)),
    choices=(),
    tells=("img_dir",),
)
_CHALLENGE_RGB = replace(
    _CHALLENGE,
    kinds=(replace(_CHALLENGE.kinds[0], bands=_RGB), _CHALLENGE.kinds[1]),
    readings={"rgb": Reading("optical", _RGB, ("img_dir",), nodata=0)},
    default=("rgb",),
)
GID5_EDITIONS, GID15_EDITIONS, BILLIONS_EDITIONS = (
    (_GID5,),
    (_FINE, _GID15, _CHALLENGE),
    (_BILLIONS,),
)


def describe_gid5(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """GID-5: 150 GF-2 scenes, five classes; label_5classes, or Annotation__index/NAME_5label.png.

    Args:
        options: "split": sound (tested on the 30 scenes of Five-Billion-Pixels; validation drawn
            by name), official (likewise, without validation; the paper's own list was not
            published) or fifteen (only the scenes of MACU-Net's and mmsegmentation's subset, split
            likewise). "modalities": some of rgb, nir (default: both, from four bands), nirrgb.
            "images": 8bit or 16bit; default: 8bit if present. "without": ids to leave out.
            "unknown": void, or the class that unknown colours become. "incomplete": refuse or
            allow.

    Raises:
        DataError: Files are missing.
    """
    facts = read_facts("gid-5")
    layout = _with_images(_GID5, options)
    if options.get("split") == _FIFTEEN:
        layout = replace(layout, expected=None)
    chosen = read_options(layout, facts, options)
    return _describe_scenes(root, layout, facts, chosen, facts.more["test"])


def describe_gid15(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """GID-15: the fine set (label_15classes), the challenge (img_dir), or NAME_15label.png.

    Args:
        options: "split": sound or official. The challenge has no labels for its test scenes: its
            'val' is the test split and 'sound' draws validation scenes from 'train' by name. The
            fine set comes without a list. On the images of Five-Billion-Pixels, its 30 test scenes
            are the test split. "modalities", "images", "without", "unknown" and "incomplete" as for
            GID-5.

    Raises:
        DataError: Files are missing.
    """
    tree = Tree.walk(root)
    if any("img_dir" in map(str.lower, path.parts) for path in tree.paths):
        return _describe_challenge(root, options)
    facts = read_facts("gid-15")
    if any(tree.find(_GID15.kind(name)).files for name in _GID15.labels):
        layout = _with_images(_GID15, options)
        chosen = read_options(layout, facts, options)
        test = read_facts("five-billion-pixels").more["test"]
        return _describe_scenes(root, layout, facts, chosen, test)
    layout = _with_images(_FINE, options)
    chosen = read_options(layout, facts, options)
    tree = look_through(root, layout)
    labels = tree.find(layout.kind("label_15classes"))
    split = _split(facts, chosen, labels.files, draw_by_name(labels.files, _TEST_SHARE))
    if split:
        warn(
            "GID-15: this is the fine set, recognised by 'label_15classes'. No list of splits is "
            "published; 'test' and 'val' are drawn by the names of the scenes"
        )
    classes, void = facts.colored_classes(), ["#000000"]
    return compose(tree, layout, chosen, split, classes, void, labels=labels)


def describe_five_billion_pixels(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """Five-Billion-Pixels: 24 classes on the scenes of GID; Image__8bit_NirRGB, Annotation__index.

    Args:
        options: "split": sound (30 published test scenes, validation drawn by name) or official
            (without validation). "images": 8bit (nir, red, green, blue) or 16bit (blue, green,
            red, nir, or as the folder's name says); default: 8bit if present. "modalities",
            "without", "unknown" and "incomplete" as for GID-5.

    Raises:
        DataError: Files are missing.
    """
    facts = read_facts("five-billion-pixels")
    layout = _with_images(_BILLIONS, options)
    chosen = read_options(layout, facts, options)
    return _describe_scenes(root, layout, facts, chosen, facts.more["test"])


def _with_images(layout: Layout, options: Mapping[str, str]) -> Layout:
    """Adapt the layout to the bit depth that a user wants."""
    if "images" not in options:
        return layout
    depth = choice(options, "images", ("8bit", "16bit"))
    readings = _readings(_8BIT, ("image_RGB",)) if depth == "8bit" else _readings(_16BIT)
    return replace(layout, readings=readings)


def _describe_scenes(
    root: Path, layout: Layout, facts: PublishedFacts, chosen: Chosen, test: Iterable[str]
) -> dict[str, Any]:
    """Describe all scenes, with labels as indices if present, else as colours."""
    tree = look_through(root, layout)
    found = {name: tree.find(layout.kind(name)) for name in layout.labels}
    index = found["Annotation__index"]
    colors = next((item for item in found.values() if item.files and item is not index), index)
    labels = index if index.files or not colors.files else colors
    classes, void = _indexed(facts)
    if labels is not index:
        classes, void = facts.colored_classes(), ["#000000"]
    every = [tree.find(kind) for kind in layout.kinds]
    ids = {id for item in every for id in item.files}
    fifteen = facts.more.get(_FIFTEEN)
    chosen = replace(chosen, others={_FIFTEEN: dict.fromkeys(fifteen, "")} if fifteen else {})
    _tell_of_depth(tree, layout)
    split = _split(facts, chosen, ids, test)
    return compose(tree, layout, chosen, split, classes, void, labels=labels)


def _indexed(facts: PublishedFacts) -> tuple[list[dict[str, Any]], list[int | str]]:
    """Return classes and void values of labels numbered from 1, with 0 for unlabelled."""
    return [item | {"code": n} for n, item in enumerate(facts.classes, 1)], [0]


def _tell_of_depth(tree: Tree, layout: Layout) -> None:
    files = layout.readings["nir"].files
    taken = next((name for name in files if tree.find(layout.kind(name)).files), "")
    if taken in _16BIT and files[0] not in _16BIT:
        warn(f"{layout.title}: there are no 8-bit images; those of '{taken}' are used")
    if taken == "Image_16bit_RGBNir":
        warn(
            f"{layout.title}: bands of '{taken}' are read in the order of the folder's name, red, "
            "green, blue, near infrared, which is documented nowhere else. terrafuse data check "
            "compares near infrared with red where plants are labelled"
        )


def _describe_challenge(root: Path, options: dict[str, str]) -> dict[str, Any]:
    facts = read_facts("gid-15")
    images = Tree.walk(root).find(_CHALLENGE.kinds[0])
    first = next(iter(images.files.values()), None)
    bands = 4 if first is None else inspect_raster(root / first, "an image of GID-15").count
    layout = _CHALLENGE_RGB if bands == 3 else _CHALLENGE
    chosen = read_options(layout, facts, options)
    tree = look_through(root, layout)
    warn(
        "GID-15: this is the challenge's edition, recognised by 'img_dir'. Its test scenes have "
        "no labels: they go into the split 'unlabelled', and its 'val' becomes the split 'test'"
        + (". Files of three bands have no near infrared" if bands == 3 else "")
    )
    return compose(
        tree, layout, chosen, _challenge_split(facts, chosen, images), facts.classes, facts.void,
        labels=tree.find(layout.kinds[1]), unlabelled="unlabelled",
    )  # fmt: skip


def _challenge_split(facts: PublishedFacts, chosen: Chosen, images: Found) -> dict[str, str]:
    names = {"train": "train", "val": "test", "test": "unlabelled"}
    split = {id: names[path.parent.name.lower()] for id, path in images.files.items()}
    if need_split(facts, chosen, ("sound", "official")) == "sound":
        train = [id for id, name in split.items() if name == "train"]
        split |= dict.fromkeys(draw_by_name(train, _VAL_SHARE), "val")
    return split


def _split(
    facts: PublishedFacts, chosen: Chosen, ids: Iterable[str], test: Iterable[str]
) -> dict[str, str]:
    """Assign the given test scenes, and validation scenes drawn by name."""
    every = set(ids)
    if not every:
        return {}
    fifteen = facts.more.get(_FIFTEEN, ())
    name = need_split(facts, chosen, ("sound", "official", *([_FIFTEEN] if fifteen else ())))
    wanted = set(fifteen) if name == _FIFTEEN else every | set(test)
    split = {id: "test" if id in set(test) else "train" for id in wanted}
    if name != "official":
        train = [id for id, part in split.items() if part == "train"]
        split |= dict.fromkeys(draw_by_name(train, _VAL_SHARE), "val")
    return split
