from __future__ import annotations

import numpy as np
import pytest

from terrafuse.doctor.nodata import check_nan, check_nodata
from terrafuse.samples import Window

RNG = np.random.default_rng(0)
OPTICAL = {"kind": "optical"}


def image(bands: int = 3, dtype: type = np.uint8, size: int = 64) -> np.ndarray:
    return RNG.integers(40, 200, (bands, size, size)).astype(dtype)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_side_of_fill(look_at, value, bands):
    array = image(bands)
    array[:, -5:] = value
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {})))
    assert (finding.severity, finding.code, finding.modality) == (
        "warning", "undeclared-nodata", "m",
    )  # fmt: skip
    assert finding.window == Window(59, 0, 5, 64)
    assert finding.fix == {"modalities.m.nodata": value}
    assert f"is {value} in all bands" in finding.message
    assert list(check_nodata(look_at(m=(array, OPTICAL, {"nodata": value})))) == []
    assert list(check_nodata(look_at(m=(array, OPTICAL | {"nodata": value}, {})))) == []


def test_corners_of_a_turned_image(look_at):
    array = image()
    rows, cols = np.ogrid[:64, :64]
    array[:, rows + cols < 20] = 0
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {})))
    assert finding.window == Window(0, 0, 20, 20)


def test_a_value_that_is_fill_and_light(look_at):
    array = image()
    array[:, :6] = 255
    array[0, 20:30, 20:40] = 255
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {})))
    assert finding.fix == {}
    assert "Mask these pixels in the file; 255 is also a value, of 5.4%" in finding.remedy


def test_a_dark_lake_at_the_border_is_no_fill(look_at):
    rows, cols = np.mgrid[:64, :64]
    depth = np.hypot(rows - 32, cols - 10)
    array = np.clip(depth * 8 - 160, 0, 200)[None] + RNG.integers(0, 3, (1, 64, 64))
    array[:, depth < 22] = 0
    case = look_at(m=(array.astype(np.uint8), {"kind": "sar"}, {}))
    assert list(check_nodata(case)) == []


def test_a_level_sea_is_no_fill(look_at):
    array = 20 + RNG.random((1, 64, 64)).astype(np.float32) * 30
    array[:, :20] = 3.25
    assert list(check_nodata(look_at(m=(array, {"kind": "elevation"}, {})))) == []


def test_holes_inside(look_at):
    array = image()
    array[:, 20:30, 20:30] = 0
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {})))
    assert (finding.code, finding.window) == ("zeros", Window(20, 20, 10, 10))
    assert finding.fix == {"modalities.m.nodata": 0}


def test_fill_that_another_nodata_value_hides(look_at):
    array = image(dtype=np.uint16)
    array[:, :, :4] = 65535
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {"nodata": 0})))
    assert finding.fix == {"modalities.m.nodata": 65535}
    (finding,) = check_nodata(look_at(m=(array, OPTICAL | {"nodata": 0}, {})))
    assert "('nodata' is 0)" in finding.message


def test_nan_where_zero_is_declared(look_at):
    array = RNG.random((1, 32, 32)).astype(np.float32)
    array[0, 3, :5] = np.nan
    case = look_at(m=(array, {}, {"nodata": 0}))
    (finding,) = check_nan(case.scene, {})
    assert "nodata value 0, but also 5 NaN values" in finding.message
    assert "0 may be a value" in finding.remedy
    assert list(check_nan(look_at(m=(array, {}, {})).scene, {"m": None})) == []
    (finding,) = check_nan(look_at(m=(array, {}, {})).scene, {"m": -9999.0})
    assert "nodata value -9999" in finding.message


def test_nodata_in_some_bands_only_is_stated(look_at):
    array = image(bands=3, dtype=np.uint16) + 1
    array[:, :8] = 0  # fill
    array[2, 8:16, :8] = 0  # dark water
    array[1, 8:12, :4] = 0
    rows, cols = array.shape[1:]
    good = (rows - 8) * cols
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {"nodata": 0})))
    assert (finding.severity, finding.code, finding.fix) == ("note", "partial-nodata", {})
    shares = f"(b1 {16 / good:.1%}, b2 {64 / good:.1%})"
    assert f"{64 / good:.1%} of the pixels with data of modality 'm'" in finding.message
    assert shares in finding.message
    assert "'nodata_rule: each'" in finding.remedy
    (each,) = check_nodata(look_at(m=(array, OPTICAL | {"nodata_rule": "each"}, {"nodata": 0})))
    assert each.code == "partial-nodata"
    assert f"have no data in some bands only {shares}" in each.message
    assert "'nodata_rule: all'" in each.remedy
    array[1:, 8:] += 1
    assert list(check_nodata(look_at(m=(array, OPTICAL, {"nodata": 0})))) == []
