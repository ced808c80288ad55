"""Settings files that are refused: what the message says to do, done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from remedies import refused
from terrafuse.cli.options import pairs
from terrafuse.config.base import read_yaml
from terrafuse.config.yaml_writing import to_yaml
from terrafuse.data import load_manifest
from terrafuse.errors import ConfigError, OutputError
from terrafuse.modalities import Modality

# YAML

#: Place → texts that are refused so, and the same as the message says.
YAML: dict[str, list[tuple[str, str]]] = {
    "config.yaml_reading:parse_yaml | cannot stand in YAML. Remove it": [("a: b\x07c", "a: bc")],
    "config.yaml_reading:_Builder.document | begins. Keep one in a file": [
        ("a: 1\n---\nb: 2", "a: 1"), ("a: 1\n---\nb: 2", "b: 2"),
    ],
    "config.yaml_reading:_Builder._mapping | Delete one": [
        ("a: 1\nb: 2\na: 3", "b: 2\na: 3"), ("a: 1\nb: 2\na: 3", "a: 1\nb: 2"),
    ],
    "config.yaml_reading:_Builder._scalar | holds a character that no text has. Remove it": [
        ('a: "x\\0y"', 'a: "xy"')
    ],
    "config.yaml_reading:_Builder._copy_of | stands for nothing complete before it. Mark that": [
        ("a: 1\nb: *x", "a: &x 1\nb: *x")
    ],
    "config.yaml_reading:_resolve | Write a text in quotes": [
        (f"a: {'7' * 200}", f"a: '{'7' * 200}'")
    ],
    "config.yaml_reading:_check_tag | is not known. Remove it": [("a: !secret x", "a: x")],
    "config.yaml_reading:_fault_of | . Indent with blanks, not with tabs": [
        ("a:\n\tb: 1", "a:\n  b: 1")
    ],
    "config.yaml_reading:_fault_of | . Put a text that holds ': ' into quotes, and indent keys": [
        ("a: b: c", "a: 'b: c'"), ("a: b\n  c: 1", "a: b\nc: 1"),
    ],
    "config.yaml_reading:_fault_of | . Put a text that begins with": [
        ("a: @b", "a: '@b'"), ("a: %b", 'a: "%b"'),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "wrong", "right"), [(k, *texts) for k, several in YAML.items() for texts in several]
)
def test_yaml_that_cannot_be_read(tmp_path: Path, place: str, wrong: str, right: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(wrong)
    with refused(place):
        read_yaml(path)
    path.write_text(right)
    assert read_yaml(path) == yaml.safe_load(right)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with refused("config.yaml_reading:_read_text | not a file. Name a YAML file"):
        read_yaml(tmp_path)
    (tmp_path / "a.yaml").write_text("a: 1")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("encoding", "place"),
    [
        ("utf-16", "config.yaml_reading:_read_text | Save it as UTF-8"),
        ("latin-1", "config.yaml_reading:_read_text | Save the file as UTF-8"),
    ],
)
def test_other_encodings(tmp_path: Path, encoding: str, place: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: café\n", encoding=encoding)
    with refused(place):
        read_yaml(path)
    path.write_text(path.read_text(encoding), encoding="utf-8")
    assert read_yaml(path) == {"a": "café"}


def test_names_that_no_yaml_holds(tmp_path: Path) -> None:
    """As of a folder whose name is not UTF-8."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    with refused("config.yaml_writing:_text | Rename what is called so", OutputError):
        to_yaml({"scenes": [{"id": name}]})
    (tmp_path / "a.yaml").write_text(to_yaml({"scenes": [{"id": "café"}]}), encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"scenes": [{"id": "café"}]}


# Values


def test_words_that_were_true_and_false(place: Any) -> None:
    augment = place.run["data"]["augment"] = {}
    for word in ("yes", "Off"):
        augment["flip"] = word
        with refused("config.base:_hint | is a text in YAML 1.2; write") as error:
            place.config()
        augment["flip"] = yaml.safe_load(error.find(r"write (\w+)"))
        assert place.config().data.augment.flip is (word == "yes")
    place.run["training"]["schedule"] = "off"
    with pytest.raises(ConfigError) as told:
        place.config()
    assert "write" not in str(told.value)  # where neither true nor false is allowed
    del place.run["training"]["schedule"]
    place.run["method"]["pretrained"] = "no"
    with refused("config.base:check_free_values | which is a text in YAML 1.2; write") as error:
        place.config()
    place.run["method"]["pretrained"] = yaml.safe_load(error.find(r"write (\w+)"))
    assert place.config().method.options["pretrained"] is False


def test_texts_that_look_like_numbers(place: Any) -> None:
    first = place.values["classes"][0]
    first["name"] = 1
    with refused("config.base:_hint | . Write a text that looks like another value in") as error:
        place.load()
    first["name"] = yaml.safe_load(error.find(r"in quotes: ('\w+')"))
    assert place.load().scheme.names == ("1", "wet")


def test_numbers_that_are_too_large(place: Any) -> None:
    place.run["training"]["seed"] = 1e20
    with refused("config.base:_explain | give a whole number of 64 bits at most"):
        place.config()
    place.run["training"]["seed"] = 2**32 - 1
    place.run["method"]["size"] = float("inf")
    with refused("config.base:check_free_values | give a finite number of 64 bits"):
        place.config()
    for size in (1e9, 2**62):
        place.run["method"]["size"] = size
        assert place.config().method.options["size"] == size


