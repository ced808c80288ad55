"""The tables that ship: splits without overlap, colours and codes without contradiction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from terrafuse.classes import ClassScheme
from terrafuse.errors import UnknownNameError
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
    golden = Path(__file__).parents[1] / "golden/mfnet/splits.json"
    recorded = {k.lower(): v for k, v in json.loads(golden.read_text()).items()}[name]
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
