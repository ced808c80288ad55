"""Chips without CRS that overlap are found by their pixels, and stay together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.merge
import yaml
from rasterio.transform import from_origin

from terrafuse.api import data_split
from terrafuse.data import load_manifest
from terrafuse.data.manifest import Manifest
from terrafuse.doctor import Finding, check_manifest
from terrafuse.errors import DataError
from terrafuse.splits.content import find_shared_ground, sketch_scene

MakeRaster = Callable[..., Path]


def ground(seed: int, height: int = 160, width: int = 160, bands: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (bands, height, width)).astype(np.uint8)


@pytest.fixture
def chips(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., Manifest]:
    """Function: a manifest of chips {id: (split, image)}, without CRS unless told."""

    def make(scale: float = 1, **given: tuple[str, np.ndarray]) -> Manifest:
        scenes = []
        for id, (split, image) in given.items():
            make_raster(tmp_path / f"{id}.tif", image, crs=None)
            size = [round(n * scale) for n in image.shape[1:]]
            labels = np.random.default_rng(len(scenes)).integers(0, 2, (1, *size))
            make_raster(tmp_path / f"{id}_l.tif", labels.astype(np.uint8), crs=None)
            scenes.append({"id": id, "split": split, "m": f"{id}.tif", "labels": f"{id}_l.tif"})
        values = {
            "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
            "modalities": {"m": {"bands": ["x", "y"], "kind": "optical", "scale": scale}},
            "scenes": scenes,
        }
        path = tmp_path / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_manifest(path)

    return make


def leaks(manifest: Manifest) -> list[Finding]:
    return [f for f in check_manifest(manifest) if f.code in ("split-overlap", "leak")]


@pytest.mark.parametrize(("down", "right"), [(32, 0), (0, 32), (32, -32), (0, 52), (52, 0)])
def test_chips_that_overlap_are_found_with_their_distance(
    chips: Callable[..., Manifest], down: int, right: int
) -> None:
    whole = ground(0)
    a = whole[:, 40:104, 40:104]
    b = whole[:, 40 + down : 104 + down, 40 + right : 104 + right]
    manifest = chips(a=("train", a), b=("val", b), c=("test", ground(1)[:, :64, :64]))
    sketches = [sketch_scene(scene) for scene in manifest.scenes()]
    (shared,) = find_shared_ground(sketches)
    assert (shared.first, shared.second, shared.row, shared.col) == (0, 1, down, right)
    assert shared.share == pytest.approx((64 - abs(down)) * (64 - abs(right)) / 64**2)
    (finding,) = leaks(manifest)
    assert (finding.severity, finding.scene) == ("warning", "a")
    assert f"told by their pixels ({shared.share:.0%} of the smaller" in finding.message
    assert f"{abs(down)} rows" in finding.message


def test_a_small_chip_within_a_large_one(chips: Callable[..., Manifest]) -> None:
    whole = ground(2, 700, 600)
    manifest = chips(a=("train", whole), b=("test", whole[:, 500:560, 490:580]))
    (shared,) = find_shared_ground([sketch_scene(scene) for scene in manifest.scenes()])
    assert (shared.row, shared.col, shared.share) == (500, 490, 1)


@pytest.mark.filterwarnings("ignore:.*the transform of")
def test_distances_are_in_pixels_of_the_scene(chips: Callable[..., Manifest]) -> None:
    whole = ground(3)
    manifest = chips(scale=2, a=("train", whole[:, :64, :64]), b=("test", whole[:, 20:84, 30:94]))
    (shared,) = find_shared_ground([sketch_scene(scene) for scene in manifest.scenes()])
    assert (shared.row, shared.col) == (40, 60)


def test_other_scenes_level_ones_and_patterns_share_nothing(chips: Callable[..., Manifest]) -> None:
    level = np.full((2, 64, 64), 255, np.uint8)
    stripes = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (2, 64, 64)).copy()
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[None].repeat(2, 0) * 200
    given = {}
    for i, split in enumerate(("train", "val")):
        given |= {f"level{i}": (split, level), f"stripes{i}": (split, np.roll(stripes, i, 1))}
        given |= {f"board{i}": (split, np.roll(board, i, 1).astype(np.uint8))}
        given[f"noise{i}"] = (split, ground(10 + i, 64, 64))
        # Water of three values, as 8-bit radar has it.
        rng = np.random.default_rng(20 + i)
        given[f"water{i}"] = (split, rng.integers(7, 10, (2, 64, 64)).astype(np.uint8))
    manifest = chips(**given)
    assert find_shared_ground([sketch_scene(scene) for scene in manifest.scenes()]) == []


def test_scenes_that_say_where_they_lie_are_not_looked_at(
    make_raster: MakeRaster, chips: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = chips(a=("train", ground(0, 32, 32)))
    for name in ("a", "a_l"):
        with rasterio.open(tmp_path / f"{name}.tif") as dataset:
            values = dataset.read()
        make_raster(tmp_path / f"{name}.tif", values)
    assert sketch_scene(manifest.scene("a")) is None


def test_split_keeps_overlapping_chips_together(
    chips: Callable[..., Manifest], tmp_path: Path
) -> None:
    given = {}
    for place in range(9):
        whole = ground(30 + place, 64, 96)
        given[f"a{place}"] = (("train", "val")[place % 2], whole[:, :, :64])
        given[f"b{place}"] = (("val", "train")[place % 2], whole[:, :, 32:])
    manifest = chips(**given)
    found = leaks(manifest)
    assert len(found) == 6  # five by name, and that there are more
    assert "4 more pairs of scenes of splits 'val' and 'train'" in found[-1].message
    assert found[0].remedy == "Put them into one split (terrafuse data split does)"
    # The remedy, followed.
    out = tmp_path / "split.yaml"
    new = data_split(
        manifest.path, out, shares={"train": 0.5, "val": 0.3, "test": 0.2}, block_px=32, buffer_px=0
    )
    splits = {entry.id: entry.split for entry in new.entries}
    assert all(splits[f"a{place}"] == splits[f"b{place}"] for place in range(9))
    assert leaks(new) == []


def test_overlapping_scenes_that_cannot_be_divided_say_what_to_do(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    whole, labels = ground(5, 128, 128), ground(6, 128, 128, 1) % 2
    scenes = []
    for i, col in enumerate((0, 32, 64)):
        part = (slice(None), slice(None), slice(col, col + 64))
        for name, array in (("i", whole), ("l", labels)):
            make_raster(tmp_path / f"{name}{i}.tif", array[part],
                        transform=from_origin(500_000 + 10 * col, 5e6, 10, 10))  # fmt: skip
        scenes.append({"id": f"s{i}", "m": f"i{i}.tif", "labels": f"l{i}.tif"})
    values = {
        "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
        "modalities": {"m": {"bands": ["x", "y"]}},
        "scenes": scenes,
    }
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump(values))
    options = {"shares": {"train": 0.5, "val": 0.5}, "buffer_px": 0}
    with pytest.raises(DataError) as error:
        data_split(path, tmp_path / "s.yaml", block_px=32, **options)
    assert "3 scenes overlap or have one 'place', be it through others ('s0', 's1', 's2')" in str(
        error.value
    )
    assert "however small the blocks. Join them into one raster" in str(error.value)
    # Left out: those between.
    path.write_text(yaml.safe_dump(values | {"scenes": [scenes[0], scenes[2]]}))
    assert data_split(path, tmp_path / "s1.yaml", block_px=32, **options).splits == {
        "train": pytest.approx(4, abs=4), "val": pytest.approx(4, abs=4),
    }  # fmt: skip
    # Joined.
    for name in "il":
        rasterio.merge.merge([tmp_path / f"{name}{i}.tif" for i in range(3)],
                             dst_path=tmp_path / f"{name}.tif")  # fmt: skip
    path.write_text(
        yaml.safe_dump(values | {"scenes": [{"id": "s", "m": "i.tif", "labels": "l.tif"}]})
    )
    assert set(data_split(path, tmp_path / "s2.yaml", block_px=32, **options).splits) == {
        "train", "val",
    }  # fmt: skip


def test_one_scene_too_small_for_its_blocks_says_smaller_ones(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    make_raster(tmp_path / "i.tif", ground(5, 64, 64))
    make_raster(tmp_path / "l.tif", ground(6, 64, 64, 1) % 2)
    path = tmp_path / "dataset.yaml"
    path.write_text(
        "classes: [{name: a, code: 0}, {name: b, code: 1}]\nmodalities: {m: {bands: [x, y]}}\n"
        "scenes: [{id: s, m: i.tif, labels: l.tif}]\n"
    )
    shares = {"train": 0.5, "val": 0.5}
    with pytest.raises(DataError, match="Use smaller blocks") as error:
        data_split(path, tmp_path / "s.yaml", shares=shares, block_px=64, buffer_px=32)
    assert re.search(r"block_px, --block; and buffer_px, --buffer", str(error.value))
    data_split(path, tmp_path / "s.yaml", shares=shares, block_px=32, buffer_px=8)
