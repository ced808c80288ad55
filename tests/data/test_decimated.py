"""A scene in small: every n-th pixel, where it lies, from overviews where there are some."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.data import scene_from_rasters
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MONO = Modality("m", ("x",))


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), step=st.integers(1, 9),
    crs=st.sampled_from(["EPSG:32633", None]),
)  # fmt: skip
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pixels_are_those_in_the_middle_of_each_step(make_raster, tmp_path, size, step, crs):
    values = np.arange(size[0] * size[1], dtype=np.float32).reshape(1, *size)
    path = make_raster(tmp_path / "a.tif", values, crs=crs)
    small = scene_from_rasters([MONO], {"m": path}).read_decimated(step)["m"]
    assert small.shape == (1, -(-size[0] // step), -(-size[1] // step))
    whole = size[0] // step, size[1] // step
    expected = values[:, step // 2 :: step, step // 2 :: step][:, : whole[0], : whole[1]]
    np.testing.assert_array_equal(small[:, : whole[0], : whole[1]], expected)
    # A last step that the file does not fill has no pixel.
    assert np.isnan(small[:, whole[0] :]).all()
    assert np.isnan(small[:, :, whole[1] :]).all()


def test_nodata_masks_tags_and_bands_are_as_in_full(make_raster, tmp_path):
    values = np.arange(2 * 60 * 60, dtype=np.int16).reshape(2, 60, 60)
    values[:, 20:40] = -1
    path = make_raster(tmp_path / "a.tif", values, nodata=-1)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 2.0), (1.0, 0.0)
    scene = scene_from_rasters([Modality("m", ("x", "y"))], {"m": path})
    full = scene.read(scene.full_window, labels=False).images["m"].numpy()
    small = scene.read_decimated(5)["m"]
    np.testing.assert_array_equal(small, full[:, 2::5, 2::5])
    assert np.isnan(small[:, 4:8]).all()


def test_a_file_on_another_grid_and_one_that_covers_a_part(make_raster, tmp_path):
    ramp = np.arange(100, dtype=np.float32)[None, None].repeat(100, axis=1)
    fine = make_raster(tmp_path / "fine.tif", ramp)
    shifted = from_origin(500_000 + 303, 5_000_000 - 303, 10, 10)
    part = make_raster(tmp_path / "part.tif", ramp[:, :40, :40], transform=shifted)
    coarse = make_raster(
        tmp_path / "coarse.tif",
        ramp[:, ::2, ::2],
        transform=from_origin(500_000, 5_000_000, 20, 20),
    )
    modalities = [MONO, Modality("part", ("x",)), Modality("coarse", ("x",), scale=2)]
    scene = scene_from_rasters(
        modalities, {"m": fine, "part": part, "coarse": coarse}, grid="m"
    )  # fmt: skip
    small = scene.read_decimated(4)
    assert {name: image.shape for name, image in small.items()} == {
        "m": (1, 25, 25), "part": (1, 25, 25), "coarse": (1, 25, 25),
    }  # fmt: skip
    full = scene.read(scene.full_window).images["part"].numpy()[:, 2::4, 2::4]
    np.testing.assert_allclose(small["part"], full, atol=1.0)
    np.testing.assert_array_equal(np.isnan(small["part"]), np.isnan(full))
    np.testing.assert_array_equal(small["coarse"][0, 0], ramp[0, 0, ::2][1::2])


def test_overviews_are_read_where_there_are_some(make_raster, tmp_path):
    path = make_raster(tmp_path / "a.tif", np.zeros((1, 256, 256), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4], rasterio.enums.Resampling.average)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.full((1, 256, 256), 9, np.uint8))  # the overview keeps the old values
    scene = scene_from_rasters([MONO], {"m": path})
    assert (scene.read_decimated(8)["m"] == 0).all()
    assert (scene.read_decimated(2)["m"] == 9).all()


@pytest.mark.parametrize("size", [(50, 70), (1, 1), (2100, 30)])
def test_labels_are_picked_likewise(make_raster, tmp_path, size):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (1, *size)).astype(np.uint8)
    image = make_raster(tmp_path / "a.tif", labels)
    path = make_raster(tmp_path / "l.tif", labels)
    scheme = ClassScheme(("a", "b", "c"))
    coarse = Modality("c", ("x",), scale=3)
    scene = scene_from_rasters([MONO, coarse], {"m": image}, labels=path, scheme=scheme)
    small = scene.read_labels_decimated(4)
    whole = scene.read_labels(Window(0, 0, *(-(-n // 12) * 12 for n in size)))
    expected = whole[2::4, 2::4][: -(-size[0] // 4), : -(-size[1] // 4)]
    np.testing.assert_array_equal(small, expected)
