"""Rasters without CRS are matched by pixel; transforms that say otherwise are told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.data import load_manifest, scene_from_rasters, write_manifest
from terrafuse.doctor import check_manifest
from terrafuse.modalities import Modality

HERE = from_origin(1000, 5000, 10, 10)
A, B = Modality("a", ("x",)), Modality("b", ("y",))
IMAGE = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24)


@pytest.fixture
def open_two(tmp_path, make_raster):
    """Function: a scene of two rasters, the second with another transform, and what is said."""

    def run(other, crs=None, shape=(20, 24), second=B):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            one = make_raster(tmp_path / "a.tif", IMAGE, crs=crs, transform=HERE)
            two = np.ones((1, *shape), np.float32)
            paths = {"a": one, "b": make_raster(tmp_path / "b.tif", two, crs=crs, transform=other)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            scene = scene_from_rasters([A, second], paths, grid="a")
        return scene, [str(w.message) for w in caught]

    return run


@pytest.mark.parametrize(
    ("move", "words"),
    [
        ((10, 0), "lies 10 px right of where"),
        ((-3, 0), "lies 3 px left of where"),
        ((0, 2), "lies 2 px below of where"),
        ((4, -7), "lies 4 px right and 7 px above of where"),
    ],
)
def test_a_move_is_told_in_pixels(open_two, move, words) -> None:
    _, said = open_two(HERE * Affine.translation(*move))
    assert len(said) == 1
    assert words in said[0]
    assert "b.tif" in said[0]


def test_another_pixel_size_is_told(open_two) -> None:
    _, (said,) = open_two(HERE * Affine.scale(2))
    assert "up to 24 px off" in said


@pytest.mark.parametrize(
    "other",
    [HERE, HERE * Affine.translation(0.5, 0.5), Affine.identity()],
    ids=["equal", "corner for centre", "unknown"],
)
def test_nothing_is_told_of_sound_rasters(open_two, other) -> None:
    assert open_two(other)[1] == []


def test_a_modality_of_another_scale_is_where_it_should_be(open_two) -> None:
    double = Modality("b", ("y",), scale=2)
    assert open_two(HERE * Affine.scale(2), shape=(10, 12), second=double)[1] == []
    _, (said,) = open_two(
        HERE * Affine.translation(6, 0) * Affine.scale(2), shape=(10, 12), second=double
    )
    assert "lies 3 px right" in said  # of its own pixels


def test_the_remedies_help(open_two) -> None:
    """A CRS on all places them by their transforms; without transforms the pixels correspond."""
    moved = HERE * Affine.translation(10, 0)
    scene, said = open_two(moved, crs="EPSG:32633")
    assert said == []
    placed = scene.read(scene.full_window).images["b"].numpy()[0]
    assert np.isnan(placed[:, :10]).all()
    assert (placed[:, 10:] == 1).all()
    scene, said = open_two(Affine.identity())
    assert said == []
    assert (scene.read(scene.full_window).images["b"].numpy() == 1).all()


def test_labels_and_the_check(tmp_path, make_raster) -> None:
    make_raster(tmp_path / "a.tif", IMAGE, crs=None, transform=HERE)
    labels = (IMAGE % 2).astype(np.uint8)
    make_raster(tmp_path / "lab.tif", labels, crs=None, transform=HERE * Affine.translation(10, 0))
    values = {
        **ClassScheme(("even", "odd")).to_dict(),
        "modalities": {"a": {"bands": ["x"]}},
        "grid": "a",
        "scenes": [{"id": "s", "split": "train", "a": "a.tif", "labels": "lab.tif"}],
    }
    manifest = load_manifest(write_manifest(values, tmp_path / "dataset.yaml"))
    for deep in (True, False):  # `data check`, and what training looks at
        told = [f for f in check_manifest(manifest, deep=deep) if "10 px right" in f.message]
        assert [(f.severity, f.scene) for f in told] == [("warning", "s")]
        assert "labels of" in told[0].message or "scene 's'" in told[0].message
