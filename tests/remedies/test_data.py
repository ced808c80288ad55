"""Manifests and rasters that are refused: what the message says to do, done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.control import GroundControlPoint
from rasterio.rio.main import main_group
from rasterio.transform import from_origin
from rasterio.warp import reproject

from remedies import refused, warned
from terrafuse.classes import ClassScheme
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.data.encoding import ENCODED_BANDS, GENERATOR_TAG, LIMITS_TAG
from terrafuse.errors import ConfigError
from terrafuse.modalities import Modality


def rio(*words: object) -> None:
    """Run rasterio's command line, which comes with every installation."""
    result = CliRunner().invoke(main_group, [str(word) for word in words])
    assert result.exit_code == 0, result.output


# Keys of the manifest


@pytest.mark.parametrize(("tag", "value"), [("scale", 0.0), ("offset", float("inf"))])
def test_a_scale_tag_that_leaves_no_value(place: Any, tag: str, value: float) -> None:
    path = place.folder / "train_a.tif"
    with rasterio.open(path, "r+") as dataset:
        setattr(dataset, f"{tag}s", (float(tag == "scale"), value))
    with refused("data.rasters:_check_tags | to read values as stored, set") as error:
        place.open()
    key, number = error.find(r"set '(value_\w+: \d)'").split(": ")
    place.modality()[key] = int(number)
    np.testing.assert_array_equal(place.read()["a"], place.pixels())
    del place.modality()[key]
    place.entry()["a"] = error.find(r"give '(vrt://[^']*)'")
    np.testing.assert_array_equal(place.read()["a"], place.pixels())


def test_rules_of_labels_in_a_scene(place: Any) -> None:
    expected = place.read()["labels"]
    path = place.entry()["labels"]
    place.entry()["labels"] = {"path": path, "nodata": 7}
    with refused(
        "data.schema:_SceneSettings._rules_are_for_all | with 'labels' of the manifest, beside"
    ):
        place.load()
    place.values["labels"] = {"nodata": 7}
    place.entry()["labels"] = path
    np.testing.assert_array_equal(place.read()["labels"], expected)


def test_data_tagged_alpha_before_the_bands(place: Any) -> None:
    values = np.concatenate([place.pixels(), place.pixels("val", "a")[:1]])
    path = place.raster("train_a.tif", values, photometric="minisblack", alpha="yes")
    with rasterio.open(path) as dataset:
        assert [color.name for color in dataset.colorinterp].index("alpha") == 1
    with refused("data.rasters:_settle_alpha | Pick them with 'read_bands'") as error:
        place.open()
    place.modality()["read_bands"] = [1, 2]
    np.testing.assert_array_equal(place.read()["a"], place.pixels())
    del place.modality()["read_bands"]
    place.entry()["a"] = error.find(r"as in '(vrt://[^']*)'")
    np.testing.assert_array_equal(place.read()["a"], place.pixels())


def test_numbers_per_band(place: Any) -> None:
    a = place.modality()
    a["read_bands"] = [1, 2, 2]
    with refused("data.schema:to_rules | give one per band"):
        place.load()
    a["read_bands"] = [2, 1]
    np.testing.assert_array_equal(place.read()["a"], place.pixels()[::-1])
    a["value_scale"] = [2, 3, 4]
    with refused("data.schema:_check_scaling | give one per band, or one for all"):
        place.load()
    for given in ([2, 3], 2):
        a["value_scale"] = given
        assert place.read()["a"][0, 0, 0] == 2.0 * place.pixels()[1, 0, 0]
    a["value_scale"] = [0, 1]
    with refused("data.schema:_check_scaling | and no factor of 0"):
        place.load()
    a["value_scale"] = [0.5, 1]
    place.load()
    a["wavelengths_um"] = [0.5]
    with refused("modalities:Modality.__post_init__ | give one per band"):
        place.load()
    a["wavelengths_um"] = [0.5, 0.6]
    place.load()


