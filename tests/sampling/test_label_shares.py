from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from memory_scenes import MemoryScene
from terrafuse.classes import ClassScheme
from terrafuse.config import DataConfig
from terrafuse.data.label_files import LabelMask
from terrafuse.data.manifest import Manifest, load_manifest
from terrafuse.data.scene import scene_from_rasters
from terrafuse.data.statistics import class_counts, compute_statistics
from terrafuse.errors import LabelError
from terrafuse.modalities import Modality
from terrafuse.samples import IGNORE_INDEX, Window, blocks
from terrafuse.sampling.crops import WindowSampler
from terrafuse.sampling.dataset import TrainingDataset
from terrafuse.sampling.label_shares import label_units, labelled_scenes, share_labels

BAND = Modality("s2", ("b",), kind="optical")
SCHEME = ClassScheme(("a", "b", "c"))
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)


def make_scene(labels: np.ndarray, id: str = "a") -> MemoryScene:
    labels = labels.astype(np.uint8)
    return MemoryScene([BAND], {"s2": np.ones((1, *labels.shape))}, labels, id=id, scheme=SCHEME)


def random_scenes(seed: int, sizes: Sequence[tuple[int, int]]) -> list[MemoryScene]:
    """Patches of three classes and of nothing; the third class is in few of them."""
    rng = np.random.default_rng(seed)
    scenes = []
    for number, (height, width) in enumerate(sizes):
        coarse = rng.choice(
            [0, 1, 2, 255], (height // 8 + 1, width // 8 + 1), p=[0.6, 0.2, 0.02, 0.18]
        )
        labels = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
        scenes.append(make_scene(labels, str(number)))
    return scenes


def config(**values) -> DataConfig:
    return DataConfig(manifest=Path("x"), crop_size=16, **values)


def labels_of(scenes) -> list[np.ndarray]:
    return [
        scene.read_labels(Window(0, 0, scene.grid.height, scene.grid.width)) for scene in scenes
    ]


def kept_share(scenes, share: float, seed: int = 0) -> list[np.ndarray]:
    return labels_of(label_units(scenes, SCHEME).keep(share, seed).apply(scenes))


@given(
    sizes=st.lists(st.tuples(st.integers(60, 200), st.integers(60, 200)), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_shares_of_blocks(sizes, shares, seed):
    scenes = random_scenes(seed, sizes)
    units = label_units(scenes, SCHEME)
    before = labels_of(scenes)
    total = sum((labels != IGNORE_INDEX).sum() for labels in before)
    largest = units.counts.sum(axis=1).max()
    assert units.by == "block"
    assert largest <= total / 500 or units.side == 1
    inner: list[np.ndarray] | None = None
    for share in sorted(shares):
        kept = units.keep(share, seed)
        after = labels_of(kept.apply(scenes))
        masks = [labels != IGNORE_INDEX for labels in after]
        # Nothing is changed, only left out.
        for old, new, mask in zip(before, after, masks, strict=True):
            assert (new[mask] == old[mask]).all()
        assert kept.pixels == sum(mask.sum() for mask in masks)
        assert kept.share == kept.pixels / total
        # Within half of a unit of what is wanted.
        assert abs(kept.pixels - share * total) <= largest / 2 + 1e-6
        # Of one seed, the smaller share is part of the larger.
        for small, large in zip(inner or [], masks, strict=bool(inner)):
            assert not (small & ~large).any()
        inner = masks


def test_whole_scenes_where_there_are_many():
    scenes = random_scenes(3, [(24, 24)] * 300)
    units = label_units(scenes, SCHEME)
    assert units.by == "scene"
    kept = units.keep(0.03, 0)
    assert kept.scenes == len(kept.units)
    assert 6 <= kept.scenes <= 12
    for old, new in zip(labels_of(scenes), labels_of(kept.apply(scenes)), strict=True):
        assert (new == IGNORE_INDEX).all() or (new == old).all()
    assert label_units(scenes[:150], SCHEME).by == "block"


def test_one_large_scene_among_many_small_ones_is_cut():
    scenes = random_scenes(3, [(24, 24)] * 300) + random_scenes(4, [(300, 300)])
    assert label_units(scenes, SCHEME).by == "block"


def test_a_share_is_the_same_each_time_and_another_with_another_seed():
    scenes = random_scenes(1, [(120, 90), (80, 160)])
    first, again, other = (kept_share(scenes, 0.1, seed) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_seeds_keep_places_all_over():
    (scene,) = random_scenes(2, [(160, 160)])
    seen = sum(
        (kept_share([scene], 0.1, seed)[0] != IGNORE_INDEX).astype(int) for seed in range(80)
    )
    labelled = scene.labels != IGNORE_INDEX
    assert (seen[~labelled] == 0).all()
    assert (seen[labelled] > 0).mean() > 0.99  # 1 - 0.9^80 are expected


def test_every_class_is_kept_where_that_can_be():
    labels = np.zeros((200, 200), np.uint8)
    labels[:, 100:] = 1
    labels[70:73, 30:33] = 2  # 9 of 40,000 pixels
    for seed in range(10):
        kept = label_units([make_scene(labels)], SCHEME).keep(0.01, seed)
        assert kept.missing == ()
        assert kept.pixels <= 440


def test_units_are_drawn_again_until_all_classes_fit_into_one_percent():
    # One scene alone shows all four classes; any other of the rarest needs two more.
    four = ClassScheme(("a", "b", "c", "d"))
    scenes = [make_scene(np.full((8, 8), i % 3), str(i)) for i in range(200)]
    for index in (10, 20, 30):
        scenes[index].labels[:2] = 3
    scenes[30].labels[2:] = np.arange(48).reshape(6, 8) % 3
    for seed in range(10):
        kept = label_units(scenes, four).keep(0.005, seed)
        assert kept.by == "scene"
        assert kept.units[:, 0].tolist() == [30]
        assert kept.missing == ()


def test_lost_classes_are_named():
    labels = np.zeros((256, 256), np.uint8)
    labels[:, 128:] = 1
    labels[:4, 10:14] = 2
    scenes = [make_scene(labels)]
    with pytest.warns(
        UserWarning, match=r"label_share 0\.0001 keeps no label of b, which.*: 1 of \d+ bl"
    ):
        share_labels(scenes, config(label_share=0.0001), SCHEME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        share_labels(scenes, config(label_share=0.01), SCHEME)
    # A class without any label is not lost.
    assert label_units([make_scene(np.zeros((64, 64)))], SCHEME).keep(0.01, 0).missing == ()


def test_sparse_labels_are_met_as_well_as_dense_ones():
    labels = np.full((512, 512), IGNORE_INDEX, np.uint8)
    labels[100:160, 300:380] = 0  # 1.8 % of the scene
    labels[400:402] = 1
    kept = label_units([make_scene(labels)], SCHEME).keep(0.1, 0)
    assert kept.share == pytest.approx(0.1, abs=0.001)


def test_all_labels_are_left_alone_and_none_are_no_fault_here():
    scenes = random_scenes(0, [(64, 64)])
    scenes[0].read_labels = None  # nothing is read
    assert share_labels(scenes, config(), SCHEME) == scenes
    blank = make_scene(np.full((64, 64), IGNORE_INDEX))
    unlabelled = MemoryScene([BAND], {"s2": np.ones((1, 64, 64))})
    shared = share_labels([blank, unlabelled], config(label_share=0.1), SCHEME)
    with pytest.raises(LabelError, match="labels all ignored"):
        WindowSampler(shared, crop_size=16)
    scenes = [*random_scenes(0, [(64, 64)]), unlabelled]
    assert not share_labels(scenes, config(label_share=0.1), SCHEME)[1].has_labels


def test_progress_counts_scenes():
    calls = []
    scenes = random_scenes(0, [(64, 64)] * 3)
    share_labels(scenes, config(label_share=0.1), SCHEME, lambda *c: calls.append(c))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("mode", ["random", "balanced", "grid", "scene"])
def test_every_crop_holds_kept_labels(mode):
    scenes = random_scenes(7, [(160, 120), (90, 200)])
    settings = config(label_share=0.01, sampling=mode)
    shared = share_labels(scenes, settings, SCHEME)
    statistics = {"s2": compute_statistics(scenes, [BAND])["s2"]}
    samples = TrainingDataset(shared, [BAND], statistics, settings, seed=0)
    drawn = [samples.sampler.draw(index) for index in range(200)]
    held = [(shared[s].read_labels(window) != IGNORE_INDEX).any() for s, window in drawn]
    assert all(held)
    assert len(set(drawn)) > 20


@given(
    side=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    start=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
@settings(max_examples=50, deadline=None)
def test_masks_of_windows_are_cut_out_of_the_whole(side, shape, start, size):
    grid = np.random.default_rng(side).random(shape) > 0.5
    whole = np.zeros((100, 100), bool)
    large = grid.repeat(side, 0).repeat(side, 1)
    whole[: large.shape[0], : large.shape[1]] = large
    window = Window(*start, *size)
    assert (LabelMask(side, grid).mask(window) == whole[window.slices()]).all()


def write_dataset(
    folder: Path, make_raster, splits: Sequence[str], test_labels: int = 0
) -> Manifest:
    rng = np.random.default_rng(0)
    scenes = []
    for number, split in enumerate(splits):
        place = {"transform": from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)}
        image = rng.normal(number, 1, (1, 64, 64)).astype(np.float32)
        labels = rng.integers(0, 3, (1, 64, 64)).astype(np.uint8)
        if split == "test":
            labels = (labels + test_labels) % 3
        make_raster(folder / f"s2{number}.tif", image, **place)
        make_raster(folder / f"labels{number}.tif", labels.astype(np.uint8), **place)
        files = {"s2": f"s2{number}.tif", "labels": f"labels{number}.tif"}
        scenes.append({"id": str(number), "split": split, **files})
    values = {
        "classes": [{"name": name} for name in SCHEME.names],
        "modalities": {"s2": {"kind": "optical", "bands": ["b"]}},
        "scenes": scenes,
    }
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_manifest(path)


def test_files_are_read_with_labels_of_the_share_only(make_raster, tmp_path):
    manifest = write_dataset(tmp_path, make_raster, ("train", "train", "test"))
    scenes = labelled_scenes(manifest, ("train",))
    assert [scene.id for scene in scenes] == ["0", "1"]
    settings = config(label_share=0.1, label_seed=4)
    shared = share_labels(scenes, settings, manifest.scheme)
    for scene, kept in zip(scenes, shared, strict=True):
        (everything,), (part,) = labels_of([scene]), labels_of([kept])
        mask = part != IGNORE_INDEX
        assert 0 < mask.mean() < 0.3
        assert (part[mask] == everything[mask]).all()
        # By windows as at once, also beyond the scene, and in a worker.
        for window in blocks(64, 80, 24, 1):
            inner = Window(0, 0, 64, 64).intersection(window)
            expected = np.full((window.height, window.width), IGNORE_INDEX)
            if inner is not None:
                expected[inner.slices(window)] = part[inner.slices()]
            assert (kept.read(window).labels.numpy() == expected).all()
        copied = pickle.loads(pickle.dumps(kept))
        assert (copied.read_labels(Window(0, 0, 64, 64)) == part).all()
        # Images are untouched, and so is the scene that labels were taken from.
        window = Window(3, 5, 20, 20)
        assert kept.read(window).images["s2"].equal(scene.read(window).images["s2"])
        assert (labels_of([scene])[0] != IGNORE_INDEX).all()
    everywhere, part = (compute_statistics(s, [BAND])["s2"] for s in (scenes, shared))
    assert everywhere == part
    counts = class_counts(shared, manifest.scheme)
    assert counts.sum() == pytest.approx(0.1 * 2 * 64 * 64, rel=0.02)
    shared[0].close()


def test_files_without_a_kept_label_are_not_read(make_raster, tmp_path):
    labels = make_raster(tmp_path / "l.tif", np.zeros((1, 64, 64), np.uint8))
    image = make_raster(tmp_path / "i.tif", np.ones((1, 64, 64), np.float32))
    scene = scene_from_rasters([BAND], {"s2": image}, labels=labels, scheme=SCHEME)
    area = LabelMask(32, np.array([[False, False], [False, True]]))
    kept = scene.keep_labels(area)
    kept.close()
    labels.unlink()
    assert (kept.read_labels(Window(0, 0, 32, 64)) == IGNORE_INDEX).all()


def test_test_scenes_have_no_say(make_raster, tmp_path):
    splits = ("train", "test", "train", "val")
    found = []
    for name, change in (("one", 0), ("other", 1)):
        manifest = write_dataset(tmp_path / name, make_raster, splits, test_labels=change)
        scenes = labelled_scenes(manifest, ("train",))
        found.append(labels_of(share_labels(scenes, config(label_share=0.05), manifest.scheme)))
        for scene in manifest.scenes("test"):
            assert (labels_of([scene])[0] != IGNORE_INDEX).all()
    for first, second in zip(*found, strict=True):
        assert (first == second).all()
