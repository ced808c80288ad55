"""Values → YAML that is read back equal, by our reader and by one of YAML 1.1."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from terrafuse.config.yaml_reading import parse_yaml
from terrafuse.config.yaml_writing import to_flow, to_yaml
from terrafuse.errors import OutputError

TRAPS = [
    "0010", "010", "089", "yes", "No", "on", "y", "12:30:45", "1:2", "1e3", "1e", "1.", ".5", "+1",
    "-", "-1", "--- a", "---", "...", "~", "0x1f", "0o17", "0b1", "1_000", "null", "Null", "true",
    "2021-01-01", "2021-01-01T10:00:00Z", ".inf", "-.INF", ".nan", "=", "<<", "", " ", "a ", " a",
    "a: b", "a:", ":a", "a #b", "#a", "a#b", "'", '"', "it's", "\\", "\t", "a\nb", "\r", "\x85",
    "\u2028", "\ufeff", "\x7f", "\x1b[0m", "é", "😀", "\U000e0001", "[a]", "{a}", "a,b", "a]", "*a",
    "&a", "!a", "%a", "@a", "`a", "|", ">", "?", "? a", "a?", "http://a/b:c", "C:\\a",
    "s1/0001.tif", "NETCDF:\"a.nc\":b", "#1f5fd0", "a\xa0b", "x" * 300,
]  # fmt: skip
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=40
) | st.sampled_from(TRAPS)
keys = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30
) | st.sampled_from([trap for trap in TRAPS if trap])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


def same(left: Any, right: Any) -> bool:
    """Equality by value and type, in which not a number equals itself."""
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("text", TRAPS)
def test_a_text_stays_a_text(text: str) -> None:
    for written in (to_yaml({"id": text}), f"{{id: {to_flow(text)}}}", to_yaml({"id": [text]})):
        read = parse_yaml(written)["id"], yaml.safe_load(written)["id"]
        assert read in ((text, text), ([text], [text]))
    if text:
        assert parse_yaml(to_yaml({text: 1})) == yaml.safe_load(to_yaml({text: 1})) == {text: 1}


@given(st.dictionaries(keys, values, max_size=4), st.booleans())
@example({"a": [[], {}, [[1], {"b": [{"c": []}]}]]}, False)
@example({"a": [[1, 2], [3, [4]]], "b": {"c": {}}}, True)
def test_what_is_written_is_read_back_equal(value: dict[str, Any], flow_leaves: bool) -> None:
    text = to_yaml(value, flow_leaves=flow_leaves)
    assert same(parse_yaml(text), value)
    assert same(parse_yaml(text, plain=True), value)
    assert same(parse_yaml(to_flow(value)), value)


@given(texts)
def test_readers_of_yaml_1_1_read_the_same_text(text: str) -> None:
    assert yaml.safe_load(to_yaml({"a": text, "b": [text], "c": [[text]]})) == {
        "a": text, "b": [text], "c": [[text]],
    }  # fmt: skip


@given(texts)
def test_an_id_is_read_back_where_values_are_text_too(text: str) -> None:
    assert parse_yaml(f"- {to_flow({'id': text})}\n", ("id",)) == [{"id": text}]


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9"])
def test_a_text_that_no_file_can_hold_is_refused(text: str) -> None:
    for value in ({"a": text}, {text: 1}, {"a": [{"b": text}]}):
        with pytest.raises(
            OutputError, match="cannot be written into a YAML file: it is not valid"
        ):
            to_yaml(value)


def test_the_look_is_that_of_a_manifest() -> None:
    value = {
        "root": "../data",
        "classes": [{"name": "dry land", "color": "#c8b48c"}],
        "s1": {"bands": ["VV", "VH"], "nodata": None, "rest": {"scale": 0.5, "on": True}},
        "empty": [],
    }
    assert to_yaml(value) == (
        "root: ../data\n"
        "classes:\n"
        "- {name: dry land, color: '#c8b48c'}\n"
        "s1:\n"
        "  bands: [VV, VH]\n"
        "  nodata: null\n"
        "  rest: {scale: 0.5, 'on': true}\n"
        "empty: []\n"
    )
    assert to_yaml({"a": [{"b": [1]}], "c": []}, flow_leaves=False) == ("a:\n- b:\n  - 1\nc: []\n")


def test_what_is_no_plain_value_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="PosixPath is no plain value"):
        to_yaml({"a": Path("b")})
