from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.errors import ConfigError, DataError
from terrafuse.samples import IGNORE_INDEX
from terrafuse.splits.splitting import assign_units, split_manifest

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture
def make_manifest(make_raster, tmp_path):
    """Function that writes label arrays as the scenes of a manifest."""

    def write(
        labels: list[np.ndarray | None],
        *,
        origins: list[tuple[float, float]] | None = None,
        scale: float = 1,
        crs: str | None = "EPSG:32633",
        size: tuple[int, int] = (64, 64),
        **extra,
    ) -> Manifest:
        scenes = []
        for i, array in enumerate(labels):
            height, width = size if array is None else array.shape
            # Apart by default, so that no scene shows the same ground as another.
            x, y = origins[i] if origins else (500_000 + 100_000 * i, 5_000_000)
            transform = from_origin(x, y, 10, 10)
            image = np.ones((1, height, width), np.uint8)
            make_raster(tmp_path / f"img/{i}.tif", image, crs=crs, transform=transform)
            entry = {"id": f"s{i}", "split": "old", "s2": f"img/{i}.tif"}
            if array is not None:
                labels_path = tmp_path / f"lab/{i}.tif"
                make_raster(labels_path, array[None].astype(np.uint8), crs=crs, transform=transform)
                entry["labels"] = f"lab/{i}.tif"
            scenes.append(entry)
        values = {
            "classes": [{"name": name, "code": i} for i, name in enumerate("abc")],
            "void": [255],
            "modalities": {"s2": {"bands": ["r"]}},
            "grid": "s2",
            "scenes": scenes,
        } | extra
        if scale != 1:
            values["modalities"]["s1"] = {"bands": ["v"], "scale": scale, "required": False}
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        return load_manifest(tmp_path / "dataset.yaml")

    return write


def shares_of(manifest: Manifest, values: dict) -> dict[str, np.ndarray]:
    """Per split its share of each class, from the label files themselves."""
    new = load_manifest(write_manifest(values, manifest.path.parent / "new.yaml"))
    counts = {}
    for scene in new.scenes():
        labels = scene.read_labels(scene.full_window)
        count = np.bincount(labels.ravel(), minlength=256)[:3]
        counts[scene.split] = counts.get(scene.split, 0) + count
    total = sum(counts.values())
    return {split: count / np.maximum(total, 1) for split, count in counts.items()}


def test_whole_scenes_are_balanced_by_class(make_manifest):
    rng = np.random.default_rng(0)
    # Class 2 is rare and lies in a third of the scenes only.
    scenes = []
    for i in range(30):
        labels = rng.choice(2, (40, 40), p=[0.5 + i / 70, 0.5 - i / 70])
        if i % 3 == 0:
            labels[: int(rng.integers(2, 8)), :6] = 2
        scenes.append(labels)
    manifest = make_manifest(scenes)
    values = split_manifest(manifest, seed=3)
    shares = shares_of(manifest, values)
    for split, wanted in SHARES.items():
        assert shares[split] == pytest.approx([wanted] * 3, abs=0.05)
    assert len(values["scenes"]) == 30
    assert all("window" not in entry for entry in values["scenes"])
    assert values == split_manifest(manifest, seed=3)
    assert values != split_manifest(manifest, seed=4)


def test_one_large_scene_is_cut_into_balanced_blocks(make_manifest):
    labels = np.zeros((400, 400), np.uint8)
    labels[:, 250:] = 1
    labels[300:, :150] = 2  # skewed: one corner
    manifest = make_manifest([labels])
    values = split_manifest(manifest, block_px=40, buffer_px=6)
    shares = shares_of(manifest, values)
    for split, wanted in SHARES.items():
        assert shares[split] == pytest.approx([wanted] * 3, abs=0.12)
    ids = [entry["id"] for entry in values["scenes"]]
    assert len(set(ids)) == len(ids)
    assert all(entry["s2"] == "img/0.tif" for entry in values["scenes"])


@given(
    size=st.tuples(st.integers(20, 120), st.integers(20, 120)),
    block=st.integers(8, 40),
    buffer=st.integers(0, 20),
    scale=st.sampled_from([1, 3]),
    seed=st.integers(0, 3),
)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
def test_splits_keep_their_distance(make_manifest, size, block, buffer, scale, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size).astype(np.uint8)
    row, col = rng.integers(0, 20, 2)
    labels[row : row + 30, col : col + 30] = IGNORE_INDEX  # blocks that belong to no split
    buffer = min(buffer, block // 2)
    manifest = make_manifest([labels], scale=scale)
    options = {"by": "block", "block_px": block, "buffer_px": buffer, "seed": seed}
    try:
        values = split_manifest(manifest, **options)
    except DataError:  # too few blocks
        reject()
    windows = [(e["split"], e.get("window", [0, 0, *size])) for e in values["scenes"]]
    seen = np.zeros(size, int)
    for _, (top, left, height, width) in windows:
        assert top % scale == left % scale == 0
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]
        seen[top : top + height, left : left + width] += 1
    assert seen.max() == 1
    for (split, one), (other, two) in combinations(windows, 2):
        if split != other:
            gaps = [
                max(one[axis] - two[axis] - two[axis + 2], two[axis] - one[axis] - one[axis + 2])
                for axis in (0, 1)
            ]
            assert max(gaps) >= buffer


