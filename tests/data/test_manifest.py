from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.errors import (
    ConfigError,
    GridMismatchError,
    MissingModalityError,
    OutputError,
    RasterReadError,
    SceneNotFoundError,
)
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]


@pytest.fixture
def values(make_raster: MakeRaster, tmp_path: Path) -> dict[str, Any]:
    """Values of a manifest in `tmp_path` whose files exist."""
    for n in (1, 2):
        make_raster(tmp_path / f"s1/{n}.tif", np.full((1, 8, 9), n, np.float32))
        for band in ("B8A", "B09", "B10"):
            value = {"B8A": 8, "B09": 9, "B10": 10}[band] + 100 * n
            make_raster(tmp_path / f"s2/{n}/T33_{band}.tif", np.full((1, 8, 9), value, np.uint16))
        codes = np.full((1, 8, 9), 255 if n == 1 else 0, np.uint8)
        make_raster(tmp_path / f"mask/{n}.tif", codes)
    return {
        "classes": [
            {"name": "dry", "code": 0, "color": "#c8b48c"},
            {"name": "flooded", "code": [255, 254]},
        ],
        "void": [9],
        "modalities": {
            "s1": {"kind": "sar", "bands": ["VV"], "unit": "db"},
            "s2": {
                "kind": "optical",
                "bands": ["B8A", "B09", "B10"],
                "wavelengths_um": [0.865, 0.945, 1.375],
                "nodata": 0,
                "required": False,
            },
        },
        "grid": "s2",
        "scenes": [
            {
                "id": "one",
                "split": "train",
                "s1": "s1/1.tif",
                "s2": "s2/1/*.tif",
                "labels": "mask/1.tif",
            },
            {"id": "two", "split": "test", "s1": "s1/2.tif", "window": [2, 3, 4, 5]},
            {
                "id": "three",
                "s1": "s1/2.tif",
                "s2": [f"s2/2/T33_{b}.tif" for b in ("B10", "B09", "B8A")],
            },
        ],
    }  # fmt: skip


def load(values: dict[str, Any], folder: Path) -> Manifest:
    return load_manifest(write_manifest(values, folder / "dataset.yaml"))


def test_a_manifest_is_read(values: dict[str, Any], tmp_path: Path) -> None:
    manifest = load(values, tmp_path)
    assert list(manifest.modalities) == ["s1", "s2"]
    assert manifest.modalities["s2"].wavelengths_um == (0.865, 0.945, 1.375)
    assert manifest.scheme.names == ("dry", "flooded")
    assert manifest.scheme.codes == ((0,), (255, 254))
    assert manifest.scheme.void == (9,)
    assert manifest.rules["s1"].resampling == "bilinear"
    assert manifest.rules["s2"].nodata == 0
    assert manifest.splits == {"train": 1, "test": 1}
    assert manifest.grid == "s2"
    assert [entry.id for entry in manifest.entries] == ["one", "two", "three"]
    assert manifest.path == tmp_path / "dataset.yaml"


def test_scenes_are_read(values: dict[str, Any], tmp_path: Path) -> None:
    manifest = load(values, tmp_path)
    (one,) = manifest.scenes("train")
    sample = one.read(one.full_window)
    # Files of a pattern are ordered as the bands they are named after.
    assert sample.images["s2"][:, 0, 0].tolist() == [108, 109, 110]
    assert sample.images["s1"][0, 0, 0] == 1
    assert sample.labels is not None
    assert (sample.labels == 1).all()
    two = manifest.scene("two")
    assert two.split == "test"
    assert two.missing == {"s2"}
    assert (two.grid.height, two.grid.width) == (4, 5)
    assert not two.has_labels
    # Files of a list, too, and that is said; `band_names: ignore` takes them as listed.
    with pytest.warns(BandNamesWarning, match=r"T33_B10\.tif.*by name as B8A, B09, B10: 3, 2, 1"):
        three = manifest.scene("three").read(Window(0, 0, 1, 1))
    assert three.images["s2"].flatten().tolist() == [208, 209, 210]
    values["modalities"]["s2"]["band_names"] = "ignore"
    manifest = load(values, tmp_path)
    three = manifest.scene("three").read(Window(0, 0, 1, 1))
    assert three.images["s2"].flatten().tolist() == [210, 209, 208]
    assert len(manifest.scenes()) == 3


