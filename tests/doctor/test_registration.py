"""Shifts are measured between sensors of different kind, and only where there are some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from shared import shared_data
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.doctor.layers import choose_windows, read_layers
from terrafuse.doctor.registration import SURE, check_registration, measure_shift
from terrafuse.doctor.shifts import Structure, add_shifts, find_structure
from terrafuse.landscape import make_landscape
from terrafuse.modalities import Modality
from terrafuse.samples import Window

PAIRS = [("optical", "sar"), ("optical", "dsm"), ("dsm", "sar"), ("optical", "labels")]


def texture(size, seed, grain=3.0):
    """Patches with sharp edges (H, W), as fields have."""
    noise = np.random.default_rng(seed).normal(size=(size, size))
    smooth = ndimage.gaussian_filter(noise, grain)
    return np.digitize(smooth, np.quantile(smooth, [0.3, 0.6, 0.85])).astype(np.float32)


@pytest.fixture(scope="module")
def landscape(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape")
    return load_manifest(make_landscape(folder, seed=5, size=320, train=4, val=0, test=0))


@pytest.fixture(scope="module")
def seen(landscape):
    """Function: structures of a scene's modalities and labels in a window, with its corner."""
    kept: dict[tuple[str, int, int], dict[str, Structure | None]] = {}

    def look(id, row, col, size=256):
        if (id, row, col) not in kept:
            layers = read_layers(landscape.scene(id), [Window(row, col, size, size)])[0]
            kept[id, row, col] = {
                name: find_structure(*layer.resized(1, (size, size)), relief=layer.relief)
                for name, layer in layers.items()
            }
        return kept[id, row, col]

    return look


@pytest.mark.parametrize("pair", PAIRS)
def test_known_shifts_are_recovered_between_kinds(landscape, seen, pair):
    rng = np.random.default_rng(0)  # the same places for every pair
    errors, confidences = [], []
    for entry in landscape.entries:
        for _ in range(3):
            row, col = rng.integers(6, 26, 2) * 2
            down, right = rng.integers(-6, 7, 2) * 2  # windows must be aligned to the SAR's pixels
            one = seen(entry.id, int(row), int(col))[pair[0]]
            other = seen(entry.id, int(row - down), int(col - right))[pair[1]]
            shift = add_shifts([one], [other])
            errors.append(max(abs(shift.row - down), abs(shift.col - right)))
            confidences.append(shift.confidence)
    assert np.mean(np.array(errors) <= 1) >= 0.9
    assert np.mean(np.array(confidences) >= SURE) >= 0.9


def test_measures_that_disagree_give_no_confidence():
    """Outlines of one image and fine structure of another, both of which have moved."""

    def moved(seed, shift):
        image = ndimage.shift(texture(160, seed), shift, order=0, mode="wrap")
        return find_structure(image[None], np.ones((160, 160), bool))

    def measured(by):
        one = replace(moved(1, (0, 0)), bands=moved(2, (0, 0)).bands)
        other = replace(moved(1, (-4, -3)), bands=moved(2, by).bands)
        return add_shifts([one], [other])

    alike, near, far = measured((-4, -3)), measured((-4, -1)), measured((-4, 1))
    assert (round(abs(alike.row)), round(abs(alike.col))) == (4, 3)
    assert min(alike.confidence, near.confidence) >= SURE
    assert far.confidence == 0


@pytest.mark.parametrize("pair", PAIRS)
def test_other_places_give_no_confidence(landscape, seen, pair):
    ids = [entry.id for entry in landscape.entries]
    for i, id in enumerate(ids):
        for step in range(1, len(ids)):
            one = seen(id, 20, 20)[pair[0]]
            other = seen(ids[(i + step) % len(ids)], 20, 20)[pair[1]]
            assert add_shifts([one], [other]).confidence < SURE


