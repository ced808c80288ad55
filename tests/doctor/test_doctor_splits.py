from __future__ import annotations

import numpy as np
import pytest
import yaml
from rasterio.crs import CRS
from rasterio.transform import from_origin

from terrafuse.data import load_manifest
from terrafuse.data.footprints import nearby_grids
from terrafuse.data.grid import Grid
from terrafuse.doctor import check_manifest

SIZE = 40


@pytest.fixture
def check(make_raster, tmp_path):
    """Function that checks scenes given as (split, column, labels)."""
    rng = np.random.default_rng(0)

    def run(*scenes, crs: str | None = "EPSG:32633", **entry) -> list:
        entries = []
        for i, (split, column, labels) in enumerate(scenes):
            place = {"crs": crs, "transform": from_origin(500_000 + 10 * column, 5_000_000, 10, 10)}
            make_raster(tmp_path / f"{i}.tif", rng.random((1, SIZE, SIZE)), **place)
            if labels is None:
                labels = rng.integers(0, 2, (SIZE, SIZE))
            make_raster(tmp_path / f"{i}_l.tif", labels[None].astype(np.uint8), **place)
            files = {"m": f"{i}.tif", "labels": f"{i}_l.tif"}
            entries.append({"id": f"s{i}", "split": split} | files)
        for item, changes in zip(entries, entry.get("changes", []), strict=False):
            item.update(changes)
        values = {
            "classes": [{"name": n, "code": i} for i, n in enumerate("abc"[: entry.get("n", 2)])],
            "modalities": {"m": {"bands": ["x"]}},
            "scenes": entries,
        }
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        return check_manifest(load_manifest(tmp_path / "dataset.yaml"))

    return run


def test_neighbours_in_other_splits_are_one_note_per_pair(check):
    findings = check(
        ("train", 0, None), ("train", 1000, None), ("val", 40, None), ("test", 1060, None)
    )
    near = [finding for finding in findings if finding.code == "split-near"]
    assert [finding.severity for finding in near] == ["note", "note"]
    assert "'train' and 'val' are neighbours (1 pairs; 's0' and 's2' are 0 px apart)" in str(
        near[0]
    )
    assert "20 px apart" in str(near[1])


def test_classes_that_are_rare_or_not_judged(check):
    mixed = np.zeros((SIZE, SIZE), int)
    mixed[:20] = 1
    mixed[0, 0] = 2
    two = (mixed > 0).astype(int)
    findings = check(("train", 0, mixed), ("val", 500, mixed), ("test", 1000, two), n=3)
    notes = {(f.severity, f.code): f.message for f in findings}
    assert "class 'c' is 0.06%" in notes["note", "rare-class"]
    assert "split 'test' has no pixel of 'c'" in notes["note", "class-not-judged"]


def test_windows_of_one_file_without_crs(check):
    """Where nothing lies anywhere, the files tell."""
    same = {"m": "0.tif", "labels": "0_l.tif"}
    upper, lower = {"window": [0, 0, 20, 40]}, {"window": [20, 0, 20, 40]}
    scenes = [("train", 0, None), ("val", 0, None), ("test", 0, None)]

    def overlaps(*changes):
        findings = check(*scenes, crs=None, changes=changes)
        return [f.message for f in findings if f.code == "split-overlap"]

    assert overlaps() == []
    assert overlaps(upper, same | lower) == []
    (message,) = overlaps(upper, same | {"window": [10, 0, 20, 40]})
    assert "'s0' (train) and 's1' (val) show the same ground" in message
    assert len(overlaps({}, same, same)) == 3


def test_distances_between_grids():
    def grid(column: float, row: float = 0, crs: str | None = "EPSG:32633") -> Grid:
        transform = from_origin(500_000 + 10 * column, 5_000_000 - 10 * row, 10, 10)
        return Grid(None if crs is None else CRS.from_string(crs), transform, 10, 10)

    grids = [grid(0), grid(15), grid(0, 13), grid(200), grid(5), grid(12, crs=None)]
    found = {(a, b): px for a, b, px in nearby_grids(grids, 6)}
    assert found == pytest.approx(
        {(0, 1): 5, (0, 2): 3, (1, 4): 0, (2, 4): 3, (1, 2): 5.83}, abs=0.01
    )