def test_lists_that_are_empty(place: Any) -> None:
    whole = {key: place.values[key] for key in ("modalities", "scenes")}
    place.values["modalities"] = {}
    with refused("data.schema:check_names | describe at least one"):
        place.load()
    place.values |= whole | {"scenes": []}
    with refused("data.schema:check_names | list at least one"):
        place.load()
    place.values |= whole
    place.modality("b")["bands"] = []
    with refused("modalities:Modality.__post_init__ | list at least one"):
        place.load()
    place.modality("b")["bands"] = ["z"]
    place.load()


def test_a_modality_called_like_a_key_of_scenes(place: Any) -> None:
    modalities = place.values["modalities"]
    modalities["split"] = modalities.pop("b")
    for entry in place.values["scenes"]:
        del entry["b"]
    with refused("data.schema:check_names | which is a key of scenes. Rename it"):
        place.load()
    modalities["radar"] = modalities.pop("split")
    place.entry()["radar"] = "train_b.tif"
    place.load()


def test_paths_of_a_scene(place: Any) -> None:
    entry = place.entry()
    entry["a"] = 5
    with refused("data.schema:to_entry | give a path, a list of them or none"):
        place.load()
    for given in ("train_a.tif", ["train_a.tif"], None):
        entry["a"] = given
        place.load()
    entry["b"] = None
    with refused("data.schema:to_entry | has no raster; give one of") as error:
        place.load()
    entry[error.find("give one of (.*)$").split(", ")[0]] = "train_a.tif"
    place.load()


@pytest.mark.parametrize("way", ["raster", "key"])
def test_a_scene_without_a_modality(place: Any, way: str) -> None:
    del place.entry()["b"]
    place.load()
    with refused("data.manifest:Manifest._scene_files | Add it in") as error:
        place.open()
    if way == "raster":
        assert error.find("Add it in '(.*?)'") == str(place.manifest)
        place.entry()["b"] = "train_b.tif"
    else:
        key, value = error.find("or set '(.*?)' on the modality").split(": ")
        assert value == "false"
        place.modality("b")[key] = False
    assert (place.open().missing == {"b"}) == (way == "key")


def test_segments_are_not_interpolated(place: Any) -> None:
    place.values["modalities"]["c"] = {
        "kind": "optical", "bands": ["gray"], "encoding": "gray", "required": False,
    }  # fmt: skip
    with refused("data.schema:_check_encoding | segment numbers cannot be interpolated") as error:
        place.load()
    key, value = error.find("write '(.*?)'").split(": ")
    place.modality("c")[key] = value
    place.load()


def test_scales_that_no_grid_has(place: Any) -> None:
    place.modality("b")["scale"] = 3.14159
    with refused("modalities:Modality.scale_ratio | Choose a near one") as error:
        place.load()
    for near in error.find(r"\(([\d., ]+) …\)").split(", "):
        place.modality("b")["scale"] = float(near)
        place.load()
    # What it says of resampling: the raster of the scene's pixels is read at this scale.
    place.modality("b")["scale"] = 2
    assert place.read()["b"].shape == (1, 16, 16)
    with refused("modalities:Modality.size_at | use a multiple of") as error:
        Modality("b", ("z",), scale=3.5).size_at(20)
    assert Modality("b", ("z",), scale=3.5).size_at(2 * int(error.find(r"of (\d+)$"))) == 4


def test_colours_and_codes_of_classes() -> None:
    with refused("classes:ClassScheme.__post_init__ | give one per class"):
        ClassScheme(("a", "b"), colors=("#000000",))
    ClassScheme(("a", "b"), colors=("#000000", "#ffffff"))


# Labels


@pytest.mark.parametrize("way", ["code", "void", "unknown: void", "unknown: class"])
def test_values_that_are_no_class(place: Any, way: str) -> None:
    labels = place.pixels("train", "l")
    labels[0, :3] = 7
    place.raster("train_l.tif", labels)
    with refused("classes:_unknown_message | Add them to a class ('code') or to 'void'") as error:
        place.read()
    code = int(error.find(r"class scheme: (\d+) \("))
    if way == "code":
        place.values["classes"][1]["code"] = [1, code]
    elif way == "void":
        place.values["void"] = [code]
    else:
        place.values["unknown"] = "void" if way.endswith("void") else "wet"
    expected = 255 if way.endswith("void") else 1
    assert (place.read()["labels"][:3] == expected).all()


