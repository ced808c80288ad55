"""What ISPRS Vaihingen and Potsdam share: reading colours, and what was unpacked over what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.layouts.facts import Facts
from terrafuse.data.layouts.peek import peek
from terrafuse.data.layouts.tree import Found, Tree
from terrafuse.errors import DataError, LabelError

#: Nominal centres: those of the cameras are not published with the data.
WAVELENGTHS_UM = {"blue": 0.49, "green": 0.56, "red": 0.665, "nir": 0.83}
# A picture of six colours and black boundaries is a label image.
_MOST_LABEL_COLORS = 7
# Labels hold the colours of the legend and few others; a photograph hardly any of them.
_LEAST_KNOWN_SHARE = 0.5


def void_colors(facts: Facts, more: Mapping[str, str]) -> list[int | str]:
    """Colours that are no class: black boundaries, and those a user adds by option "void".

    Raises:
        DataError: No colour "#rrggbb".
    """
    added = [color.strip().lower() for color in more.get("void", "").split(",") if color.strip()]
    for color in added:
        if not re.fullmatch(r"#?[0-9a-f]{6}", color):
            raise DataError(f"-O void={more['void']}: '{color}' is no colour such as #fcff00")
    return [*facts.void, *(f"#{color.lstrip('#')}" for color in added)]


def refuse_labels_as_images(tree: Tree, images: Found) -> None:
    """Labels and images of Vaihingen have equal names: one may have been unpacked over the other.

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


def refuse_pictures(tree: Tree, labels: Found, ids: Iterable[str], known: list[Any]) -> None:
    """Label files that are pictures with labels drawn over them.

    Args:
        tree: The rasters.
        labels: Label files.
        ids: Scenes to look at.
        known: Colours "#rrggbb" of classes and void.

    Raises:
        LabelError: Most pixels have no colour of the legend.
    """
    legend = [int(str(color).lstrip("#"), 16) for color in known]
    for id in ids:
        path = labels.files.get(id)
        pixels = None if path is None else _colors(tree, path)
        if pixels is None:
            continue
        share = float(np.isin(pixels, legend).mean())
        if share < _LEAST_KNOWN_SHARE:
            raise LabelError(
                f"label {id}: {1 - share:.0%} of the pixels looked at have no colour of the "
                f"legend. '{path}' is a picture; use the copy in '5_Labels_for_participants'"
            )


def _colors(tree: Tree, path: PurePosixPath) -> NDArray[np.int64] | None:
    """Colours in the middle of a picture as 0xrrggbb; None: it has not three bands."""
    pixels = peek(tree.root / path, 3)
    if pixels is None:
        return None
    red, green, blue = pixels.astype(np.int64)
    colors: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colors