def test_files_of_a_pattern_without_band_names_are_in_natural_order(
    values: dict[str, Any], tmp_path: Path, make_raster: MakeRaster
) -> None:
    for n in (10, 9, 2):
        make_raster(tmp_path / f"x/c{n}.tif", np.full((1, 8, 9), n, np.uint8))
    values["scenes"][0]["s2"] = "x/c*.tif"
    one = load(values, tmp_path).scene("one")
    assert one.read(Window(0, 0, 1, 1)).images["s2"].flatten().tolist() == [2, 9, 10]
    assert [path.name for path in one.paths()["s2"]] == ["c2.tif", "c9.tif", "c10.tif"]


def test_selected_modalities_come_in_their_order_on_the_same_grid(
    values: dict[str, Any], tmp_path: Path
) -> None:
    manifest = load(values, tmp_path)
    assert manifest.select(None) is manifest
    turned = manifest.select(["s2", "s1"])
    assert list(turned.modalities) == ["s2", "s1"]
    assert [m.name for m in turned.scene("one").modalities] == ["s2", "s1"]
    alone = manifest.select(["s1"])
    assert alone.scene("one").grid == manifest.scene("one").grid
    assert list(alone.scene("one").read(Window(0, 0, 2, 2)).images) == ["s1"]
    assert list(alone.select(["s2"]).modalities) == ["s2"]
    with pytest.raises(ConfigError, match=r"unknown modality 's3'\. Did you mean 's"):
        manifest.select(["s3"])
    with pytest.raises(ConfigError, match="each once"):
        manifest.select(["s1", "s1"])


def test_the_grid_of_a_modality_that_is_not_selected(
    values: dict[str, Any], tmp_path: Path, make_raster: MakeRaster
) -> None:
    from rasterio.transform import from_origin

    fine = from_origin(500_000, 5_000_000, 5, 5)
    for band in ("B8A", "B09", "B10"):
        make_raster(
            tmp_path / f"s2/1/T33_{band}.tif", np.ones((1, 16, 18), np.uint16), transform=fine
        )
    scene = load(values, tmp_path).select(["s1"]).scene("one")
    assert (scene.grid.height, scene.grid.width) == (16, 18)


def test_values_survive_writing_and_reading(values: dict[str, Any], tmp_path: Path) -> None:
    manifest = load(values, tmp_path)
    again = load(manifest.to_dict(), tmp_path)
    assert again == manifest
    assert again.to_dict() == manifest.to_dict()
    assert manifest.to_dict()["scenes"] == values["scenes"]
    assert manifest.to_dict()["modalities"] == values["modalities"]
    text = (tmp_path / "dataset.yaml").read_text()
    assert "\n  - {id: two, split: test, s1: s1/2.tif, window: [2, 3, 4, 5]}\n" in text


