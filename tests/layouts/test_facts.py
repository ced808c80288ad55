"""The tables that ship: splits without overlap, colours and codes without contradiction."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from golden_files import load_facts
from terrafuse.classes import ClassScheme
from terrafuse.errors import LabelError, UnknownNameError
from terrafuse.layouts.facts import draw_by_name, read_facts
from terrafuse.layouts.tree import natural_key

NAMES = (
    "whu-opt-sar", "gid-5", "gid-15", "five-billion-pixels", "vaihingen", "potsdam", "mmhunan",
    "sen1floods11", "ombria", "dfc2020",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_consistent(name: str) -> None:
    facts = read_facts(name)
    scheme = ClassScheme.from_dict({"classes": facts.classes, "void": facts.void})
    assert len(set(scheme.colors)) == scheme.num_classes
    for lists in facts.splits.values():
        ids = [id for part in lists.values() for id in part]
        assert len(ids) == len(set(ids)), name


def test_sound_splits_leave_published_test_scenes_alone() -> None:
    for name in ("whu-opt-sar", "vaihingen", "potsdam"):
        splits = read_facts(name).splits
        sound, official = splits["sound"], splits["official"]
        assert sound["test"] == official["test"]
        assert set(sound["train"]) | set(sound["val"]) <= set(official["train"])
    left_out = set(read_facts("potsdam").splits["official"]["train"])
    left_out -= set(read_facts("potsdam").split("sound"))
    assert left_out == {"7_10"}  # wrongly annotated in part


@pytest.mark.parametrize(
    ("name", "lists"), [("vaihingen", "ssrs"), ("potsdam", "ssrs"), ("mmhunan", "mfnet")]
)
def test_splits_equal_those_recorded_from_the_published_code(name: str, lists: str) -> None:
    recorded = {k.lower(): v for k, v in load_facts("mfnet/splits").items()}[name]
    splits = read_facts(name).splits
    for part in ("train", "test"):
        assert sorted(splits[lists][part]) == sorted(recorded[part])
    # The variant with validation shares out the same training scenes.
    shared = splits[f"{lists}-val"]
    assert sorted(shared["train"] + shared["val"]) == sorted(recorded["train"])
    assert sorted(shared["test"]) == sorted(recorded["test"])


def test_series_of_whu() -> None:
    ids = list(read_facts("whu-opt-sar").split("official"))
    assert {s: sum(id.startswith(s) for id in ids) for s in ("NH49E", "NH50E", "NI49E")} == {
        "NH49E": 59,
        "NH50E": 27,
        "NI49E": 14,
    }


def test_unknown_lists_are_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'geoseg'"):
        read_facts("vaihingen").split("geosex")


def test_drawing_by_name() -> None:
    ids = [f"scene_{n}" for n in range(2000)]
    drawn = draw_by_name(ids, 0.125)
    assert len(drawn) == pytest.approx(250, abs=45)  # three deviations
    assert draw_by_name(reversed(ids), 0.125) == drawn
    assert draw_by_name(ids[:700], 0.125) == drawn & set(ids[:700])
    assert len(draw_by_name(["a"], 1e-9)) == 1
    assert draw_by_name([], 0.5) == set()


def test_natural_order() -> None:
    assert sorted(["2_10", "10_1", "2_9", "b", "1"], key=natural_key) == [
        "1", "2_9", "2_10", "10_1", "b",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["vaihingen", "potsdam"])
def test_colours_of_isprs_are_those_of_the_published_code(name: str) -> None:
    palette = load_facts("mfnet/protocol")["isprs_palette_id_to_rgb"]
    *classes, boundary = (tuple(rgb) for rgb in palette.values())
    facts = read_facts(name)
    scheme = ClassScheme.from_dict({"classes": facts.colored_classes(), "void": facts.void})
    assert [tuple(rgb) for rgb in scheme.palette().tolist()] == classes
    assert facts.void == [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in [boundary]]
    # Colours to classes: as recorded, but for what is in no palette, which there is class 0.
    recorded = load_facts("mfnet/protocol")["palette_decode"]
    rgb, ids = np.array(recorded["rgb"], np.uint8), np.array(recorded["ids"])
    assert recorded["note"].startswith("colour absent from the palette (last pixel)")
    met: Counter[str] = Counter()
    lenient = replace(scheme, unknown="impervious surface")
    found = lenient.encode(np.moveaxis(rgb, -1, 0), met=met)
    expected = np.where(ids == 6, 255, ids)  # boundaries are void
    np.testing.assert_array_equal(found, expected)
    assert met.total() == 1
    with pytest.raises(LabelError, match="not in the class scheme"):
        scheme.encode(np.moveaxis(rgb, -1, 0))


def test_codes_and_colours_of_mmhunan_are_those_of_the_published_code() -> None:
    facts, protocol = read_facts("mmhunan"), load_facts("mfnet/protocol")
    values = {"classes": facts.more["mfnet_classes"], "void": facts.more["mfnet_void"]}
    scheme = ClassScheme.from_dict(values)
    recorded = dict(protocol["mmhunan_raw_to_train_id"])
    assert recorded.pop("other") == -1
    for raw in range(12):
        (found,) = scheme.encode(np.array([[raw]], np.uint8))[0].tolist()
        assert (-1 if found == 255 else found) == recorded.get(str(raw), -1), raw
    # Its colours follow the data set's order of classes, where unused land comes before built-up.
    palette = [tuple(rgb) for rgb in protocol["mmhunan_palette_id_to_rgb"].values()]
    whole = ClassScheme.from_dict({"classes": facts.classes, "void": facts.void})
    assert [tuple(rgb) for rgb in whole.palette().tolist()] == palette
    by_name = dict(zip(whole.names, whole.colors, strict=True))
    assert dict(zip(scheme.names, scheme.colors, strict=True)) == by_name
