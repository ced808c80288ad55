"""Depth of windows with a scale and shift each: one level, no seams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from generate_parts import FakeGenerator, make_job, run
from terrafuse.generate.alignment import Alignment, align_windows, fit_line
from terrafuse.generate.stitching import stitch_depth
from terrafuse.generate.windows import WindowPlan

MakeRaster = Callable[..., Path]


def relief(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(noise, 6)
    return (5 + smooth / smooth.std() + 0.01 * noise).astype(np.float32)


def disturbed(
    plan: WindowPlan, depth: np.ndarray, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows of a map, each on a level of its own; and their factors."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(size=len(plan.windows)) * 0.7)
    shifts = rng.normal(size=len(plan.windows)) * 10
    parts = zip(plan.windows, scales, shifts, strict=True)
    return [(a * depth[w.slices()] + b).astype(np.float32) for w, a, b in parts], scales


def stitch(plan: WindowPlan, windows: list[np.ndarray], alignment: Alignment) -> np.ndarray:
    return np.concatenate(list(stitch_depth(plan, windows.__getitem__, alignment)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("seed", range(6))
def test_levels_are_found_exactly(seed: int) -> None:
    """What comes out is the map itself, up to one scale and shift for all."""
    rng = np.random.default_rng(seed)
    height, width, size = (int(n) for n in rng.integers((50, 50, 30), (200, 200, 60)))
    plan = WindowPlan(height, width, size, int(size * rng.uniform(0.1, 0.5)))
    depth = relief(height, width, seed)
    windows, _ = disturbed(plan, depth, seed)
    alignment = align_windows(plan, windows.__getitem__)
    found = stitch(plan, windows, alignment)
    slope, offset = np.polyfit(found.ravel(), depth.ravel().astype(np.float64), 1)
    assert slope > 0
    np.testing.assert_allclose(slope * found + offset, depth, atol=2e-3 * depth.std())
    assert np.log(alignment.scales).mean() == pytest.approx(0, abs=1e-9)
    assert alignment.shifts.mean() == pytest.approx(0, abs=1e-6)


def test_a_single_window_stays_as_it_is() -> None:
    plan = WindowPlan(20, 30, 64, 16)
    depth = relief(20, 30, 0)
    alignment = align_windows(plan, lambda _: depth)
    np.testing.assert_array_equal(stitch(plan, [depth], alignment), depth)


def test_errors_do_not_add_up_along_a_row_of_windows() -> None:
    plan = WindowPlan(40, 1400, 40, 12)
    depth = relief(40, 1400, 1)
    windows, _ = disturbed(plan, depth, 1)
    rng = np.random.default_rng(2)
    noisy = [w + 0.05 * w.std() * rng.normal(size=w.shape).astype(np.float32) for w in windows]
    found = stitch(plan, noisy, align_windows(plan, noisy.__getitem__))
    # A regression of each on the one before, 5 % of noise, would shrink 49 times.
    spread = [found[:, n : n + 200].std() / depth[:, n : n + 200].std() for n in (0, 1200)]
    assert spread[1] / spread[0] == pytest.approx(1, abs=0.15)
    assert correlation(found, depth) > 0.99


def test_half_an_overlap_may_say_something_else() -> None:
    """Things that move, clouds: pixels that disagree do not count."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=4000)
    second = (first - 3) / 2 + 0.01 * rng.normal(size=4000)
    second[:1200] = rng.normal(size=1200) * 5 + 8
    slope, center, agreement = fit_line(first, second)
    assert slope == pytest.approx(2, rel=0.02)
    assert center[0] - slope * center[1] == pytest.approx(3, abs=0.05)
    assert agreement > 0.99


@pytest.mark.parametrize("second", [np.zeros(500), -np.arange(500.0)])
def test_nothing_is_made_up_where_depths_do_not_rise_together(second: np.ndarray) -> None:
    slope, center, _ = fit_line(np.arange(500.0), second)
    assert slope is None
    assert center == pytest.approx((249.5, second.mean()))