@pytest.mark.parametrize("way", ["codes", "labels"])
def test_labels_of_several_bands(place: Any, way: str) -> None:
    codes = place.pixels("train", "l")
    place.raster("train_l.tif", np.concatenate([codes, 1 - codes, codes]) * 255)
    with refused("data.labels:_label_bands | 'code' of the classes, or convert the labels"):
        place.open()
    if way == "codes":
        place.values["classes"][0]["code"], place.values["classes"][1]["code"] = (
            "#00ff00",
            "#ff00ff",
        )
    else:
        place.raster("train_l.tif", codes)
    np.testing.assert_array_equal(place.read()["labels"], codes[0])


def test_labels_that_are_not_there(place: Any) -> None:
    del place.entry()["labels"]
    scene = place.open()
    with refused("data.scene:Scene.read_labels | name a file under") as error:
        scene.read_labels(scene.full_window)
    place.entry()[error.find("under '(.*)'")] = "train_l.tif"
    scene = place.open()
    np.testing.assert_array_equal(scene.read_labels(scene.full_window), place.pixels(name="l")[0])


# Files


def test_files_that_are_no_rasters(place: Any) -> None:
    path = place.folder / "train_b.tif"
    path.write_bytes(b"II*\0 of no use")
    with refused("data.raster_file:_inspect | Check that the file is complete"):
        place.open()
    path.unlink()
    place.raster("train_b.tif", place.pixels("train", "b"))
    place.open()
    # GDAL's name of another format that the message lists.
    shutil.move(path, place.folder / "other.tif")
    rio("convert", "--driver", "PNG", place.folder / "train_l.tif", place.folder / "train_b.png")
    place.entry()["b"] = "train_b.png"
    place.open()


def test_pixels_that_are_cut_off(place: Any) -> None:
    path = place.folder / "train_b.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    with refused("data.gridded:GriddedBands.read | The file is damaged or incomplete: fetch it"):
        place.read()
    path.write_bytes(whole)
    place.read()


def test_a_raster_of_another_place(place: Any) -> None:
    shutil.copy(place.folder / "test_b.tif", place.folder / "train_b.tif")
    with refused("data.gridded:_apart | Check that the file belongs to this scene"):
        place.open()
    place.raster("train_b.tif", place.pixels("train", "b"))
    place.open()
    # The other cause that it names.
    path = place.raster("train_b.tif", place.pixels("train", "b"), crs="EPSG:32640")
    with refused("data.gridded:_apart | and that its CRS is right"):
        place.open()
    rio("edit-info", path, "--crs", "EPSG:32633")
    place.open()


def test_pages(place: Any) -> None:
    first, second = place.pixels("train", "b"), place.pixels("val", "b")
    path = place.raster("train_b.tif", first)
    place.raster("train_b.tif", second, APPEND_SUBDATASET="YES")
    with refused("data.raster_file:_which_page | Say in the manifest which") as error:
        place.open()
    keys = {
        "one": error.find("'page: (1)' takes one"),
        "some": error.find(r"'page: (\[1, 2\])' some"),
        "all": error.find("'page: (all)' all of them"),
    }
    b = place.modality("b")
    b["page"] = int(keys["one"])
    np.testing.assert_array_equal(place.read()["b"], first)
    b |= {"bands": ["z", "w"], "page": [1, 2]}
    np.testing.assert_array_equal(place.read()["b"], np.concatenate([first, second]))
    b["page"] = keys["all"]
    np.testing.assert_array_equal(place.read()["b"], np.concatenate([first, second]))
    del b["page"]
    b["bands"] = ["z"]
    place.entry()["b"] = error.find("in the file's place: (.*)$")
    assert str(path) in place.entry()["b"]
    np.testing.assert_array_equal(place.read()["b"], first)


def test_a_page_that_is_not_there(place: Any) -> None:
    place.modality("b")["page"] = 3
    with refused("data.raster_file:inspect_pages | Correct 'page'") as error:
        place.open()
    place.modality("b")["page"] = int(error.find(r"its pages are (\d+) to"))
    place.open()


