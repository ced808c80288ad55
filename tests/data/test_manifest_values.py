"""Values of `dataset.yaml` that would act as something else are refused, with their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.errors import ConfigError
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]

HEAD = """\
classes:
  - {name: dry, code: 0}
  - {name: wet, code: 7}
modalities:
  s2: {kind: optical, bands: [red, nir], wavelengths_um: [0.665, 0.842]}
"""
SCENES = """\
scenes:
  - {id: a, split: train, s2: a.tif}
  - {id: b, split: val, s2: b.tif}
"""
TEXT = HEAD + SCENES


def load(folder: Path, text: str) -> Manifest:
    path = folder / "dataset.yaml"
    path.write_text(text, encoding="utf-8")
    return load_manifest(path)


def change(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


CLASS, SCENE = "(line 2, column 6)", "(line 7, column 5)"
#: What is wrong → text of the manifest, words of the message, its place.
FAULTS: dict[str, tuple[str, str, str]] = {
    "broken code": (
        change("code: 0", "code: 0.5"),
        "'classes.0.code' is 0.5: 0.5 is no raw label value",
        "(line 2, column 17)",
    ),
    "NaN code": (
        change("code: 0", "code: .nan"),
        "nan is no raw label value; give a whole number",
        "(line 2, column 17)",
    ),
    "infinite code": (
        change("code: 0", "code: .inf"),
        "inf is no raw label value",
        "(line 2, column 17)",
    ),
    "code true": (
        change("code: 0", "code: true"),
        "True is no raw label value",
        "(line 2, column 17)",
    ),
    "giant code": (
        change("code: 0", "code: 1e20"),
        "1e+20 is no raw label value",
        "(line 2, column 17)",
    ),
    "code in code": (
        change("code: 0", "code: [1, [2]]"),
        "[2] is no raw label value",
        "(line 2, column 17)",
    ),
    "no code": (
        change("code: 0", "code: []"),
        "give a raw label value, or leave 'code' out",
        "(line 2, column 17)",
    ),
    "comment as code": (
        TEXT.replace("{name: dry, code: 0}", "name: dry\n    code: #ff0000"),
        "In YAML '#' begins a comment",
        "(line 3, column 5)",
    ),
    "code twice": (
        change("code: 7", "code: [7, 0]"),
        "stand for more than one class or void: 0",
        "(line 1, column 1)",
    ),
    "void": (
        f"void: [[1]]\n{TEXT}",
        "'void' is [[1]]: [1] is no raw label value",
        "(line 1, column 1)",
    ),
    "void of half": (f"void: [0.5]\n{TEXT}", "0.5 is no raw label value", "(line 1, column 1)"),
    "class twice": (
        change("name: wet", "name: dry"),
        "class names are not unique: ['dry', 'dry']",
        "(line 1, column 1)",
    ),
    "class without name": (
        change("name: dry", "name: ''"),
        "'classes.0.name' is '': give a name of printable",
        CLASS,
    ),
    "class of blanks": (change("name: dry", "name: '  '"), "without a blank at its ends", CLASS),
    "class with a control character": (
        change("name: dry", 'name: "d\\x07y"'),
        "is 'd\\x07y': give a name of printable",
        CLASS,
    ),
    "class of two lines": (
        change("name: dry", 'name: "d\\ny"'),
        "give a name of printable characters",
        CLASS,
    ),
    "class of a number": (
        change("name: dry", "name: 1"),
        "Write a text that looks like another value in quotes: '1'",
        CLASS,
    ),
    "long class": (change("name: dry", f"name: {'d' * 5000}"), "of 1 to 200 bytes", CLASS),
    "colour": (
        change("code: 0", "color: red"),
        "colour 'red' is not of the form '#rrggbb'",
        "(line 2, column 17)",
    ),
    "colour of 3 digits": (
        change("code: 0", "color: '#fff'"),
        "not of the form",
        "(line 2, column 17)",
    ),
    "comment as colour": (
        TEXT.replace("{name: dry, code: 0}", "name: dry\n    color: #ff0000"),
        "write a colour in quotes, '#1f5fd0'",
        "(line 3, column 5)",
    ),
    "modality without name": (
        change("  s2: {", "  '': {"),
        "a key is missing before ':'",
        "line 5, column 3",
    ),
    "modality with a control character": (
        change("  s2: {", '  "s\\t2": {'),
        "must be letters, digits",
        "(line 5, column 3)",
    ),
    "band without name": (
        change("[red, nir]", "[red, '']"),
        "'modalities.s2.bands.1' is '': give a name",
        "(line 5, column 36)",
    ),
    "band with a control character": (
        change("[red, nir]", '[red, "n\\e"]'),
        "give a name",
        "(line 5, column 36)",
    ),
    "band twice": (
        change("[red, nir]", "[red, red]"),
        "names a band twice: ['red']",
        "(line 5, column 3)",
    ),
    "nanometres": (
        change("0.665", "665"),
        "band 'red' of modality 's2' has the wavelength 665; wavelengths_um are micrometres "
        "between 0.1 and 100; 665 nm are 0.665. Radar has kind 'sar'",
        "(line 5, column 3)",
    ),
    "metres": (
        change("0.842", "8.42e-7"),
        "band 'nir' of modality 's2' has the wavelength 8.42e-07",
        "(line 5, column 3)",
    ),
    "NaN wavelength": (
        change("0.665", ".nan"),
        "'modalities.s2.wavelengths_um.0' is nan: Input should be a finite",
        "(line 5, column 59)",
    ),
    "infinite wavelength": (change("0.665", ".inf"), "finite number", "(line 5, column 59)"),
    "negative wavelength": (
        change("0.665", "-0.665"),
        "has the wavelength -0.665",
        "(line 5, column 3)",
    ),
    "wavelength 0": (change("0.665", "0"), "has the wavelength 0", "(line 5, column 3)"),
    "scale": (
        change("kind: optical,", "kind: optical, scale: .nan,"),
        "finite number",
        "(line 5, column 23)",
    ),
    "page 0": (
        change("kind: optical,", "kind: optical, page: 0,"),
        "'modalities.s2.page' is 0: Input should be greater than or equal to 1; or",
        "(line 5, column 23)",
    ),
    "read_bands 0": (
        change("kind: optical,", "kind: optical, read_bands: [0, 1],"),
        "greater than or equal to 1",
        "(line 5, column 36)",
    ),
    "value_scale": (
        change("kind: optical,", "kind: optical, value_scale: .nan,"),
        "finite number",
        "(line 5, column 23)",
    ),
    "id without name": (change("id: a", "id: ''"), "scene '': 'id' is '': give a name", SCENE),
    "id null": (
        change("id: a", "id: ~"),
        "scene 1: 'id' is None: Input should be a valid string",
        SCENE,
    ),
    "id with a control character": (
        change("id: a", 'id: "a\\rb"'),
        "is 'a\\rb': give a name of printable",
        SCENE,
    ),
    "id of blanks": (change("id: a", "id: ' a'"), "without a blank at its ends", SCENE),
    "long id": (change("id: a", f"id: {'é' * 101}"), "of 1 to 200 bytes", SCENE),
    "list as id": (change("id: a", "id: [a]"), "scene 1: 'id' is ['a']", SCENE),
    "id twice": (
        change("id: b", "id: a"),
        "two scenes have the id 'a' (line 7, column 5) (line 8, column 5)",
        "ids must be unique",
    ),
    "split in capitals": (
        change("split: train", "split: Train"),
        "scene 'a' is in split 'Train' (line 7, column 5). Call it 'train'",
        SCENE,
    ),
    "split beside another": (
        change("split: train", "split: Fold").replace("val", "fold"),
        "scene 'b' is in split 'fold' (line 8, column 5), scene 'a' in 'Fold' (line 7, column 5). "
        "Call it 'Fold'",
        SCENE,
    ),
    "split with blanks": (
        change("split: train", "split: 'train '"),
        "'split' is 'train ': give a name",
        SCENE,
    ),
    "split with a blank": (
        change("split: train", "split: t rain"),
        "in split 't rain' (line 7, column 5). Call it 'train'",
        SCENE,
    ),
    "split without name": (
        change("split: train", "split: ''"),
        "'split' is '': give a name",
        SCENE,
    ),
    "split with a control character": (
        change("split: train", 'split: "a\\0b"'),
        "holds a character that no text has",
        "line 7, column 20",
    ),
    "path of a number": (
        change("s2: a.tif", "s2: 5"),
        "'s2' is 5; give a path, a list of them or none (in quotes",
        SCENE,
    ),
    "path of nothing": (change("s2: a.tif", "s2: ''"), "'s2' is ''; give a path", SCENE),
    "labels of nothing": (
        change("s2: a.tif", "s2: a.tif, labels: ''"),
        "'labels' is '': give a path, or leave the key out",
        SCENE,
    ),
    "long path": (
        change("s2: a.tif", f"s2: {'a' * 5000}"),
        "give a path, a list of them or none",
        SCENE,
    ),
    "long path of labels": (
        change("s2: a.tif", f"s2: a.tif, labels: {'a' * 5000}"),
        "a path has at most 4,096 characters, not 5,000",
        SCENE,
    ),
    "long area": (
        f"labels: {{area: {'a' * 3000}}}\n{TEXT}",
        "labels.area: there is no file",
        "(line 1, column 10)",
    ),
    "area of nobody": (
        f"labels: {{area: ~nobody-here/a.gpkg}}\n{TEXT}",
        "labels.area: there is no file",
        "(line 1, column 10)",
    ),
    "true for a number": (
        change("0.665", "true"),
        "'modalities.s2.wavelengths_um' is [True, 0.842]: true and false cannot stand here",
        "(line 5, column 42)",
    ),
    "true in a window": (
        change("s2: a.tif", "s2: a.tif, window: [0, 0, 8, true]"),
        "true and false cannot stand here",
        SCENE,
    ),
    "true as nodata": (
        change("kind: optical,", "kind: optical, nodata: true,"),
        "true and false cannot stand here",
        "(line 5, column 23)",
    ),
    "background of a half": (
        f"labels: {{background: 0.5}}\n{TEXT}",
        "'labels.background' is 0.5",
        "(line 1, column 10)",
    ),
    "giant background": (
        f"labels: {{background: {10**30}}}\n{TEXT}",
        "is no raw label value",
        "(line 1, column 10)",
    ),
    "attribute without name": (
        f"labels: {{attribute: ' '}}\n{TEXT}",
        "'labels.attribute' is ' ': give a name",
        "(line 1, column 10)",
    ),
    "giant value_scale": (
        change("kind: optical,", "kind: optical, value_scale: 1e20,"),
        "give finite numbers up to 1e+15, and no factor of 0",
        "(line 5, column 3)",
    ),
    "no page": (
        change("kind: optical,", "kind: optical, page: [],"),
        "at least 1 item",
        "(line 5, column 23)",
    ),
    "giant window": (
        change("s2: a.tif", "s2: a.tif, window: [0, 0, 8, 1e10]"),
        "less than 2147483648",
        SCENE,
    ),
    "window of nothing": (
        change("s2: a.tif", "s2: a.tif, window: [0, 0, 8, 0]"),
        "'window' is [0, 0, 8, 0]",
        SCENE,
    ),
    "value_scale of a scene": (
        change("s2: a.tif", "s2: a.tif, value_scale: {s2: .inf}"),
        "finite number",
        SCENE,
    ),
    "area": (
        f"labels: {{area: none.gpkg}}\n{TEXT}",
        "labels.area: there is no file",
        "(line 1, column 10)",
    ),
    "area of a layer": (
        f"labels: {{area: none.gpkg|layername=a}}\n{TEXT}",
        "none.gpkg'. Correct the path",
        "(line 1, column 10)",
    ),
    "scene key twice": (
        change("s2: a.tif", "s2: a.tif, s2: b.tif"),
        "key 's2' stands twice, first in line 7, column 27",
        "line 7, column 38",
    ),
}


def test_without_a_fault_it_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, TEXT).splits == {"train": 1, "val": 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_act_as_something_else_is_refused(tmp_path: Path, fault: str) -> None:
    text, words, place = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert words in message
    assert place in message
    assert str(tmp_path / "dataset.yaml") in message
    assert len(message) - len(str(tmp_path)) < 700 or fault == "long area"


def test_what_the_messages_advise_is_taken(tmp_path: Path) -> None:
    assert load(tmp_path, change("code: 0", "code: 5.0")).scheme.codes == ((5,), (7,))
    assert load(tmp_path, change("code: 0", "code: '0.5'")).scheme.codes == (("0.5",), (7,))
    assert load(tmp_path, change("name: dry", "name: '1'")).scheme.names == ("1", "wet")
    colors = load(tmp_path, change("code: 0", "color: '#1F5fd0'")).scheme.colors
    assert colors[0] == "#1f5fd0"
    radar = change("kind: optical", "kind: sar").replace("0.665", "55000")
    assert load(tmp_path, radar).modalities["s2"].wavelengths_um == (55000, 0.842)
    assert load(tmp_path, change("split: train", "split: fold")).splits == {"fold": 1, "val": 1}
    (tmp_path / "none.gpkg").touch()
    for area in ("none.gpkg", "none.gpkg|layername=a", "https://localhost/a.gpkg"):
        load(tmp_path, f"labels: {{area: '{area}'}}\n{TEXT}")


def test_nodata_may_be_not_finite(tmp_path: Path) -> None:
    text = change("kind: optical,", "kind: optical, nodata: .nan,")
    assert np.isnan(load(tmp_path, f"labels: {{nodata: -.inf}}\n{text}").rules["s2"].nodata)


@pytest.mark.parametrize(
    "id", ["0010", "12:30:45", "yes", "1e3", "2021-01-01", "0x1f", "1_000", "true", "a#b", "1.50"]
)
def test_ids_and_splits_are_text_as_they_stand(tmp_path: Path, id: str) -> None:
    text = change("id: a, split: train", f"id: {id}, split: {id}, place: {id}")
    first = load(tmp_path, text).entries[0]
    assert first.id == first.split == first.place == id
    manifest = load(tmp_path, text)
    write_manifest(manifest.to_dict(), tmp_path / "again.yaml")
    assert load_manifest(tmp_path / "again.yaml").entries == manifest.entries


def test_names_of_places_that_are_meant_to_be_one(tmp_path: Path) -> None:
    values = load(tmp_path, TEXT).to_dict()
    values["scenes"] = [
        {"id": id, "place": place, "s2": f"{id}.tif"}
        for id, place in (("a", "Po delta"), ("b", "Elbe"), ("c", "po Delta"))
    ]
    path = write_manifest(values, tmp_path / "places.yaml")
    told = r"scene 'c' is in place 'po Delta'.*, scene 'a' in 'Po delta'.*Call it 'Po delta', or"
    with pytest.raises(ConfigError, match=told):
        load_manifest(path)
    values["scenes"][2]["place"] = "Po delta"
    manifest = load_manifest(write_manifest(values, path))
    assert [entry.place for entry in manifest.entries] == ["Po delta", "Elbe", "Po delta"]
    with pytest.raises(ConfigError, match=r"key 'plce'.*Did you mean 'place'"):
        load(tmp_path, change("split: train", "plce: train"))


def test_ids_in_the_way_of_yaml_survive_writing(tmp_path: Path) -> None:
    ids = ["~", "null", "0010", "é, b", "{a}", "- a", "a: b", "#a", "'", '"', "=", "\\n", "?"]
    values = load(tmp_path, TEXT).to_dict()
    values["scenes"] = [{"id": id, "split": "no", "s2": f"{id}.tif"} for id in ids]
    manifest = load_manifest(write_manifest(values, tmp_path / "again.yaml"))
    assert [(entry.id, entry.split) for entry in manifest.entries] == [(id, "no") for id in ids]
    assert manifest.entries[2].rasters["s2"] == ("0010.tif",)


def test_many_faults_are_counted_not_listed(tmp_path: Path) -> None:
    bands = ", ".join(["''"] * 500)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, change("[red, nir]", f"[{bands}]"))
    *lines, last = str(caught.value).splitlines()
    assert len(lines) == 6
    assert last.endswith("and 494 more faults")


def test_a_long_value_is_not_repeated(tmp_path: Path) -> None:
    huge = "x" * 100_000
    for text in (
        change("kind: optical", f"kind: {huge}"),
        change("bands: [red, nir]", f"bands: {{{huge}: 1}}"),
        change("split: train", f"{huge}: train"),
        change("kind: optical", f"{huge}: optical"),
        change("kind: optical", f"kind: optical, unit: {huge}"),
        f"grid: {huge}\n{TEXT}",
        f"unknown: {huge}\n{TEXT}",
        f"void: [{', '.join(map(str, range(20000)))}]\n{TEXT}",
    ):
        # libyaml takes keys of any length in braces
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, text.replace(f"{huge}:", f"? {huge} :"))
        assert len(str(caught.value)) - len(str(tmp_path)) < 1000


@pytest.mark.parametrize("um", [float("nan"), float("inf"), 0.0, -0.6])
def test_a_modality_of_code_has_wavelengths_above_0(um: float) -> None:
    with pytest.raises(ConfigError, match=r"give micrometres above 0, such as 0\.665 for red"):
        Modality("s2", ("a", "b"), wavelengths_um=(0.6, um))
