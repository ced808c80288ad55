"""What the files of a modality hold arrives in physical values, NaN where there is no data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.shutil import copy
from rasterio.transform import from_origin

from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.errors import BandError, RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
# Other pixels than those of `make_raster`: 7 m, and shifted by a broken number of pixels.
OTHER = Affine(7, 0, 500_003, 0, -7, 4_999_996)


def bands(count: int) -> Modality:
    return Modality("m", tuple(f"b{n}" for n in range(1, count + 1)))


def open_one(
    path: Path | list[Path], count: int, rules: ReadingRules | None = None, **options: Any
) -> Scene:
    sources = {"m": rules} if rules else None
    return scene_from_rasters([bands(count)], {"m": path}, sources=sources, **options)


def read_one(path: Path | list[Path], count: int, rules: ReadingRules | None = None) -> np.ndarray:
    scene = open_one(path, count, rules)
    return scene.read(scene.grid.window).images["m"].numpy()


def read_resampled(
    make_raster: MakeRaster, path: Path | list[Path], count: int, rules: ReadingRules | None = None
) -> np.ndarray:
    """The raster on the grid of another."""
    folder = path.parent if isinstance(path, Path) else path[0].parent
    grid = make_raster(folder / "grid.tif", np.zeros((1, 30, 30), np.uint8), transform=OTHER)
    scene = scene_from_rasters(
        [bands(count), Modality("grid", ("g",))],
        {"m": path, "grid": grid},
        grid="grid",
        sources={"m": rules} if rules else None,
    )
    return scene.read(scene.grid.window).images["m"].numpy()


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_every_dtype_becomes_float32(make_raster: MakeRaster, tmp_path: Path, dtype: str) -> None:
    values = np.arange(2 * 5 * 7).reshape(2, 5, 7).astype(dtype)
    image = read_one(make_raster(tmp_path / "a.tif", values), 2)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, values.astype(np.float32))


@pytest.mark.parametrize("suffix", ["png", "jpg", "vrt"])
def test_other_formats(make_raster: MakeRaster, tmp_path: Path, suffix: str) -> None:
    values = np.full((3, 16, 16), [[[10]], [[120]], [[250]]], np.uint8)
    tif = make_raster(tmp_path / "a.tif", values, photometric="rgb")
    driver = {"png": "PNG", "jpg": "JPEG", "vrt": "VRT"}[suffix]
    copy(tif, tmp_path / f"a.{suffix}", driver=driver)
    scene = open_one(tmp_path / f"a.{suffix}", 3)
    image = scene.read(scene.grid.window).images["m"].numpy()
    np.testing.assert_allclose(image, values, atol=3 if suffix == "jpg" else 0)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_image_without_any_georeference(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(1, 6, 8)
    with rasterio.open(
        tmp_path / "a.png", "w", driver="PNG", count=1, height=6, width=8, dtype="uint8"
    ) as dataset:
        dataset.write(values)
    scene = open_one(tmp_path / "a.png", 1)
    assert scene.grid.crs is None
    np.testing.assert_array_equal(scene.read(scene.grid.window).images["m"], values)


def test_windows_beyond_the_scene_are_padded(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.arange(1, 43, dtype=np.uint8).reshape(1, 6, 7)
    scene = open_one(make_raster(tmp_path / "a.tif", values), 1)
    sample = scene.read(Window(-2, 4, 5, 6))
    expected = np.full((5, 6), np.nan)
    expected[2:, :3] = values[0, :3, 4:]
    np.testing.assert_array_equal(sample.images["m"][0], expected)
    np.testing.assert_array_equal(sample.valid["m"], ~np.isnan(expected))
    assert not scene.read(Window(50, 50, 4, 4)).valid["m"].any()


def test_nodata_tag_and_override(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.array([[[0, 1, 2], [3, 0, 5]]], np.int16)
    path = make_raster(tmp_path / "a.tif", values, nodata=0)
    np.testing.assert_array_equal(np.isnan(read_one(path, 1)), values == 0)
    # The override replaces the tag.
    np.testing.assert_array_equal(np.isnan(read_one(path, 1, ReadingRules(nodata=3))), values == 3)
    # One that no pixel can have hides nothing.
    floats = make_raster(tmp_path / "b.tif", np.float32(values))
    assert not np.isnan(read_one(floats, 1, ReadingRules(nodata=-1.7e308))).any()
    assert not np.isnan(read_one(path, 1, ReadingRules(nodata=-99999))).any()
    assert not np.isnan(read_one(path, 1, ReadingRules(nodata=0.5))).any()


def test_valid_where_some_band_has_data(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.array([[[0, 0, 2]], [[0, 7, 0]]], np.uint16)
    path = make_raster(tmp_path / "a.tif", values, nodata=0)
    scene = open_one(path, 2, ReadingRules(nodata_rule="each"))
    sample = scene.read(Window(0, 0, 1, 3))
    assert sample.valid["m"].tolist() == [[False, True, True]]
    np.testing.assert_array_equal(np.isnan(sample.images["m"].numpy()), values == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_never_data(
    make_raster: MakeRaster, tmp_path: Path, dtype: str
) -> None:
    values = np.array([[[np.nan, np.inf], [-np.inf, -1], [0, 2]]], dtype)
    image = read_one(make_raster(tmp_path / "a.tif", values, nodata=0), 1)
    np.testing.assert_array_equal(image, [[[np.nan, np.nan], [np.nan, -1], [np.nan, 2]]])
    image = read_one(tmp_path / "a.tif", 1, ReadingRules(nodata=float("nan")))
    np.testing.assert_array_equal(image, [[[np.nan, np.nan], [np.nan, -1], [0, 2]]])


def test_float64_beyond_float32_is_no_data(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = read_one(make_raster(tmp_path / "a.tif", np.array([[[1e300, -1e300, 3.0]]])), 1)
    np.testing.assert_array_equal(image, [[[np.nan, np.nan, 3]]])


def test_scale_and_offset_tags(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.array([[[0, 100, 200]], [[0, 100, 300]]], np.int16)
    path = make_raster(tmp_path / "a.tif", values, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.01, 2.0), (-1.0, 5.0)
    image = read_one(path, 2)
    np.testing.assert_allclose(image, [[[np.nan, 0, 1]], [[np.nan, 205, 605]]], atol=1e-6)


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_hides_pixels(make_raster: MakeRaster, tmp_path: Path, internal: bool) -> None:
    values = np.arange(1, 41, dtype=np.uint8).reshape(2, 4, 5)
    hidden = np.zeros((4, 5), bool)
    hidden[1, 2:] = True
    path = make_raster(tmp_path / "a.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~hidden)
    assert (tmp_path / "a.tif.msk").exists() != internal
    image = read_one(path, 2)
    np.testing.assert_array_equal(np.isnan(image), np.stack([hidden, hidden]))
    # An override hides further values, not instead.
    image = read_one(path, 2, ReadingRules(nodata=1, nodata_rule="each"))
    assert np.isnan(image[0, 0, 0])
    assert np.isnan(image[:, hidden]).all()


@pytest.fixture
def rgba(make_raster: MakeRaster, tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3) + 1
    values[3] = [[0, 255, 255], [255, 0, 1]]
    path = make_raster(tmp_path / "rgba.tif", values, photometric="rgb", alpha="yes")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    return path, values


def test_an_alpha_band_hides_pixels(rgba: tuple[Path, np.ndarray]) -> None:
    path, values = rgba
    image = read_one(path, 3)
    np.testing.assert_array_equal(np.isnan(image[0]), values[3] == 0)
    assert image[1, 1, 2] == values[1, 1, 2]  # nearly transparent is data


def test_a_fourth_band_marked_as_alpha_is_data_if_the_modality_has_four(
    rgba: tuple[Path, np.ndarray],
) -> None:
    path, values = rgba
    np.testing.assert_array_equal(read_one(path, 4), values)
    picked = read_one(path, 2, ReadingRules(read_bands=(4, 1)))
    np.testing.assert_array_equal(picked, values[[3, 0]])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_need_a_word(make_raster: MakeRaster, tmp_path: Path, dtype: str) -> None:
    values = np.array([[[3 + 4j, 1j], [-2, 0]]], dtype)
    path = make_raster(tmp_path / "a.tif", values)
    with pytest.raises(BandError, match=r"complex values \(complex.*'complex: amplitude'"):
        open_one(path, 1)
    rules = ReadingRules(complex="amplitude")
    np.testing.assert_allclose(read_one(path, 1, rules), [[[5, 1], [2, 0]]])
    # Phases must not cancel: the amplitude is resampled, not the values.
    rng = np.random.default_rng(0)
    turning = np.exp(1j * rng.uniform(0, 6.28, (1, 40, 40))).astype(dtype)
    image = read_resampled(make_raster, make_raster(tmp_path / "b.tif", turning), 1, rules)
    np.testing.assert_allclose(image, 1, rtol=1e-5)


def test_complex_integers(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.array([[[3 + 4j, 1j], [-2, 0]]], np.complex64)
    profile = {"count": 1, "height": 2, "width": 2, "dtype": "complex_int16", "driver": "GTiff"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as dataset:
        dataset.write(values)
    image = read_one(tmp_path / "a.tif", 1, ReadingRules(complex="amplitude"))
    np.testing.assert_allclose(image, [[[5, 1], [2, 0]]])


def test_paths_of_any_spelling(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.full((1, 30, 30), 5, np.uint8)
    path = make_raster(tmp_path / "Straße & <Weg> 'süd'.tif", values)
    assert (read_one(path, 1) == 5).all()
    assert np.nanmax(read_resampled(make_raster, path, 1)) == 5


def test_bands_are_picked_by_number_and_by_description(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    values = np.arange(4 * 6, dtype=np.uint16).reshape(4, 2, 3)
    path = make_raster(tmp_path / "a.tif", values, photometric="minisblack")
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red", "red")
    image = read_one(path, 3, ReadingRules(read_bands=(4, "green", 1)))
    np.testing.assert_array_equal(image, values[[3, 1, 0]])
    for picked, message in {
        (5,): "there is no band 5; bands are 1 to 4",
        (0,): "there is no band 0",
        ("nir",): "no band is described as 'nir'; descriptions are 'blue', 'green', 'red'",
        ("red",): "2 bands are described as 'red'",
        (1, 2): "'read_bands' picks 2 bands, but modality 'm' declares 1",
    }.items():
        with pytest.raises(BandError, match=message):
            open_one(path, 1, ReadingRules(read_bands=picked))


def test_a_wrong_number_of_bands_names_file_and_both_numbers(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = make_raster(tmp_path / "a.tif", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(
        BandError, match=r"'m' of scene 'scene'.*a\.tif' has 2, but .* declares 3 \(b1, b2, b3\)"
    ):
        open_one(path, 3)


def test_single_band_files_on_different_grids_become_one_modality(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    fine = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    coarse = np.array([[[1, 2], [3, 4]]], np.float32)
    large = from_origin(500_000, 5_000_000, 40, 40)
    inside = from_origin(500_020, 4_999_990, 10, 10)
    files = [
        make_raster(tmp_path / "b1.tif", fine),
        make_raster(tmp_path / "b2.tif", coarse, transform=large),
        make_raster(tmp_path / "b3.tif", fine[:, 1:, 2:], transform=inside),
    ]
    image = read_one(files, 3, ReadingRules(resampling="nearest"))
    np.testing.assert_array_equal(image[0], fine[0])
    np.testing.assert_array_equal(image[1], np.kron(coarse[0], np.ones((4, 4))))
    expected = fine[0].astype(float)
    expected[0], expected[:, :2] = np.nan, np.nan
    np.testing.assert_array_equal(image[2], expected)
    # Bands count through the files.
    picked = read_one(files, 2, ReadingRules(resampling="nearest", read_bands=(2, 1)))
    np.testing.assert_array_equal(picked, image[[1, 0]])


HIDERS = ["nodata", "override", "mask", "alpha", "nan", "inf", "nan and nodata", "complex nan"]


@pytest.mark.parametrize("hider", HIDERS)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
def test_no_data_does_not_bleed_when_resampled(
    make_raster: MakeRaster, tmp_path: Path, hider: str, resampling: Any
) -> None:
    truth = 100.0
    rng = np.random.default_rng(1)
    hidden = rng.random((30, 30)) < 0.3
    hidden[5:15, 5:15] = True
    rules = {"resampling": resampling}
    dtype, fill, profile = np.uint8, 7, {}
    if hider == "nodata":
        profile = {"nodata": 7}
    elif hider == "override":
        profile, rules["nodata"] = {"nodata": 100}, 7
    elif hider in ("nan", "inf", "nan and nodata"):
        dtype, fill = np.float32, np.nan if "nan" in hider else np.inf
        profile = {"nodata": -1} if "nodata" in hider else {}
    elif hider == "complex nan":
        dtype, fill, rules["complex"] = np.complex64, np.nan, "amplitude"
    values = np.where(hidden, fill, truth).astype(dtype)[None]
    if hider == "nan and nodata":
        values[:, hidden & (rng.random((30, 30)) < 0.5)] = -1
    if hider == "inf":
        values[:, ::2] *= np.where(np.isinf(values[:, ::2]), -1, 1)
    if hider == "alpha":
        layers = [*[values[0]] * 3, np.where(hidden, 0, 255).astype(np.uint8)]
        values, profile = np.stack(layers), {"photometric": "rgb", "alpha": "yes"}
    path = make_raster(tmp_path / "a.tif", values, **profile)
    if hider == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(~hidden)

    image = read_resampled(make_raster, path, 3 if hider == "alpha" else 1, ReadingRules(**rules))
    valid = ~np.isnan(image[0])
    np.testing.assert_allclose(image[:, valid], truth, rtol=1e-5)
    # Where data is, it stays: every target pixel whose centre lies in a pixel with data.
    rows, cols = np.indices((30, 30)) + 0.5
    x, y = OTHER * (cols, rows)
    row, col = ((5_000_000 - y) // 10).astype(int), ((x - 500_000) // 10).astype(int)
    inside = (row >= 0) & (col >= 0)
    known = np.zeros((30, 30), bool)
    known[inside] = ~hidden[row[inside], col[inside]]
    assert valid[known].all()
    assert not valid.all()


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
def test_downsampling_averages(
    make_raster: MakeRaster, tmp_path: Path, resampling: Literal["bilinear", "cubic", "average"]
) -> None:
    """Noise: what is sampled instead of averaged keeps its spread; a pattern may happen not to."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.5, 1, (1, 400, 400)).astype(np.float32)
    half_metre = from_origin(500_000, 5_000_000, 0.5, 0.5)
    path = make_raster(tmp_path / "a.tif", noise, transform=half_metre)
    image = read_resampled(make_raster, path, 1, ReadingRules(resampling=resampling))
    image = image[:, 2:-6, 2:-6]
    image = image[~np.isnan(image)]
    assert image.size > 300
    # Pixels of 14 × 14 others; unchanged, the deviation would be 1.
    assert image.std() < 2 / 14
    assert image.mean() == pytest.approx(0.5, abs=0.02)