def test_complex_values(place: Any) -> None:
    values = place.pixels("train", "b") * np.complex64(1j)
    place.raster("train_b.tif", values)
    with refused("data.rasters:pick_bands | Set 'complex: amplitude' on the modality") as error:
        place.open()
    key, value = error.find("Set '(.*?)' on").split(": ")
    place.modality("b")[key] = value
    np.testing.assert_allclose(place.read()["b"], np.abs(values))


# Bands


@pytest.mark.parametrize("way", ["bands", "numbers", "descriptions"])
def test_a_file_of_more_bands(place: Any, way: str) -> None:
    image = np.concatenate([place.pixels(), place.pixels("val")])
    path = place.raster("train_a.tif", image)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("p", "q", "r", "s")
    place.values["scenes"] = [place.entry()]
    with refused("data.rasters:_wrong_count | In a manifest, correct 'bands', or pick with"):
        place.open()
    a = place.modality()
    if way == "bands":
        a["bands"] = ["x1", "x2", "x3", "x4"]
    else:
        a["read_bands"] = [4, 1] if way == "numbers" else ["s", "p"]
    taken = slice(None) if way == "bands" else [3, 0]
    np.testing.assert_array_equal(place.read()["a"], image[taken])


def test_rules_for_bands_of_a_trained_model(place: Any) -> None:
    from terrafuse.data import ReadingRules

    a = Modality("a", ("x", "y"))
    rules = {"a": ReadingRules(read_bands=(1, 2, 1))}
    with refused("data.rasters:_wrong_count | give one per band"):
        scene_from_rasters([a], {"a": place.folder / "train_a.tif"}, sources=rules)
    scene_from_rasters(
        [a], {"a": place.folder / "train_a.tif"}, sources={"a": ReadingRules(read_bands=(1, 2))}
    )


@pytest.mark.parametrize("wrong", [7, "nir"])
def test_bands_to_read_that_a_file_has_not(place: Any, wrong: int | str) -> None:
    path = place.folder / "train_a.tif"
    place.modality()["read_bands"] = [1, wrong]
    with refused("data.rasters:_find_band | Correct 'read_bands' in the manifest"):
        place.open()
    place.modality()["read_bands"] = [1, 2]
    place.open()
    # To a trained model: files laid out as in training.
    from terrafuse.data import ReadingRules

    rules = {"a": ReadingRules(read_bands=(1, wrong))}
    with refused("data.rasters:_find_band | give files laid out as in training"):
        scene_from_rasters([Modality("a", ("x", "y"))], {"a": path}, sources=rules)
    place.raster("train_a.tif", np.concatenate([place.pixels()] * 4))
    with rasterio.open(path, "r+") as dataset:
        dataset.set_band_description(2, "nir")
    scene_from_rasters([Modality("a", ("x", "y"))], {"a": path}, sources=rules)


def test_a_palette_where_three_bands_are_declared(place: Any) -> None:
    path = place.folder / "train_p.tif"
    place.raster("train_p.tif", place.pixels("train", "l"))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (10, 20, 30), 1: (200, 100, 50)})
    place.values["modalities"]["p"] = {"bands": ["r", "g", "b"], "required": False}
    place.entry()["p"] = path.name
    with refused("data.rasters:_wrong_count | it stores colours in a palette: name it") as error:
        place.open()
    place.entry()["p"] = error.find("as in '(vrt://[^ ]*expand=rgb)'")
    codes = place.pixels("train", "l")[0]
    assert place.read()["p"][:, codes == 1].T.tolist()[0] == [200, 100, 50]


def describe_bands(path: Path, *names: str) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names


def test_bands_of_another_order_are_taken_by_name_unless(place: Any) -> None:
    place.modality()["bands"] = ["red", "nir"]
    describe_bands(place.folder / "train_a.tif", "nir", "red")
    with warned(
        "data.band_names:_notice_order | 'band_names: ignore' on the modality takes them as they",
        BandNamesWarning,
    ) as text:
        np.testing.assert_array_equal(place.read()["a"], place.pixels()[::-1])
    key, value = text.find("'(band_names: ignore)'").split(": ")
    place.modality()[key] = value
    np.testing.assert_array_equal(place.read()["a"], place.pixels())