def test_windows_without_data_between_them_are_left_apart() -> None:
    plan = WindowPlan(30, 150, 40, 10)
    depth = relief(30, 150, 4)
    depth[:, 60:95] = np.nan
    windows, _ = disturbed(plan, depth, 4)
    found = stitch(plan, windows, align_windows(plan, windows.__getitem__))
    assert (np.isnan(found) == np.isnan(depth)).all()
    for side in (slice(0, 60), slice(95, 150)):
        assert correlation(found[:, side], depth[:, side]) > 0.9999


def test_there_are_no_seams() -> None:
    """Windows that see the same with an error each: no step where one ends."""
    plan = WindowPlan(200, 200, 80, 30)
    ramp = np.add.outer(np.arange(200.0), np.arange(200.0)).astype(np.float32)
    rng = np.random.default_rng(0)
    tilts = rng.normal(size=(len(plan.windows), 2)) * 0.02
    windows = []
    for window, tilt in zip(plan.windows, tilts, strict=True):
        rows, cols = np.mgrid[: window.height, : window.width]
        windows.append((ramp[window.slices()] + tilt[0] * rows + tilt[1] * cols).astype(np.float32))
    found = stitch(plan, windows, align_windows(plan, windows.__getitem__))
    steps = np.abs(np.diff(found, axis=1) - np.median(np.diff(found, axis=1)))
    hard = np.abs(windows[0][:, 50:79] - windows[1][:, :29]).max()
    assert steps.max() < 0.15  # a hard seam would be up to
    assert hard > 1


def depth_of(picture: np.ndarray) -> np.ndarray:
    """Darker is nearer, with a scale that depends on the window."""
    grey = picture.mean(axis=-1)
    return (3 + (1 + grey[0, 0] / 255) * grey).astype(np.float32)


def test_the_raster_of_depth(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = (40 * relief(180, 230, 3)).clip(1, 255).astype(np.uint8)[None].repeat(3, axis=0)
    image[:, 150:, 200:] = 0
    photo = make_raster(tmp_path / "a.tif", image, nodata=0)
    generator = FakeGenerator(depth_of, "depth", aligned=True)
    made = run(make_job(photo, tmp_path / "out"), generator)
    with rasterio.open(made.raster) as dataset:
        found = dataset.read(1)
        assert dataset.dtypes == ("float32",)
        limits = [float(word) for word in dataset.tags()["TERRAFUSE_LIMITS"].split()]
    known = np.ones(found.shape, bool)
    known[150:, 200:] = False
    assert (np.isnan(found) == ~known).all()
    assert correlation(found[known], image[0][known]) > 0.9999
    np.testing.assert_allclose(limits, np.percentile(found[known], (2, 98)), rtol=1e-6)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.tif", "a.json", "a.png"}


def test_heights_are_blended_as_they_are(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.arange(1, 121, dtype=np.uint8).repeat(90).reshape(120, 90)[None].repeat(3, axis=0)
    photo = make_raster(tmp_path / "a.tif", image)
    generator = FakeGenerator(lambda p: p[..., 0].astype(np.float32), "depth", aligned=False)
    made = run(make_job(photo, tmp_path / "out"), generator)
    with rasterio.open(made.raster) as dataset:
        np.testing.assert_allclose(dataset.read(1), image[0], rtol=1e-6)
    assert made.record["result"]["scales"] == [1.0, 1.0]


def test_depth_that_is_the_same_everywhere(make_raster: MakeRaster, tmp_path: Path) -> None:
    photo = make_raster(tmp_path / "a.tif", np.full((3, 100, 90), 7, np.uint8))
    generator = FakeGenerator(
        lambda p: np.full(p.shape[:2], 2.5, np.float32), "depth", aligned=True
    )
    with pytest.warns(UserWarning, match=r"photo 'a': depth is 2\.5 everywhere"):
        made = run(make_job(photo, tmp_path / "out"), generator)
    with rasterio.open(made.raster) as dataset:
        assert (dataset.read(1) == 2.5).all()
