"""Sen1Floods11: 446 hand-labelled places of 512 pixels in eleven floods.

Reference: Bonafilia et al., "Sen1Floods11: a georeferenced dataset to train and test deep learning
flood algorithms for Sentinel-1", CVPR workshops (2020).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from terrafuse.errors import DataError
from terrafuse.layouts.facts import PublishedFacts, read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.lists import read_split_lists
from terrafuse.layouts.options import need_split, read_options
from terrafuse.layouts.published import compose, look_through, warn
from terrafuse.layouts.tree import FileKind

_UM = {
    "B1": 0.443, "B2": 0.490, "B3": 0.560, "B4": 0.665, "B5": 0.705, "B6": 0.740, "B7": 0.783,
    "B8": 0.842, "B8A": 0.865, "B9": 0.945, "B10": 1.375, "B11": 1.610, "B12": 2.190,
}  # fmt: skip
_PLACE = r"(?P<id>[A-Za-z-]+_\d+)"
_LAYOUT = Layout(
    title="Sen1Floods11",
    kinds=(
        FileKind("S1Hand", ("S1Hand",), _PLACE + "_S1Hand", ("VV", "VH"), "float32", (512, 512)),
        FileKind("S2Hand", ("S2Hand",), _PLACE + "_S2Hand", tuple(_UM), "", (512, 512)),
        FileKind("LabelHand", ("LabelHand",), _PLACE + "_LabelHand", (), "int16", (512, 512)),
    ),
    readings={
        "s1": Reading("sar", ("VV", "VH"), ("S1Hand",), unit="db"),
        "s2": Reading("optical", tuple(_UM), ("S2Hand",), unit="reflectance_10000", nodata=0),
    },
    default=("s1", "s2"),
    wavelengths_um=_UM,
    series=lambda id: id.partition("_")[0],
    tells=("S1Hand", "S2Hand"),
    labels=("LabelHand",),
)
EDITIONS = (_LAYOUT,)
_LISTS = {"train": "train", "valid": "val", "test": "test", "bolivia": "bolivia"}


def describe_sen1floods11(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """Sen1Floods11, hand-labelled: folders S1Hand, S2Hand and LabelHand.

    Args:
        options: "split": sound (whole floods: six for training, two for validation, three for
            test) or official (flood_train_data.csv and the like, found below the root; floods occur
            in several of them). "modalities": some of s1, s2. "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing, or there are no lists for `official`.
    """
    facts = read_facts("sen1floods11")
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    labels = tree.find(_LAYOUT.kind("LabelHand"))
    if need_split(facts, chosen, ("sound", "official")) == "official":
        split = _read_lists(root)
    else:
        every = [tree.find(kind).files for kind in _LAYOUT.kinds]
        split = _by_flood(facts, {id for files in every for id in files})
    return compose(tree, _LAYOUT, chosen, split, facts.classes, facts.void, labels=labels)


def _by_flood(facts: PublishedFacts, ids: set[str]) -> dict[str, str]:
    floods = {name: split for split, names in facts.more["events"].items() for name in names}
    series = {id: id.partition("_")[0] for id in ids}
    new = sorted({name for name in series.values() if name not in floods})
    if new:
        warn(f"Sen1Floods11: floods {', '.join(new)} are unknown; they go into the split 'train'")
    return {id: floods.get(name, "train") for id, name in series.items()}


def _id_of_row(row: str) -> str | None:
    stem = PurePosixPath(row.split(",")[0].strip()).stem
    match = re.fullmatch(_PLACE + r"_\w+", stem)
    return match["id"] if match else None


def _read_lists(root: Path) -> dict[str, str]:
    """Read the scenes of the published lists; a row names the files of one."""
    split = read_split_lists(
        (
            (path, own)
            for name, own in _LISTS.items()
            for path in sorted(root.rglob(f"flood_{name}_data.csv"))[:1]
        ),
        _id_of_row,
    )
    if not split:
        raise DataError(
            f"-O split=official needs the published lists flood_train_data.csv, "
            f"flood_valid_data.csv and flood_test_data.csv; none is below '{root}'"
        )
    return split