def test_without_buffer_nothing_labelled_is_lost(make_manifest):
    labels = np.random.default_rng(0).integers(0, 3, (100, 130))
    manifest = make_manifest([labels])
    values = split_manifest(manifest, block_px=20, buffer_px=0)
    seen = np.zeros(labels.shape, int)
    for entry in values["scenes"]:
        top, left, height, width = entry["window"]
        seen[top : top + height, left : left + width] += 1
    assert (seen == 1).all()


def test_blocks_lie_within_the_window_a_scene_already_has(make_manifest):
    manifest = make_manifest([np.zeros((60, 60))])
    values = yaml.safe_load(manifest.path.read_text())
    values["scenes"][0]["window"] = [12, 6, 40, 40]
    manifest.path.write_text(yaml.safe_dump(values))
    values = split_manifest(load_manifest(manifest.path), block_px=10, buffer_px=0)
    tops, lefts, heights, widths = zip(*(e["window"] for e in values["scenes"]), strict=True)
    assert (min(tops), min(lefts)) == (12, 6)
    assert sum(h * w for h, w in zip(heights, widths, strict=True)) == 1600


def test_overlapping_scenes_stay_together(make_manifest):
    scenes = [np.full((50, 50), i % 3) for i in range(12)]
    origins = [(500_000 + 1000 * i, 5_000_000) for i in range(12)]
    origins[1] = (500_250, 5_000_100)  # over scene 0
    origins[2] = (500_600, 5_000_200)  # over scene 1, not over 0
    # Scene 4 begins where scene 3 ends: neighbours, not the same ground.
    origins[3:5] = [(503_000, 5_000_000), (503_500, 5_000_000)]
    manifest = make_manifest(scenes, origins=origins)
    together, neighbours = [], []
    for seed in range(12):
        split = {
            e["id"]: e["split"] for e in split_manifest(manifest, by="scene", seed=seed)["scenes"]
        }
        together.append(split["s0"] == split["s1"] == split["s2"])
        neighbours.append(split["s3"] == split["s4"])
    assert all(together)
    assert not all(neighbours)


@pytest.mark.parametrize("crs", ["EPSG:32633", None])
def test_scenes_of_one_place_stay_together(make_manifest, crs):
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (20, 20)) for _ in range(12)]
    manifest = make_manifest(labels, crs=crs)
    values = yaml.safe_load(manifest.path.read_text())
    for number, place in ((1, "delta"), (5, "delta"), (9, "coast"), (11, "delta")):
        values["scenes"][number]["place"] = place
    manifest.path.write_text(yaml.safe_dump(values))
    together, coast = [], []
    for seed in range(8):
        found = split_manifest(load_manifest(manifest.path), by="scene", seed=seed)["scenes"]
        split = {e["id"]: e["split"] for e in found}
        assert [e.get("place") for e in found] == [e.get("place") for e in values["scenes"]]
        together.append(split["s1"] == split["s5"] == split["s11"])
        coast.append(split["s9"] == split["s1"])
    assert all(together)
    assert not all(coast)


def test_overlap_is_found_between_crs(make_raster, make_manifest, tmp_path):
    manifest = make_manifest([np.zeros((50, 50)) for _ in range(9)])
    values = yaml.safe_load(manifest.path.read_text())
    # The ground of scene 0, at 15° E in the middle of UTM zone 33, in degrees.
    transform = from_origin(15.0005, 45.1535, 0.0001, 0.0001)
    for name in ("img", "lab"):
        array = np.zeros((1, 40, 40), np.uint8)
        make_raster(tmp_path / name / "deg.tif", array, crs="EPSG:4326", transform=transform)
    values["scenes"].append({"id": "deg", "s2": "img/deg.tif", "labels": "lab/deg.tif"})
    manifest.path.write_text(yaml.safe_dump(values))
    for seed in range(6):
        found = split_manifest(load_manifest(manifest.path), by="scene", seed=seed)
        split = {e["id"]: e["split"] for e in found["scenes"]}
        assert split["s0"] == split["deg"]


