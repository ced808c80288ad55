"""Labels to learn from, and labels to score with."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.api import data_check
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, load_manifest, scene_from_rasters, write_manifest
from terrafuse.errors import (
    ConfigError,
    DataError,
    GridMismatchError,
    LabelError,
    RasterReadError,
)
from terrafuse.modalities import Modality
from terrafuse.samples import Window
from terrafuse.splits import split_manifest

MakeRaster = Callable[..., Path]
RGB = Modality("rgb", ("r",), kind="optical")
SCHEME = ClassScheme.from_dict(
    {
        "classes": [{"name": "roof", "code": "#0000ff"}, {"name": "car", "code": "#ffff00"}],
        "void": ["#000000"],
    }
)
COLORS = np.array([(0, 0, 255), (255, 255, 0), (0, 0, 0)], np.uint8)


def colored(indices: np.ndarray) -> np.ndarray:
    """Colours (3, H, W) of indices (H, W); 2 is black."""
    return np.moveaxis(COLORS[indices], -1, 0)


@pytest.fixture
def indices() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (20, 30))


@pytest.fixture
def eroded(indices: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(1).random(indices.shape) < 0.3, 2, indices)


@pytest.fixture
def open_scene(
    make_raster: MakeRaster, tmp_path: Path, indices: np.ndarray, eroded: np.ndarray
) -> Callable[..., Scene]:
    """Function that opens a scene with both kinds of labels; keywords replace arguments."""
    files = {
        "rgb": make_raster(tmp_path / "rgb.tif", np.ones((1, 20, 30), np.uint8)),
        "labels": make_raster(tmp_path / "labels.tif", colored(indices)),
        "eroded": make_raster(tmp_path / "eroded.tif", colored(eroded)),
    }

    def create(**changes: Any) -> Scene:
        values = {"labels": files["labels"], "labels_eroded": files["eroded"], "scheme": SCHEME}
        return scene_from_rasters([RGB], {"rgb": files["rgb"]}, id="x", **values | changes)

    return create


def test_both_kinds_are_read_by_the_same_classes(
    open_scene: Callable[..., Scene], indices: np.ndarray, eroded: np.ndarray, tmp_path: Path
) -> None:
    scene = open_scene()
    window = Window(3, 4, 10, 12)
    np.testing.assert_array_equal(scene.read_labels(window), indices[window.slices()])
    expected = np.where(eroded == 2, 255, eroded)[window.slices()]
    np.testing.assert_array_equal(scene.read_labels(window, "labels_eroded"), expected)
    # What is learned from are the labels.
    read = scene.read(window).labels
    assert read is not None
    np.testing.assert_array_equal(read.numpy(), indices[window.slices()])
    assert scene.has_reference("labels_eroded")
    assert scene.paths()["labels_eroded"] == (tmp_path / "eroded.tif",)
    scene.close()
    copy: Scene = pickle.loads(pickle.dumps(scene))
    np.testing.assert_array_equal(copy.read_labels(window, reference="labels_eroded"), expected)


def test_remembered_windows_are_of_one_kind_and_place(
    open_scene: Callable[..., Scene], indices: np.ndarray, eroded: np.ndarray
) -> None:
    scene = open_scene()
    scene.remember_windows()
    for window in (Window(3, 4, 10, 12), Window(4, 4, 10, 12)) * 2:
        np.testing.assert_array_equal(scene.read_labels(window), indices[window.slices()])
        expected = np.where(eroded == 2, 255, eroded)[window.slices()]
        np.testing.assert_array_equal(scene.read_labels(window, "labels_eroded"), expected)


def test_the_state_of_a_scene_is_that_of_every_file(
    open_scene: Callable[..., Scene], tmp_path: Path
) -> None:
    scene = open_scene()
    states = [scene.states_as_named()]
    for name in ("rgb", "labels", "eroded"):
        os.utime(tmp_path / f"{name}.tif", ns=(1, 1))
        states.append(scene.states_as_named())
    assert all(before != after for before, after in pairwise(states))


def test_a_window_of_a_scene(open_scene: Callable[..., Scene], eroded: np.ndarray) -> None:
    scene = open_scene(window=Window(5, 6, 10, 11))
    found = scene.read_labels(Window(0, 0, 10, 11), "labels_eroded")
    np.testing.assert_array_equal(found, np.where(eroded == 2, 255, eroded)[5:15, 6:17])


def test_they_are_not_opened_before_they_are_read(
    open_scene: Callable[..., Scene], tmp_path: Path
) -> None:
    scene = open_scene(labels_eroded=tmp_path / "gone.tif")
    scene.read(scene.full_window)
    with pytest.raises(RasterReadError, match=r"labels_eroded of scene 'x': there is no file"):
        scene.read_labels(scene.full_window, "labels_eroded")


def test_a_scene_may_have_one_kind_only(
    open_scene: Callable[..., Scene], eroded: np.ndarray
) -> None:
    without = open_scene(labels_eroded=None)
    assert not without.has_reference("labels_eroded")
    assert set(without.paths()) == {"rgb", "labels"}
    with pytest.raises(
        LabelError, match="scene 'x' has no labels_eroded; name a file under 'labels_eroded'"
    ):
        without.read_labels(without.full_window, "labels_eroded")
    alone = open_scene(labels=None)
    assert not alone.has_labels
    assert not alone.has_reference("labels")
    assert alone.read(alone.full_window).labels is None
    found = alone.read_labels(alone.full_window, "labels_eroded")
    assert (found == 255).sum() == (eroded == 2).sum()
    with pytest.raises(DataError, match="labels need a class scheme"):
        open_scene(labels=None, scheme=None)


def test_unknown_values_are_refused(
    open_scene: Callable[..., Scene], make_raster: MakeRaster, tmp_path: Path
) -> None:
    values = colored(np.zeros((20, 30), int))
    values[:, 2, 3:5] = 77
    path = make_raster(tmp_path / "odd.tif", values)
    scene = open_scene(labels_eroded=path)
    with pytest.raises(LabelError, match=r"labels_eroded of scene 'x' .*odd\.tif.*#4d4d4d \(2 px"):
        scene.read_labels(scene.full_window, "labels_eroded")


def test_another_grid_is_resampled_and_one_apart_refused(
    open_scene: Callable[..., Scene], make_raster: MakeRaster, tmp_path: Path
) -> None:
    coarse = np.random.default_rng(2).integers(0, 2, (10, 15))
    place = from_origin(500_000, 5_000_000, 20, 20)
    scene = open_scene(
        labels_eroded=make_raster(tmp_path / "coarse.tif", colored(coarse), transform=place)
    )
    found = scene.read_labels(scene.full_window, "labels_eroded")
    np.testing.assert_array_equal(found, coarse.repeat(2, 0).repeat(2, 1))
    far = make_raster(
        tmp_path / "far.tif", colored(coarse), transform=from_origin(900_000, 5e6, 10, 10)
    )
    scene = open_scene(labels_eroded=far)
    with pytest.raises(GridMismatchError, match=r"labels_eroded of scene 'x': .*does not overlap"):
        scene.read_labels(scene.full_window, "labels_eroded")
    bare = make_raster(tmp_path / "bare.tif", colored(coarse), crs=None)
    scene = open_scene(labels_eroded=bare)
    with pytest.raises(GridMismatchError, match=r"bare\.tif' has no CRS, but the scene's grid has"):
        scene.read_labels(scene.full_window, "labels_eroded")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore:.*the transform of")
def test_without_crs_they_are_matched_by_pixel(
    make_raster: MakeRaster, tmp_path: Path, eroded: np.ndarray
) -> None:
    place = from_origin(3, 4, 7, 7)  # means nothing without a CRS
    bare = {"crs": None, "transform": place}
    rgb = make_raster(tmp_path / "rgb.tif", np.ones((1, 20, 30), np.uint8), crs=None)
    path = make_raster(tmp_path / "eroded.tif", colored(eroded), **bare)
    scene = scene_from_rasters([RGB], {"rgb": rgb}, labels_eroded=path, scheme=SCHEME)
    found = scene.read_labels(scene.full_window, "labels_eroded")
    np.testing.assert_array_equal(found, np.where(eroded == 2, 255, eroded))
    placed = make_raster(tmp_path / "placed.tif", colored(eroded))
    scene = scene_from_rasters([RGB], {"rgb": rgb}, labels_eroded=placed, scheme=SCHEME)
    with pytest.raises(GridMismatchError, match="has a CRS, but the scene's grid has none"):
        scene.read_labels(scene.full_window, "labels_eroded")
    small = make_raster(tmp_path / "small.tif", colored(eroded[:9]), **bare)
    scene = scene_from_rasters([RGB], {"rgb": rgb}, labels_eroded=small, scheme=SCHEME)
    with pytest.raises(GridMismatchError, match="has 9 × 30 pixels"):
        scene.read_labels(scene.full_window, "labels_eroded")


def test_polygons(make_raster: MakeRaster, tmp_path: Path) -> None:
    rgb = make_raster(tmp_path / "rgb.tif", np.ones((1, 20, 30), np.uint8))
    square = [[500_000, 5e6], [500_100, 5e6], [500_100, 4_999_950], [500_000, 4_999_950]]
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [[*square, square[0]]]},
    }
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = tmp_path / "eroded.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    scene = scene_from_rasters(
        [RGB], {"rgb": rgb}, labels_eroded=path, scheme=ClassScheme(("roof",))
    )
    found = scene.read_labels(scene.full_window, "labels_eroded")
    assert (found[:5, :10] == 0).all()
    assert (found == 0).sum() == 50


def test_in_a_manifest(
    open_scene: Callable[..., Scene], tmp_path: Path, eroded: np.ndarray
) -> None:
    open_scene()
    entry = {
        "id": "x", "split": "test", "rgb": "rgb.tif", "labels": "labels.tif",
        "labels_eroded": "eroded.tif",
    }  # fmt: skip
    values: dict[str, Any] = {
        **SCHEME.to_dict(),
        "modalities": {"rgb": {"bands": ["r"]}},
        "scenes": [entry],
    }
    manifest = load_manifest(write_manifest(values, tmp_path / "dataset.yaml"))
    assert manifest.to_dict()["scenes"] == [entry]
    scene = manifest.scene("x")
    assert (scene.read_labels(scene.full_window, "labels_eroded") == 255).sum() == (
        eroded == 2
    ).sum()
    # A split carries it over, also to another folder.
    parts = split_manifest(
        manifest, shares={"train": 0.5, "test": 0.5}, block_px=10, buffer_px=0,
        manifest_folder=tmp_path / "sub",
    )  # fmt: skip
    (tmp_path / "sub").mkdir()
    again = load_manifest(write_manifest(parts, tmp_path / "sub" / "split.yaml"))
    for part in again.scenes():
        (path,) = part.paths()["labels_eroded"]
        assert path.resolve() == tmp_path / "eroded.tif"
        part.read_labels(part.full_window, "labels_eroded")
    values["modalities"] = {"labels_eroded": {"bands": ["r"]}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="cannot be named 'labels_eroded'"):
        load_manifest(tmp_path / "bad.yaml")
    values["modalities"] = {"rgb": {"bands": ["r"]}}
    values["scenes"][0]["labels_erodet"] = values["scenes"][0].pop("labels_eroded")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="Did you mean 'labels_eroded'"):
        load_manifest(tmp_path / "bad.yaml")


def test_unknown_colours_are_counted_by_scene(make_raster: MakeRaster, tmp_path: Path) -> None:
    indices = np.zeros((2, 1100, 30), int)
    plain, stray = colored(indices[0]), colored(indices[1])
    stray[:, 3, :7] = [[9], [0], [0]]
    stray[:, 1080, 2:4] = [[0], [0], [9]]
    values = {
        "classes": [{"name": "roof", "code": "#0000ff"}, {"name": "car", "code": "#ffff00"}],
        "unknown": "car",
        "modalities": {"rgb": {"kind": "optical", "bands": ["r"]}},
        "scenes": [],
    }
    for id, colors in (("a", plain), ("b", stray)):
        pixels = np.random.default_rng(ord(id)).integers(1, 99, (1, 1100, 30))
        make_raster(tmp_path / f"{id}.tif", pixels.astype(np.uint8))
        make_raster(tmp_path / f"{id}_labels.tif", colors, photometric="rgb")
        scene = {"id": id, "split": "train", "rgb": f"{id}.tif", "labels": f"{id}_labels.tif"}
        values["scenes"].append(scene | {"labels_eroded": f"{id}_labels.tif"})
    path = write_manifest(values, tmp_path / "dataset.yaml")
    manifest = load_manifest(path)
    assert manifest.to_dict()["unknown"] == "car"
    found = [f for f in data_check(path) if f.code == "unknown-labels"]
    assert [finding.message for finding in found] == [
        "labels of scene 'b': 9 px of 2 values outside the class scheme became class 'car': "
        "#090000 (7 px), #000009 (2 px)"
    ]
    labels = manifest.scene("b").read_labels(Window(3, 0, 1, 30))
    assert labels[0].tolist() == [1] * 7 + [0] * 23
    write_manifest({k: v for k, v in values.items() if k != "unknown"}, path)
    strict = [f for f in data_check(path) if f.severity == "error"]
    assert [(finding.code, finding.scene) for finding in strict] == [("labels", "b")]
    assert "'unknown': 'void' or the name of a class" in strict[0].message
    write_manifest(values | {"unknown": "cars"}, path)
    with pytest.raises(ConfigError, match="Did you mean 'car'"):
        load_manifest(path)
