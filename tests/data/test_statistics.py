from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_scenes import MemoryScene
from terrafuse.classes import ClassScheme
from terrafuse.data.scene import scene_from_rasters
from terrafuse.data.statistics import class_counts, compute_statistics
from terrafuse.errors import DataError, LabelError
from terrafuse.modalities import Modality
from terrafuse.samples import IGNORE_INDEX

OPTICAL = Modality("s2", ("red", "nir"), kind="optical")
COARSE = Modality("dem", ("z",), kind="elevation", scale=2.0)


def with_gaps(rng: np.random.Generator, shape: tuple[int, ...], share: float = 0.2) -> np.ndarray:
    values = rng.normal(0, 1, shape).astype(np.float32)
    values[rng.random(shape) < share] = np.nan
    return values


@given(
    offset=st.sampled_from([0.0, -30.0, 1e6]),
    block=st.integers(1, 40),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_equal_numpy_on_whole_arrays(offset, block, size, seed):
    rng = np.random.default_rng(seed)
    arrays = [with_gaps(rng, (2, *size)) * 3 + offset for _ in range(2)]
    for array in arrays:
        array[:, 0, :2] = offset, offset + 1  # some data in any case
    scenes = [MemoryScene([OPTICAL], {"s2": array}) for array in arrays]
    found = compute_statistics(scenes, [OPTICAL], block=block)["s2"]

    values = [np.concatenate([a[band].ravel() for a in arrays]) for band in range(2)]
    known = [v[~np.isnan(v)].astype(np.float64) for v in values]
    np.testing.assert_allclose(found.mean, [v.mean() for v in known], rtol=1e-13, atol=1e-12)
    # The offset must not eat the digits of the spread: float32 squares would give garbage.
    np.testing.assert_allclose(found.std, [v.std() for v in known], rtol=1e-9)
    np.testing.assert_allclose(found.low, [np.percentile(v, 2) for v in known], rtol=1e-12)
    np.testing.assert_allclose(found.high, [np.percentile(v, 98) for v in known], rtol=1e-12)
    assert found.count == tuple(len(v) for v in known)


def test_percentiles_of_more_pixels_than_are_kept():
    values = np.random.default_rng(0).permutation(600 * 600).astype(np.float32)
    scene = MemoryScene([Modality("s1", ("vv",))], {"s1": values.reshape(1, 600, 600)})
    found = compute_statistics([scene], scene.modalities, block=100)["s1"]
    # Standard error 0.05 % of the pixels; four of them.
    assert found.low[0] / values.size == pytest.approx(0.02, abs=0.002)
    assert found.high[0] / values.size == pytest.approx(0.98, abs=0.002)
    assert compute_statistics([scene], scene.modalities, block=100)["s1"] == found


def test_nodata_of_a_real_raster_is_not_counted(make_raster, tmp_path):
    array = np.arange(1, 301, dtype=np.uint16).reshape(1, 15, 20)
    array[0, :5] = 0
    path = make_raster(tmp_path / "a.tif", array, nodata=0)
    modality = Modality("s1", ("vv",))
    scene = scene_from_rasters([modality], {"s1": path})
    found = compute_statistics([scene], [modality], block=7)["s1"]
    assert found.count == (200,)
    assert found.mean == pytest.approx((array[array > 0].mean(),))


def test_modalities_of_other_scale_and_absent_ones():
    rng = np.random.default_rng(1)
    s2, dem = rng.normal(size=(2, 20, 30)), rng.normal(size=(1, 10, 15))
    scenes = [
        MemoryScene([OPTICAL, COARSE], {"s2": s2, "dem": dem}),
        MemoryScene([OPTICAL, COARSE], {"s2": s2 + 1}),
    ]
    found = compute_statistics(scenes, [OPTICAL, COARSE], block=7)
    assert found["dem"].count == (150,)
    assert found["s2"].count == (1200, 1200)
    np.testing.assert_allclose(found["dem"].mean, dem.astype(np.float32).mean(), rtol=1e-6)
    assert list(compute_statistics(scenes, [COARSE])) == ["dem"]


def test_band_without_data_is_refused_by_name():
    array = np.ones((2, 8, 8), np.float32)
    array[1] = np.nan
    with pytest.raises(DataError, match=r"band 'nir' of modality 's2' has no pixel.*'area'"):
        compute_statistics([MemoryScene([OPTICAL], {"s2": array}, id="area")], [OPTICAL])


def test_scene_without_any_of_the_modalities_is_passed_over():
    scenes = [
        MemoryScene([OPTICAL], {}, size=(8, 8)),
        MemoryScene([OPTICAL], {"s2": np.ones((2, 8, 8))}),
    ]
    assert compute_statistics(scenes, [OPTICAL])["s2"].count == (64, 64)
    assert scenes[0].image_reads == 0


def test_progress_ends_complete():
    scene = MemoryScene([OPTICAL], {"s2": np.ones((2, 20, 20))})
    steps: list[tuple[int, int]] = []
    compute_statistics([scene], [OPTICAL], block=10, progress=lambda *step: steps.append(step))
    assert steps[0] == (1, 4)
    assert steps[-1] == (4, 4)


def test_class_counts_leave_out_what_is_ignored():
    scheme = ClassScheme(("a", "b", "c"))
    labels = np.random.default_rng(3).choice([0, 2, IGNORE_INDEX], (30, 50)).astype(np.uint8)
    image = {"s2": np.zeros((2, 30, 50))}
    scenes = [MemoryScene([OPTICAL], image, labels), MemoryScene([OPTICAL], image)]
    counts = class_counts(scenes, scheme, block=7)
    assert counts.tolist() == [(labels == 0).sum(), 0, (labels == 2).sum()]
    assert counts.dtype == np.int64


def test_unknown_label_values_are_refused(make_raster, tmp_path):
    image = make_raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    labels = make_raster(tmp_path / "l.tif", np.full((1, 8, 8), 7, np.uint8))
    modality, scheme = Modality("s1", ("vv",)), ClassScheme(("a", "b"))
    scene = scene_from_rasters([modality], {"s1": image}, labels=labels, scheme=scheme)
    with pytest.raises(LabelError, match="7 "):
        class_counts([scene], scheme)
