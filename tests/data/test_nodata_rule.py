"""A pixel has no data where all its bands say so, however its modality is stored and placed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from terrafuse.data import ReadingRules, compute_statistics, scene_from_rasters
from terrafuse.data.rasters import BEFORE_RULES
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
T = Affine(10, 0, 500_000, 0, -10, 5_000_000)
NAN = np.nan
# Fill in column 0; columns 1 and 2 are good, and 0 in one band each; column 3 is good in both.
VALUES = np.array([[[0, 0, 5, 6]] * 4, [[0, 7, 0, 8]] * 4], np.uint16)
TWO = Modality("m", ("x", "y"))
# A quarter of a pixel further east, of (0, 0) fill, (0, 7), (5, 0), (6, 8).
BETWEEN = [[NAN, 1.25, 5.25], [NAN, 5.25, 2]]


def read(
    path: Path | list[Path], rules: ReadingRules | None = None, grid: Path | None = None
) -> np.ndarray:
    sources = {} if rules is None else {"m": rules}
    if grid is None:
        scene = scene_from_rasters([TWO], {"m": path}, sources=sources)
    else:
        rasters = {"m": path, "g": grid}
        modalities = [TWO, Modality("g", ("g",))]
        scene = scene_from_rasters(modalities, rasters, grid="g", sources=sources)
    sample = scene.read(scene.grid.window)
    image = sample.images["m"].numpy()
    np.testing.assert_array_equal(sample.valid["m"], ~np.isnan(image).all(axis=0))
    return image


@pytest.fixture
def shifted(make_raster: MakeRaster, tmp_path: Path) -> Path:
    """A grid a quarter of a pixel beside the rasters: pixels of 3/4 of one and 1/4 of the next."""
    grid = T * Affine.translation(0.25, 0)
    return make_raster(tmp_path / "g.tif", np.zeros((1, 4, 3), np.uint8), transform=grid)


@pytest.fixture(params=["one file", "a file per band"])
def stored(request: pytest.FixtureRequest, make_raster: MakeRaster, tmp_path: Path):
    """Function that writes `VALUES` with a nodata tag, as one file or two."""

    def write(nodata: float | None = 0) -> list[Path]:
        parts = [VALUES] if request.param == "one file" else [VALUES[:1], VALUES[1:]]
        return [
            make_raster(tmp_path / f"a{i}.tif", part, transform=T, nodata=nodata)
            for i, part in enumerate(parts)
        ]

    return write


def test_zero_in_one_band_of_a_good_pixel_is_a_value(stored) -> None:
    expected = [[[NAN, 0, 5, 6]] * 4, [[NAN, 7, 0, 8]] * 4]
    np.testing.assert_array_equal(read(stored()), expected)
    # A nodata value of the manifest is one like that of the files.
    np.testing.assert_array_equal(read(stored(None), ReadingRules(nodata=0)), expected)


def test_band_by_band_if_asked_for(stored) -> None:
    expected = np.where(VALUES == 0, NAN, VALUES)
    np.testing.assert_array_equal(read(stored(), ReadingRules(nodata_rule="each")), expected)


def test_the_same_where_a_file_is_resampled(stored, shifted: Path) -> None:
    found = read(stored(), grid=shifted)
    np.testing.assert_array_equal(found, [[row] * 4 for row in BETWEEN])
    found = read(stored(), ReadingRules(nodata_rule="each"), shifted)
    np.testing.assert_array_equal(found[0, :, 2], [5.25] * 4)
    np.testing.assert_array_equal(found[1, :, 1], [7] * 4)  # the 0 beside it is left out


def test_the_same_in_small(stored, make_raster: MakeRaster) -> None:
    scene = scene_from_rasters([TWO], {"m": stored()})
    np.testing.assert_array_equal(
        scene.read_decimated(1)["m"], scene.read(scene.grid.window).images["m"]
    )


def test_statistics_count_the_zeros_of_good_pixels(stored) -> None:
    scene = scene_from_rasters([TWO], {"m": stored()})
    found = compute_statistics([scene], [TWO])["m"]
    assert found.count == (12, 12)
    assert found.mean == pytest.approx((11 / 3, 5))
    rules = {"m": ReadingRules(nodata_rule="each")}
    found = compute_statistics([scene_from_rasters([TWO], {"m": stored()}, sources=rules)], [TWO])
    assert found["m"].count == (8, 8)
    assert found["m"].mean == pytest.approx((5.5, 7.5))


def test_other_nodata_values_per_file(make_raster: MakeRaster, tmp_path: Path) -> None:
    a = np.array([[[3, 3, 9, 0]]], np.uint8)
    b = np.array([[[255, 4, 255, 3]]], np.uint8)
    files = [
        make_raster(tmp_path / "a.tif", a, nodata=3),
        make_raster(tmp_path / "b.tif", b, nodata=255),
    ]
    np.testing.assert_array_equal(read(files), [[[NAN, 3, 9, 0]], [[NAN, 4, 255, 3]]])


def test_a_file_that_ends_counts_as_without_data(make_raster: MakeRaster, tmp_path: Path) -> None:
    a = np.array([[[0, 5, 0, 0]]], np.uint8)
    files = [make_raster(tmp_path / "a.tif", a, nodata=0),
             make_raster(tmp_path / "b.tif", np.array([[[1, 0]]], np.uint8), nodata=0)]  # fmt: skip
    np.testing.assert_array_equal(read(files), [[[0, 5, NAN, NAN]], [[1, 0, NAN, NAN]]])


@pytest.mark.parametrize("placed", ["in place", "resampled"])
def test_nan_and_masks_hide_single_bands(
    make_raster: MakeRaster, tmp_path: Path, shifted: Path, placed: str
) -> None:
    values = np.float32([[[0, 0, 5, 6]] * 4, [[NAN, 7, NAN, 8]] * 4])
    path = make_raster(tmp_path / "a.tif", values, transform=T, nodata=0)
    if placed == "in place":  # fill beside NaN is no data; a value beside NaN is one
        expected = [[[NAN, 0, 5, 6]] * 4, [[NAN, 7, NAN, 8]] * 4]
        np.testing.assert_array_equal(read(path), expected)
    else:
        found = read(path, grid=shifted)
        np.testing.assert_array_equal(found[0], [[NAN, 1.25, 5.25]] * 4)
        np.testing.assert_array_equal(found[1, :, :2], [[NAN, 7]] * 4)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.array([[True, True, True, False]] * 4))
    if placed == "in place":
        assert np.isnan(read(path)[:, :, 3]).all()
        np.testing.assert_array_equal(read(path)[0, :, :3], [[NAN, 0, 5]] * 4)
    else:
        np.testing.assert_array_equal(read(path, grid=shifted)[0], [[NAN, 1.25, 5]] * 4)


def test_a_mask_and_a_nodata_value_both_hide_where_a_file_is_resampled(
    make_raster: MakeRaster, tmp_path: Path, shifted: Path
) -> None:
    values = np.array([[[0, 4, 6, 100]] * 4], np.uint16)
    path = make_raster(tmp_path / "a.tif", values, transform=T, nodata=0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.array([[True, True, True, False]] * 4))
    scene = scene_from_rasters(
        [Modality("m", ("x",)), Modality("g", ("g",))], {"m": path, "g": shifted}, grid="g"
    )
    found = scene.read(scene.grid.window).images["m"]
    np.testing.assert_array_equal(found, [[[NAN, 4.5, 6]] * 4])


@pytest.mark.parametrize("nodata", [-9999, -32768, -3.4028234663852886e38, 1e20])
def test_values_that_nothing_measured_has_are_no_data_in_any_band(
    make_raster: MakeRaster, tmp_path: Path, nodata: float
) -> None:
    values = np.float32([[[nodata, 1, 2]], [[nodata, nodata, 3]]])
    path = make_raster(tmp_path / "a.tif", values, nodata=nodata)
    np.testing.assert_array_equal(read(path), [[[NAN, 1, 2]], [[NAN, NAN, 3]]])


def test_only_the_bands_of_the_modality_count(make_raster: MakeRaster, tmp_path: Path) -> None:
    three = np.stack([VALUES[0], VALUES[1], np.full((4, 4), 9, np.uint16)])
    path = make_raster(tmp_path / "a.tif", three, nodata=0)
    found = read(path, ReadingRules(read_bands=(2, 1)))
    np.testing.assert_array_equal(found, [[[NAN, 7, 0, 8]] * 4, [[NAN, 0, 5, 6]] * 4])


def test_scales_come_after_nodata(make_raster: MakeRaster, tmp_path: Path) -> None:
    path = make_raster(tmp_path / "a.tif", VALUES, nodata=0)
    rules = ReadingRules(value_scale=0.5, value_offset=(-1, 3))
    expected = [[[NAN, -1, 1.5, 2]] * 4, [[NAN, 6.5, 3, 7]] * 4]
    np.testing.assert_array_equal(read(path, rules), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_bands_of_other_pixel_sizes(
    make_raster: MakeRaster, tmp_path: Path, order: tuple[int, int]
) -> None:
    """Fine pixels in place, coarse ones resampled: fill is where both have none."""
    fine = np.array([[0, 0, 5, 6], [0, 0, 5, 6], [0, 0, 7, 7], [0, 4, 7, 7]], np.uint16)[None]
    coarse = np.array([[0, 0], [0, 8]], np.uint16)[None]
    files = [
        make_raster(tmp_path / "f.tif", fine, transform=T, nodata=0),
        make_raster(tmp_path / "c.tif", coarse, transform=T * Affine.scale(2), nodata=0),
    ]
    rules = ReadingRules(resampling="nearest")
    found = read([files[i] for i in order], rules)[list(order)]
    np.testing.assert_array_equal(found[0], [[NAN, NAN, 5, 6]] * 2 + [[0, 0, 7, 7], [0, 4, 7, 7]])
    # Below the lower left coarse pixel one fine one has data: its 0 is a value.
    np.testing.assert_array_equal(found[1], [[NAN, NAN, 0, 0]] * 2 + [[0, 0, 8, 8]] * 2)


def test_amplitudes(make_raster: MakeRaster, tmp_path: Path, shifted: Path) -> None:
    values = VALUES.astype(np.complex64) * 1j
    path = make_raster(tmp_path / "a.tif", values, transform=T, nodata=0)
    rules = ReadingRules(complex="amplitude")
    np.testing.assert_array_equal(read(path, rules), [[[NAN, 0, 5, 6]] * 4, [[NAN, 7, 0, 8]] * 4])
    np.testing.assert_array_equal(read(path, rules, shifted), [[row] * 4 for row in BETWEEN])


def test_rules_without_the_key_are_those_of_before() -> None:
    assert ReadingRules().nodata_rule == "all"
    assert ReadingRules.from_dict({"nodata": 0}).nodata_rule == "each"
    assert ReadingRules.from_dict({"nodata": 0}).band_names == "descriptions"
    own = ReadingRules(value_scale=(1.0, 2.0))
    assert ReadingRules.from_dict(own.to_dict()) == own
    assert set(BEFORE_RULES) <= set(own.to_dict())
