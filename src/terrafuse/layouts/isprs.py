"""Common parts of ISPRS Vaihingen and Potsdam: colours, pieces, and checks of the archives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import DataError
from terrafuse.layouts.codes import peek
from terrafuse.layouts.facts import PublishedFacts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.pieces import Recipe
from terrafuse.layouts.published import warn
from terrafuse.layouts.tree import FileKind, Found, Tree, natural_key

#: Nominal band centres: those of the cameras are not published with the data.
WAVELENGTHS_UM = {"blue": 0.49, "green": 0.56, "red": 0.665, "nir": 0.83}
# A picture of six colours and black boundaries is a label image.
_MOST_LABEL_COLORS = 7
# Labels hold the colours of the legend and few others; a photograph hardly any of them.
_LEAST_KNOWN_SHARE = 0.5
_MOST_LISTED = 8
#: Pattern of folders that may hold files recognised by name: any except those of results.
ANYWHERE = r"(?!.*predict|.*result|.*output)[^/]*"


def void_colors(facts: PublishedFacts, more: Mapping[str, str]) -> list[int | str]:
    """Return the void colours: black boundaries, and those a user adds with the option "void".

    Raises:
        DataError: A value is not a colour "#rrggbb".
    """
    added = [color.strip().lower() for color in more.get("void", "").split(",") if color.strip()]
    for color in added:
        if not re.fullmatch(r"#?[0-9a-f]{6}", color):
            raise DataError(f"-O void={more['void']}: '{color}' is not a colour such as #fcff00")
    return [*facts.void, *(f"#{color.lstrip('#')}" for color in added)]


def refuse_labels_as_images(tree: Tree, images: Found) -> None:
    """Reject labels unpacked over images: in Vaihingen the two have equal names.

    Raises:
        DataError: Lists the images that have no more colours than labels.
    """
    bad = [
        path.as_posix()
        for path in images.files.values()
        if (pixels := _colors(tree, path)) is not None
        and 1 < len(np.unique(pixels)) <= _MOST_LABEL_COLORS
    ]
    if bad:
        raise DataError(
            f"{len(bad)} images have no more than {_MOST_LABEL_COLORS} colours, as labels do: "
            f"{', '.join(bad[:3])}. Labels have the same names as images and were unpacked over "
            "them; unpack 'top' again into a folder of its own"
        )


def find_pictures(
    tree: Tree, labels: Found, ids: Iterable[str], known: list[Any]
) -> dict[str, str]:
    """Find label files that are pictures with labels drawn over them: id → finding.

    Args:
        ids: Scenes to check.
        known: Colours "#rrggbb" of classes and void.
    """
    legend = [int(str(color).lstrip("#"), 16) for color in known]
    found = {}
    for id in ids:
        path = labels.files.get(id)
        pixels = None if path is None else _colors(tree, path)
        if pixels is None:
            continue
        share = float(np.isin(pixels, legend).mean())
        if share < _LEAST_KNOWN_SHARE:
            found[id] = (
                f"label {id}: {1 - share:.0%} of the pixels sampled have no colour of the "
                f"legend. '{path}' is a picture; use the copy in '5_Labels_for_participants', or "
                f"leave the scene out: -O without={id}"
            )
    return found


def with_eroded(layout: Layout, labels: Found, eroded: Found, ids: Iterable[str]) -> Found:
    """Fill in labels without boundaries between classes for scenes that have no others.

    Args:
        layout: Layout of the data set, for the message.
    """
    instead = [id for id in ids if id in eroded.files and id not in labels.files]
    if not instead:
        return labels
    listed = ", ".join(sorted(instead, key=natural_key)[:_MOST_LISTED])
    more = f" and {len(instead) - _MOST_LISTED} more" if len(instead) > _MOST_LISTED else ""
    warn(
        f"{layout.title}: scenes {listed}{more} have only labels without boundaries; these are "
        "used as labels, so that boundaries are neither learned nor scored there, and scores are "
        "3 to 5 points higher than with full labels"
    )
    files = {**labels.files, **{id: eroded.files[id] for id in instead}}
    return replace(labels, files=files)


def recipes(
    title: str, scene: str, prefix: str, bands: tuple[str, ...], name: str
) -> tuple[Recipe, ...]:
    """Return the recipes by which mmsegmentation and GeoSeg cut images into pieces.

    Args:
        title: Title of the data set.
        scene: Pattern of a scene's id.
        prefix: Prefix of the id in the names of images.
        bands: Bands of the images.
        name: Name of the modality.
    """

    def recipe(
        form: str,
        images: str,
        labels: str,
        stem: str,
        first_code: int,
        void: tuple[int, ...],
        *,
        eroded: bool = False,
    ) -> Recipe:
        layout = Layout(
            title=f"{title}, pieces of {form}",
            kinds=(FileKind("images", (images,), stem, bands), FileKind("labels", (labels,), stem)),
            readings={name: Reading("optical", bands, ("images",))},
            default=(name,),
            wavelengths_um=WAVELENGTHS_UM,
            choices=("form",),
            tells=("images",),
            labels=("labels",),
        )
        start = re.compile(scene)
        return Recipe(form, layout, "images", "labels", start, first_code, void, eroded)

    splits = "(?:train|val|test)"
    short = prefix.rpartition("_")[2] if prefix.endswith("area") else ""
    return (
        # Four more numbers: the corners of the piece. 0 is the boundary, or unlabelled.
        recipe("mmsegmentation", f"img_dir/{splits}", f"ann_dir/{splits}",
               rf"{short}(?P<id>{scene}(?:_\d+){{4}})", 1, (0, 255), eroded=True),
        # Numbers of the flip and of the piece. 6 is the boundary.
        recipe("geoseg", rf"{splits}/images(?:_\d+)?", rf"{splits}/masks(?:_\d+)?",
               rf"{prefix}(?P<id>{scene}(?:_\d+){{2,3}})", 0, (6, 255)),
    )  # fmt: skip


def _colors(tree: Tree, path: PurePosixPath) -> NDArray[np.int64] | None:
    """Read colours in the middle of a picture as 0xrrggbb; None without three bands."""
    pixels = peek(tree.root / path, 3)
    if pixels is None:
        return None
    red, green, blue = pixels.astype(np.int64)
    colors: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colors