@given(
    down=st.integers(-12, 12), right=st.integers(-12, 12), seed=st.integers(0, 3),
    gain=st.sampled_from([1.0, -1.0, 0.02, -3000.0]), noise=st.sampled_from([0.0, 0.3]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_neither_gain_nor_sign_nor_offset_matter(down, right, seed, gain, noise):
    ground = texture(200, seed)
    rng = np.random.default_rng(seed)
    one = ground[None, 20:180, 20:180]
    other = ground[None, 20 - down : 180 - down, 20 - right : 180 - right]
    other = gain * (other + noise * rng.normal(size=other.shape)) + 50
    known = np.ones(one.shape[1:], bool)
    shift = measure_shift(one, other, known, known)
    assert (shift.row, shift.col) == (pytest.approx(down, abs=0.3), pytest.approx(right, abs=0.3))
    assert shift.confidence > SURE


def test_parts_of_a_pixel_are_seen():
    ground = texture(800, 1, grain=16)
    fine = ndimage.uniform_filter(ground, 4)
    one, other = fine[20:-20:4, 20:-20:4][None], fine[18:-22:4, 23:-17:4][None]
    known = np.ones(one.shape[1:], bool)
    shift = measure_shift(one, other, known, known)
    assert (shift.row, shift.col) == (pytest.approx(0.5, abs=0.15), pytest.approx(-0.75, abs=0.15))


def test_the_same_holes_in_both_do_not_pin_the_shift_to_zero():
    ground = texture(200, 2)
    known = np.ones((160, 160), bool)
    known[40:110, 60:100] = False
    one = np.where(known, ground[20:180, 20:180], np.nan)[None]
    other = np.where(known, -ground[25:185, 12:172], np.nan)[None]
    shift = measure_shift(one, other, known, known)
    assert (shift.row, shift.col) == (pytest.approx(-5, abs=0.3), pytest.approx(8, abs=0.3))
    assert shift.confidence > SURE


def test_where_there_is_nothing_to_compare_there_is_no_confidence():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 1, 128, 128)).astype(np.float32)
    known = np.ones((128, 128), bool)
    flat = np.full((1, 128, 128), 7, np.float32)
    assert measure_shift(noise[0], noise[1], known, known).confidence < SURE
    assert measure_shift(flat, noise[1], known, known).confidence == 0
    assert measure_shift(noise[0], noise[0], known, ~known).confidence == 0
    # Farther than looked for: the best of what was seen is on the edge, and means nothing.
    ground = texture(200, 3)[None]
    shift = measure_shift(
        ground[:, :160, :160], ground[:, 20:180, :160], known_of(160), known_of(160)
    )
    assert shift.confidence < SURE


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_shift_at_the_edge_of_the_search_is_not_trusted(axis, sign):
    """The true peak may lie beyond it; one pixel less is found and trusted."""
    ground = texture(200, 4)

    def shifted(pixels):
        moved = np.roll(ground, sign * pixels, axis)
        inner = slice(20, 180)
        return measure_shift(
            ground[None, inner, inner], moved[None, inner, inner], known_of(160), known_of(160),
            most=8,
        )  # fmt: skip

    inside, on_edge = shifted(7), shifted(8)
    assert (inside.row, inside.col)[axis] == pytest.approx(7 * sign, abs=0.3)
    assert inside.confidence > SURE
    assert (on_edge.row, on_edge.col)[axis] == pytest.approx(8 * sign, abs=0.3)
    assert on_edge.confidence == 0


def known_of(size):
    return np.ones((size, size), bool)


@pytest.fixture
def place(tmp_path):
    """Function: a small landscape, its rasters moved by whole pixels of their own."""

    def make(**moved):
        path = make_landscape(tmp_path, seed=8, size=256, train=1, val=0, test=0)
        for name, (down, right) in moved.items():
            with rasterio.open(tmp_path / name / "train_1.tif", "r+") as dataset:
                dataset.transform = dataset.transform * Affine.translation(right, down)
        return load_manifest(path).scene("train_1")

    make.folder = tmp_path
    return make


def test_a_clean_scene_has_no_finding(place):
    assert check_registration(place()) == []


def test_what_is_displaced_is_named_with_its_remedy(place):
    (finding,) = check_registration(place(sar=(-4, 3)))
    assert (finding.severity, finding.code, finding.modality) == ("warning", "registration", "sar")
    assert finding.scene == "train_1"
    assert finding.path is not None
    assert finding.path.name == "train_1.tif"
    # 4 pixels of 20 m up are 8 of the scene; shading by the sun is worth half a pixel.
    numbers = finding.message.split()
    assert float(numbers[numbers.index("rows") - 1]) == pytest.approx(8, abs=1)
    assert float(numbers[numbers.index("columns") - 1]) == pytest.approx(6, abs=1)
    assert "rows above" in finding.message
    assert "columns right of" in finding.message
    x, y = (float(w) for w in finding.remedy.split() if w[0] in "+-" and w[1:2].isdigit())
    assert (x, y) == (pytest.approx(-60, abs=10), pytest.approx(-80, abs=10))


def test_displaced_labels_are_found(place):
    scene = place()
    with rasterio.open(scene.paths()["labels"][0], "r+") as dataset:
        dataset.write(np.roll(dataset.read(), (6, -5), (1, 2)))
    (finding,) = check_registration(scene)
    assert finding.modality == "labels"
    assert finding.severity == "warning"
    assert "rows below and" in finding.message
    assert "columns left of" in finding.message