@pytest.mark.parametrize("way", ["file", "bands", "ignore"])
def test_names_in_a_file_that_contradict(place: Any, way: str) -> None:
    place.modality()["bands"] = ["red", "nir"]
    describe_bands(place.folder / "train_a.tif", "green", "nir")
    with refused(
        "data.band_names:_contradiction | Name the right files, or correct 'bands'"
    ) as error:
        place.open()
    if way == "file":
        describe_bands(place.folder / "train_a.tif", "red", "nir")
    elif way == "bands":
        place.modality()["bands"] = ["green", "nir"]
    else:
        key, value = error.find("'(band_names: ignore)'").split(": ")
        place.modality()[key] = value
    np.testing.assert_array_equal(place.read()["a"], place.pixels())


@pytest.mark.parametrize("way", ["ignore", "read_bands"])
def test_names_of_files_that_are_in_doubt(place: Any, way: str) -> None:
    for name, band in (("train_first_red.tif", 0), ("train_then_swir.tif", 1)):
        place.raster(name, place.pixels()[band][None])
    (place.folder / "train_then_swir.tif").rename(place.folder / "train_then_unclear.tif")
    place.modality()["bands"] = ["nir", "swir"]
    place.entry()["a"] = ["train_first_red.tif", "train_then_unclear.tif"]
    with warned("data.band_names:_doubt | If that is right, say", BandNamesWarning) as text:
        place.open()
    if way == "ignore":
        key, value = text.find("say '(.*?)' on the modality").split(": ")
        place.modality()[key] = value
    else:
        assert "if not, give the order with 'read_bands'" in text
        place.modality()["read_bands"] = [2, 1]
    image = place.read()["a"]
    np.testing.assert_array_equal(image, place.pixels()[:: 1 if way == "ignore" else -1])


def test_numbers_that_descriptions_contradict(place: Any) -> None:
    place.modality().update(bands=["red", "nir"], read_bands=[1, 2])
    describe_bands(place.folder / "train_a.tif", "nir", "red")
    with warned("data.band_names:doubt_numbers | If that is right, say", BandNamesWarning) as text:
        place.open()
    key, value = text.find("say '(.*?)' on the modality").split(": ")
    place.modality()[key] = value
    np.testing.assert_array_equal(place.read()["a"], place.pixels())


# Where rasters lie


@pytest.mark.parametrize("file", ["train_b.tif", "train_l.tif"])
def test_one_raster_without_crs(place: Any, file: str) -> None:
    pixels = place.pixels("train", file[6])
    path = place.raster(file, pixels, crs=None)
    with refused("data.placement:_check_crs | Give it its CRS") as error:
        place.open()
    command = error.find(r"\(rio (.*?);").replace("FILE", str(path)).replace("…", "32633")
    rio(*command.split())
    place.open()


def test_labels_to_score_by_without_crs(place: Any) -> None:
    path = place.raster("train_e.tif", place.pixels("train", "l"), crs=None)
    place.entry()["labels_eroded"] = "train_e.tif"
    scene = place.open()
    with refused("data.placement:place_further | Give all rasters of the scene their CRS"):
        scene.read_labels(scene.full_window, "labels_eroded")
    rio("edit-info", path, "--crs", "EPSG:32633")
    scene = place.open()
    scene.read_labels(scene.full_window, "labels_eroded")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_points_that_give_no_grid(place: Any) -> None:
    corners = {
        (0, 0): (0, 0),
        (0, 32): (330, 0),
        (32, 0): (0, -300),
        (32, 32): (320, -350),
        (16, 16): (120, -190),
    }
    points = [
        GroundControlPoint(row, col, 500_000 + x, 5_000_000 + y)
        for (row, col), (x, y) in corners.items()
    ]
    path, pixels = place.folder / "train_b.tif", place.pixels("train", "b")
    path.unlink()
    place.raster("train_b.tif", pixels, crs=None, transform=rasterio.Affine.identity())
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, rasterio.CRS.from_epsg(32633))
    with refused(
        "data.placement:_check_placed | Resample it to one first, for instance with gdalwarp"
    ):
        place.open()
    warped = np.full((1, 32, 32), np.nan, np.float32)
    grid = from_origin(500_000, 5_000_000, 10, 10)
    reproject(
        pixels, warped, gcps=points, src_crs="EPSG:32633", dst_crs="EPSG:32633", dst_transform=grid
    )
    path.unlink()
    place.raster("train_b.tif", warped)
    place.open()


