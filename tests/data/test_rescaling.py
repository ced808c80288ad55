"""Modalities rescaled by the range of their values in the scene."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.data.rasters import SceneRange
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
TWO = Modality("dsm", ("top", "ground"), kind="elevation", unit="m")
ONE = Modality("dsm", ("height",), kind="elevation", unit="m")
RGB = Modality("rgb", ("r",), kind="optical")
BY_RANGE = {"dsm": ReadingRules(rescale="scene_range")}


def by_hand(image: np.ndarray) -> np.ndarray:
    """(C, H, W) per band to 0..1, as the published code does, in float32."""
    low = np.nanmin(image, axis=(1, 2), keepdims=True)
    high = np.nanmax(image, axis=(1, 2), keepdims=True)
    return (image - low) / (high - low)


def heights(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (200 + 30 * rng.standard_normal((count, height, width))).astype(np.float32)


@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    block=st.integers(1, 50),
    gaps=st.floats(0, 0.8),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_range_does_not_depend_on_the_blocks_it_is_measured_in(size, block, gaps, seed):
    image = heights(2, *size, seed)
    image[np.random.default_rng(seed).random(image.shape) < gaps] = np.nan
    image[:, 0, 0], image[:, -1, -1] = 0, 900
    windows: list[Window] = []

    def read(window: Window) -> np.ndarray:
        windows.append(window)
        return image[:, *window.slices()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terrafuse.data.rasters._BLOCK", block)
        measured = SceneRange.measure(read, *size)
    assert sum(w.height * w.width for w in windows) == size[0] * size[1]
    assert max(max(w.height, w.width) for w in windows) <= block
    rescaled = image.copy()
    measured.rescale(rescaled)
    np.testing.assert_array_equal(rescaled, by_hand(image))


def test_every_window_is_rescaled_by_the_range_of_the_scene(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    image = heights(2, 520, 530)  # more than a block each way
    image[0, 519, 529] = 1000
    image[1, :3] = -9999
    path = make_raster(tmp_path / "dsm.tif", image, nodata=-9999)
    scene = scene_from_rasters([TWO], {"dsm": path}, sources=BY_RANGE)
    expected = by_hand(np.where(image == -9999, np.nan, image))
    for window in (Window(0, 0, 8, 8), Window(500, 500, 40, 40), scene.full_window):
        sample = scene.read(window)
        inner = window.intersection(scene.full_window)
        assert inner is not None
        found = sample.images["dsm"].numpy()
        np.testing.assert_array_equal(
            found[:, : inner.height, : inner.width], expected[:, *window.slices()]
        )
        assert np.isnan(found[:, inner.height :]).all()
        physical = scene_from_rasters([TWO], {"dsm": path}, sources={"dsm": ReadingRules(-9999)})
        assert (sample.valid["dsm"] == physical.read(window).valid["dsm"]).all()
    assert np.nanmin(expected) == 0
    assert np.nanmax(expected) == 1


def test_a_constant_band_becomes_0_and_one_without_data_stays_without(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    image = np.full((2, 6, 7), 12.5, np.float32)
    image[0, 0, 0] = image[1] = np.nan
    path = make_raster(tmp_path / "dsm.tif", image)
    scene = scene_from_rasters([TWO], {"dsm": path}, sources=BY_RANGE)
    sample = scene.read(scene.full_window)
    constant, empty = sample.images["dsm"].numpy()
    assert np.isnan(constant[0, 0])
    assert (constant.ravel()[1:] == 0).all()
    assert np.isnan(empty).all()
    assert sample.valid["dsm"].sum() == 41


def test_a_window_of_a_scene_has_its_own_range(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = heights(1, 30, 40)
    image[0, 0, 0] = 9000  # outside the window
    path = make_raster(tmp_path / "dsm.tif", image)
    scene = scene_from_rasters([ONE], {"dsm": path}, sources=BY_RANGE, window=Window(5, 10, 20, 25))
    found = scene.read(scene.full_window).images["dsm"].numpy()
    np.testing.assert_array_equal(found, by_hand(image[:, 5:25, 10:35]))


def test_the_range_is_that_on_the_grid_the_modality_is_read_on(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    fine = make_raster(tmp_path / "rgb.tif", np.ones((1, 20, 24), np.uint8))
    # Reaches beyond the scene, where it has its extremes.
    image = heights(1, 20, 20)
    image[0, 15, 15], image[0, 16, 15] = -500, 5000
    coarse = make_raster(
        tmp_path / "dsm.tif", image, transform=from_origin(500_000, 5_000_000, 20, 20)
    )
    scaled = Modality("dsm", ("height",), kind="elevation", scale=2.0)
    scene = scene_from_rasters(
        [RGB, scaled], {"rgb": fine, "dsm": coarse}, grid="rgb", sources=BY_RANGE
    )
    found = scene.read(scene.full_window).images["dsm"].numpy()
    np.testing.assert_array_equal(found, by_hand(image[:, :10, :12]))
    resampled = scene_from_rasters(
        [RGB, ONE], {"rgb": fine, "dsm": coarse}, grid="rgb", sources=BY_RANGE
    )
    found = resampled.read(resampled.full_window).images["dsm"].numpy()
    assert (found.min(), found.max()) == (0, 1)


def test_the_range_is_measured_once_and_travels_with_the_scene(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_raster(tmp_path / "dsm.tif", heights(1, 30, 40))
    calls: list[int] = []
    original = SceneRange.measure

    def count(*args: Any) -> SceneRange:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(SceneRange, "measure", count)
    scene = scene_from_rasters([ONE], {"dsm": path}, sources=BY_RANGE)
    assert not calls  # opening reads no pixels
    first = scene.read(Window(0, 0, 4, 4)).images["dsm"]
    scene.read(Window(4, 0, 4, 4))
    copy: Scene = pickle.loads(pickle.dumps(scene))
    assert (copy.read(Window(0, 0, 4, 4)).images["dsm"] == first).all()
    assert len(calls) == 1
    scene_from_rasters([ONE], {"dsm": path}).read(Window(0, 0, 4, 4))
    assert len(calls) == 1  # not without the rule


def test_rules_written_before_there_was_rescaling() -> None:
    rules = ReadingRules(nodata=3, read_bands=(1, "b"))
    before = {k: v for k, v in rules.to_dict().items() if k != "rescale"}
    assert ReadingRules.from_dict(before) == rules
    rescaled = ReadingRules(rescale="scene_range")
    assert ReadingRules.from_dict(rescaled.to_dict()) == rescaled
