"""Values of another scale than a model was trained on; places and seasons are none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from terrafuse.data import compute_statistics, scene_from_rasters
from terrafuse.data.value_scale import (
    ScaleFinding,
    ValueConversion,
    check_values,
    compare_values,
    sample_values,
)
from terrafuse.errors import ConfigError, DataError
from terrafuse.modalities import BandStatistics, Modality

# Blue, green, red, near and short-wave infrared of water, forest, field and town (× 10000).
SPECTRA = np.array(
    [
        [300, 350, 250, 80, 50],
        [250, 450, 300, 3000, 1300],
        [600, 900, 800, 2600, 2200],
        [1000, 1200, 1400, 2000, 2100],
    ]
)
SNOW = np.array([[8600, 8900, 8800, 7900, 900], [7900, 8200, 8100, 7300, 700]])
BANDS = ("blue", "green", "red", "nir", "swir")


def ground(spectra: np.ndarray = SPECTRA, seed: int = 0, size: int = 64) -> np.ndarray:
    """An image (5, H, W) of 8 × 8 blocks of these covers."""
    rng = np.random.default_rng(seed)
    cover = rng.integers(0, len(spectra), (size // 8, size // 8)).repeat(8, 0).repeat(8, 1)
    return np.maximum(spectra[cover].transpose(2, 0, 1) + rng.normal(0, 25, (5, size, size)), 1)


def radar(shift_db: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    levels = np.array([[-11.0], [-17.0]])[..., None] + shift_db
    return levels + rng.normal(0, 3, (2, 64, 64))


@pytest.fixture
def compare(tmp_path: Path, make_raster):
    """Function: what is said of a raster, after training on another one."""

    def run(
        trained: np.ndarray,
        mapped: np.ndarray,
        kind: str = "optical",
        old_run: bool = False,
        scale_tag: float | None = None,
    ) -> ScaleFinding:
        modality = Modality("m", BANDS[: len(trained)], kind=kind)  # type: ignore[arg-type]
        plain = {"photometric": "minisblack"}  # else GDAL calls three bytes red, green, blue
        paths = [
            make_raster(tmp_path / f"{i}.tif", x, **plain) for i, x in enumerate((trained, mapped))
        ]
        if scale_tag is not None:
            import rasterio

            with rasterio.open(paths[1], "r+") as dataset:
                dataset.scales = (scale_tag,) * dataset.count
        one, two = (scene_from_rasters([modality], {"m": path}) for path in paths)
        statistics = compute_statistics([one], [modality])["m"]
        if old_run:
            s = statistics
            statistics = BandStatistics(s.mean, s.std, s.low, s.high, s.count)
        finding = compare_values(modality, statistics, sample_values(two)["m"])
        if finding.conversion is not None and finding.verdict == "other scale":
            mended = two.convert_values({"m": finding.conversion})
            again = compare_values(modality, statistics, sample_values(mended)["m"])
            assert again.verdict != "other scale", again
        return finding

    return run


NUMBERS = ground().astype(np.uint16)
OTHER = ground(seed=1)


@pytest.mark.parametrize("old_run", [False, True])
@pytest.mark.parametrize(
    ("mapped", "conversion"),
    [
        ((OTHER / 1e4).astype(np.float32), "10000"),
        ((OTHER / 1e4 * 255).clip(1, 255).astype(np.uint8), "39.22"),
        ((OTHER + 1000).astype(np.uint16), "1,-1000"),
        ((10 * np.log10(OTHER)).astype(np.float32), "linear"),
        (((OTHER / 1e4 + 0.2) / 2.75e-5).astype(np.uint16), "0.275,-2000"),
    ],
    ids=["reflectance", "8 bit", "offset of 1000", "decibels", "Landsat"],
)
def test_numbers_in_another_scale(compare, mapped, conversion, old_run) -> None:
    finding = compare(NUMBERS, mapped, old_run=old_run)
    assert finding.verdict == "other scale", finding
    assert str(finding.conversion) == conversion


def test_a_scale_tag_that_training_lacked(compare) -> None:
    finding = compare(NUMBERS, OTHER.astype(np.uint16), scale_tag=1e-4)
    assert finding.verdict == "other scale"
    assert "tags scale 0.0001, offset 0" in finding.reason
    assert str(finding.conversion) == "10000"


def test_training_in_the_other_scale(compare) -> None:
    """The same the other way round."""
    reflectance = (ground() / 1e4).astype(np.float32)
    assert str(compare(reflectance, OTHER.astype(np.uint16)).conversion) == "0.0001"
    shifted = (ground() + 1000).astype(np.uint16)
    finding = compare(shifted, OTHER.astype(np.uint16))
    assert (finding.verdict, str(finding.conversion)) == ("other scale", "1,1000")
    as_bytes = (ground() / 1e4 * 255).clip(1, 255).astype(np.uint8)
    assert compare(as_bytes, OTHER.astype(np.uint16)).verdict == "other scale"
    offset = compare(reflectance, (OTHER / 1e4 + 0.1).astype(np.float32))
    assert (offset.verdict, str(offset.conversion)) == ("other scale", "1,-0.1")


def test_measured_factor_and_offset_are_told(compare) -> None:
    reason = compare(NUMBERS, (NUMBERS / 1e4).astype(np.float32)).reason
    assert "measured factor 1e+04" in reason
    reason = compare(NUMBERS, (NUMBERS + 1000).astype(np.uint16)).reason
    assert re.search(r"measured offset (99\d|100\d)\b", reason)


@pytest.mark.parametrize(
    "spectra",
    [SNOW, SPECTRA[:1], SPECTRA[1:2], SPECTRA[2:] * 1.3, SPECTRA * 0.5],
    ids=["snow", "water", "forest", "bright", "low sun"],
)
def test_other_places_and_seasons_are_no_other_scale(compare, spectra) -> None:
    other = ground(spectra, seed=2).astype(np.uint16)
    assert compare(NUMBERS, other).verdict == "ok"
    assert compare(other, NUMBERS).verdict == "ok"


def test_a_snow_scene_in_reflectance_is_another_scale(compare) -> None:
    snow = (ground(SNOW) / 1e4).astype(np.float32)
    assert compare(NUMBERS, snow).verdict == "other scale"


def test_radar(compare) -> None:
    db = radar().astype(np.float32)
    other = radar(-4, seed=1).astype(np.float32)
    power = 10 ** (other / 10)
    assert compare(db, other, "sar").verdict == "ok"
    assert compare(10 ** (db / 10), power / 10, "sar").verdict == "ok"
    finding = compare(db, power, "sar")
    assert (finding.verdict, str(finding.conversion)) == ("other scale", "db")
    finding = compare(10 ** (db / 10), other, "sar")
    assert (finding.verdict, str(finding.conversion)) == ("other scale", "linear")
    finding = compare(db, (100 * other).astype(np.int16), "sar")
    assert (finding.verdict, str(finding.conversion)) == ("other scale", "0.01")


def test_heights(compare) -> None:
    flat = np.random.default_rng(0).normal(30, 5, (1, 64, 64)).astype(np.float32)
    mountains = np.random.default_rng(1).normal(1500, 400, (1, 64, 64)).astype(np.float32)
    assert compare(flat, mountains, "elevation").verdict == "ok"
    assert compare(mountains, flat, "elevation").verdict == "ok"
    finding = compare(flat, 100 * mountains, "elevation")
    assert (finding.verdict, str(finding.conversion)) == ("other scale", "0.01")
    share = (mountains - mountains.min()) / np.ptp(mountains)
    assert compare(mountains, share, "elevation").verdict == "doubtful"


def test_bytes_may_be_stretched_in_any_way(compare) -> None:
    dark = np.full((3, 64, 64), 2, np.uint8)
    dark[:, ::2] = 3
    bright = np.random.default_rng(0).integers(60, 250, (3, 64, 64)).astype(np.uint8)
    assert compare(bright, dark).verdict == "ok"
    assert compare(bright, (bright / 255).astype(np.float32)).verdict == "other scale"


def test_zeros_alone_are_doubtful(compare) -> None:
    finding = compare(NUMBERS, np.zeros((5, 64, 64), np.uint16))
    assert finding.verdict == "doubtful"
    assert "every value is 0" in finding.reason


def test_one_band_of_several_files(compare) -> None:
    mixed = OTHER.copy()
    mixed[1] /= 1e4
    finding = compare(NUMBERS, mixed.astype(np.float32))
    assert finding.verdict == "doubtful"
    assert "only 'green' differs" in finding.reason


def test_a_scene_with_data_in_a_corner_only(compare) -> None:
    small = np.zeros((5, 700, 700), np.float32)
    small[:] = np.nan
    small[:, 500:540, 600:640] = (OTHER / 1e4)[:, :40, :40]
    assert compare(NUMBERS, small).verdict == "other scale"


def test_check_values_refuses_warns_or_trusts(tmp_path, make_raster) -> None:
    modality = Modality("img", BANDS, kind="optical")

    def scene(name: str, image: np.ndarray):
        path = make_raster(tmp_path / f"{name}.tif", image)
        return scene_from_rasters([modality], {"img": path}, id=name)

    trained = compute_statistics([scene("t", NUMBERS)], [modality])
    strange = scene("strange", (OTHER / 1e4).astype(np.float32))
    good = scene("good", OTHER.astype(np.uint16))
    assert check_values([good], trained) == []
    with pytest.raises(DataError, match=r"'img' of 1 of 2 scenes: 'strange' has another scale"):
        check_values([good, strange], trained)
    with pytest.raises(DataError, match=r"--convert img=10000.*--trust-values"):
        check_values([strange], trained)
    (text,) = check_values([strange], trained, trust=True)
    assert "may have another scale" in text
    assert check_values([strange.convert_values({"img": ValueConversion(1e4)})], trained) == []
    # A modality without statistics (a rescaled one) is left alone.
    assert check_values([strange], {}) == []


@pytest.mark.parametrize("text", ["10000", "1,-1000", "2.75e-05,-0.2", "db", "linear"])
def test_conversions_are_read_as_they_are_said(text: str) -> None:
    assert str(ValueConversion.parse(text)) == text


@pytest.mark.parametrize("text", ["", "x", "0", "1,2,3", "nan", "dB"])
def test_wrong_conversions(text: str) -> None:
    with pytest.raises(ConfigError, match="FACTOR,OFFSET"):
        ValueConversion.parse(text)


def test_converted_values_by_hand() -> None:
    values = np.array([[0.0, 0.1, 10.0, np.nan]], np.float32)
    nothing = np.nan
    assert np.array_equal(
        ValueConversion(2, 1).apply(values), np.float32([[1, 1.2, 21, nothing]]), equal_nan=True
    )
    db = ValueConversion(formula="db").apply(values)
    assert np.allclose(db, [[nothing, -10, 10, nothing]], equal_nan=True)
    linear = ValueConversion(formula="linear").apply(np.float32([[-10, 20]]))
    assert np.allclose(linear, [[0.1, 100]])
