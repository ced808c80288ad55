"""YAML files → values: the core schema of 1.2, one message with its place for whatever is wrong."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.config import yaml_reading
from terrafuse.config.base import parse_value, read_yaml
from terrafuse.config.paths import exists, expand_home
from terrafuse.config.yaml_reading import MOST_BYTES, NotYamlError, YamlValues, parse_yaml
from terrafuse.errors import ConfigError

both_parsers = pytest.mark.parametrize("plain", [False, True], ids=["libyaml", "plain"])


def test_libyaml_is_what_is_tested() -> None:
    assert yaml.__with_libyaml__
    assert yaml_reading.CParser is not None


SCALARS: dict[str, Any] = {
    # Text, whatever YAML 1.1 says.
    "0010": "0010", "007": "007", "-012": "-012", "00.5": "00.5", "12:30:45": "12:30:45",
    "190:20": "190:20", "yes": "yes", "No": "No", "on": "on", "OFF": "OFF", "y": "y",
    "2021-01-01": "2021-01-01", "2021-02-31": "2021-02-31",
    "2021-1-1 25:61:61": "2021-1-1 25:61:61",
    "1_000": "1_000", "0b101": "0b101", "0o18": "0o18", "-0x1f": "-0x1f", "0x": "0x", "=": "=",
    "1e": "1e", "1.2.3": "1.2.3", "tRUE": "tRUE", "nULL": "nULL", "nan": "nan", ".Nan": ".Nan",
    "+": "+", ".": ".", "-.": "-.", "1 000": "1 000", "B8A": "B8A", "s1/0001.tif": "s1/0001.tif",
    "é": "é", "'1'": "1", '"null"': "null", "!!str 12": "12", "! 12": 12,
    # Numbers and the like.
    "0": 0, "-0": 0, "+17": 17, "0o17": 15, "0x1F": 31, "1e-3": 1e-3, "1E3": 1000.0, "1.": 1.0,
    ".5": 0.5, "-.5e+1": -5.0, "3.0e-4": 3e-4, ".inf": math.inf, "-.INF": -math.inf,
    "true": True, "False": False, "TRUE": True, "null": None, "~": None, "Null": None, "": None,
    "!!int 3": 3, "!!float 3": 3.0, "!!bool 'true'": True, "!!null ''": None,
}  # fmt: skip


@both_parsers
@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_those_of_the_core_schema(text: str, plain: bool) -> None:
    for document in (f"a: {text}", f"[{text}]" if text else "[~]", f"- {text}"):
        value = parse_yaml(document, plain=plain)
        (found,) = value.values() if isinstance(value, dict) else value
        assert found == SCALARS[text]
        assert type(found) is type(SCALARS[text])


@both_parsers
def test_not_a_number_is_one(plain: bool) -> None:
    assert math.isnan(parse_yaml(".nan", plain=plain))


@both_parsers
def test_keys_and_the_values_of_text_keys_are_text(plain: bool) -> None:
    text = "{1: a, yes: b, null: c, id: 1e3, split: true, in: {id: 0x1f}, ids: [1e3]}"
    assert parse_yaml(text, ("id", "split"), plain=plain) == {
        "1": "a", "yes": "b", "null": "c", "id": "1e3", "split": "true", "in": {"id": "0x1f"},
        "ids": [1000.0],
    }  # fmt: skip
    assert parse_yaml("{id: ~, split: }", ("id", "split"), plain=plain) == {
        "id": None,
        "split": None,
    }
    assert parse_yaml("{id: &a 1e3, x: *a}", ("id",), plain=plain)["x"] == "1e3"


@both_parsers
def test_aliases_are_copies_and_merges_give_way(plain: bool) -> None:
    text = "a: &a {x: 1, y: [2]}\nb: *a\nc: {<<: *a, x: 3, z: 4}\nd: {<<: [{x: 5}, *a]}\n"
    values = parse_yaml(text, plain=plain)
    assert values["b"] == {"x": 1, "y": [2]}
    assert list(values["c"].items()) == [("x", 3), ("y", [2]), ("z", 4)]
    assert values["d"] == {"x": 5, "y": [2]}
    values["b"]["y"].append(9)
    assert values["a"]["y"] == values["c"]["y"] == [2]
    assert parse_yaml("{'<<': 1}", plain=plain) == {"<<": 1}


@both_parsers
@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n...\n", "\ufeff"])
def test_an_empty_document_is_nothing(text: str, plain: bool) -> None:
    assert parse_yaml(text, plain=plain) is None


DEEP = "a: " + "[" * 50 + "]" * 50
BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
#: Text → line, column and words of the message.
FAULTS: dict[str, tuple[str, int, int, str]] = {
    "key twice": ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", 5, 3, "'c' stands twice, first in line 3"),
    "key twice in braces": ("x: {a: 1,\n  'a': 2}", 2, 3, "key 'a' stands twice, first in line 1"),
    "merge twice": ("a: {<<: {b: 1}, <<: {c: 1}}", 1, 17, "key '<<' stands twice"),
    "long key twice": (f"{{? {'k' * 900} : 1, ? {'k' * 900} : 2}}", 1, 912, "stands twice"),
    "digits": (f"a: 1\nb: {'7' * 5000}", 2, 4, "a number of 5,000 characters, of at most 100"),
    "hexadecimal digits": (f"a: 0x{'f' * 5000}", 1, 4, "a number of 5,002 characters"),
    "digits of a fraction": (f"a: 0.{'1' * 5000}", 1, 4, "a number of 5,002 characters"),
    "overflow": ("a: 1e999", 1, 4, "the number '1e999' is too large"),
    "depth": (DEEP, 1, 44, "nested deeper than 40 levels"),
    "depth of blocks": ("\n".join(" " * n + "- " for n in range(60)), 42, 42, "deeper than 40"),
    "depth by aliases": (
        f"a: &a {'[' * 30}{']' * 30}\nb: {'[' * 30}*a{']' * 30}", 2, 34, "deeper than 40 levels"
    ),
    "bomb": (BOMB, 6, 25, "the aliases stand for more than 500,000 values"),
    "alias in itself": ("a: &a [*a]", 1, 8, "the alias '*a' stands for nothing complete before"),
    "alias of nothing": ("a: *b", 1, 4, "Mark that with '&b'"),
    "merge of a list": ("a: {<<: [1]}", 1, 9, "'<<' takes keys and values from a mapping"),
    "code": ("a:\n  b: !!python/object/apply:os.getcwd []", 2, 6, "'!!python/object/apply:os.get"),
    "tag of the user": ("a: !secret x", 1, 4, "the tag '!secret' is not known. Remove it"),
    "set": ("a: !!set {b, c}", 1, 4, "the tag '!!set' is not known"),
    "timestamp": ("a: !!timestamp 2021-02-31", 1, 4, "the tag '!!timestamp' is not known"),
    "binary": ("a: !!binary '#'", 1, 4, "the tag '!!binary' is not known"),
    "long tag": (f"a: !{'t' * 3000} 1", 1, 4, "is not known"),
    "wrong tag": ("a: !!int x", 1, 4, "'x' is not of the type that its tag '!!int' names"),
    "tag of a list": ("a: !!int [1]", 1, 4, "the tag '!!int' is not known"),
    "NUL": ("a: b\nc: d\0e", 2, 5, "the character U+0000 cannot stand in YAML"),
    "control": ("a: \x1b[31m", 1, 4, "the character U+001B"),
    "noncharacter": ("a: x\uffff", 1, 5, "the character U+FFFF"),
    "byte order mark within": ("a: x\ufeff", 1, 5, "the character U+FEFF"),
    "escaped NUL": ('a: "x\\0"', 1, 4, "holds a character that no text has"),
    "half a character": ('a: "\\ud800"', 1, 0, ""),  # libyaml and PyYAML say it differently
    "list as key": ("{[a]: 1}", 1, 2, "a key must be a text"),
    "mapping as key": ("{{a: b}: 1}", 1, 2, "a key must be a text"),
    "list as key by alias": ("a: &a [1]\nb: {*a : 1}", 2, 5, "a key must be a text"),
    "no key": ("{? : 1}", 1, 0, ""),
    "two documents": ("a: 1\n---\nb: 2", 2, 1, "a second document begins"),
    "tab": ("a:\n\tb: 1", 2, 1, "Indent with blanks, not with tabs"),
    "colon in text": ("a: b: c", 1, 5, "Put a text that holds ': ' into quotes"),
    "at sign": ("a: @b", 1, 4, "Put a text that begins with '@' into quotes"),
    "per cent": ("a: %b", 1, 4, "Put a text that begins with '%' into quotes"),
    "open brace": ("a: {b: 1\nc: 2", 2, 2, "while parsing a flow mapping that begins in line 1"),
    "open quote": ("a: 'b\nc: 2", 2, 5, "unexpected end of stream"),
}  # fmt: skip


@both_parsers
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_one_short_message_with_their_place(
    tmp_path: Path, fault: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, line, column, words = FAULTS[fault]
    with pytest.raises(NotYamlError) as caught:
        parse_yaml(text, plain=plain)
    assert words in caught.value.problem
    assert caught.value.place.line == line
    assert column in (0, caught.value.place.column)
    if plain:
        monkeypatch.setattr(yaml_reading, "CParser", None)
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as told:
        read_yaml(path)
    message = str(told.value).removeprefix(f"'{path}' is not valid YAML: ")
    assert message == f"{caught.value.place}: {caught.value.problem}"
    assert len(message) < 500
    assert message.isprintable()  # one line, nothing that a terminal obeys


def test_what_the_messages_advise_is_taken() -> None:
    assert parse_yaml("a:\n  b: 1") == {"a": {"b": 1}}  # blanks for the tab
    assert parse_yaml("a: 'b: c'") == {"a": "b: c"}
    assert parse_yaml("a: '@b'") == {"a": "@b"}
    assert parse_yaml(f"a: '{'7' * 5000}'") == {"a": "7" * 5000}
    assert parse_yaml("a: &b 1\nc: *b") == {"a": 1, "c": 1}


def test_a_line_counts_whatever_ends_it() -> None:
    for end in ("\n", "\r\n", "\r"):
        with pytest.raises(NotYamlError) as caught:
            parse_yaml(end.join(["a: 1", "b: 2", " c: \x01"]))
        assert caught.value.place == (3, 5)


PLACES = "a: 1\nb:\n- {c: 2}\n-   {d: {e: 3}}\nf: &x {g: 4}\nh: *x\n"


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("a",), " (line 1, column 1)"),
        (("b",), " (line 2, column 1)"),
        (("b", 1), " (line 4, column 5)"),
        (("b", 1, "d", "e"), " (line 4, column 10)"),
        (("b", 1, "SomeUnionMember", "d", "tuple[int]", "e"), " (line 4, column 10)"),
        (("b", 1, "missing"), " (line 4, column 5)"),
        (("h", "g"), " (line 6, column 1)"),  # through the alias
        (("none",), ""),
        ((), ""),
    ],
)
def test_values_know_where_they_stand(keys: tuple[str | int, ...], place: str) -> None:
    assert YamlValues(parse_yaml(PLACES), PLACES).place(keys) == place


def test_values_know_what_the_command_line_has_set() -> None:
    values = YamlValues(parse_yaml(PLACES), PLACES, ("f.g", "b"))
    assert values.place(("f", "g")) == " (set on the command line)"
    assert values.place(("b", 1)) == " (set on the command line)"
    assert values.place(("f",)) == " (line 5, column 1)"


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("pipe", "a pipe"), (".", "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(ConfigError, match=rf"is {kind}, not a file\. Name a YAML file"):
            read_yaml(tmp_path / name)
    with pytest.raises(ConfigError, match="there is no file"):
        read_yaml(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"cannot be read: .*null"):
        read_yaml(tmp_path / "a\0b")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        read_yaml(tmp_path / "file" / "a.yaml")
    with pytest.raises(ConfigError, match="cannot be read: File name too long") as caught:
        read_yaml(tmp_path / ("a" * 100_000))
    assert len(str(caught.value)) < 1100
    with pytest.raises(ConfigError, match="must hold keys and values, not nothing"):
        read_yaml(tmp_path / "file")


def test_odd_paths_are_of_no_file(tmp_path: Path) -> None:
    assert expand_home("~nobody-here/a") == Path("~nobody-here/a")
    assert expand_home("~/a") == Path.home() / "a"
    assert not any(map(exists, ("a" * 5000, "a\0b", tmp_path / "none")))
    assert exists(tmp_path)


def test_a_giant_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # takes no room on the disk
    with pytest.raises(ConfigError, match=r"too large for settings: 67,108,865 bytes, of at most"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: é".encode("utf-16"), "it is UTF-16. Save it as UTF-8"),
        ("a: é".encode("utf-32"), "it is UTF-16. Save it as UTF-8"),
        (b"a: 1\nb: caf\xe9\n", "line 2, column 7: byte 0xe9 is not UTF-8. Save"),
        (b"\x89PNG\r\n\x1a\n", "line 1, column 1: byte 0x89 is not UTF-8"),
        (b"PK\x03\x04", "line 1, column 3: the character U+0003"),
    ],
)
def test_other_encodings_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    path.write_text("\ufeffa: é\n", encoding="utf-8")  # what it says; a mark in front is none
    assert read_yaml(path) == {"a": "é"}


def test_a_value_of_the_command_line_that_is_no_yaml() -> None:
    assert parse_value("[1, 2e-1, no]") == [1, 0.2, "no"]
    with pytest.raises(ConfigError, match=r"^'\[1' is not a YAML value: line .* In quotes"):
        parse_value("[1")
    assert parse_value('"[1"') == "[1"  # in quotes it is a text
    with pytest.raises(ConfigError) as caught:
        parse_value("[" * 10_000)
    assert len(str(caught.value)) < 300


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_both_parsers_read_what_pyyaml_writes_alike(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert outcome(text, plain=False) == outcome(text, plain=True)


@settings(max_examples=500)
@given(st.text(st.sampled_from("ab10e.:-,[]{}&*!<\"'# \n\t|>?%@~\\"), max_size=25))
def test_both_parsers_read_or_refuse_alike(text: str) -> None:
    found = outcome(text, plain=False), outcome(text, plain=True)
    # They differ in what they tolerate, never in the values where both read.
    assert found[0] == found[1] or "refused" in found


def outcome(text: str, *, plain: bool) -> str:
    try:
        return repr(parse_yaml(text, plain=plain))
    except NotYamlError:
        return "refused"