def test_devices_and_strategies(place: Any) -> None:
    training = place.run["training"]
    training["devices"] = "first"
    with refused("config.run:LearningConfig._are_devices | give a number from 1 on, numbers") as e:
        place.config()
    for devices in (1, 7, e.find(r"numbers of devices \('(.*?)'\)"), e.find("or '(auto)'")):
        training["devices"] = devices
        assert place.config().training.devices == devices
    training["strategy"] = "dpp"
    with refused("config.run:LearningConfig._is_strategy | give auto, ddp or fsdp, or a") as error:
        place.config()
    words = error.find("give (.*?), or a form").replace(" or", ",").split(", ")
    for strategy in (*words, "ddp_find_unused_parameters_true"):
        training["strategy"] = strategy
        assert place.config().training.strategy == strategy


def test_a_key_that_is_given_twice() -> None:
    with refused("cli.options:pairs | is given twice; leave one out"):
        pairs(["a.b=1", "c=2", "a.b=3"])
    assert pairs(["a.b=1", "c=2"]) == {"a.b": "1", "c": "2"}
    assert pairs(["c=2", "a.b=3"]) == {"c": "2", "a.b": "3"}


# Keys of the manifest


def test_names_that_cannot_be_printed(place: Any) -> None:
    for name in (" dry", "d\x07y", "", "d" * 201):
        place.values["classes"][0]["name"] = name
        with refused("config.base:_check_name | give a name of printable characters without") as e:
            place.load()
        most = int(e.find(r"of 1 to (\d+) bytes"))
        place.values["classes"][0]["name"] = (name.strip().replace("\x07", "") or "d")[:most]
        place.load()


def test_values_that_no_label_has(place: Any) -> None:
    first = place.values["classes"][0]
    first["code"] = 0.5
    with refused("data.schema:_check_code | give a whole number, a text in quotes (value of a"):
        place.load()
    for code in (5, "0.5", "#1f5fd0"):
        first["code"] = code
        assert place.load().scheme.codes[0] == (code,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("#1f5fd0", "data.schema:ClassSettings._is_code | Leave 'code' out for the class's"),
        ("[]", "data.schema:ClassSettings._is_code | or leave 'code' out for its position"),
    ],
)
def test_a_class_without_code(place: Any, text: str, told: str) -> None:
    place.write()
    whole = place.manifest.read_text()
    assert "  code: 0\n" in whole
    for way in ("left out", "given"):
        place.manifest.write_text(whole.replace("  code: 0\n", f"  code: {text}\n"))
        with refused(told):
            load_manifest(place.manifest)
        mended = {"left out": "", "given": "  code: 3\n"}[way]
        place.manifest.write_text(whole.replace("  code: 0\n", mended))
        assert load_manifest(place.manifest).scheme.codes[0] == (
            (0,) if way == "left out" else (3,)
        )


def test_a_colour_that_is_a_comment(place: Any) -> None:
    place.write()
    whole = place.manifest.read_text()
    place.manifest.write_text(whole.replace("  code: 0\n", "  code: 0\n  color: #1f5fd0\n"))
    with refused("data.schema: | In YAML '#' begins a comment: write a colour in quotes") as error:
        load_manifest(place.manifest)
    quoted = error.find("in quotes, ('#[0-9a-f]+')")
    place.manifest.write_text(whole.replace("  code: 0\n", f"  code: 0\n  color: {quoted}\n"))
    assert load_manifest(place.manifest).scheme.colors[0] == "#1f5fd0"


def test_a_path_of_nothing(place: Any) -> None:
    entry = place.entry()
    entry["labels"] = ""
    with refused("data.schema:_check_path | give a path, or leave the key out"):
        place.load()
    entry["labels"] = "train_l.tif"
    assert "labels" in place.read()
    del entry["labels"]
    assert "labels" not in place.read()


def test_splits_that_are_meant_to_be_one(place: Any) -> None:
    for way in ("theirs", "its own"):
        place.entry()["split"] = "Train"
        with refused("data.schema:_check_alike | or give it a name of its own") as error:
            place.load()
        name = error.find("Call it '(.*?)'") if way == "theirs" else "learn"
        place.entry()["split"] = name
        assert place.load().splits[name] == 1


def test_wavelengths_in_micrometres() -> None:
    with refused("modalities:Modality.__post_init__ | give micrometres above 0, such as") as error:
        Modality("a", ("red",), wavelengths_um=(-665.0,))
    um = float(error.find(r"such as ([\d.]+) for red"))
    assert Modality("a", ("red",), wavelengths_um=(um,)).wavelengths_um == (0.665,)


@pytest.mark.parametrize("way", ["path", "left out"])
def test_a_labelled_area_that_is_not_there(place: Any, way: str) -> None:
    place.values["labels"] = {"area": "areas.gpkg"}
    with refused("data.manifest:Manifest.check_area | Correct the path, or leave 'area' out"):
        place.load()
    if way == "path":
        (place.folder / "area.gpkg").touch()
        place.values["labels"] = {"area": "area.gpkg"}
        place.load()
    else:
        del place.values["labels"]
        np.testing.assert_array_equal(place.read()["labels"], place.pixels(name="l")[0])
