"""What a model is shown, and where it looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate_parts import RGB, make_job
from terrafuse.data import ReadingRules
from terrafuse.errors import BandError, ConfigError
from terrafuse.generate import SuperpixelGenerator
from terrafuse.generate.photos import (
    choose_channels,
    find_photo_modality,
    open_photo,
    require_channels,
    summarize_photo,
)
from terrafuse.generate.windows import WindowPlan
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
S2 = Modality(
    "s2", ("B2", "B3", "B4", "B8"), kind="optical", wavelengths_um=(0.49, 0.56, 0.665, 0.842)
)
IRRG = Modality("irrg", ("nir", "red", "green"), kind="optical")
SAR = Modality("sar", ("VV", "VH", "ratio"), kind="sar", unit="db")


def test_which_bands_are_red_green_blue() -> None:
    assert choose_channels(RGB) == (0, 1, 2)
    assert choose_channels(replace(RGB, bands=("Blue", "G", "RED"))) == (2, 1, 0)
    assert choose_channels(S2) == (2, 1, 0)
    assert choose_channels(replace(S2, wavelengths_um=(0.49, 0.56, 0.74, 0.842))) is None
    assert choose_channels(IRRG) is None
    assert choose_channels(IRRG, (1, 2, 3)) == (0, 1, 2)
    with pytest.raises(BandError, match=r"--rgb 1 2 4: modality 'irrg' has bands 1 to 3"):
        choose_channels(IRRG, (1, 2, 4))


def test_what_is_no_photo() -> None:
    with pytest.raises(BandError, match=r"'sar' is of kind 'sar'; vision models need photos"):
        require_channels(SAR, (1, 2, 3))
    with pytest.raises(BandError, match=r"nir, red, green\. Name them so.*--rgb 3 2 1"):
        require_channels(IRRG, None)
    assert find_photo_modality([SAR, IRRG, S2]) is S2
    with pytest.raises(ConfigError, match="several modalities are a photo"):
        find_photo_modality([S2, RGB])
    with pytest.raises(ConfigError, match=r"no modality is known to be a photo.*irrg"):
        find_photo_modality([SAR, IRRG])


def test_bytes_are_shown_as_they_are(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8)
    image[:, 5, 5] = 0
    image[0, 7, 7], image[1:, 7, 7] = 0, 9
    path = make_raster(tmp_path / "a.tif", image, nodata=0)
    photo = summarize_photo(make_job(path, tmp_path).photo).photo
    assert photo.limits is None
    picture, valid = photo.read(Window(0, 0, 40, 50))
    # A pixel of which one colour is 0 is as good as others (nodata_rule: all).
    known = (image != 0).any(axis=0)
    assert known[7, 7]
    assert not known[5, 5]
    np.testing.assert_array_equal(valid, known)
    np.testing.assert_array_equal(picture, np.where(known, image, 0).transpose(1, 2, 0))


@pytest.mark.parametrize("bright", [0.0, 0.3])
def test_other_values_are_stretched_the_same_in_every_window(
    make_raster: MakeRaster, tmp_path: Path, bright: float
) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(100, 900, (4, 90, 100)).astype(np.float32)
    image[:, rng.random((90, 100)) < bright] = 10_000  # clouds
    path = make_raster(tmp_path / "a.tif", image)
    photo = summarize_photo(open_photo("a", S2, [str(path)], ReadingRules(), (2, 1, 0))).photo
    assert photo.limits is not None
    whole, _ = photo.read(Window(0, 0, 90, 100))
    part, _ = photo.read(Window(20, 30, 40, 50))
    np.testing.assert_array_equal(part, whole[20:60, 30:80])
    ground = whole[image[0] < 1000]
    assert ground.dtype == np.uint8
    # The ground is neither black nor white, clouds or not.
    assert 30 < np.median(ground) < 140
    assert ground.std() > 10
    low = np.percentile(image[2], 2)
    assert photo.limits[0][0] == pytest.approx(low, rel=0.02)


def test_a_digest_tells_photos_apart(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 255, (4, 40, 50), np.uint8)

    def look(name: str, values: np.ndarray, channels=(0, 1, 2), **profile: object) -> str:
        path = make_raster(tmp_path / name, values, **profile)
        modality = Modality("m", ("a", "b", "c", "d"), kind="optical")
        return summarize_photo(
            open_photo("x", modality, [str(path)], ReadingRules(), channels)
        ).digest

    first = look("a.tif", image)
    assert look("copy.tif", image, tiled=True, compress="deflate") == first
    changed = image.copy()
    changed[0, 39, 49] ^= 1
    assert look("b.tif", changed) != first
    unseen = image.copy()
    unseen[3] = 1
    assert look("c.tif", unseen) == first
    assert look("d.tif", image, channels=(0, 1, 3)) != first
    assert look("e.tif", image, crs=None) != first
    blank = image.copy()
    blank[:, 0, 0] = 255
    assert look("f.tif", blank, nodata=255) != look("g.tif", blank)


@pytest.mark.parametrize("size", [(50, 70), (1030, 40), (700, 2100)])
def test_the_preview_is_every_nth_pixel(
    make_raster: MakeRaster, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8)
    found = summarize_photo(make_job(make_raster(tmp_path / "a.tif", image), tmp_path).photo)
    expected = image[:, :: found.step, :: found.step].transpose(1, 2, 0)
    np.testing.assert_array_equal(found.preview, expected)
    assert max(expected.shape) <= 1024


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(2, 90),
    share=st.floats(0, 0.5),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_windows_cover_the_photo_and_cores_divide_it(height, width, size, share):
    plan = WindowPlan(height, width, size, int(size * share))
    covered, owned = np.zeros((2, height, width), int)
    for number, (window, core) in enumerate(zip(plan.windows, plan.cores, strict=True)):
        covered[window.slices()] += 1
        owned[core.slices()] += 1
        assert window.intersection(core) == core
        assert (window.height, window.width) == (min(size, height), min(size, width))
        assert number in plan.touching(core)
    assert covered.min() >= 1
    assert (owned == 1).all()
    assert [n for row in plan.rows() for n in row] == list(range(len(plan.windows)))
    area = Window(height // 3, width // 4, height // 3 + 1, width // 2 + 1)
    touching = [n for n, w in enumerate(plan.windows) if w.intersection(area)]
    assert plan.touching(area) == touching
    for first, second in plan.pairs():
        shared = plan.windows[first].intersection(plan.windows[second])
        assert shared is not None
        assert first < second
        assert min(shared.height, shared.width) >= min(plan.overlap, height, width)


@pytest.mark.parametrize("method", ["slic", "watershed"])
def test_superpixels_follow_edges(method: str) -> None:
    picture = np.full((60, 80, 3), 40, np.uint8)
    picture[:, 37:] = (200, 180, 90)
    generator = SuperpixelGenerator(method=method, size=10, sigma=0.5)  # type: ignore[arg-type]
    labels = generator.build()(picture)
    assert labels.shape == (60, 80)
    assert labels.min() == 1
    assert 20 < len(np.unique(labels)) < 90
    left, right = (set(np.unique(part)) for part in (labels[:, :36], labels[:, 38:]))
    assert len(left & right) <= 2
    np.testing.assert_array_equal(generator.build()(picture), labels)
    assert generator.describe()["compactness"] == {"slic": 10.0, "watershed": 0.001}[method]


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (24, 24)])
def test_superpixels_of_tiny_pictures(shape: tuple[int, int]) -> None:
    labels = SuperpixelGenerator().build()(np.zeros((*shape, 3), np.uint8))
    assert labels.shape == shape
    assert labels.min() == 1


def test_superpixels_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="unknown superpixel method 'slick'"):
        SuperpixelGenerator(method="slick")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="superpixels of size 2"):
        SuperpixelGenerator(size=2)
