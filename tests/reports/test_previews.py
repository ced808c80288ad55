"""Rasters as pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrafuse.classes import ClassScheme
from terrafuse.errors import BandError, LabelError
from terrafuse.modalities import KINDS, BandStatistics, Modality
from terrafuse.reports import class_map_image, confidence_image, modality_preview
from terrafuse.reports.previews import VOID_COLOR, hatch

S2 = Modality("s2", ("B2", "B3", "B4", "B8"), "optical", wavelengths_um=(0.49, 0.56, 0.665, 0.842))
SCHEME = ClassScheme(("dry", "wet"), ("#c8b48c", "#1f5fd0"))


def statistics(low: tuple[float, ...], high: tuple[float, ...]) -> BandStatistics:
    return BandStatistics(low, high, low, high, (1,) * len(low))


def ramp(bands: int) -> np.ndarray:
    """Every band a ramp along the columns, unlike the others in direction."""
    rows, cols = np.mgrid[:16, :24].astype(np.float32)
    directions = [rows, cols, rows + cols, rows - cols]
    return np.stack([directions[i % 4] for i in range(bands)])


def test_natural_colours_come_from_the_wavelengths_not_from_the_order() -> None:
    image = np.full((4, 8, 8), 0.1, np.float32)
    image[2, :, 4:] = 0.3  # B4, red
    picture = modality_preview(image, S2, statistics((0.0,) * 4, (0.4,) * 4))
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    assert (red[:, 4:] > green[:, 4:] + 50).all()
    assert (green == blue).all()
    assert (red[:, :4] == green[:, :4]).all()


def test_false_colour_takes_the_first_three_bands() -> None:
    swir = Modality("s2", ("B12", "B8", "B4"), "optical", wavelengths_um=(2.19, 0.842, 0.665))
    image = np.full((3, 4, 4), 0.2, np.float32)
    image[0] = 0.4
    image[0, 0] = 0.0
    picture = modality_preview(image, swir, statistics((0.0,) * 3, (0.5,) * 3))
    assert picture[1, 0, 0] > picture[1, 0, 1] == picture[1, 0, 2]
    assert picture[0, 0, 0] == 0


def test_one_band_is_grey() -> None:
    picture = modality_preview(ramp(1), Modality("pan", ("pan",), "optical"))
    assert (picture == picture[..., :1]).all()
    assert picture.max() > picture.min()


def test_optical_ground_stays_visible_under_clouds() -> None:
    """A few bright clouds push the percentiles up; the ground must not go black."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0.04, 0.1, (4, 40, 40)).astype(np.float32)
    image[:, :8] = 0.6
    picture = modality_preview(image, S2, statistics((0.04,) * 4, (0.6,) * 4))
    assert 60 < picture[8:].mean() < 160
    assert picture[:8].min() == 255


def test_radar_composite_shows_the_ratio_in_blue() -> None:
    sar = Modality("s1", ("VV", "VH"), "sar", unit="db")
    image = np.full((2, 8, 8), -20.0, np.float32)
    image[0, :, 4:] = -5  # much VV, little VH: double bounce
    picture = modality_preview(image, sar, statistics((-25, -25), (0, 0))).astype(int)
    assert picture[0, 6, 2] > picture[0, 6, 1]
    assert picture[0, 6, 0] > picture[0, 0, 0]
    one = modality_preview(image[:1], Modality("s1", ("VV",), "sar", unit="db"))
    assert (one == one[..., :1]).all()


def test_relief_is_lit_from_the_upper_left() -> None:
    rows, cols = np.mgrid[:33, :33].astype(np.float32)
    cone = 100 - np.hypot(rows - 16, cols - 16)
    picture = modality_preview(cone[None], Modality("dsm", ("height",), "elevation", unit="m"))
    assert picture[10, 10].sum() > picture[22, 22].sum() + 50


def test_segments_get_a_colour_each() -> None:
    ids = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 4, 4)
    picture = modality_preview(ids, Modality("sam", ("id",), "structure"))
    colours = {tuple(picture[row, 0]) for row in range(4)}
    assert len(colours) == 4
    assert all((picture[row] == picture[row, 0]).all() for row in range(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_no_data_is_hatched_in_every_kind(kind: str, bands: int) -> None:
    modality = Modality("m", tuple(f"b{i}" for i in range(bands)), kind)  # type: ignore[arg-type]
    image = ramp(bands)
    image[:, 3:9, 5:14] = np.nan
    image[0, 0, 0] = np.inf
    picture = modality_preview(image, modality)
    assert picture.shape == (16, 24, 3)
    assert (picture[3:9, 5:14] == hatch((16, 24))[3:9, 5:14]).all()
    nothing = modality_preview(np.full_like(image, np.nan), modality)
    assert (nothing == hatch((16, 24))).all()


@settings(deadline=None, max_examples=60)
@given(
    image=arrays(np.float32, (2, 5, 4), elements=st.floats(width=32)),
    kind=st.sampled_from(KINDS),
    unit=st.sampled_from(["db", "m", "dn"]),
)
def test_any_values_make_a_picture(image: np.ndarray, kind: str, unit: str) -> None:
    modality = Modality("m", ("a", "b"), kind, unit=unit)  # type: ignore[arg-type]
    picture = modality_preview(image, modality)
    assert picture.shape == (5, 4, 3)
    assert picture.dtype == np.uint8


def test_wrong_bands_are_named() -> None:
    with pytest.raises(BandError, match="modality 's2' needs an image of 4 bands"):
        modality_preview(ramp(3), S2)


def test_class_map_has_exactly_the_schemes_colours() -> None:
    picture = class_map_image(np.array([[0, 1, 255]]), SCHEME)
    assert picture.tolist() == [[[200, 180, 140], [31, 95, 208], list(VOID_COLOR)]]


@pytest.mark.parametrize("index", [2, 254, 256, -1])
def test_class_map_refuses_foreign_indices(index: int) -> None:
    with pytest.raises(LabelError, match=f"index {index}; allowed are 0 to 1 and 255"):
        class_map_image(np.array([[0, index]]), SCHEME)


def test_confidence_reads_bytes_and_floats_alike() -> None:
    as_bytes = confidence_image(np.array([[0, 127, 254, 255]], np.uint8))
    as_floats = confidence_image(np.array([[0, 0.5, 1, np.nan]]))
    assert (as_bytes == as_floats).all()
    brightness = as_bytes[0, :3].sum(axis=1)
    assert brightness[0] < brightness[1] < brightness[2]
    assert (as_bytes[0, 3] == hatch((1, 4))[0, 3]).all()
