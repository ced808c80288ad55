"""OMBRIA: Sentinel-1 and Sentinel-2 before and after floods, 8-bit pictures of 256 pixels.

Reference: Drakonakis et al., "OmbriaNet: Supervised flood mapping via convolutional neural networks
using multitemporal Sentinel-1 and Sentinel-2 data fusion", IEEE JSTARS 15 (2022) 2341-2356.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from terrafuse.layouts.facts import read_facts
from terrafuse.layouts.layout import Layout, Reading
from terrafuse.layouts.lists import read_split_lists
from terrafuse.layouts.options import need_split, read_options
from terrafuse.layouts.published import compose, look_through
from terrafuse.layouts.tree import FileKind, Tree
from terrafuse.modalities import ModalityKind

# A guess: the composite looks like short-wave infrared, near infrared and red; no source says so.
# DOFA rejects optical bands without wavelengths.
_UM = {
    f"{what}_{n}": um
    for what in ("before", "after")
    for n, um in enumerate((2.19, 0.865, 0.665), 1)
}
# Neighbouring numbers often show one scene: runs of them go into one split.
_RUN = 16
_RUNS = {3: "val", 6: "test", 9: "test"}  # of every ten runs; the others are for training
# Pictures of single events of 2021 are named after them: "ALBANIA_001".
_ID = r"(?:[A-Za-z]+_)?\d+"


def _pictures(sensor: str, what: str, channels: int = 0) -> FileKind:
    folders = (rf"Ombria{sensor}/(?:train|test)/{what}", f"{sensor}_{what}")
    bands = tuple(f"{what}_{n}" if channels > 1 else what for n in range(1, channels + 1))
    stem = rf"(?:{sensor}_{what}_)?(?P<id>{_ID})"
    return FileKind(f"{sensor}_{what}".lower(), folders, stem, bands, "uint8", (256, 256))


_PAIRS = {
    sensor.lower(): (_pictures(sensor, "before", n), _pictures(sensor, "after", n))
    for sensor, n in (("S1", 1), ("S2", 3))
}
# Both sensors' masks are the same, pixel by pixel.
_MASK = FileKind(
    "mask", (r"OmbriaS2/(?:train|test)/mask", r"OmbriaS1/(?:train|test)/mask", "mask"),
    rf"(?:S[12]_mask_)?(?P<id>{_ID})", (), "uint8", (256, 256),
)  # fmt: skip


def _readings(sensor: str) -> dict[str, Reading]:
    """Return both dates as bands of one modality, and each date as a modality."""
    before, after = _PAIRS[sensor]
    kind: ModalityKind = "sar" if sensor == "s1" else "optical"
    both = Reading(kind, before.bands + after.bands, (before.name,), then=after.name)
    return {sensor: both} | {d.name: Reading(kind, d.bands, (d.name,)) for d in (before, after)}


_LAYOUT = Layout(
    title="OMBRIA",
    kinds=(*_PAIRS["s1"], *_PAIRS["s2"], _MASK),
    readings=_readings("s1") | _readings("s2"),
    default=("s1", "s2"),
    wavelengths_um=_UM,
    tells=("s1_before", "s2_before"),
    labels=("mask",),
)
EDITIONS = (_LAYOUT,)


def describe_ombria(root: Path, options: dict[str, str]) -> dict[str, Any]:
    """OMBRIA: OmbriaS1 and OmbriaS2 with BEFORE, AFTER, MASK; or s1_before … s2_after, mask.

    Sentinel-1 is published for more places than Sentinel-2; places with both are used.

    Args:
        options: "split": sound (lists splits/train.txt and the like if present, else runs of 16
            numbers, as neighbours often show one scene; pictures named after an event are for
            test, and have it as their place) or official (folders train and test, drawn picture by
            picture). "modalities": some of s1, s2, with both dates as bands, or of s1_before,
            s1_after, s2_before, s2_after.
            "incomplete": refuse or allow.

    Raises:
        DataError: Files are missing.
    """
    facts = read_facts("ombria")
    chosen = read_options(_LAYOUT, facts, options)
    tree = look_through(root, _LAYOUT)
    labels = tree.find(_MASK)
    shown = [
        {id for kind in _kinds_of(name) for id in tree.find(kind).files}
        for name in chosen.modalities or _LAYOUT.default
    ]
    both = set.intersection(*shown)
    official = need_split(facts, chosen, ("sound", "official")) == "official"
    split = _folders(tree) if official else _lists(root) or {id: split_of_run(id) for id in both}
    split = {id: name for id, name in split.items() if id in both} if official else split
    values = compose(tree, _LAYOUT, chosen, split, facts.classes, facts.void, labels=labels)
    values["scenes"] = [_with_place(scene) for scene in values["scenes"]]
    return values


def _with_place(scene: dict[str, Any]) -> dict[str, Any]:
    """Name the event of a picture that is named after one."""
    event = scene["id"].rpartition("_")[0]
    place = {"place": event} if event else {}
    return {key: scene[key] for key in ("id", "split") if key in scene} | place | scene


def _kinds_of(modality: str) -> tuple[FileKind, ...]:
    pair = _PAIRS[modality.partition("_")[0]]
    return tuple(kind for kind in pair if modality in (kind.name, kind.name.partition("_")[0]))


def _folders(tree: Tree) -> dict[str, str]:
    return {id: path.parts[-3].lower() for id, path in tree.find(_MASK).files.items()
            if len(path.parts) > 2}  # fmt: skip


def _lists(root: Path) -> dict[str, str]:
    """Read ids from lists, if there are lists beside the pictures."""
    folder = root / "splits"
    return read_split_lists([(folder / f"{name}.txt", name) for name in ("train", "val", "test")])


def split_of_run(id: str) -> str:
    """Return the split of a number, one per run of 16; pictures of a named event are for test."""
    if not id.isdigit():
        return "test"
    return _RUNS.get(int(id) // _RUN % 10, "train")
