"""Integers that are read as they are stored are the values that are read otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
TWO = Modality("m", ("x", "y"))
SMALL = (np.uint8, np.int8, np.uint16, np.int16)


def open_one(path: Path | list[Path], rules: ReadingRules | None = None, **options: Any) -> Scene:
    sources = {} if rules is None else {"m": rules}
    return scene_from_rasters([TWO], {"m": path}, sources=sources, **options)


def assert_same(scene: Scene, window: Window) -> torch.dtype:
    """Compare both ways of reading; return the type of the images that keep integers."""
    kept, read = scene.read(window, stored=True), scene.read(window)
    assert read.images["m"].dtype == torch.float32
    assert torch.equal(kept.valid["m"], read.valid["m"])
    found = kept.physical().images["m"]
    assert torch.equal(found.isnan(), read.images["m"].isnan())
    assert torch.equal(found.nan_to_num(-1e9), read.images["m"].nan_to_num(-1e9))
    dtype: torch.dtype = kept.images["m"].dtype
    return dtype


@pytest.mark.parametrize("dtype", SMALL)
def test_the_whole_range_of_small_integers_is_kept(
    make_raster: MakeRaster, tmp_path: Path, dtype: Any
) -> None:
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 2 * 7 * 9).round().astype(dtype).reshape(2, 7, 9)
    scene = open_one(make_raster(tmp_path / "a.tif", values))
    for window in (scene.grid.window, Window(2, 3, 4, 5), Window(5, 6, 4, 8), Window(7, 9, 3, 3)):
        assert assert_same(scene, window) == getattr(torch, np.dtype(dtype).name)
    kept = scene.read(scene.grid.window, stored=True).images["m"]
    assert kept.numpy().tolist() == values.tolist()


@given(
    nodata=st.sampled_from([None, 0, 3]),
    rule=st.sampled_from(["all", "each"]),
    files=st.sampled_from([1, 2]),
    mixed=st.booleans(),
    seed=st.integers(0, 1000),
    corner=st.tuples(st.integers(-4, 9), st.integers(-4, 11)),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_has_no_data(
    make_raster: MakeRaster,
    tmp_path_factory: pytest.TempPathFactory,
    nodata: float | None,
    rule: Any,
    files: int,
    mixed: bool,
    seed: int,
    corner: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("a")
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (2, 9, 11)).astype(np.uint16)
    values[:, rng.random((9, 11)) < 0.3] = 0
    parts = [values] if files == 1 else [values[:1], values[1:]]
    if mixed and files == 2:
        parts[1] = parts[1].astype(np.uint8)
    paths = [make_raster(folder / f"{i}.tif", part, nodata=nodata) for i, part in enumerate(parts)]
    scene = open_one(paths, ReadingRules(nodata_rule=rule))
    dtype = assert_same(scene, Window(*corner, 5, 6))
    if mixed and files == 2:
        assert dtype == torch.float32
    elif nodata is None or rule == "all":
        assert dtype == torch.uint16
    if seed % 20 == 0:
        assert_same(scene, scene.grid.window)


def test_a_band_without_data_alone_is_nan(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.ones((2, 4, 4), np.uint8)
    values[1, 0, 2] = 0
    path = make_raster(tmp_path / "a.tif", values, nodata=0)
    each = open_one(path, ReadingRules(nodata_rule="each"))
    assert assert_same(each, Window(0, 0, 4, 4)) == torch.float32
    assert assert_same(each, Window(1, 0, 3, 4)) == torch.uint8  # without it
    assert assert_same(open_one(path), Window(0, 0, 4, 4)) == torch.uint8


def test_a_file_that_ends_within_the_scene(make_raster: MakeRaster, tmp_path: Path) -> None:
    """One of two files, so that only one band has data to the east."""
    rng = np.random.default_rng(1)
    wide = rng.integers(1, 255, (1, 6, 9)).astype(np.uint8)
    paths = [
        make_raster(tmp_path / "a.tif", wide),
        make_raster(tmp_path / "b.tif", wide[..., :5]),
    ]
    scene = open_one(paths)
    assert assert_same(scene, Window(0, 0, 6, 5)) == torch.uint8
    assert assert_same(scene, Window(0, 3, 6, 5)) == torch.float32


def test_what_is_no_plain_integer_is_read_as_ever(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.arange(2 * 6 * 6).reshape(2, 6, 6)
    for dtype in (np.float32, np.int32, np.uint32):
        scene = open_one(make_raster(tmp_path / "a.tif", values.astype(dtype)))
        assert assert_same(scene, scene.grid.window) == torch.float32
    path = make_raster(tmp_path / "b.tif", values.astype(np.uint8))
    for rules in (
        ReadingRules(value_scale=2.0),
        ReadingRules(value_offset=(0.0, 1.0)),
        ReadingRules(rescale="scene_range"),
    ):
        assert assert_same(open_one(path, rules), Window(0, 0, 6, 6)) == torch.float32
    converted = open_one(path).convert_values({"m": ValueConversion(3.0)})
    assert assert_same(converted, Window(0, 0, 6, 6)) == torch.float32
    grid = make_raster(
        tmp_path / "g.tif",
        np.zeros((1, 8, 8), np.uint8),
        transform=from_origin(500_003, 5_000_000, 7, 7),
    )
    modalities = [TWO, Modality("g", ("g",))]
    resampled = scene_from_rasters(modalities, {"m": path, "g": grid}, grid="g")
    assert assert_same(resampled, Window(0, 0, 8, 8)) == torch.float32