@pytest.mark.parametrize("off", ["optical", "sar", "dsm", "labels"])
def test_the_one_that_is_off_is_named_whichever_it_is(place, off):
    moved = {"optical": (8, -6), "sar": (-4, 3), "dsm": (8, -6), "labels": (8, -6)}[off]
    findings = check_registration(place(**{off: moved}))
    assert [f.modality for f in findings] == [off]
    (finding,) = findings
    assert "agree with each other, so it is the one displaced" in finding.remedy
    others = [name for name in ("optical", "sar", "dsm") if name != off]
    assert all(f"'{name}'" in finding.message for name in others)
    # The remedy, followed: nothing is left to say.
    scene = place(**{off: moved})
    x, y = (float(w) for w in finding.remedy.split() if w[0] in "+-" and w[1:2].isdigit())
    with rasterio.open(scene.paths()[off][0], "r+") as dataset:
        dataset.transform = Affine.translation(x, y) * dataset.transform
    scene.close()
    assert check_registration(load_manifest(place.folder / "dataset.yaml").scene("train_1")) == []


def shifted(make_raster, folder, **moved):
    """A scene of one texture in several rasters, without CRS, their content moved."""
    ground = texture(240, 4)
    rasters = {}
    for i, (name, (down, right)) in enumerate(moved.items()):
        part = ground[20 - down : 212 - down, 20 - right : 212 - right]
        noise = np.random.default_rng(i).normal(0, 0.1, part.shape)
        image = ((-1) ** i * part + noise).astype(np.float32)[None]
        rasters[name] = make_raster(folder / f"{name}.tif", image, crs=None)
    return scene_from_rasters([Modality(name, ("x",)) for name in moved], rasters, id="s")


def test_two_cannot_tell_which_is_displaced(make_raster, tmp_path):
    (finding,) = check_registration(shifted(make_raster, tmp_path, a=(0, 0), b=(5, -3)))
    assert finding.modality == "b"
    assert "it may as well be 'a' that is displaced" in finding.remedy
    assert "Move the pixels of 'b' by -5.0 rows and +3.0 columns" in finding.remedy


def test_two_against_two_is_one_finding(make_raster, tmp_path):
    scene = shifted(make_raster, tmp_path, a=(0, 0), b=(5, -3), c=(0, 0), d=(5, -3))
    (finding,) = check_registration(scene)
    assert "modalities 'b', 'd'" in finding.message
    assert "'a' and 'c' that is displaced" in finding.remedy


def test_several_that_are_off_by_themselves(make_raster, tmp_path):
    scene = shifted(make_raster, tmp_path, a=(6, 0), b=(0, 0), c=(0, 0), d=(0, 7), e=(0, 0))
    found = {f.modality: f.message for f in check_registration(scene)}
    assert set(found) == {"a", "d"}
    assert "6.0 rows below" in found["a"]
    assert "7.0 columns right of" in found["d"]
    assert "where 'b', 'c' and 'e' show it" in found["a"]


def test_a_shift_below_the_tolerance_is_left_alone(place):
    assert check_registration(place(dsm=(1, 0))) == []
    assert [f.severity for f in check_registration(place(dsm=(1, 1)))] in ([], ["note"])


def test_windows_cover_a_scene_with_bounded_reading(make_raster, tmp_path):
    path = make_raster(tmp_path / "a.tif", np.zeros((1, 1200, 900), np.uint8))
    coarse = Modality("b", ("x",), scale=3)
    scene = scene_from_rasters([Modality("a", ("x",)), coarse], {"a": path, "b": path}, grid="a")
    windows = choose_windows(scene, 3)
    assert 1 <= len(windows) <= 6
    for window in windows:
        assert window.row % 3 == window.col % 3 == window.height % 3 == window.width % 3 == 0
        assert window.row_stop <= 1200
        assert window.col_stop <= 902
    for i, window in enumerate(windows):
        assert all(window.intersection(other) is None for other in windows[i + 1 :])
    small = choose_windows(scene_from_rasters([Modality("a", ("x",))], {"a": path}), 1)
    assert len(small) >= 2


def test_tiny_scenes_and_single_rasters_are_passed_over(make_raster, tmp_path):
    path = make_raster(tmp_path / "a.tif", np.zeros((1, 7, 5), np.uint8))
    single = scene_from_rasters([Modality("a", ("x",))], {"a": path})
    both = scene_from_rasters(
        [Modality("a", ("x",)), Modality("b", ("x",))], {"a": path, "b": path}
    )
    assert check_registration(single) == []
    assert check_registration(both) == []


def test_sentinel_1_and_2_lie_as_their_readme_says():
    folder = shared_data("ombria_flood")
    known = np.ones((256, 256), bool)
    lengths = []
    for path in sorted((folder / "mask").glob("*.png"))[::6]:
        one, other = (
            np.atleast_3d(np.asarray(Image.open(folder / name / path.name))).transpose(2, 0, 1)
            for name in ("s2_before", "s1_before")
        )
        shift = measure_shift(one.astype(np.float32), other.astype(np.float32), known, known)
        if shift.confidence >= SURE:
            lengths.append(shift.length)
    assert len(lengths) > 40  # of 52: most have a clear peak
    assert np.mean(np.array(lengths) <= 2) >= 0.96
    assert max(lengths) <= 5