def test_nothing_is_left_where_it_cannot_be_written(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_manifest(values, tmp_path / "file" / "dataset.yaml")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_manifest(values, tmp_path / "taken")
    assert not list(tmp_path.glob("*.partial"))


def change(values: dict[str, Any], where: tuple[Any, ...], what: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *parents, last = where
    inner: Any = changed
    for key in parents:
        inner = inner[key]
    inner[last] = what
    return changed


SCENE = ("scenes", 0)
FAULTS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "top key": (("modalitys",), {}, r"unknown key 'modalitys'\. Did you mean 'modalities'"),
    "modality key": (("modalities", "s1", "kinds"), "sar", r"'kinds'\. Did you mean 'kind'"),
    "label key": (("labels",), {"atribute": "x"}, r"'atribute'\. Did you mean 'attribute'"),
    "class key": (("classes", 0, "colour"), "#000000", r"'colour'\. Did you mean 'color'"),
    "scene key": ((*SCENE, "s3"), "a.tif", r"scene 'one': unknown key 's3'\. Did you mean 's"),
    "kind": (("modalities", "s1", "kind"), "radar", r"s1\.kind' is 'radar'.*'optical'"),
    "resampling": (("modalities", "s1", "resampling"), "linear", r"is 'linear'.*'bilinear'"),
    "read_bands": (("modalities", "s1", "read_bands"), [1, 2], "1 bands but 2 read_bands"),
    "wavelengths": (("modalities", "s1", "wavelengths_um"), [1, 2], "1 bands but 2 wavelengths"),
    "scale": (("modalities", "s1", "scale"), 3.14159, "has scale 3.14159; allowed is"),
    "grid": (("grid",), "s4", r"unknown name in 'grid' 's4'\. Did you mean 's"),
    "code twice": (("void",), [0], r"more than one class or void: 0"),
    "colour": (("classes", 0, "color"), "red", "colour 'red' is not of the form"),
    "class twice": (("classes", 1, "name"), "dry", "class names are not unique"),
    "no class": (("classes",), [], "1 to 255 classes, not 0"),
    "no scene": (("scenes",), [], "'scenes' is empty"),
    "no modality": (("modalities",), {}, "'modalities' is empty"),
    "id twice": (("scenes", 2, "id"), "one", r"two scenes have the id 'one'"),
    "split": ((*SCENE, "split"), ["a"], r"scene 'one': 'split' is \['a'\]"),
    "window": ((*SCENE, "window"), [0, 0, 0, 5], r"scene 'one': 'window' is \[0, 0, 0, 5\]"),
    "window length": ((*SCENE, "window"), [0, 0, 5], "scene 'one': 'window"),
    "path": ((*SCENE, "s1"), 5, r"scene 'one': 's1' is 5; give a path"),
    "reserved": (("modalities", "labels"), {"bands": ["a"]}, "cannot be named 'labels'"),
    "name": (("modalities", "s-1"), {"bands": ["a"]}, "modality name 's-1' must be"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_their_place(
    values: dict[str, Any], tmp_path: Path, fault: str
) -> None:
    where, what, message = FAULTS[fault]
    with pytest.raises(ConfigError, match=message) as caught:
        load(change(values, where, what), tmp_path)
    assert str(tmp_path / "dataset.yaml") in str(caught.value)


def test_a_scene_without_id_or_rasters(values: dict[str, Any], tmp_path: Path) -> None:
    nameless = copy.deepcopy(values)
    del nameless["scenes"][1]["id"]
    with pytest.raises(ConfigError, match="scene 2: 'id' is missing"):
        load(nameless, tmp_path)
    with pytest.raises(ConfigError, match=r"scene 'x' has no raster; give one of s1, s2"):
        load(change(values, ("scenes", 0), {"id": "x", "s1": None}), tmp_path)


def test_ids_may_be_numbers(values: dict[str, Any], tmp_path: Path) -> None:
    assert load(change(values, (*SCENE, "id"), 7), tmp_path).scene("7").id == "7"


def test_no_file_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file '.*no\.yaml'"):
        load_manifest(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("classes: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_manifest(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1]))
    with pytest.raises(ConfigError, match="must hold keys and values"):
        load_manifest(tmp_path / "list.yaml")


def test_unknown_scene_and_split(values: dict[str, Any], tmp_path: Path) -> None:
    manifest = load(values, tmp_path)
    with pytest.raises(SceneNotFoundError, match=r"unknown scene 'thre'\. Did you mean 'three'"):
        manifest.scene("thre")
    with pytest.raises(SceneNotFoundError, match=r"unknown split 'val'.* Known: test, train"):
        manifest.scenes("val")


def test_missing_files_are_named_when_the_scene_is_opened(
    values: dict[str, Any], tmp_path: Path
) -> None:
    lost = load(change(values, (*SCENE, "s1"), "s1/7.tif"), tmp_path)
    with pytest.raises(
        RasterReadError, match=r"'s1' of scene 'one': there is no file '.*s1/7\.tif'"
    ):
        lost.scenes()
    unmatched = load(change(values, (*SCENE, "s2"), "s2/9/*.tif"), tmp_path)
    with pytest.raises(
        RasterReadError, match=r"'s2' of scene 'one': no file matches 's2/9/\*\.tif'"
    ):
        unmatched.scene("one")
    labels = load(change(values, (*SCENE, "labels"), "mask/9.tif"), tmp_path)
    with pytest.raises(RasterReadError, match=r"labels of scene 'one': there is no file"):
        labels.scene("one")
    required = change(values, ("modalities", "s2", "required"), True)
    with pytest.raises(
        MissingModalityError,
        match=r"scene 'two' has no raster for modality 's2'.*'required: false'",
    ):
        load(required, tmp_path).scene("two")
    load(required, tmp_path).select(["s1"]).scene("two")  # not asked for


def test_label_settings_reach_the_labels(
    values: dict[str, Any], tmp_path: Path, make_raster: MakeRaster
) -> None:
    make_raster(tmp_path / "mask/1.tif", np.full((1, 8, 9), 77, np.uint8))
    manifest = load(values | {"labels": {"nodata": 77}}, tmp_path)
    assert (manifest.scene("one").read_labels(Window(0, 0, 8, 9)) == 255).all()
    make_raster(tmp_path / "mask/1.tif", np.zeros((1, 8, 9), np.uint8), crs="EPSG:32640")
    with pytest.raises(GridMismatchError, match="labels of scene 'one'"):
        load(values, tmp_path).scene("one")


def test_paths_may_be_absolute_or_urls(values: dict[str, Any], tmp_path: Path) -> None:
    absolute = change(values, (*SCENE, "s1"), str(tmp_path / "s1/2.tif"))
    scene = load(absolute, tmp_path / "elsewhere").select(["s1"])
    with pytest.raises(RasterReadError):  # the other files are relative
        scene.scene("one")
    only = change(absolute, ("scenes",), [{"id": "one", "s1": str(tmp_path / "s1/2.tif")}])
    assert load(only | {"grid": None}, tmp_path / "elsewhere").select(["s1"]).scene("one").paths()
    url = change(values, (*SCENE, "s1"), "https://localhost:1/none.tif")
    with pytest.raises(RasterReadError, match=r"/vsicurl/https://localhost:1/none\.tif"):
        load(url, tmp_path).scene("one")


def test_paths_start_from_the_root(values: dict[str, Any], tmp_path: Path) -> None:
    inside = tmp_path / "settings" / "mine"
    inside.mkdir(parents=True)
    manifest = load(values | {"root": "../.."}, inside)
    expected = load(values, tmp_path).scene(manifest.entries[0].id).paths()
    found = manifest.scene(manifest.entries[0].id).paths()
    assert {k: [p.resolve() for p in v] for k, v in found.items()} == {
        k: [p.resolve() for p in v] for k, v in expected.items()
    }
    assert manifest.to_dict()["root"] == "../.."


def test_scales_of_a_modality_and_of_a_scene_replace_the_tags(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["modalities"]["s2"] |= {"value_scale": 0.5, "value_offset": [1, 2, 3]}
    values["scenes"][0] |= {"value_scale": {"s2": [10, 1, 0.1]}, "value_offset": {"s1": -4}}
    manifest = load(values, tmp_path)
    (one,) = manifest.scenes("train")
    sample = one.read(one.full_window)
    # Stored are 108, 109 and 110, and 1.
    assert sample.images["s2"][:, 0, 0].tolist() == pytest.approx([1081, 111, 14])
    assert sample.images["s1"][0, 0, 0] == -3
    assert manifest.scene("two").read(Window(0, 0, 1, 1)).images["s1"][0, 0, 0] == 2
    del values["scenes"][0]["value_scale"]
    (one,) = load(values, tmp_path).scenes("train")
    assert one.read(one.full_window).images["s2"][:, 0, 0].tolist() == [55, 56.5, 58]
    again = load(manifest.to_dict(), tmp_path)
    assert again.entries == manifest.entries
    assert again.rules == manifest.rules


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("s2", {"value_scale": [1, 2]}, "'value_scale' of modality 's2' has 2 numbers for 3 bands"),
        ("s2", {"value_scale": 0}, "'value_scale' of modality 's2' is 0.*no factor of 0"),
        ("s2", {"offset": 3}, "'offset'.*Did you mean 'value_offset'"),
        ("s2", {"scale": 0.0001}, "scale 0.0001; .*A factor of pixel values is 'value_scale'"),
        ("s2", {"nodata_rule": "any"}, "nodata_rule"),
        (
            "s2",
            {"unit": "reflectence"},
            "'s2': unknown unit 'reflectence'. Did you mean 'reflectance'",
        ),
        (0, {"value_offset": {"s3": 1}}, "scene 'one': unknown name in 'value_offset' 's3'"),
        (
            0,
            {"value_offset": {"s2": [1]}},
            "scene 'one': 'value_offset' of modality 's2' has 1 num",
        ),
        (0, {"value_scal": {"s2": 1}}, "Did you mean 'value_scale'"),
    ],
)
def test_faults_of_scales_and_units_are_named(
    values: dict[str, Any], tmp_path: Path, where: str | int, change: dict[str, Any], said: str
) -> None:
    part = values["scenes"][where] if isinstance(where, int) else values["modalities"][where]
    part |= change
    with pytest.raises(ConfigError, match=said):
        load(values, tmp_path)


def test_units_may_be_written_in_any_case(values: dict[str, Any], tmp_path: Path) -> None:
    values["modalities"]["s1"]["unit"] = "dB"
    values["modalities"]["s2"]["unit"] = "Metres"
    found = load(values, tmp_path).modalities
    assert (found["s1"].unit, found["s2"].unit) == ("db", "m")