def test_an_average_is_that_of_the_pixels_inside(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((1, 12, 20)).astype(np.float32)
    fine = make_raster(tmp_path / "a.tif", values, transform=from_origin(0, 0, 2.5, 2.5))
    coarse = make_raster(
        tmp_path / "g.tif", np.zeros((1, 3, 5), np.uint8), transform=from_origin(0, 0, 10, 10)
    )
    scene = scene_from_rasters(
        [bands(1), Modality("g", ("g",))], {"m": fine, "g": coarse}, grid="g",
        sources={"m": ReadingRules(resampling="average")},
    )  # fmt: skip
    expected = values.reshape(1, 3, 4, 5, 4).mean(axis=(2, 4))
    found = scene.read(scene.grid.window).images["m"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_only_the_axis_that_shrinks_is_averaged(
    make_raster: MakeRaster, tmp_path: Path, axis: str
) -> None:
    """Pixels of 10 × 1 m: along the long side they stay what they are."""
    noise = np.random.default_rng(2).random(24).astype(np.float32)
    if axis == "columns":
        values, place = np.tile(noise[:, None], (1, 240))[None], from_origin(0, 0, 1, 10)
    else:
        values, place = np.tile(noise, (240, 1))[None], from_origin(0, 0, 10, 1)
    path = make_raster(tmp_path / "a.tif", values, transform=place)
    grid = make_raster(
        tmp_path / "g.tif", np.zeros((1, 24, 24), np.uint8), transform=from_origin(0, 0, 10, 10)
    )
    scene = scene_from_rasters([bands(1), Modality("g", ("g",))], {"m": path, "g": grid}, grid="g")
    found = scene.read(scene.grid.window).images["m"].numpy()[0]
    expected = np.tile(noise[:, None], (1, 24)) if axis == "columns" else np.tile(noise, (24, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def vrt_of(path: Path, out: Path, **tags: list[float]) -> Path:
    """A VRT over a file whose bands have tags of their own, which a GeoTIFF cannot have."""
    copy(path, out, driver="VRT")
    root = ElementTree.parse(out)
    for i, band in enumerate(root.iter("VRTRasterBand")):
        for tag, values in tags.items():
            for old in band.findall(tag):
                band.remove(old)
            ElementTree.SubElement(band, tag).text = str(values[i])
    root.write(out)
    return out


@pytest.mark.parametrize("is_resampled", [False, True])
@pytest.mark.parametrize("rule", ["each", "all"])
def test_bands_of_one_file_have_their_own_nodata_values(
    make_raster: MakeRaster, tmp_path: Path, rule: Literal["each", "all"], is_resampled: bool
) -> None:
    values = np.empty((3, 30, 30), np.uint8)
    values[0], values[1], values[2] = 10, 20, 30
    values[:, :10] = np.reshape([1, 2, 3], (3, 1, 1))  # each has its own value
    values[:, 10:20] = np.reshape([2, 3, 1], (3, 1, 1))  # each has that of another
    values[1, 20:] = 2  # one of them has its own
    path = make_raster(tmp_path / "a.tif", values)
    tagged = vrt_of(path, tmp_path / "a.vrt", NoDataValue=[1, 2, 3])
    rules = ReadingRules(nodata_rule=rule, resampling="nearest")
    if is_resampled:
        image = read_resampled(make_raster, tagged, 3, rules)
        # 7 m on 10 m: rows of the grid that lie well inside each third.
        top, middle, low = image[:, 5, 5], image[:, 20, 5], image[:, 29, 5]
    else:
        image = read_one(tagged, 3, rules)
        top, middle, low = image[:, 5, 5], image[:, 15, 5], image[:, 25, 5]
    np.testing.assert_array_equal(top, [np.nan] * 3)
    np.testing.assert_array_equal(middle, [2, 3, 1])
    np.testing.assert_array_equal(low, [10, 2 if rule == "all" else np.nan, 30])


def test_bands_of_one_file_have_their_own_scale_and_offset(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = make_raster(tmp_path / "a.tif", np.full((3, 4, 5), 10, np.int16))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (1.0, 0.5, 2.0), (0.0, 3.0, -1.0)
    image = read_one(path, 3)
    assert image[:, 2, 2].tolist() == [10, 8, 19]
    picked = read_one(path, 2, ReadingRules(read_bands=(3, 2)))
    assert picked[:, 2, 2].tolist() == [19, 8]
    own = ReadingRules(value_scale=(1.0, 2.0, 3.0), value_offset=(0.0, 10.0, 20.0))
    assert read_one(path, 3, own)[:, 2, 2].tolist() == [10, 30, 50]


@pytest.mark.parametrize("transform", ["south up", "rotated", "mirrored"])
def test_turned_rasters_are_read_as_they_lie(
    make_raster: MakeRaster, tmp_path: Path, transform: str
) -> None:
    values = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5)
    north_up = from_origin(500_000, 5_000_000, 10, 10)
    turned, stored = {
        "south up": (Affine(10, 0, 500_000, 0, 10, 4_999_950), values[:, ::-1]),
        "mirrored": (Affine(-10, 0, 500_050, 0, -10, 5_000_000), values[:, :, ::-1]),
        "rotated": (Affine(0, 10, 500_000, -10, 0, 5_000_000), values.transpose(0, 2, 1)),
    }[transform]
    path = make_raster(tmp_path / "a.tif", stored, transform=turned)
    np.testing.assert_array_equal(read_one(path, 1), stored)  # alone: on its own grid
    grid = make_raster(tmp_path / "g.tif", np.zeros((1, 5, 5), np.uint8), transform=north_up)
    scene = scene_from_rasters(
        [bands(1), Modality("g", ("g",))], {"m": path, "g": grid}, grid="g",
        sources={"m": ReadingRules(resampling="nearest")},
    )  # fmt: skip
    if transform == "rotated":
        stored = values  # columns run north to south, rows west to east
    np.testing.assert_array_equal(scene.read(Window(0, 0, 5, 5)).images["m"], values)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(
        RasterReadError, match=r"'m' of scene 'scene': there is no file '.*no\.tif'"
    ):
        open_one(tmp_path / "no.tif", 1)
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(RasterReadError, match=r"text\.tif' cannot be opened as a raster"):
        open_one(tmp_path / "text.tif", 1)


def test_a_truncated_file_is_named_when_its_pixels_are_read(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 255, (1, 30, 30)).astype(np.uint8)
    path = make_raster(tmp_path / "a.tif", values, compress="deflate", blockysize=2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with rasterio.open(path):
        pass  # opens
    for read in (read_one, lambda *args: read_resampled(make_raster, *args)):
        with pytest.raises(RasterReadError, match=r"pixels of '.*a\.tif' cannot be decoded"):
            read(path, 1)


def test_rules_travel_as_plain_values() -> None:
    rules = ReadingRules(nodata=0, resampling="nearest", read_bands=("B4", 3), complex="amplitude")
    assert ReadingRules.from_dict(rules.to_dict()) == rules
    assert rules.to_dict()["read_bands"] == ["B4", 3]


def test_combinations_of_band_and_tile_layouts(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 99, (3, 70, 90)).astype(np.int16)
    window = Window(13, 31, 40, 50)
    for n, (interleave, tiled) in enumerate(itertools.product(("pixel", "band"), (True, False))):
        profile = {"interleave": interleave, "tiled": tiled, "compress": "lzw"}
        if tiled:
            profile |= {"blockxsize": 32, "blockysize": 16}
        path = make_raster(tmp_path / f"{n}.tif", values, **profile)
        image = open_one(path, 3).read(window).images["m"]
        np.testing.assert_array_equal(image, values[(slice(None), *window.slices())])


def test_masks_of_single_bands(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
    make_raster(tmp_path / "a.tif", values)
    make_raster(tmp_path / "m.tif", np.array([[[255, 0, 255], [255, 255, 0]]], np.uint8))
    source = '<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename>'
    source += "<SourceBand>{}</SourceBand></SimpleSource>"
    mask = f'<MaskBand><VRTRasterBand dataType="Byte">{source.format("m.tif", 1)}'
    mask += "</VRTRasterBand></MaskBand>"
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="3" rasterYSize="2"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1">{source.format("a.tif", 1)}</VRTRasterBand>'
        f'<VRTRasterBand dataType="Byte" band="2">{source.format("a.tif", 2)}{mask}'
        "</VRTRasterBand></VRTDataset>"
    )
    image = read_one(tmp_path / "a.vrt", 2)
    assert not np.isnan(image[0]).any()
    assert np.argwhere(np.isnan(image[1])).tolist() == [[0, 1], [1, 2]]


def test_bands_are_numbered_through_all_files(
    tmp_path: Path, make_raster: Callable[..., Path]
) -> None:
    paths = [
        make_raster(tmp_path / "ab.tif", np.ones((2, 4, 4), np.uint8)),
        make_raster(tmp_path / "cde.tif", np.ones((3, 4, 4), np.uint8)),
    ]
    scene = open_one(paths, 3, ReadingRules(read_bands=(2, 5, 3)))
    assert scene.source(scene.modalities[0].name).numbers == [2, 5, 3]
