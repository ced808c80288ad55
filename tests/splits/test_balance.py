"""What a split is like: shares of classes, and the distance between splits."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.data import load_manifest
from terrafuse.samples import Window
from terrafuse.splits import report_split
from terrafuse.splits.assignment import assign_units
from terrafuse.splits.balance import least_gap

SHARES = [0.6, 0.2, 0.2]
boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 20)] * 2)


def imbalance(counts, chosen):
    held = counts / np.maximum(counts.sum(axis=0), 1)
    filled = np.stack([held[chosen == split].sum(axis=0) for split in range(3)])
    wanted = np.array(SHARES)[:, None]
    return float(((filled - wanted) ** 2 / wanted).sum())


def test_more_draws_are_never_worse():
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = rng.integers(0, 1000, (14, 5)) * (rng.random((14, 5)) < 0.4)
        counts[:, 0] += 1
        one = imbalance(counts, assign_units(counts, SHARES, 3))
        many = imbalance(counts, assign_units(counts, SHARES, 3, draws=12))
        assert many <= one + 1e-12


def test_exchanges_find_what_moves_cannot():
    # Two units of 3 and two of 2 in two halves: {3, 2} each. From {3, 3} and {2, 2} no single move
    # helps, an exchange does.
    counts = np.array([[3], [3], [2], [2]])
    for seed in range(8):
        chosen = assign_units(counts, [0.5, 0.5], seed)
        assert [counts[chosen == split].sum() for split in range(2)] == [5, 5]


@given(counts=st.lists(st.tuples(*[st.integers(0, 9)] * 2), min_size=4, max_size=7))
@settings(max_examples=20, deadline=None)
def test_small_cases_are_the_best_of_all(counts):
    array = np.array(counts) + 1
    found = imbalance(array, assign_units(array, SHARES, 0, draws=16))
    ways = np.stack(np.meshgrid(*[range(3)] * len(array)), axis=-1).reshape(-1, len(array))
    full = [way for way in ways if len(set(way.tolist())) == 3]
    best = min(imbalance(array, way) for way in full)
    assert found == pytest.approx(best, abs=1e-9)


@given(st.lists(st.tuples(boxes, st.sampled_from("ab")), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_least_gap_is_that_of_the_nearest_pixels(items):
    windows = [Window(*box) for box, _ in items]
    splits = [split for _, split in items]
    gap = least_gap(windows, splits)
    if len(set(splits)) == 1:
        assert gap is None
        return
    # Chebyshev distance between pixels, less one; pixels in both count as -1 at most.
    pixels = {
        split: np.array([
            (r, c)
            for window, own in zip(windows, splits, strict=True) if own == split
            for r in range(window.row, window.row_stop) for c in range(window.col, window.col_stop)
        ])
        for split in "ab"
    }  # fmt: skip
    nearest = min(np.abs(pixels["a"] - pixel).max(axis=1).min() - 1 for pixel in pixels["b"])
    assert max(gap[0], -1) == nearest
    i, j = gap[1]
    assert splits[i] != splits[j]
    assert least_gap([windows[i], windows[j]], ["x", "y"])[0] == gap[0]


@pytest.fixture
def make_manifest(make_raster, tmp_path):
    """Function that writes scenes of 20 × 20 pixels: split, offset in pixels or None, class."""

    def write(scenes, windows=None, crs="EPSG:32633"):
        entries = []
        for i, (split, offset, label) in enumerate(scenes):
            corner = from_origin(500_000 + 10 * (offset or 0), 5_000_000, 10, 10)
            array = np.full((1, 20, 20), label, np.uint8)
            for name in ("img", "lab"):
                make_raster(tmp_path / name / f"{i}.tif", array, crs=crs, transform=corner)
            entry = {"id": f"s{i}", "s2": f"img/{i}.tif", "labels": f"lab/{i}.tif"}
            entries.append(entry | ({"split": split} if split else {}))
        for entry, window in zip(entries, windows or [], strict=False):
            entry |= {"window": window, "s2": "img/0.tif", "labels": "lab/0.tif"}
        values = {
            "classes": [{"name": name, "code": i} for i, name in enumerate("abc")],
            "modalities": {"s2": {"bands": ["x"]}},
            "scenes": entries,
        }
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        return load_manifest(tmp_path / "dataset.yaml")

    return write


def test_classes_are_counted_and_the_distance_is_measured(make_manifest):
    manifest = make_manifest(
        [("train", 0, 0), ("train", 1000, 1), ("val", 57, 0), ("test", 3000, 0), (None, 21, 2)]
    )
    report = report_split(manifest)
    assert report.scenes == {"train": 2, "val": 1, "test": 1}
    assert report.counts["train"].tolist() == [400, 400, 0]
    shares = report.shares()
    assert shares["val"][:2].tolist() == pytest.approx([1 / 3, 0])
    assert np.isnan(shares["train"][2])
    assert report.least_distance_px == pytest.approx(37)  # 57 less 20 of the first scene
    assert report.nearest == ("s0", "s2")
    assert report.to_dict()["pixels"]["test"] == {"a": 400, "b": 0, "c": 0}


@pytest.mark.parametrize(("offset", "distance"), [(20, 0), (10, 0), (25, 5), (50_000, None)])
def test_touching_and_overlapping_scenes_have_no_distance(make_manifest, offset, distance):
    report = report_split(make_manifest([("train", 0, 0), ("test", offset, 0)]))
    assert report.least_distance_px == (None if distance is None else pytest.approx(distance))


def test_windows_without_crs_are_compared_within_their_raster(make_manifest):
    windows = [[0, 0, 8, 20], [11, 0, 9, 20]]
    scenes = [("train", None, 0), ("test", None, 0)]
    assert report_split(make_manifest(scenes, windows, crs=None)).least_distance_px == 3
    assert report_split(make_manifest(scenes, crs=None)).least_distance_px is None
    assert report_split(make_manifest([("train", None, 0)], crs=None)).nearest is None
