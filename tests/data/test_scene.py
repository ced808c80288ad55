"""Rasters of one place on one grid; what can be refused at opening is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.errors import (
    BandError,
    ConfigError,
    DataError,
    GridMismatchError,
    LabelError,
    MissingModalityError,
)
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
OPTICAL = Modality("optical", ("r", "g"))
SAR = Modality("sar", ("vv",), kind="sar")
COARSE = Modality("sar", ("vv",), kind="sar", scale=2.0)


def pixels(count: int, height: int, width: int) -> np.ndarray:
    return np.arange(count * height * width, dtype=np.float32).reshape(count, height, width)


@pytest.fixture
def optical(make_raster: MakeRaster, tmp_path: Path) -> Path:
    return make_raster(tmp_path / "optical.tif", pixels(2, 30, 41))


@pytest.fixture
def sar(make_raster: MakeRaster, tmp_path: Path) -> Path:
    """At twice the pixel size, from the same origin."""
    transform = from_origin(500_000, 5_000_000, 20, 20)
    return make_raster(tmp_path / "sar.tif", pixels(1, 15, 21), transform=transform)


def test_every_modality_arrives_at_its_own_size(optical: Path, sar: Path) -> None:
    scene = scene_from_rasters([OPTICAL, COARSE], {"optical": optical, "sar": sar})
    assert (scene.grid.height, scene.grid.width) == (30, 41)
    assert scene.alignment == 2
    assert scene.full_window == Window(0, 0, 30, 42)
    sample = scene.read(Window(4, 2, 10, 8))
    np.testing.assert_array_equal(sample.images["optical"], pixels(2, 30, 41)[:, 4:14, 2:10])
    # The coarse grid coincides with the file's: its pixels arrive as they are.
    np.testing.assert_array_equal(sample.images["sar"], pixels(1, 15, 21)[:, 2:7, 1:5])
    assert sample.window == Window(4, 2, 10, 8)
    assert sample.scene_id == "scene"
    with pytest.raises(ConfigError, match="use a multiple of 2"):
        scene.read(Window(3, 0, 10, 8))


def test_resampled_to_the_scene_without_a_scale(optical: Path, sar: Path) -> None:
    scene = scene_from_rasters(
        [OPTICAL, SAR], {"optical": optical, "sar": sar},
        sources={"sar": ReadingRules(resampling="nearest")},
    )  # fmt: skip
    assert scene.alignment == 1
    image = scene.read(Window(0, 0, 30, 41)).images["sar"][0]
    np.testing.assert_array_equal(image, np.kron(pixels(1, 15, 21)[0], np.ones((2, 2)))[:, :41])


def test_the_grid_is_the_labels_else_the_finest_else_as_asked(
    make_raster: MakeRaster, tmp_path: Path, optical: Path, sar: Path
) -> None:
    both = {"sar": sar, "optical": optical}
    labels = make_raster(
        tmp_path / "l.tif", np.zeros((1, 9, 9), np.uint8),
        transform=from_origin(500_000, 5_000_000, 45, 45),
    )  # fmt: skip
    options: dict[str, Any] = {"labels": labels, "scheme": ClassScheme(("a",))}

    def size(**more: Any) -> tuple[int, int, int]:
        grid = scene_from_rasters([SAR, OPTICAL], both, **more).grid
        return grid.height, grid.width, round(grid.pixel_size[0])

    assert size() == (30, 41, 10)
    assert size(grid="sar") == (15, 21, 20)
    assert size(**options) == (9, 9, 45)
    assert size(grid="labels", **options) == (9, 9, 45)
    assert size(grid="optical", **options) == (30, 41, 10)
    with pytest.raises(
        ConfigError, match=r"unknown name in 'grid' 'optic'\. Did you mean 'optical'"
    ):
        size(grid="optic")


def test_a_modality_of_scale_two_stands_for_a_grid_of_half_its_pixels(
    optical: Path, sar: Path
) -> None:
    scene = scene_from_rasters([COARSE], {"sar": sar})
    assert (scene.grid.height, scene.grid.width) == (30, 42)
    np.testing.assert_array_equal(scene.read(scene.full_window).images["sar"], pixels(1, 15, 21))
    # Those of scale 1 come first, whatever is finer.
    fine = Modality("optical", ("r", "g"), scale=0.5)
    both = scene_from_rasters([fine, SAR], {"optical": optical, "sar": sar})
    assert (both.grid.height, both.grid.width) == (15, 21)
    np.testing.assert_array_equal(
        both.read(Window(0, 0, 15, 20)).images["optical"], pixels(2, 30, 41)[:, :, :40]
    )


def test_an_absent_modality_is_nan_of_the_right_size(optical: Path) -> None:
    scene = scene_from_rasters([OPTICAL, COARSE], {"optical": optical})
    assert scene.missing == {"sar"}
    assert not scene.has_labels
    sample = scene.read(Window(0, 0, 8, 12))
    assert sample.images["sar"].shape == (1, 4, 6)
    assert sample.images["sar"].isnan().all()
    assert not sample.valid["sar"].any()
    assert sample.labels is None
    with pytest.raises(LabelError, match="scene 'scene' has no labels"):
        scene.read_labels(Window(0, 0, 2, 2))


def test_paths_and_representation(optical: Path, sar: Path) -> None:
    scene = scene_from_rasters([OPTICAL, COARSE], {"optical": optical, "sar": [sar]}, id="s")
    assert scene.paths() == {"optical": (optical,), "sar": (sar,)}
    assert repr(scene) == "Scene('s', 30 × 41, optical, sar)"


def test_a_window_of_a_scene_is_a_scene(optical: Path, sar: Path) -> None:
    rasters = {"optical": optical, "sar": sar}
    whole = scene_from_rasters([OPTICAL, COARSE], rasters)
    part = scene_from_rasters([OPTICAL, COARSE], rasters, window=Window(6, 4, 20, 30))
    assert part.grid == whole.grid.crop(Window(6, 4, 20, 30))
    ours, theirs = part.read(Window(2, 2, 8, 8)), whole.read(Window(8, 6, 8, 8))
    for name in ("optical", "sar"):
        np.testing.assert_array_equal(ours.images[name], theirs.images[name])
    assert not part.read(Window(-2, 0, 2, 2)).valid["optical"].any()  # not beyond its window
    # Off the coarse grid: resampled, not shifted.
    odd = scene_from_rasters([OPTICAL, COARSE], rasters, window=Window(1, 1, 20, 30))
    image = odd.read(Window(0, 0, 4, 4)).images["sar"][0]
    np.testing.assert_allclose(image, pixels(1, 15, 21)[0, :2, :2] + 0.5 * 21 + 0.5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"window \[20, 0, 20, 20\] .* grid of 30 × 41"):
        scene_from_rasters([OPTICAL], {"optical": optical}, window=Window(20, 0, 20, 20))


def test_partly_covered(make_raster: MakeRaster, tmp_path: Path, optical: Path) -> None:
    values = np.ones((1, 10, 10), np.uint8)
    place = from_origin(499_950, 5_000_050, 10, 10)
    corner = make_raster(tmp_path / "corner.tif", values, transform=place)
    scene = scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": corner}, grid="optical")
    valid = scene.read(scene.grid.window).valid["sar"]
    assert valid.sum() == 25
    assert valid[:5, :5].all()


# CRS, overlap, no CRS ----------------------------------------------------------------------------


@pytest.mark.parametrize("x", [600_000, 600_003])
def test_rasters_apart_are_refused_with_both_extents(
    make_raster: MakeRaster, tmp_path: Path, optical: Path, x: int
) -> None:
    far = make_raster(
        tmp_path / "far.tif", pixels(1, 5, 5), transform=from_origin(x, 5_000_000, 10, 10)
    )
    message = (
        rf"'sar' of scene 'scene': '.*far\.tif' does not overlap the scene's grid.* left {x}, "
        r"bottom 4999950, .* the grid's is left 500000, bottom 4999700, right 500410, top 5000000"
    )
    with pytest.raises(GridMismatchError, match=message):
        scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": far}, grid="optical")


def test_rasters_that_only_touch_do_not_overlap(
    make_raster: MakeRaster, tmp_path: Path, optical: Path
) -> None:
    for pixel in (10, 7):
        place = from_origin(500_410, 5_000_000, pixel, pixel)
        beside = make_raster(tmp_path / f"{pixel}.tif", pixels(1, 5, 5), transform=place)
        with pytest.raises(GridMismatchError, match="does not overlap"):
            scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": beside}, grid="optical")


def test_another_planet_is_refused(make_raster: MakeRaster, tmp_path: Path, optical: Path) -> None:
    moon = (
        'GEOGCS["Moon",DATUM["D_Moon",SPHEROID["Moon",1737400,0]],PRIMEM["Reference",0],'
        'UNIT["degree",0.0174532925199433]]'
    )
    path = make_raster(
        tmp_path / "m.tif", pixels(1, 5, 5), crs=moon, transform=from_origin(15, 45, 1, 1)
    )
    with pytest.raises(GridMismatchError, match=r"no transform from .* to 'Moon'|from 'Moon' to"):
        scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": path}, grid="optical")


def test_a_crs_on_one_raster_only_is_refused(
    make_raster: MakeRaster, tmp_path: Path, optical: Path
) -> None:
    bare = make_raster(tmp_path / "bare.tif", pixels(1, 30, 41), crs=None)
    message = r"'sar' \('.*bare\.tif'\) has no CRS, but modality 'optical' .* has EPSG:32633"
    with pytest.raises(GridMismatchError, match=message):
        scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": bare})
    with pytest.raises(GridMismatchError, match=r"labels \('.*bare\.tif'\) has no CRS"):
        scene_from_rasters([OPTICAL], {"optical": optical}, labels=bare, scheme=ClassScheme(("a",)))


@pytest.mark.filterwarnings("ignore:scene 'scene'. the transform of")
def test_without_crs_pixels_are_matched(make_raster: MakeRaster, tmp_path: Path) -> None:
    elsewhere = from_origin(7, 8, 3, 3)  # is told, and has no effect without a CRS
    rasters = {
        "optical": make_raster(tmp_path / "o.tif", pixels(2, 30, 40), crs=None),
        "sar": make_raster(tmp_path / "s.tif", pixels(1, 15, 20), crs=None, transform=elsewhere),
    }
    with pytest.warns(UserWarning, match=r"s\.tif' lies up to .* px off where it is put"):
        scene = scene_from_rasters([OPTICAL, COARSE], rasters, grid="optical")
    sample = scene.read(Window(4, 2, 10, 8))
    np.testing.assert_array_equal(sample.images["sar"], pixels(1, 15, 20)[:, 2:7, 1:5])
    with pytest.raises(
        GridMismatchError, match=r"'.*s\.tif' has 15 × 20 pixels .* 30 × 40.*'scale'"
    ):
        scene_from_rasters([OPTICAL, SAR], rasters, grid="optical")
    # A window off the coarse grid is resampled here, too.
    odd = scene_from_rasters(
        [OPTICAL, COARSE], rasters, grid="optical", window=Window(1, 1, 20, 30)
    )
    image = odd.read(Window(0, 0, 4, 4)).images["sar"][0]
    np.testing.assert_allclose(image, pixels(1, 15, 20)[0, :2, :2] + 0.5 * 20 + 0.5, rtol=1e-5)


def test_without_crs_sizes_may_differ_a_little(make_raster: MakeRaster, tmp_path: Path) -> None:
    rasters = {
        "optical": make_raster(tmp_path / "o.tif", pixels(2, 30, 40), crs=None),
        "sar": make_raster(tmp_path / "s.tif", pixels(1, 28, 41), crs=None),
    }
    with pytest.warns(UserWarning, match=r"s\.tif' has 28 × 41 pixels .* 30 × 40; the rest has no"):
        scene = scene_from_rasters([OPTICAL, SAR], rasters, grid="optical")
    sample = scene.read(scene.full_window)
    np.testing.assert_array_equal(sample.images["sar"][:, :28], pixels(1, 28, 41)[:, :, :40])
    assert sample.valid["sar"].sum() == 28 * 40
    make_raster(tmp_path / "s.tif", pixels(1, 27, 40), crs=None)
    with pytest.raises(GridMismatchError, match="27 × 40 pixels"):
        scene_from_rasters([OPTICAL, SAR], rasters, grid="optical")


def write_gcps(path: Path, bend: float) -> Path:
    """A raster placed by control points of 10 m pixels, some of them `bend` metres off."""
    points = [
        GroundControlPoint(row, col, 500_000 + 10 * col + bend * (row == col), 5e6 - 10 * row, 0)
        for row in (0, 15, 30)
        for col in (0, 20, 41)
    ]
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=30, width=41, dtype="float32",
        gcps=points, crs=CRS.from_epsg(32633),
    ) as dataset:  # fmt: skip
        dataset.write(pixels(1, 30, 41))
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points(tmp_path: Path, optical: Path) -> None:
    exact = write_gcps(tmp_path / "exact.tif", 0)
    scene = scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": exact})
    np.testing.assert_array_equal(scene.read(scene.full_window).images["sar"], pixels(1, 30, 41))
    bent = write_gcps(tmp_path / "bent.tif", 40)
    with pytest.raises(
        GridMismatchError, match=r"9 ground control points only, .* px off.*gdalwarp -tps"
    ):
        scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": bent})


# What a caller may get wrong ---------------------------------------------------------------------


def test_calls_that_make_no_scene(optical: Path) -> None:
    with pytest.raises(DataError, match=r"unknown modality 'optic'\. Did you mean 'optical'"):
        scene_from_rasters([OPTICAL], {"optic": optical})
    with pytest.raises(MissingModalityError, match="has no raster; give one of optical, sar"):
        scene_from_rasters([OPTICAL, SAR], {})
    with pytest.raises(DataError, match="labels need a class scheme"):
        scene_from_rasters([OPTICAL], {"optical": optical}, labels=optical)
    with pytest.raises(BandError, match="has 2, but modality 'sar' declares 1"):
        scene_from_rasters([SAR], {"sar": optical})


def test_default_rules_go_by_kind() -> None:
    assert ReadingRules.for_kind("structure").resampling == "nearest"
    assert {ReadingRules.for_kind(k).resampling for k in ("sar", "optical", "elevation")} == {
        "bilinear"
    }


def test_a_scene_reads_the_same_again_after_close(optical: Path, sar: Path) -> None:
    scene: Scene = scene_from_rasters([OPTICAL, SAR], {"optical": optical, "sar": sar})
    before = scene.read(scene.full_window).images["sar"]
    scene.close()
    np.testing.assert_array_equal(scene.read(scene.full_window).images["sar"], before)


def test_a_part_of_a_scene_reads_as_the_whole_does(make_raster: MakeRaster, tmp_path: Path) -> None:
    # The second raster drifts by 0.02 px over the whole, which is resampled then; over the part it
    # drifts by a quarter of that, and must be resampled all the same.
    drifting = from_origin(500_000, 5_000_000, 10 * (1 + 0.02 / 64), 10)
    noise = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    rasters = {
        "optical": make_raster(tmp_path / "o.tif", pixels(2, 64, 64)),
        "sar": make_raster(tmp_path / "s.tif", noise, transform=drifting),
    }
    whole = scene_from_rasters([OPTICAL, SAR], rasters, grid="optical")
    window = Window(8, 0, 16, 16)
    part = scene_from_rasters([OPTICAL, SAR], rasters, grid="optical", window=window)
    expected = whole.read(window).images["sar"].numpy()
    assert not np.array_equal(expected, noise[:, 8:24, :16])
    found = part.read(part.full_window).images["sar"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_grid_is_that_of_a_modality_of_scale_one(tmp_path: Path, make_raster: Any) -> None:
    """Even if that of another one, which is declared twice as coarse, would be finer."""
    places = {"coarse": 15, "fine": 10}
    rasters = {
        name: make_raster(
            tmp_path / f"{name}.tif",
            np.ones((1, 120 // size, 120 // size), np.uint8),
            transform=from_origin(500_000, 5_000_000, size, size),
        )
        for name, size in places.items()
    }
    modalities = [Modality("coarse", ("c",), scale=2), Modality("fine", ("f",))]
    scene = scene_from_rasters(modalities, rasters)
    assert scene.grid.pixel_size == (10, 10)
