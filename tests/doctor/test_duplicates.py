"""Scenes that are there twice are found, whatever they are called; others are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from shared import shared_data
from terrafuse.data import scene_from_rasters
from terrafuse.doctor.duplicates import Fingerprint, find_duplicates, fingerprint
from terrafuse.modalities import Modality

RGB = Modality("rgb", ("r", "g", "b"), kind="optical")
DSM = Modality("dsm", ("height",), kind="elevation")


def ground(seed, size=96, bands=3):
    noise = np.random.default_rng(seed).normal(size=(bands, size, size))
    return (1000 + 300 * ndimage.gaussian_filter(noise, (0, 3, 3)) * 10).astype(np.float32)


@pytest.fixture
def print_of(make_raster, tmp_path):
    """Function: fingerprint of arrays by modality, written to files."""
    count = iter(range(1000))

    def make(**arrays):
        number = next(count)
        paths = {n: make_raster(tmp_path / f"{n}{number}.tif", a) for n, a in arrays.items()}
        known = {"rgb": RGB, "dsm": DSM}
        return fingerprint(scene_from_rasters([known[n] for n in arrays], paths))

    return make


def test_copies_in_two_splits_are_a_leak(print_of):
    prints = {
        "a": ("train", print_of(rgb=ground(0))),
        "b": ("train", print_of(rgb=ground(1))),
        "c": ("test", print_of(rgb=ground(0))),
    }
    (finding,) = find_duplicates(prints)
    assert (finding.severity, finding.code, finding.scene) == ("warning", "leak", "a")
    assert finding.message == "scenes 'a' (train), 'c' (test) are identical"
    assert "'b'" not in finding.message


def test_copies_within_a_split_only_count_twice(print_of):
    prints = {name: ("train", print_of(rgb=ground(0))) for name in "abc"}
    (finding,) = find_duplicates(prints)
    assert (finding.severity, finding.code) == ("warning", "duplicate")
    assert finding.message == "scenes 'a', 'b', 'c' are identical"
    near = {
        "a": ("val", print_of(rgb=ground(0))),
        "b": ("val", print_of(rgb=ground(0) * 1.1 + 3)),
    }
    (finding,) = find_duplicates(near)
    assert (finding.severity, finding.code) == ("note", "duplicate")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 0.5 * x + 20,
        lambda x: x + 20 * np.random.default_rng(9).normal(size=x.shape),
        lambda x: np.round(x / 60),
    ],
    ids=["stretched", "noisy", "quantized"],
)
def test_nearly_identical_scenes_are_found(print_of, change):
    altered = change(ground(0)).astype(np.float32)
    prints = {
        "a": ("train", print_of(rgb=ground(0))),
        "b": ("val", print_of(rgb=altered)),
        "c": ("val", print_of(rgb=ground(5))),
    }
    (finding,) = find_duplicates(prints)
    assert finding.code == "leak"
    assert finding.message == "scenes 'a' (train), 'b' (val) are nearly identical"


def test_every_modality_counts(print_of):
    # The same photo with another radar image is another scene; slopes alone say nothing.
    slope = np.linspace(0, 50, 96, dtype=np.float32)[None, :, None].repeat(96, axis=2)
    prints = {
        "a": ("train", print_of(rgb=ground(0), dsm=slope)),
        "b": ("test", print_of(rgb=ground(1), dsm=slope)),
    }
    assert find_duplicates(prints) == []
    assert set(prints["a"][1].images) == {"rgb"}
    assert set(print_of(dsm=slope).images) == {"dsm"}


def test_empty_scenes_are_not_like_each_other_but_identical(print_of):
    black = np.zeros((3, 40, 40), np.float32)
    prints = {"a": ("train", print_of(rgb=black)), "b": ("train", print_of(rgb=black + 1))}
    assert find_duplicates(prints) == []
    assert find_duplicates({}) == []


def test_different_scenes_have_different_digests(print_of):
    image = ground(0)
    other = image.copy()
    other[1, 50, 50] += 1
    missing = image.copy()
    missing[:, 3, 3] = np.nan
    digests = {print_of(rgb=a).digest for a in (image, other, missing, image[:, :95])}
    assert len(digests) == 4


def test_large_scenes_are_looked_at_in_part(make_raster, tmp_path):
    image = ground(0, size=1500, bands=1)
    path = make_raster(tmp_path / "big.tif", image)
    mono = Modality("m", ("x",))
    whole = fingerprint(scene_from_rasters([mono], {"m": path}))
    small = make_raster(tmp_path / "other.tif", 2 * image)
    again = fingerprint(scene_from_rasters([mono], {"m": small}))
    likeness = whole.images["m"].astype(np.float32) @ again.images["m"].astype(np.float32)
    assert likeness == pytest.approx(1, abs=0.01)


def test_thousands_of_scenes_take_seconds():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3000, 1024)).astype(np.float32)
    images[2999] = images[17] + 0.05 * rng.normal(size=1024)
    images -= images.mean(axis=1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    prints = {
        str(i): ("train" if i < 2000 else "test", Fingerprint(str(i), {"m": row}))
        for i, row in enumerate(images.astype(np.float16))
    }
    start = time.perf_counter()
    (finding,) = find_duplicates(prints)
    assert finding.message == "scenes '17' (train), '2999' (test) are nearly identical"
    assert time.perf_counter() - start < 30


def test_no_chips_of_a_real_set_are_alike():
    folder = shared_data("ombria_flood")
    modalities = [Modality("s2", ("r", "g", "b"), kind="optical"), Modality("s1", ("vv",))]
    prints = {}
    for path in sorted((folder / "mask").glob("*.png"))[::5]:
        rasters = {"s2": folder / "s2_before" / path.name, "s1": folder / "s1_before" / path.name}
        scene = scene_from_rasters(modalities, rasters, id=path.stem)
        prints[path.stem] = (None, fingerprint(scene))
    assert find_duplicates(prints) == []