def without_crs(place: Any, split: str = "train", **transforms: Any) -> None:
    for name in "abl":
        options = {"transform": transforms[name]} if name in transforms else {}
        path = place.folder / f"{split}_{name}.tif"
        path.unlink()
        place.raster(path.name, place.pixels(split, name), crs=None, **options)


def test_sizes_that_do_not_match(place: Any) -> None:
    without_crs(place)
    place.raster("train_l.tif", place.pixels("train", "l")[:, :20], crs=None)
    with refused("data.placement:_match_by_pixel | Rasters without CRS are matched by pixel"):
        place.values["grid"] = "a"
        place.open()
    # Georeferenced, sizes need not match; and equal sizes do.
    for name in "abl":
        rio("edit-info", place.folder / f"train_{name}.tif", "--crs", "EPSG:32633")
    place.open()
    without_crs(place)
    place.open()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("way", ["crs", "transforms"])
def test_transforms_that_differ_without_crs(place: Any, way: str) -> None:
    without_crs(place, b=from_origin(500_100, 5_000_000, 10, 10))
    with warned("data.placement:_match_by_pixel | the pixels do correspond, remove the") as text:
        place.open()
    for name in "abl":
        path = place.folder / f"train_{name}.tif"
        if way == "crs":
            rio("edit-info", path, "--crs", "EPSG:32633")
        else:
            rio("edit-info", "--transform", text.find(r"'(\[.*?\])' FILE"), path)
    image = place.read()["b"]
    assert np.isnan(image[0, :, :10]).all() == (way == "crs")


# Encodings of generated rasters


def encoded(place: Any, array: np.ndarray, encoding: str, bands: list[str], **tags: str) -> Path:
    path = place.raster("train_g.tif", array)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**tags)
    place.values["modalities"]["g"] = {
        "kind": "structure", "bands": bands, "encoding": encoding, "required": False,
    }  # fmt: skip
    place.entry()["g"] = "train_g.tif"
    return path


@pytest.mark.parametrize("way", ["name one", "remove"])
def test_what_is_no_raster_of_segments(place: Any, way: str) -> None:
    encoded(place, place.pixels("train", "b"), "gray", list(ENCODED_BANDS["gray"]))
    with refused(
        "data.encoding:Encoder._numbers | needs a raster of segments. Name one, or remove"
    ):
        place.read()
    if way == "name one":
        place.entry()["g"] = "train_l.tif"
    else:
        del place.modality("g")["encoding"]
    place.read()


@pytest.mark.parametrize("way", ["read_bands", "remove"])
def test_segments_of_two_bands(place: Any, way: str) -> None:
    encoded(place, place.pixels(), "gray", list(ENCODED_BANDS["gray"]))
    with refused("data.rasters:pick_bands | Pick it with 'read_bands', or remove 'encoding'"):
        place.read()
    if way == "read_bands":
        place.modality("g")["read_bands"] = [2]
    else:
        place.modality("g").update(bands=["one", "two"])
        del place.modality("g")["encoding"]
    place.read()


def test_a_table_of_colours_that_is_too_short(place: Any) -> None:
    path = encoded(place, place.pixels("train", "l"), "mean_rgb", list(ENCODED_BANDS["mean_rgb"]))
    np.save(path.with_suffix(".colors.npy"), np.zeros((1, 3), np.uint8))
    with refused("data.encoding:Encoder._mean_colors | Generate the raster again"):
        place.read()
    np.save(path.with_suffix(".colors.npy"), np.full((2, 3), 9, np.uint8))
    assert (place.read()["g"] == 9).all()


