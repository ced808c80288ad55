from __future__ import annotations

import numpy as np
import pytest

from terrafuse.doctor.elevation import check_elevation
from terrafuse.samples import Window

RNG = np.random.default_rng(0)
METRES = {"kind": "elevation", "unit": "m"}


def hills(low: float = 210, size: int = 64) -> np.ndarray:
    rows, cols = np.mgrid[:size, :size]
    smooth = low + 15 * (1 + np.sin(rows / 9) * np.cos(cols / 7))
    return (smooth + RNG.normal(0, 0.3, (1, size, size))).astype(np.float32)


def check(look_at, array: np.ndarray, values: dict = METRES, **tags) -> list:
    return list(check_elevation(look_at(m=(array, values, tags))))


def test_hills_are_sound(look_at):
    assert check(look_at, hills()) == []
    assert check(look_at, hills(-3)) == []
    assert check(look_at, hills(8000)) == []


@pytest.mark.parametrize("value", [-9999, -32767, -32768, 1e6])
def test_fill_values(look_at, value):
    array = hills()
    array[0, 10:13, 20:24] = value
    (finding,) = check(look_at, array)
    assert (finding.severity, finding.code) == ("warning", "elevation-fill")
    assert finding.fix == {"modalities.m.nodata": int(value)}
    assert "12 px" in finding.message
    row, col = 10, 20
    assert finding.window.row <= row < finding.window.row_stop
    assert finding.window.col <= col < finding.window.col_stop
    assert check(look_at, array, nodata=value) == []


def test_holes_of_zero(look_at):
    array = hills()
    array[0, 30:36, 40:45] = 0
    (finding,) = check(look_at, array)
    assert (finding.code, finding.window) == ("elevation-holes", Window(30, 40, 6, 5))
    sea = hills(-10)
    sea[sea < 0] = 0
    assert check(look_at, sea) == []


@pytest.mark.parametrize("away", [400, -350])
def test_spikes(look_at, away):
    array = hills()
    array[0, 50, 7] += away
    (finding,) = check(look_at, array)
    assert finding.code == "elevation-outlier"
    assert "at row 50, column 7" in finding.message
    array = hills()
    array[0, 20:26, 20:26] += 60  # a tower
    assert check(look_at, array) == []


def test_grey_values_in_place_of_metres(look_at):
    array = ((hills() - 200) * 4).astype(np.uint8)
    (finding,) = check(look_at, array)
    assert (finding.code, finding.fix) == ("elevation-8bit", {"modalities.m.unit": "dn"})
    assert check(look_at, array, METRES | {"unit": "dn"}) == []


def test_other_modalities_are_left_alone(look_at):
    array = hills()
    array[0, 0, 0] = -9999
    assert check(look_at, array, {"kind": "optical"}) == []
