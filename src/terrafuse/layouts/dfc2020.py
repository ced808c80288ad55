"""DFC2020: Sentinel-1 and Sentinel-2 of seven places, eight classes of land cover.

Reference: Robinson et al., "Global land-cover mapping with weak supervision: outcome of the 2020
IEEE GRSS data fusion contest", IEEE JSTARS 14 (2021) 3185-3199.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from terrafuse.layouts.facts import PublishedFacts, read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.options import need_split, read_options
from terrafuse.layouts.published import compose, look_through
from terrafuse.layouts.tree import FileKind

_UM = {
    "B1": 0.443, "B2": 0.490, "B3": 0.560, "B4": 0.665, "B5": 0.705, "B6": 0.740, "B7": 0.783,
    "B8": 0.842, "B8A": 0.865, "B9": 0.945, "B10": 1.375, "B11": 1.610, "B12": 2.190,
}  # fmt: skip
# Without places, runs of consecutive numbers stay together.
_RUN, _VAL_OF = 16, 8


def _to_id(match: re.Match[str]) -> str:
    return f"{match['season'].lower()}_{match['place']}_p{int(match['number'])}"


def _patches(name: str, bands: tuple[str, ...] = ()) -> FileKind:
    stem = rf"ROIs0000_(?P<season>[a-z]+)_{name}_(?P<place>\w+)_p(?P<number>\d+)"
    return FileKind(name, (rf"{name}_\w+", name), stem, bands, "", (256, 256), _to_id)


_LAYOUT = Layout(
    title="DFC2020",
    kinds=(_patches("s1", ("VV", "VH")), _patches("s2", tuple(_UM)), _patches("dfc")),
    readings={
        "s1": Reading("sar", ("VV", "VH"), ("s1",), unit="db"),
        "s2": Reading("optical", tuple(_UM), ("s2",), unit="reflectance_10000"),
    },
    default=("s1", "s2"),
    wavelengths_um=_UM,
    series=lambda id: id.rpartition("_p")[0],
    tells=("s1", "s2"),
    labels=("dfc",),
)
EDITIONS = (_LAYOUT,)


def describe_dfc2020(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """DFC2020: folders s1_…, s2_… and dfc_… of ROIs0000_validation and _test, or of seven places.

    Args:
        options: "split": sound or official. In the edition by places, 'sound' keeps whole places
            apart (4 / 1 / 2); in the other one, 'validation' is used for training, as is customary,
            and 'sound' takes runs of 16 numbers of it for validation. "modalities": some of s1, s2.
            "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing, or this edition has no official split.
    """
    facts = read_facts("dfc2020")
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    ids = {id for kind in _LAYOUT.kinds for id in tree.find(kind).files}
    placed = not any(id.startswith(("validation", "test")) for id in ids)
    allowed = ("sound",) if placed and ids else ("sound", "official")
    sound = need_split(facts, chosen, allowed) == "sound"
    split = {id: _split(facts, id, sound) for id in ids}
    labels = tree.find(_LAYOUT.kind("dfc"))
    return compose(tree, _LAYOUT, chosen, split, facts.classes, facts.void, labels=labels)


def _split(facts: PublishedFacts, id: str, sound: bool) -> str:
    season, rest = id.split("_", 1)
    place, _, number = rest.rpartition("_p")
    if season == "test":
        return "test"
    if season == "validation":
        return "val" if sound and int(number) // _RUN % _VAL_OF == 0 else "train"
    places: dict[str, str] = {
        name: split for split, names in facts.more["places"].items() for name in names
    }
    return places.get(place, "train")