def test_scenes_without_crs_are_taken_as_apart(make_manifest):
    manifest = make_manifest([np.full((8, 8), i % 3) for i in range(9)], crs=None)
    values = split_manifest(manifest)
    assert {e["split"] for e in values["scenes"]} == set(SHARES)


def test_scenes_without_labels_are_in_no_split(make_manifest):
    manifest = make_manifest([np.zeros((64, 64)) for _ in range(9)] + [None])
    last = split_manifest(manifest)["scenes"][-1]
    assert last["id"] == "s9"
    assert "split" not in last


def test_without_any_labels_area_is_shared(make_manifest):
    values = split_manifest(make_manifest([None] * 10))
    splits = [entry["split"] for entry in values["scenes"]]
    assert [splits.count(split) for split in SHARES] == [6, 2, 2]


def test_paths_hold_from_another_folder(make_manifest, tmp_path):
    manifest = make_manifest([np.zeros((64, 64)) for _ in range(9)])
    (tmp_path / "deep/er").mkdir(parents=True)
    values = split_manifest(manifest, manifest_folder=tmp_path / "deep/er")
    assert values["scenes"][0]["s2"] == "../../img/0.tif"
    assert values["scenes"][1]["labels"] == "../../lab/1.tif"
    new = load_manifest(write_manifest(values, tmp_path / "deep/er/new.yaml"))
    assert len(new.scenes()) == 9


def test_urls_and_absolute_paths_are_left(make_manifest, tmp_path):
    from terrafuse.splits.splitting import move_paths

    kept = [
        "https://host/a.tif",
        "s3://bucket/a.tif",
        "/data/a.tif",
        "/vsizip//data/x.zip/a.tif",
        "~/a.tif",
    ]
    values = {
        "modalities": {"s2": {}},
        "labels": {"area": "area.geojson"},
        "scenes": [{"id": "a", "s2": kept, "labels": "l.tif", "window": [0, 0, 1, 1]}],
    }
    move_paths(values, Path("old"), Path("old/new"))
    assert values["scenes"][0]["s2"] == kept
    assert values["scenes"][0]["labels"] == "../l.tif"
    assert values["labels"]["area"] == "../area.geojson"
    packed = {"modalities": {"s2": {}}, "scenes": [{"id": "a", "s2": "/vsizip/x.zip/a.tif"}]}
    move_paths(packed, Path("old"), Path("old/new"))
    assert packed["scenes"][0]["s2"] == "/vsizip/../x.zip/a.tif"
    named = {"modalities": {"s2": {}}, "scenes": [{"id": "a", "s2": "GTIFF_RAW:in/a*.tif"}]}
    move_paths(named, Path("old"), Path("old/new"))
    assert named["scenes"][0]["s2"] == "../in/a*.tif"
    rooted = {"root": "data", "modalities": {"s2": {}}, "scenes": [{"id": "a", "s2": "a.tif"}]}
    move_paths(rooted, Path("old"), Path("old/new"))
    assert (rooted["root"], rooted["scenes"][0]["s2"]) == ("../data", "a.tif")


@given(
    counts=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50)),
        min_size=3,
        max_size=30,
    ),
    seed=st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_every_split_gets_a_unit(counts, seed):
    chosen = assign_units(np.array(counts), [0.9, 0.05, 0.05], seed)
    assert set(chosen.tolist()) == {0, 1, 2}
    assert len(chosen) == len(counts)


def test_assignment_meets_the_shares_of_many_units():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 100, (200, 5)) * (rng.random((200, 5)) < 0.3)
    counts[:, 0] += 1
    chosen = assign_units(counts, [0.7, 0.1, 0.2], 0)
    for split, wanted in enumerate([0.7, 0.1, 0.2]):
        share = counts[chosen == split].sum(axis=0) / counts.sum(axis=0)
        assert share == pytest.approx([wanted] * 5, abs=0.01)


def test_faulty_requests_are_explained(make_manifest):
    manifest = make_manifest([np.zeros((64, 64))])
    with pytest.raises(ConfigError, match=r"sum to 1"):
        split_manifest(manifest, shares={"train": 0.5, "val": 0.2})
    with pytest.raises(ConfigError, match="at most half of a block"):
        split_manifest(manifest, block_px=20, buffer_px=11)
    with pytest.raises(DataError, match=r"1 separate blocks.*too few for the 3 splits.*smaller"):
        split_manifest(manifest, block_px=64, buffer_px=0)
    with pytest.raises(DataError, match=r"1 separate scenes.*by='block'"):
        split_manifest(manifest, by="scene")
