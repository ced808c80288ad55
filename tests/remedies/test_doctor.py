"""Findings of the doctor: the remedy, done, and the finding is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import yaml
from click.testing import CliRunner
from rasterio.rio.main import main_group
from rasterio.transform import from_origin

from remedies import told
from terrafuse.api import data_fix, data_split
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.doctor import check_manifest
from terrafuse.doctor.files import check_storage
from terrafuse.doctor.registration import check_registration
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def rio(*words: object) -> None:
    result = CliRunner().invoke(main_group, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def literal(finding: Any) -> dict[str, Any]:
    """The first 'key: value' in quotes of a remedy, as YAML reads it."""
    (text, *_) = re.findall(r"'(\w+: [^']+)'", finding.remedy)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def fixed_codes(place: Any, findings: list[Any], out: str = "fixed.yaml") -> set[str]:
    """Codes that are left after `data check --fix`."""
    assert data_fix(place.manifest, findings, place.folder / out)
    return {f.code for f in check_manifest(load_manifest(place.folder / out), workers=1)}


# Files


@pytest.mark.parametrize(
    ("content", "follow"),
    [
        (b"", lambda f: told("doctor.files:_what_it_is | was interrupted; fetch it again", f)),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            lambda f: told("doctor.files:_what_it_is | Run 'git lfs pull' where it came from", f),
        ),
        (
            b"<!DOCTYPE html><html>",
            lambda f: told("doctor.files:_what_it_is | sign in and download it again", f),
        ),
    ],
)
def test_files_that_did_not_arrive(place: Any, content: bytes, follow: Any) -> None:
    path = place.folder / "train_b.tif"
    whole = path.read_bytes()
    path.write_bytes(content)
    assert follow(place.check()).path == path
    path.write_bytes(whole)
    assert "unreadable" not in place.codes()


def test_a_file_that_was_cut_off(place: Any) -> None:
    path = place.folder / "train_b.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    told(
        "doctor.files:check_ends | is damaged or cut off; copy or download it again", place.check()
    )
    path.write_bytes(whole)
    assert "unreadable" not in place.codes()


def test_labels_with_losses(place: Any) -> None:
    codes = np.zeros((1, 32, 32), np.uint8)
    place.raster("train_l.tif", codes)
    rio("convert", "--driver", "JPEG", place.folder / "train_l.tif", place.folder / "train_l.jpg")
    place.entry()["labels"] = "train_l.jpg"
    told("doctor.files:check_storage | Use the original labels (PNG or TIFF)", place.check())
    place.entry()["labels"] = "train_l.tif"
    assert "lossy-labels" not in place.codes()


def test_blocks_that_are_slow_to_read(make_raster: MakeRaster, tmp_path: Path) -> None:
    plain = make_raster(tmp_path / "plain.tif", np.zeros((1, 2048, 2048), np.uint8))
    path = tmp_path / "a.tif"
    rasterio.shutil.copy(
        plain, path, driver="GTiff", TILED="YES", BLOCKXSIZE="2048", BLOCKYSIZE="2048"
    )

    def findings(path: Path) -> list[Any]:
        return list(check_storage(scene_from_rasters([Modality("a", ("x",))], {"a": path})))

    place = "doctor.files:_check_blocks | makes one that reads faster"
    finding = told(place, findings(path))
    command = finding.remedy.partition(" makes one")[0].split()
    names = {"FILE": str(path), "COPY": str(tmp_path / "copy.tif")}
    rio(*(names.get(word, word) for word in command[1:]))
    assert findings(tmp_path / "copy.tif") == []


# Data, labels and scenes


@pytest.mark.parametrize("way", ["nodata", "leave out"])
def test_a_modality_of_nodata(place: Any, way: str) -> None:
    place.modality("b")["nodata"] = -10
    place.raster("train_b.tif", np.full((1, 32, 32), -10, np.float32))
    place.values["scenes"].append(place.entry("val") | {"id": "more", "split": "train"})
    told(
        "doctor.checkup:_judge_scene | Correct 'nodata' in the manifest, or leave the",
        place.check(),
    )
    if way == "nodata":
        place.modality("b")["nodata"] = -9999
    else:
        place.values["scenes"].remove(place.entry())
    assert "no-data-in-modality" not in place.codes()


@pytest.mark.parametrize("way", ["nodata", "leave out"])
def test_a_modality_of_nodata_in_training(place: Any, way: str) -> None:
    place.modality("b")["nodata"] = -10
    place.raster("train_b.tif", np.full((1, 32, 32), -10, np.float32))
    told(
        "doctor.splits:_check_bands | Correct its 'nodata' in the manifest, or leave", place.check()
    )
    names = None
    if way == "nodata":
        place.modality("b")["nodata"] = -9999
    else:
        names = ["a"]  # what data.modalities of run.yaml selects
    found = check_manifest(place.load().select(names), workers=1)
    assert "modality-without-data" not in {f.code for f in found}


@pytest.mark.parametrize("way", ["classes", "void", "labels", "leave out"])
def test_labels_that_are_all_ignored(place: Any, way: str) -> None:
    place.raster("train_l.tif", np.full((1, 32, 32), 9, np.uint8))
    if way == "labels":
        place.values["labels"] = {"nodata": 9}
    else:
        place.values["void"] = [9]
    findings = place.check()
    told("doctor.checkup:_judge_scene | Correct 'classes', 'void' or 'labels.nodata'", findings)
    told(
        "doctor.splits:_check_labels | Correct 'classes', 'void' or the labels' 'nodata'", findings
    )
    if way == "leave out":
        place.values["scenes"].remove(place.entry())
        place.entry("val")["split"] = "train"
    else:
        place.values |= {"void": [], "labels": {}}
        place.values["classes"][1]["code"] = [1, 9]
    assert "labels-ignored" not in place.codes()


def test_classes_of_one_colour(place: Any) -> None:
    place.values["classes"] = [
        {"name": name, "code": code, "color": color}
        for code, (name, color) in enumerate(
            {"dry": "#AA0000", "wet": "#0000bb", "sand": "#aa0000", "snow": "#0000ba"}.items()
        )
    ]
    finding = told("doctor.labels:check_colors | Give each a 'color' of its own", place.check())
    assert (finding.severity, finding.code) == ("warning", "alike-colors")
    assert finding.message.endswith("told apart on maps: 'dry', 'sand' (#aa0000)")
    place.values["classes"][2]["color"] = "#ffff00"
    assert "alike-colors" not in place.codes()


def test_splits_that_are_missing(place: Any) -> None:
    for entry in place.values["scenes"]:
        entry["split"] = None
    findings = place.check()
    finding = told("doctor.splits:_check_presence | or let terrafuse data split do it", findings)
    place.entry()["split"] = literal(finding)["split"]
    findings = place.check()
    assert "no-train" not in {f.code for f in findings}
    told("doctor.splits:_check_presence | the best weights are chosen on it", findings)
    place.entry("val")["split"] = "val"
    findings = place.check()
    assert "no-val" not in {f.code for f in findings}
    told("doctor.splits:_check_presence | Scores on the split that chose the weights", findings)
    told("doctor.splits:_check_presence | 'terrafuse data split'", findings, "no-test")
    # All three at once, by the command.
    data_split(place.manifest, place.folder / "split.yaml", shares=SHARES, block_px=8, buffer_px=0)
    split = load_manifest(place.folder / "split.yaml")
    left = {f.code for f in check_manifest(split, workers=1)}
    assert not {"no-train", "no-val", "no-test"} & left


@pytest.mark.parametrize("way", ["labels", "map only"])
def test_a_split_that_cannot_be_judged(place: Any, way: str) -> None:
    del place.entry("test")["labels"]
    told("doctor.splits:_check_presence | Name labels, or map it only", place.check())
    if way == "labels":
        place.entry("test")["labels"] = "test_l.tif"
    else:
        place.entry("test")["split"] = None
    assert "no-labels" not in place.codes()


def test_training_without_labels(place: Any) -> None:
    del place.entry()["labels"]
    told("doctor.splits:_no_labels | Give 'labels' in the manifest", place.check())
    place.entry()["labels"] = "train_l.tif"
    assert "no-labels" not in place.codes()


@pytest.mark.parametrize("way", ["one split", "data split"])
def test_ground_of_two_splits(place: Any, way: str) -> None:
    place.values["scenes"].append(
        place.entry() | {"id": "again", "split": "val", "window": [0, 0, 16, 32]}
    )
    told(
        "doctor.splits:_check_overlap | Put them into one split (terrafuse data split",
        place.check(),
    )
    if way == "one split":
        place.entry("again")["split"] = "train"
        assert "split-overlap" not in place.codes()
    else:
        data_split(
            place.manifest, place.folder / "split.yaml", shares=SHARES, block_px=8, buffer_px=0
        )
        found = check_manifest(load_manifest(place.folder / "split.yaml"), workers=1)
        assert "split-overlap" not in {f.code for f in found}


@pytest.mark.parametrize("way", ["keep one", "one split"])
def test_a_scene_of_two_splits(place: Any, way: str) -> None:
    for name in "abl":
        place.raster(f"test_{name}.tif", place.pixels("train", name))
    told(
        "doctor.duplicates:_describe | Keep one of them, or give all the same 'split'",
        place.check(),
    )
    if way == "keep one":
        place.values["scenes"].remove(place.entry("test"))
    else:
        place.entry("test")["split"] = "train"
    assert "leak" not in place.codes()


def test_a_scene_that_is_there_twice(place: Any) -> None:
    place.values["scenes"].append(place.entry() | {"id": "again"})
    told("doctor.duplicates:_describe | It counts several times; keep one", place.check())
    place.values["scenes"].remove(place.entry("again"))
    assert "duplicate" not in place.codes()


@pytest.mark.parametrize("way", ["one split", "window"])
def test_neighbours_of_two_splits(place: Any, way: str) -> None:
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        # The test scene is apart from both.
        east = from_origin(500_000 + 10 * [0, 64, 9000][number], 5_000_000, 10, 10)
        for name, bands in (("a", 2), ("b", 1), ("l", 1)):
            image = rng.integers(0, 2, (bands, 64, 64)).astype(np.uint8)
            place.raster(f"{split}_{name}.tif", image, transform=east)
    finding = told(
        "doctor.splits:_check_nearness | Give neighbours one split, or cut", place.check()
    )
    if way == "one split":
        place.entry("val")["split"] = "train"
    else:
        (strip,) = map(int, re.findall(r"strips of (\d+) px", finding.remedy))
        place.entry("val")["window"] = [0, strip, 64, 64 - strip]
    assert "split-near" not in place.codes()


def test_classes_that_a_split_lacks(place: Any) -> None:
    codes = place.pixels("test", "l")
    place.raster("test_l.tif", codes * 0)
    told(
        "doctor.splits:_check_classes_elsewhere | 'terrafuse data split' balances classes",
        place.check(),
    )
    data_split(place.manifest, place.folder / "split.yaml", shares=SHARES, block_px=8, buffer_px=0)
    found = check_manifest(load_manifest(place.folder / "split.yaml"), workers=1)
    assert "class-not-judged" not in {f.code for f in found}


def test_a_class_that_is_rare(place: Any) -> None:
    import torch

    from terrafuse.training.losses import create_loss

    codes = np.zeros((1, 32, 32), np.uint8)
    codes[0, 5, 7] = 1
    place.raster("train_l.tif", codes)
    told(
        "doctor.splits:_check_classes_elsewhere | Balanced sampling and a loss with class",
        place.check(),
    )
    place.run["data"]["sampling"] = "balanced"
    place.run["training"]["losses"] = [{"name": "cross_entropy", "class_weights": "balanced"}]
    create_loss(place.config().training.losses, place.load().scheme, torch.tensor([1023, 1]))


# Bands of no use


@pytest.mark.filterwarnings("ignore::terrafuse.data.band_names.BandNamesWarning")
def test_bands_are_left_out_as_they_are_read(place: Any) -> None:
    """By name: the file has them in another order; two are of no use."""
    rng = np.random.default_rng(0)
    bands = ["blue", "green", "red", "nir"]

    def pixels(split: str) -> np.ndarray:
        del split
        image = rng.integers(10, 200, (4, 32, 32)).astype(np.uint16)
        image[1], image[3] = 5, 0  # green and red in the file
        return image

    place.add("m", pixels, bands=bands, nodata=0, nodata_rule="each", value_scale=[1, 2, 3, 4])
    for split in ("train", "val", "test"):
        with rasterio.open(place.folder / f"{split}_m.tif", "r+") as dataset:
            dataset.descriptions = ("nir", "green", "blue", "red")
    place.entry()["value_offset"] = {"m": [0.5, 0, 0, 0.25]}
    findings = place.check()
    constant = next(f for f in findings if f.code == "constant-band")
    empty = next(f for f in findings if f.code == "band-without-data")
    told("doctor.splits:_check_bands | It carries no information;", [constant])
    told("doctor.splits:_check_empty_bands | Training cannot normalise them;", [empty])
    for finding in (constant, empty):
        told(
            "doctor.splits:_check_bands | out of 'bands', and out of what 'read_bands' takes",
            [finding],
        )
    wanted = {"bands": ["blue", "nir"], "read_bands": [3, 1], "value_scale": [1, 4]}
    assert constant.fix == empty.fix
    assert {
        k.removeprefix("modalities.m."): v for k, v in constant.fix.items() if k != "scenes"
    } == wanted
    before = place.read()["m"]
    left = fixed_codes(place, findings)
    assert not {"constant-band", "band-without-data"} & left
    scene = load_manifest(place.folder / "fixed.yaml").scene("train")
    image = scene.read(scene.full_window).images["m"].numpy()
    np.testing.assert_array_equal(image, before[[0, 3]])


@pytest.mark.filterwarnings("ignore::terrafuse.data.band_names.BandNamesWarning")
def test_bands_that_every_scene_orders_otherwise(place: Any) -> None:
    place.modality()["bands"] = ["red", "nir"]
    for split, names in (
        ("train", ("nir", "red")),
        ("val", ("red", "nir")),
        ("test", ("red", "nir")),
    ):
        image = place.pixels(split)
        image[names.index("red")] = 7
        place.raster(f"{split}_a.tif", image)
        with rasterio.open(place.folder / f"{split}_a.tif", "r+") as dataset:
            dataset.descriptions = names
    findings = place.check()
    (fix,) = [f.fix for f in findings if f.code == "constant-band"]
    assert fix == {"modalities.a.bands": ["nir"]}
    left = fixed_codes(place, findings)
    assert "constant-band" not in left
    scene = load_manifest(place.folder / "fixed.yaml").scene("train")
    np.testing.assert_array_equal(scene.read(scene.full_window).images["a"][0], place.pixels()[0])


def test_a_modality_of_constant_bands(place: Any) -> None:
    place.add("m", lambda _: np.full((1, 32, 32), 4, np.uint8), bands=["v"])
    finding = told(
        "doctor.splits:_check_bands | leave the modality out with data.modalities", place.check()
    )
    assert finding.fix == {}
    found = check_manifest(place.load().select(["a", "b"]), workers=1)
    assert "constant-band" not in {f.code for f in found}


def test_a_band_of_an_encoding_cannot_be_left_out(place: Any) -> None:
    place.add(
        "m", lambda split: place.pixels(split, "l"), kind="structure",
        bands=["mean_red", "mean_green", "mean_blue"], encoding="mean_rgb",
    )  # fmt: skip
    for split in ("train", "val", "test"):
        np.save(place.folder / f"{split}_m.colors.npy", np.array([[1, 2, 9], [3, 4, 9]], np.uint8))
    finding = next(f for f in place.check() if f.code == "constant-band")
    told("doctor.splits:_check_bands | leave the modality out with data.modalities", [finding])
    assert finding.fix == {}


@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("way", ["file", "nodata"])
def test_a_band_that_is_constant_in_a_scene(place: Any, way: str, bands: int) -> None:
    image = place.pixels()[:bands]
    image[-1] = 3
    place.add("m", lambda split: place.pixels(split)[:bands], bands=["v", "w"][:bands])
    place.raster("train_m.tif", image)
    finding = told(
        "doctor.values:_check_constant | Check that the right file or band is", place.check()
    )
    if way == "file":
        place.raster("train_m.tif", place.pixels()[:bands])
    else:
        place.modality("m")["nodata"] = 3
        if "'nodata_rule: each'" in finding.remedy:
            place.modality("m")["nodata_rule"] = "each"
    assert "constant-in-scene" not in place.codes()


# Elevation


def hills(split: str = "train", size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(len(split))
    rows, cols = np.mgrid[:size, :size]
    smooth = 210 + 15 * (1 + np.sin(rows / 9) * np.cos(cols / 7))
    return (smooth + rng.normal(0, 0.3, (1, size, size))).astype(np.float32)


@pytest.fixture
def heights(place: Any) -> Any:
    """A place of heights alone."""
    place.values["modalities"] = {"h": {"kind": "elevation", "unit": "m", "bands": ["z"]}}
    place.values["scenes"] = [{"id": s, "split": s, "h": f"{s}_h.tif"} for s in ("train", "val")]
    for split in ("train", "val"):
        place.raster(f"{split}_h.tif", hills(split))
    return place


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[0, 10:20, 30:40] = value
    return array


DECLARE = "doctor.summary:ModalitySummary.declare | Set 'nodata: "


def scaled(path: Path, *, scale: float, offset: float = 0.0) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = [scale] * dataset.count
        dataset.offsets = [offset] * dataset.count


@pytest.mark.parametrize("way", ["set", "fill"])
def test_holes_in_heights(heights: Any, way: str) -> None:
    heights.raster("train_h.tif", with_value(hills(), -9999))
    finding = told(DECLARE, heights.check(), "elevation-fill")
    told("doctor.elevation:_fill | ; or fill the holes", [finding])
    if way == "set":
        heights.modality("h").update(literal(finding))
    else:
        heights.raster("train_h.tif", hills())
    assert "elevation-fill" not in heights.codes()


@pytest.mark.parametrize(("scale", "offset"), [(0.1, 0.0), (0.01, 100.0), (0.3, -7.5)])
def test_nodata_is_the_number_in_the_file(heights: Any, scale: float, offset: float) -> None:
    for split in ("train", "val"):
        stored = np.round((hills(split) - offset) / scale).astype(np.int32)
        stored = with_value(stored, -32768) if split == "train" else stored
        scaled(heights.raster(f"{split}_h.tif", stored), scale=scale, offset=offset)
    finding = told(DECLARE, heights.check(), "elevation-fill")
    assert literal(finding) == {"nodata": -32768}
    assert finding.fix == {"modalities.h.nodata": -32768}
    heights.modality("h").update(literal(finding))
    assert "elevation-fill" not in heights.codes()
    assert int(np.isnan(heights.read()["h"]).sum()) == 100


def test_holes_of_zero_metres(heights: Any) -> None:
    for split in ("train", "val"):
        stored = np.round(hills(split) - 100).astype(np.int16)
        stored = with_value(stored, -100) if split == "train" else stored
        scaled(heights.raster(f"{split}_h.tif", stored), scale=1, offset=100)
    finding = told(DECLARE, heights.check(), "elevation-holes")
    told("doctor.elevation:_zeros | ; or fill the holes", [finding])
    assert literal(finding) == {"nodata": -100}
    heights.modality("h").update(literal(finding))
    assert "elevation-holes" not in heights.codes()
    heights.raster("train_h.tif", hills())
    del heights.modality("h")["nodata"]
    assert "elevation-holes" not in heights.codes()


def test_a_single_value_that_is_no_height(heights: Any) -> None:
    array = hills()
    array[0, 5, 7] = 20_000.5
    heights.raster("train_h.tif", array)
    told("doctor.elevation:_fill | Remove the value from the file", heights.check())
    heights.raster("train_h.tif", hills())
    assert "elevation-fill" not in heights.codes()


@pytest.mark.parametrize("way", ["clip", "mask"])
def test_an_outlier(heights: Any, way: str) -> None:
    array = hills()
    array[0, 50, 7] += 400
    heights.raster("train_h.tif", array)
    told("doctor.elevation:_spike | Clip or mask it in the file", heights.check())
    array[0, 50, 7] = 240 if way == "clip" else np.nan
    heights.raster("train_h.tif", array)
    assert "elevation-outlier" not in heights.codes()


@pytest.mark.parametrize("way", ["metres", "unit"])
def test_heights_as_a_picture(heights: Any, way: str) -> None:
    for split in ("train", "val"):
        heights.raster(f"{split}_h.tif", (hills(split) - 200).astype(np.uint8))
    finding = told(
        "doctor.elevation:_check_grey | Use the raster in metres; heights of", heights.check()
    )
    if way == "metres":
        for split in ("train", "val"):
            heights.raster(f"{split}_h.tif", hills(split))
    else:
        heights.modality("h").update(literal(finding))
    assert "elevation-8bit" not in heights.codes()


# Pixels without data


def bordered(image: np.ndarray, value: float, rows: int = 5) -> np.ndarray:
    image = image.copy()
    image[:, -rows:] = value
    return image


@pytest.mark.parametrize(
    ("tags", "value"), [({}, 255), ({"scale": 0.0001}, 255), ({"scale": 0.5, "offset": -3.0}, 0)]
)
def test_a_border_of_fill(place: Any, tags: dict[str, float], value: int) -> None:
    """The value is the one in the file, whatever its tags of scale make of it."""
    for split in ("train", "val", "test"):
        image = place.pixels(split)
        image = bordered(image, value) if split == "train" else image
        path = place.raster(f"{split}_a.tif", image)
        if tags:
            scaled(path, **tags)
    finding = told(DECLARE, place.check(), "undeclared-nodata")
    assert literal(finding) == {"nodata": value}
    assert finding.fix == {"modalities.a.nodata": value}
    place.modality().update(literal(finding))
    assert "undeclared-nodata" not in place.codes()
    assert np.isnan(place.read()["a"][:, -5:]).all()


def test_a_border_of_bands_with_scales_of_their_own(place: Any) -> None:
    for split in ("train", "val", "test"):
        image = place.pixels(split)
        path = place.raster(f"{split}_a.tif", bordered(image, 255))
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (0.1, 0.25), (0.0, 7.0)
    finding = told(DECLARE, place.check(), "undeclared-nodata")
    assert literal(finding) == {"nodata": 255}
    place.modality().update(literal(finding))
    assert "undeclared-nodata" not in place.codes()


def test_fill_that_is_also_a_value(place: Any) -> None:
    image = bordered(place.pixels(), 255)
    image[0, 3:6, 4:30] = 255
    place.raster("train_a.tif", image)
    told("doctor.nodata:_undeclared | Mask these pixels in the file;", place.check())
    path = place.raster("train_a.tif", image)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.arange(32)[:, None].repeat(32, 1) < 27)
    assert "undeclared-nodata" not in place.codes()


@pytest.mark.parametrize("by", ["key", "tag"])
def test_fill_beside_another_nodata_value(place: Any, by: str) -> None:
    """A modality has one nodata value: setting the other would bring back what the first hides."""
    image = bordered(place.pixels(), 255)
    image[:, :9, :9] = 7
    place.raster("train_a.tif", image, nodata=7 if by == "tag" else None)
    if by == "key":
        place.modality()["nodata"] = 7
    place_ = "doctor.summary:ModalitySummary.declare | In the file, write the nodata value"
    finding = told(place_, place.check(), "undeclared-nodata")
    assert finding.fix == {}
    (value,) = re.findall(r"nodata value (\S+) in its place", finding.remedy)
    image[image == 255] = int(value)
    place.raster("train_a.tif", image, nodata=7 if by == "tag" else None)
    assert "undeclared-nodata" not in place.codes()


def test_holes_of_zero(place: Any) -> None:
    def pixels(split: str) -> np.ndarray:
        image = np.random.default_rng(len(split)).integers(40, 200, (3, 32, 32)).astype(np.uint8)
        image[:, 10:16, 10:16] = 0
        return image

    place.add("m", pixels, kind="optical", bands=["u", "v", "w"])
    finding = told("doctor.nodata:_check_holes | if 0 is never a value", place.check())
    place.modality("m").update(literal(finding))
    assert "zeros" not in place.codes()


def test_nodata_in_some_bands_only(place: Any) -> None:
    image = place.pixels()
    image[0, 3:9], image[:, 20:] = 0, 0
    place.raster("train_a.tif", image)
    place.modality()["nodata"] = 0
    finding = told("doctor.nodata:_check_partly | If they are no values, set", place.check())
    assert not np.isnan(place.read()["a"][:, 3:9]).any()
    place.modality().update(literal(finding))
    assert np.isnan(place.read()["a"][0, 3:9]).all()
    finding = told(
        "doctor.nodata:_check_partly | If they are values (dark water, white", place.check()
    )
    place.modality().update(literal(finding))
    assert not np.isnan(place.read()["a"][:, 3:9]).any()


@pytest.mark.parametrize("by", ["key", "tag"])
def test_nan_beside_a_nodata_value_of_zero(place: Any, by: str) -> None:
    image = place.pixels("train", "b")
    image[0, 4:8], image[0, 20] = np.nan, 0
    path = place.raster("train_b.tif", image, nodata=0 if by == "tag" else None)
    if by == "key":
        place.modality("b")["nodata"] = 0
    finding = told(
        "doctor.nodata:_nan_beside | NaN marks no data here, so 0 may be a", place.check()
    )
    if by == "tag":
        command = re.findall(r"\(rio (.*)\)", finding.remedy)[0].replace("FILE", str(path))
        rio(*command.split())
    else:
        (key,) = re.findall(r"remove '(\w+)' from the modality", finding.remedy)
        del place.modality("b")[key]
    assert "nan-beside-nodata" not in place.codes()
    assert (place.read()["b"][0, 20] == 0).all()


def test_nan_beside_another_nodata_value(place: Any) -> None:
    image = place.pixels("train", "b")
    image[0, 4:8] = np.nan
    place.raster("train_b.tif", image, nodata=-9999)
    told("doctor.nodata:_nan_beside | if NaN means something else, repair the file", place.check())
    place.raster("train_b.tif", np.nan_to_num(image, nan=1.5), nodata=-9999)
    assert "nan-beside-nodata" not in place.codes()
    assert (place.read()["b"][0, 4:8] == 1.5).all()


@pytest.mark.parametrize("way", ["nodata", "window"])
def test_a_scene_of_little_data(place: Any, way: str) -> None:
    image = place.pixels("train", "b")
    image[0, 12:] = -1.5
    place.raster("train_b.tif", image)
    place.modality("b")["nodata"] = -1.5
    told("doctor.values:_check_share | correct 'nodata' or the extent of the scene", place.check())
    if way == "nodata":
        del place.modality("b")["nodata"]
    else:
        place.entry()["window"] = [0, 0, 12, 32]
    assert "little-data" not in place.codes()


# Structure


def test_pixels_of_another_size(place: Any) -> None:
    twice = from_origin(500_000, 5_000_000, 20, 20)
    path = place.raster("train_b.tif", place.pixels("train", "b"), transform=twice)
    told("doctor.structure:_check_pixel_size | give the modality", place.check())
    rio("edit-info", "--transform", json.dumps([10, 0, 500_000, 0, -10, 5_000_000]), path)
    assert "pixel-size" not in place.codes()


@pytest.mark.parametrize("way", ["file", "transform"])
def test_a_raster_that_covers_a_part(place: Any, way: str) -> None:
    path = place.raster(
        "train_b.tif", place.pixels("train", "b"), transform=from_origin(500_200, 5_000_000, 10, 10)
    )
    told(
        "doctor.structure:_check_coverage | Check that it is the right file and that", place.check()
    )
    if way == "file":
        path.unlink()
        place.raster("train_b.tif", place.pixels("train", "b"))
    else:
        rio("edit-info", "--transform", json.dumps([10, 0, 500_000, 0, -10, 5_000_000]), path)
    assert "coverage" not in place.codes()


def test_labels_named_as_a_modality(place: Any) -> None:
    place.entry()["b"] = "train_l.tif"
    told("doctor.structure:_check_same_file | Name the raster of the modality", place.check())
    place.entry()["b"] = "train_b.tif"
    assert "labels-as-input" not in place.codes()


@pytest.mark.parametrize("way", ["raster", "read_bands"])
def test_one_file_named_twice(place: Any, way: str) -> None:
    place.modality("b")["bands"] = ["z", "w"]
    for split in ("train", "val", "test"):
        place.entry(split)["b"] = f"{split}_a.tif"
    told("doctor.structure:_check_same_file | or give each its 'read_bands'", place.check())
    if way == "raster":
        place.modality("b")["bands"] = ["z"]
        for split in ("train", "val", "test"):
            place.entry(split)["b"] = f"{split}_b.tif"
    else:
        place.modality().update(bands=["x"], read_bands=[1])
        place.modality("b").update(bands=["z"], read_bands=[2])
    assert "same-file" not in place.codes()


# Values


def test_bands_that_are_equal(place: Any) -> None:
    place.raster("train_a.tif", place.pixels()[[0, 0]])
    told("doctor.values:_check_identical_bands | look at the file", place.check())
    place.raster("train_a.tif", place.pixels())
    assert "identical-bands" not in place.codes()


def test_modalities_that_are_equal(place: Any) -> None:
    place.add("c", place.pixels, bands=["v", "w"])
    told(
        "doctor.values:_check_identical_modalities | One file was probably copied over",
        place.check(),
    )
    place.add("c", lambda split: 250 - place.pixels(split), bands=["v", "w"])
    assert "identical-modalities" not in place.codes()


def test_values_that_were_clipped(place: Any) -> None:
    place.raster("train_a.tif", np.minimum(place.pixels(), 90))
    told(
        "doctor.values:_check_saturated | use the raster before it was stretched or", place.check()
    )
    place.raster("train_a.tif", place.pixels())
    assert "saturated" not in place.codes()


@pytest.mark.parametrize("way", ["convert", "leave out"])
def test_values_that_ran_over(place: Any, way: str) -> None:
    cloud = (255 + np.random.default_rng(0).normal(0, 8, (2, 32, 32))).astype(np.int64)
    place.raster("train_a.tif", (cloud % 256).astype(np.uint8))
    told(
        "doctor.values:_check_wrapped | Convert the original to bytes again, clipping",
        place.check(),
    )
    if way == "convert":
        place.raster("train_a.tif", np.minimum(cloud, 255).astype(np.uint8))
    else:
        place.values["scenes"].remove(place.entry())
    assert "wrap-around" not in place.codes()


# Scales


def reflectance(split: str, factor: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(len(split))
    return (rng.gamma(2, 0.05, (2, 32, 32)).clip(0.001, 1) * factor).astype(np.float32)


def scales(place: Any, factor: float = 1.0, **keys: Any) -> None:
    place.add(
        "m", lambda split: reflectance(split, factor), kind="optical", bands=["u", "v"], **keys
    )


@pytest.mark.parametrize("way", ["unit", "value_scale"])
@pytest.mark.parametrize(("factor", "unit"), [(1e4, "reflectance"), (1, "reflectance_10000")])
def test_another_unit_than_declared(place: Any, factor: float, unit: str, way: str) -> None:
    scales(place, factor, unit=unit)
    finding = told("doctor.scales:_check_unit | Say 'unit: ", place.check())
    if way == "unit":
        place.modality("m").update(literal(finding))
    else:
        told("doctor.scales:_check_unit | , or bring them to it:", [finding])
        told("doctor.scales:_mend_all | in the manifest, add '", [finding])
        (text,) = re.findall(r"add '(value_scale: [^']+)' to modality 'm'", finding.remedy)
        place.modality("m").update(yaml.safe_load(text))
    assert "unit" not in place.codes()


def add_to_scene(place: Any, text: str) -> None:
    """Do what "add '…' to scene '…'" says."""
    ((keys, id),) = re.findall(r"add '(value_[^']+)' to scene '(\w+)'", text)
    place.entry(id).update(yaml.safe_load(f"{{{keys}}}"))


@pytest.mark.parametrize("factor", [1e4, 250])
def test_a_scene_of_another_scale(place: Any, factor: float) -> None:
    scales(place, unit="reflectance")
    array = reflectance("train", factor)
    place.raster("train_m.tif", array if factor == 1e4 else array.clip(0, 255))
    finding = told(
        "doctor.scales:_check_mixed | Bring it to the scale of the others:", place.check()
    )
    told("doctor.scales:_mend_scene | in the manifest, add '", [finding])
    if factor != 1e4:
        told("doctor.scales:_about | take its file before it was stretched, or", [finding])
    add_to_scene(place, finding.remedy)
    assert "mixed-scale" not in place.codes()


def test_an_offset_in_one_scene(place: Any) -> None:
    scales(place, 1e4)
    place.raster("train_m.tif", reflectance("train", 1e4) + 1000)
    finding = told("doctor.scales:_check_offset | Subtract it:", place.check())
    add_to_scene(place, finding.remedy)
    assert "offset" not in place.codes()


def radar(split: str, *, linear: bool = False) -> np.ndarray:
    decibels = np.random.default_rng(len(split)).normal(-12, 4, (1, 32, 32))
    return (10 ** (decibels / 10) if linear else decibels).astype(np.float32)


@pytest.mark.parametrize("way", ["unit", "convert"])
def test_radar_of_another_unit(place: Any, way: str) -> None:
    place.add("r", lambda s: radar(s, linear=True), kind="sar", bands=["VV"], unit="db")
    finding = told(
        "doctor.scales:_check_radar | , or convert the files (dB = 10·log10", place.check()
    )
    if way == "unit":
        place.modality("r").update(literal(finding))
    else:
        place.add("r", lambda s: 10 * np.log10(radar(s, linear=True)), **place.modality("r"))
    assert "unit" not in place.codes()


def test_decibels_that_are_not_called_so(place: Any) -> None:
    place.add("r", radar, kind="sar", bands=["VV"])
    finding = told(
        "doctor.scales:_check_radar | Set 'unit: db' if they are decibels", place.check()
    )
    place.modality("r").update(literal(finding))
    assert "unit" not in place.codes()


def test_one_linear_scene(place: Any) -> None:
    place.add("r", radar, kind="sar", bands=["VV"], unit="db")
    place.raster("train_r.tif", radar("train", linear=True))
    told("doctor.scales:_check_radar | Convert its file to the unit of the others", place.check())
    place.raster("train_r.tif", 10 * np.log10(radar("train", linear=True)))
    assert "mixed-scale" not in place.codes()


@pytest.mark.parametrize("every", [True, False])
def test_decibels_stored_as_whole_numbers(place: Any, every: bool) -> None:
    place.add(
        "r", lambda s: radar(s) * (100 if every or s == "train" else 1), kind="sar", bands=["VV"],
        unit="db",
    )  # fmt: skip
    finding = told("doctor.scales:_check_radar | They were probably multiplied by", place.check())
    if every:
        (text,) = re.findall(r"add '(value_scale: [^']+)' to modality 'r'", finding.remedy)
        place.modality("r").update(yaml.safe_load(text))
    else:
        add_to_scene(place, finding.remedy)
    assert "unit" not in place.codes()


@pytest.mark.parametrize(("factor", "exact"), [(100, True), (3000, False)])
def test_a_scene_in_centimetres(heights: Any, factor: float, exact: bool) -> None:
    heights.values["scenes"].append({"id": "test", "split": "test", "h": "test_h.tif"})
    heights.raster("test_h.tif", hills("test"))
    heights.raster("train_h.tif", hills() * factor)
    place = "doctor.scales:_check_height_units | Bring it to the unit of the others:"
    finding = told(place, heights.check())
    assert bool(finding.fix) == exact
    add_to_scene(heights, finding.remedy)
    assert "mixed-scale" not in heights.codes()


# The order of bands


def plants(split: str) -> np.ndarray:
    rng = np.random.default_rng(len(split))
    levels = np.array([300, 3000])[:, None, None]  # red and near infrared of leaves
    return (levels + rng.normal(0, 30, (2, 32, 32))).astype(np.uint16)


@pytest.mark.parametrize("way", ["bands", "read_bands"])
def test_near_infrared_that_is_dark_on_plants(place: Any, way: str) -> None:
    place.values["classes"] = [{"name": "forest", "code": [0, 1]}]
    place.add("m", plants, kind="optical", bands=["nir", "red"])
    place_ = "doctor.bands:_judge_plants | The order of 'bands' is probably not that of the file"
    finding = told(place_, place.check())
    if way == "bands":
        place.modality("m")["bands"] = ["red", "nir"]
    else:
        place.modality("m").update(literal(finding))
    assert "band-order" not in place.codes()


def test_near_infrared_that_is_dark_everywhere(place: Any) -> None:
    place.add("m", plants, kind="optical", bands=["nir", "red"])
    told(
        "doctor.bands:_judge_all | If it shows land, the order of 'bands' is probably",
        place.check(),
    )
    place.modality("m")["bands"] = ["red", "nir"]
    assert "band-order" not in place.codes()


# Labels


def test_labels_among_the_inputs(place: Any) -> None:
    place.add("m", lambda split: 3 * place.pixels(split, "l") + 7, kind="structure", bands=["old"])
    told(
        "doctor.labels:_check_leak | Leave the modality out; it will not be available",
        place.check(),
    )
    found = check_manifest(place.load().select(["a", "b"]), workers=1)
    assert "labels-as-input" not in {f.code for f in found}


def test_labels_unpacked_over_an_image(place: Any) -> None:
    def picture(split: str) -> np.ndarray:
        return np.concatenate([place.pixels(split), place.pixels(split)[:1] // 2])

    place.add("m", picture, kind="optical", bands=["u", "v", "w"])
    place.raster("train_m.tif", np.concatenate([place.pixels("train", "l")] * 3) * 200)
    told("doctor.labels:_check_mask_as_image | unpack the image again", place.check())
    place.raster("train_m.tif", picture("train"))
    assert "labels-over-image" not in place.codes()


def test_a_picture_in_place_of_labels(place: Any) -> None:
    place.values["classes"] = [
        {"name": "dry", "code": "#000000"}, {"name": "wet", "code": "#ffffff"},
    ]  # fmt: skip
    for split in ("train", "val", "test"):
        place.raster(f"{split}_l.tif", np.concatenate([place.pixels(split, "l")] * 3) * 255)
    original = (place.folder / "train_l.tif").read_bytes()
    rng = np.random.default_rng(0)
    place.raster("train_l.tif", rng.integers(1, 250, (3, 32, 32)).astype(np.uint8))
    told("doctor.labels:explain_unknown | Use the label file of the scene", place.check())
    (place.folder / "train_l.tif").write_bytes(original)
    assert "labels" not in place.codes()


@pytest.mark.parametrize("way", ["original", "nearest"])
def test_labels_resized_with_interpolation(place: Any, way: str) -> None:
    place.values["classes"] = [{"name": "dry", "code": 0}, {"name": "wet", "code": 100}]
    blocks = np.kron(np.random.default_rng(0).integers(0, 2, (4, 4)), np.ones((8, 8))) * 100
    for split in ("train", "val", "test"):
        place.raster(f"{split}_l.tif", blocks[None].astype(np.uint8))
    between = blocks.copy()
    between[:, 1:] = (blocks[:, 1:] + blocks[:, :-1]) / 2
    place.raster("train_l.tif", between[None].astype(np.uint8))
    told("doctor.labels:explain_unknown | or resize them with nearest-neighbour", place.check())
    right = blocks if way == "original" else np.kron(blocks[::2, ::2], np.ones((2, 2)))
    place.raster("train_l.tif", right[None].astype(np.uint8))
    assert "labels" not in place.codes()


# Shifts


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_crs_that_are_displaced(make_raster: MakeRaster, tmp_path: Path) -> None:
    from terrafuse.landscape import make_landscape

    make_landscape(tmp_path / "l", size=128, train=1, val=0, test=0)
    values = yaml.safe_load((tmp_path / "l" / "dataset.yaml").read_text())
    bands = values["modalities"]["optical"]["bands"]
    with rasterio.open(next((tmp_path / "l" / "optical").iterdir())) as dataset:
        image = dataset.read()
    plain: dict[str, Any] = {"crs": None, "transform": None}
    moved = np.roll(image, (5, -3), (1, 2))

    def find(second: np.ndarray) -> list[Any]:
        modalities = [Modality("a", tuple(bands[:3])), Modality("b", (bands[3],))]
        files = {"a": tmp_path / "a.tif", "b": tmp_path / "b.tif"}
        for path in files.values():
            path.unlink(missing_ok=True)
        make_raster(files["a"], image[:3], **plain)
        make_raster(files["b"], second, **plain)
        return check_registration(scene_from_rasters(modalities, files))

    finding = told("doctor.registration:_remedy | Move the pixels of", find(moved[3:]))
    told("doctor.registration:_describe | A model would learn from neighbouring pixels.", [finding])
    rows, cols = map(
        float, re.findall(r"by ([+-][\d.]+) rows and ([+-][\d.]+) columns", finding.remedy)[0]
    )
    assert find(np.roll(moved[3:], (round(rows), round(cols)), (1, 2))) == []


def test_dates_of_one_band(place: Any) -> None:
    place.add(
        "m", place.pixels, kind="optical", bands=["may", "june"], wavelengths_um=[0.842, 0.842]
    )
    finding = told(
        "doctor.checkup:_check_alike_bands | If they are dates, docs/howto/dates.md", place.check()
    )
    page = Path(__file__).parents[2] / re.findall(r"docs/\S+\.md", finding.remedy)[0]
    assert "modality per date" in page.read_text(encoding="utf-8")
    # A modality per date, as the page has it.
    place.values["modalities"]["june"] = place.modality("m") | {
        "bands": ["june"], "wavelengths_um": [0.842], "read_bands": [2], "required": False,
    }  # fmt: skip
    place.modality("m").update(bands=["may"], wavelengths_um=[0.842], read_bands=[1])
    assert "alike-bands" not in place.codes()
