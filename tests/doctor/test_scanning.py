"""One pass over the pixels notes what numpy says of the whole array."""

from __future__ import annotations

import numpy as np
import pytest

from terrafuse.doctor import scanning
from terrafuse.samples import Window


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 97), (131, 70)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_notes_equal_those_of_the_whole_array(look_at, monkeypatch, height, width, scale):
    monkeypatch.setattr(scanning, "_BLOCK", 32)
    monkeypatch.setattr(scanning, "_MINI_PIXELS", 600)
    rng = np.random.default_rng(height)
    array = rng.integers(0, 50, (3, height, width)).astype(np.float32)
    array[:, rng.random((height, width)) < 0.1] = np.nan
    array[1, 5, 7] = np.nan
    array[2, 3:6, 4] = 99
    array[0, 0, 0] = -4
    labels = rng.integers(0, 2, (1, int(height * scale), int(width * scale))).astype(np.uint8)
    labels[0, :3] = 255
    case = look_at(labels=labels, m=(array, {"scale": scale}, {}))
    seen = case.seen["m"]
    np.testing.assert_array_equal(seen.low, np.nanmin(array, axis=(1, 2)))
    np.testing.assert_array_equal(seen.high, np.nanmax(array, axis=(1, 2)))
    for values, place, count in (
        (seen.low, seen.low_at, seen.at_low),
        (seen.high, seen.high_at, seen.at_high),
    ):
        np.testing.assert_array_equal(count, (array == values[:, None, None]).sum(axis=(1, 2)))
        for band, (row, col) in enumerate(place):
            assert array[band, row, col] == values[band]
    np.testing.assert_array_equal(seen.known, (~np.isnan(array)).sum(axis=(1, 2)))
    assert seen.valid == (~np.isnan(array).all(axis=0)).sum()
    assert seen.step > 1
    np.testing.assert_array_equal(seen.mini, array[:, :: seen.step, :: seen.step])
    np.testing.assert_array_equal(seen.frame["top"], array[:, 0])
    np.testing.assert_array_equal(seen.frame["bottom"], array[:, -1])
    np.testing.assert_array_equal(seen.frame["left"], array[:, :, 0])
    np.testing.assert_array_equal(seen.frame["right"], array[:, :, -1])
    np.testing.assert_array_equal(case.counts, [(labels == 0).sum(), (labels == 1).sum()])
    assert case.ignored == (labels == 255).sum()
    found = case.labels_on(seen)
    rows, cols = (np.arange(0, n, seen.step) for n in (height, width))
    rows, cols = (((n + 0.5) * scale).astype(int) for n in (rows, cols))
    lattice = [n // case.label_step * case.label_step for n in (rows, cols)]
    np.testing.assert_array_equal(found, labels[0][np.ix_(*lattice)])


def test_memory_is_bounded(look_at):
    array = np.zeros((40, 64, 64), np.float32)
    array[:] = np.arange(64)
    seen = look_at(m=(array, {}, {})).seen["m"]
    assert seen.mini.shape == array.shape
    assert scanning._mini_step(6000, 6000, 1) == 12
    step = scanning._mini_step(1000, 1000, 400)
    assert 1000 * 1000 / step**2 * 400 <= scanning._MINI_VALUES * 1.1


def test_windows_of_a_modality_and_of_its_miniature(look_at):
    array = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32)
    seen = look_at(m=(array, {"scale": 2.0}, {})).seen["m"]
    assert seen.scene_window(3, 5, 2, 4) == Window(6, 10, 4, 8)
    mask = np.zeros((64, 64), bool)
    mask[10:12, 20:23] = True
    assert seen.mini_window(mask) == Window(20, 40, 4, 6)


def test_jumps_over_a_byte(look_at):
    rng = np.random.default_rng(1)
    smooth = np.cumsum(rng.normal(0, 2, (1, 64, 64)), axis=2) + 230
    bright = (smooth + 40).astype(np.int64) % 256  # runs over
    fill = np.clip(smooth, 2, 254)
    fill[:, :9] = 0
    kept = {"kind": "optical"}
    wrapped = look_at(m=(bright.astype(np.uint8), kept, {})).seen["m"]
    clean = look_at(m=(fill.astype(np.uint8), kept, {})).seen["m"]
    hard, middle = wrapped.jumps[:, 0]
    assert hard > 20 > middle
    assert clean.jumps[0, 0] == 0
    assert look_at(m=(bright.astype(np.uint8), {"kind": "sar"}, {})).seen["m"].jumps is None