@pytest.mark.parametrize("way", ["fetch", "another"])
def test_a_table_of_colours_beside_no_file(place: Any, way: str) -> None:
    path = encoded(place, place.pixels("train", "l"), "mean_rgb", list(ENCODED_BANDS["mean_rgb"]))
    np.save(path.with_suffix(".colors.npy"), np.full((2, 3), 9, np.uint8))
    place.entry()["g"] = f"vrt://{path}?bands=1"
    with refused("data.encoding:color_table | Fetch the raster and its .colors.npy, or choose"):
        place.read()
    if way == "fetch":
        place.entry()["g"] = "train_g.tif"
    else:
        place.modality("g").update(encoding="color", bands=list(ENCODED_BANDS["color"]))
    assert place.read()["g"].shape == (3, 32, 32)


@pytest.mark.parametrize("way", ["limits", "remove"])
def test_depth_without_limits(place: Any, way: str) -> None:
    path = encoded(place, place.pixels("train", "b"), "stretch", list(ENCODED_BANDS["stretch"]))
    with refused(
        "data.encoding:Encoder._limits | or remove 'encoding' to read its values"
    ) as error:
        place.read()
    if way == "limits":  # as terrafuse generate writes them
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**{error.find(r"\(tag (\w+):"): "-20 0"})
        assert error.find(r"\(tag (\w+):") == LIMITS_TAG
        assert place.read()["g"].max() <= 255
    else:
        del place.modality("g")["encoding"]
        np.testing.assert_array_equal(place.read()["g"], place.pixels("train", "b"))


def test_rasters_of_two_generators(place: Any) -> None:
    path = encoded(place, place.pixels("train", "l"), "gray", list(ENCODED_BANDS["gray"]))
    place.modality("g")["generator"] = "abc"
    with refused(
        "data.encoding:check_generator | generate this one again with those of the others"
    ) as error:
        place.read()
    with rasterio.open(path, "r+") as dataset:  # as the other settings would
        dataset.update_tags(**{GENERATOR_TAG: error.find(r"expected (\w+)\.")})
    place.read()


def test_no_raster_at_all(place: Any) -> None:
    modalities = [Modality("a", ("x", "y"))]
    with refused("data.scene:scene_from_rasters | has no raster; give one of") as error:
        scene_from_rasters(modalities, {})
    name = error.find("give one of (.*)$")
    scene_from_rasters(modalities, {name: place.folder / "train_a.tif"})


def test_statistics_of_a_band_without_data(place: Any) -> None:
    from terrafuse.api import data_stats

    place.modality("b")["nodata"] = -10
    place.raster("train_b.tif", np.full((1, 32, 32), -10, np.float32))
    place.write()
    with refused("data.statistics:_BandAccumulator.result | Correct its 'nodata' in the manifest"):
        data_stats(place.manifest)
    place.modality("b")["nodata"] = -9999
    place.write()
    assert data_stats(place.manifest)["b"].mean == (-10,)


def test_a_manifest_of_unknown_splits(place: Any) -> None:
    from terrafuse.data import open_dataset

    place.run["data"]["train_splits"] = ["learn"]
    with refused("data.normalization:_check_splits | let terrafuse data split do it") as error:
        open_dataset(place.config().data)
    key, value = error.find("Set '(.*?)' for scenes").split(": ")
    place.entry()[key] = value
    open_dataset(place.config().data)
    with pytest.raises(ConfigError):
        load_manifest(place.folder / "none.yaml")


def test_normalisation_per_band(place: Any) -> None:
    from terrafuse.data import open_dataset

    place.run["data"]["normalization"] = {"a": {"mean": [1, 2, 3], "std": 1}}
    with refused("data.normalization:_per_band | Give one value for all, or one per band"):
        open_dataset(place.config().data)
    for mean in ([1, 2], 1):
        place.run["data"]["normalization"]["a"]["mean"] = mean
        open_dataset(place.config().data)
