from __future__ import annotations

import numpy as np
import pytest

from terrafuse.doctor.values import check_values

RNG = np.random.default_rng(0)
OPTICAL = {"kind": "optical"}


def image(bands: int = 3, size: int = 48) -> np.ndarray:
    return RNG.integers(20, 200, (bands, size, size)).astype(np.uint8)


def codes(case) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in check_values(case)]


def test_a_sound_image_says_nothing(look_at):
    assert codes(look_at(m=(image(), OPTICAL, {}))) == []


@pytest.mark.parametrize(("kind", "severity"), [("sar", "warning"), ("elevation", "note")])
def test_constant_bands(look_at, kind, severity):
    array = image(2)
    array[1] = 7
    (finding,) = check_values(look_at(m=(array, {"kind": kind}, {})))
    assert (finding.severity, finding.code, finding.modality) == (
        severity, "constant-in-scene", "m",
    )  # fmt: skip
    assert "band 'b1' of modality 'm' in scene 'x' is 7 at every pixel" in finding.message


def test_equal_bands_and_equal_modalities(look_at):
    array = image()
    array[2] = array[0]
    (finding,) = check_values(look_at(m=(array, OPTICAL, {})))
    assert finding.code == "identical-bands"
    assert "'b0' and 'b2'" in finding.message
    one = image()
    case = look_at(m=(one, OPTICAL, {}), n=(one.copy(), OPTICAL, {}), o=(image(), OPTICAL, {}))
    assert codes(case) == [("warning", "identical-modalities")]


@pytest.mark.parametrize(("share", "severity"), [(0.02, None), (0.1, "note"), (0.5, "warning")])
def test_saturation(look_at, share, severity):
    array = image(1)
    array[RNG.random(array.shape) < share] = 255
    found = codes(look_at(m=(array, OPTICAL, {})))
    assert found == ([] if severity is None else [(severity, "saturated")])
    assert codes(look_at(m=(array, {"kind": "structure"}, {}))) == []


def test_fill_is_not_saturation(look_at):
    array = image(3)
    array[:, :24] = 255
    assert codes(look_at(m=(array, OPTICAL, {}))) == []


def test_few_values_are_no_saturation(look_at):
    array = RNG.integers(0, 3, (1, 48, 48)).astype(np.uint8)
    assert codes(look_at(m=(array, OPTICAL, {}))) == []


def test_values_that_ran_over(look_at):
    cloud = 255 + RNG.normal(0, 8, (1, 48, 48))
    wrapped = cloud.astype(np.int64) % 256
    found = list(check_values(look_at(m=(wrapped.astype(np.uint8), OPTICAL, {}))))
    assert [f.code for f in found] == ["wrap-around"]


def test_little_data(look_at):
    array = image(1)
    array[:, 10:] = 0
    case = look_at(m=(array, OPTICAL, {"nodata": 0}))
    assert codes(case) == [("note", "little-data")]
    assert "79% of modality 'm'" in next(iter(check_values(case))).message


def test_clouds_over_a_dark_sea_did_not_run_over(look_at):
    dark = RNG.integers(5, 30, (1, 48, 48))
    bright = RNG.integers(90, 255, (1, 48, 48))  # thick and thin
    array = np.where(RNG.random(dark.shape) < 0.5, dark, bright).astype(np.uint8)
    assert codes(look_at(m=(array, OPTICAL, {}))) == []
