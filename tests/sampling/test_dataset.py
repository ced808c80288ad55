from __future__ import annotations

import gc
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin

from children import run
from terrafuse.classes import ClassScheme
from terrafuse.config import AugmentConfig, DataConfig
from terrafuse.data.handles import block_cache, cache_limit
from terrafuse.data.scene import Scene, scene_from_rasters
from terrafuse.data.statistics import compute_statistics
from terrafuse.errors import ConfigError, RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Batch, collate
from terrafuse.sampling import dataset as module
from terrafuse.sampling.augment import resize_sample
from terrafuse.sampling.dataset import (
    BatchIndices,
    TrainingDataset,
    default_workers,
    training_loader,
)
from terrafuse.stopping import SIGNALS

OPTICAL = Modality("s2", ("red", "nir"), kind="optical")
SAR = Modality("s1", ("vv",), kind="sar", scale=2.0)
MODALITIES = (OPTICAL, SAR)


@pytest.fixture
def scenes(make_raster, tmp_path) -> list[Scene]:
    rng = np.random.default_rng(0)
    made = []
    for name in "ab":
        optical = make_raster(tmp_path / f"{name}2.tif", rng.random((2, 64, 80), np.float32) + 1)
        sar = make_raster(
            tmp_path / f"{name}1.tif",
            rng.random((1, 32, 40), np.float32) + 1,
            transform=from_origin(500_000, 5_000_000, 20, 20),
        )
        labels = make_raster(tmp_path / f"{name}l.tif", rng.integers(0, 3, (1, 64, 80), np.uint8))
        made.append(
            scene_from_rasters(
                MODALITIES,
                {"s2": optical, "s1": sar},
                grid="s2",
                id=name,
                labels=labels,
                scheme=ClassScheme(("x", "y", "z")),
                split="train",
            )
        )
    return made


def config(**values) -> DataConfig:
    return DataConfig(manifest=Path("x"), **({"crop_size": 16, "batch_size": 3} | values))


def make_loader(scenes: list[Scene], settings: DataConfig, **options):
    statistics = compute_statistics(scenes, MODALITIES)
    return training_loader(scenes, MODALITIES, statistics, settings, **({"seed": 5} | options))


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.windows == second.windows
    assert first.scene_ids == second.scene_ids
    assert torch.equal(first.labels, second.labels)
    for name, image in first.images.items():
        assert torch.equal(image.nan_to_num(-9), second.images[name].nan_to_num(-9))
        assert torch.equal(first.valid[name], second.valid[name])


def test_batches_do_not_depend_on_workers(scenes):
    settings = config(augment=AugmentConfig(scale=(0.5, 2)), modality_dropout=0.5)
    loaders = [
        make_loader(scenes, settings.model_copy(update={"workers": n}), steps=4) for n in (0, 2)
    ]
    alone, shared = (list(loader) for loader in loaders)
    assert len(alone) == len(shared) == len(loaders[0]) == 4
    for first, second in zip(alone, shared, strict=True):
        assert_equal(first, second)
    assert alone[0].images["s2"].shape == (3, 2, 16, 16)
    assert alone[0].images["s1"].shape == (3, 1, 8, 8)
    assert alone[0].labels.shape == (3, 16, 16)
    assert alone[0].windows != alone[1].windows


def test_a_pickled_dataset_gives_the_same_samples(scenes):
    statistics = compute_statistics(scenes, MODALITIES)
    settings = config(augment=AugmentConfig(scale=(0.5, 2)), sampling="grid")
    samples = TrainingDataset(scenes, MODALITIES, statistics, settings, seed=3)
    expected = collate([samples[i] for i in (40, 2)])
    copied = pickle.loads(pickle.dumps(samples))
    assert_equal(collate([copied[40], copied[2]]), expected)


def test_starting_later_is_skipping(scenes):
    settings = config(workers=0)
    whole = list(make_loader(scenes, settings, steps=4, accumulate=2))
    rest = list(make_loader(scenes, settings, steps=4, accumulate=2, start_step=3))
    assert (len(whole), len(rest)) == (8, 2)
    for first, second in zip(whole[6:], rest, strict=True):
        assert_equal(first, second)
    assert len(make_loader(scenes, settings, steps=4, start_step=4)) == 0


def test_a_zoom_magnifies_as_often_as_it_shrinks(scenes):
    """Uniform in the logarithm: between 1/2 and 2 half of the draws are below 1."""
    settings = config(augment=AugmentConfig(scale=(0.5, 2)), crop_size=16)
    samples = TrainingDataset(scenes, MODALITIES, compute_statistics(scenes, MODALITIES), settings,
                              seed=0)  # fmt: skip
    sizes = np.array([
        samples.draw(i, module.sample_generator(0, i))[1].height for i in range(1200)
    ])  # fmt: skip
    assert (sizes.min(), sizes.max()) == (8, 32)
    # A size stands for the zooms that round to it; 0.014 is the standard deviation of a share.
    middle = np.log(16 / 15) / np.log(4), np.log(17 / 16) / np.log(4)
    assert np.mean(sizes < 16) == pytest.approx(0.5 - middle[0], abs=0.05)
    assert np.mean(sizes > 16) == pytest.approx(0.5 - middle[1], abs=0.05)


def test_augmentation_goes_by_the_seed_of_the_run(scenes):
    """Also where runs happen to crop the same place."""
    still = {"flip": False, "rotate": False}
    settings = config(augment=AugmentConfig(gain=0.5, **still), crop_size=64)
    statistics = compute_statistics(scenes[:1], MODALITIES)
    samples = [
        TrainingDataset(scenes[:1], MODALITIES, statistics, settings, seed=seed)[0]
        for seed in range(40)
    ]
    levels: dict[object, set[float]] = {}
    for sample in samples:
        level = round(float(sample.images["s2"].nanmean()), 4)
        levels.setdefault(sample.window, set()).add(level)
    assert len(levels) < len(samples)
    assert sum(map(len, levels.values())) == len(samples)


def test_another_seed_gives_other_samples(scenes):
    settings = config(workers=0)
    first, second = (next(iter(make_loader(scenes, settings, steps=1, seed=s))) for s in (0, 1))
    assert first.windows != second.windows


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_samples_without_overlap(world_size):
    parts = [
        [i for batch in BatchIndices(2, 5, 4, rank=rank, world_size=world_size) for i in batch]
        for rank in range(world_size)
    ]
    together = sorted(index for part in parts for index in part)
    assert together == list(range(2 * world_size * 4, 5 * world_size * 4))
    # In one step the processes take samples that follow one another.
    assert parts[-1][0] == (2 * world_size + world_size - 1) * 4


def test_iterating_leaves_the_global_generator_alone(scenes):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(scenes, config(workers=0), steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_loader_settings(scenes):
    loader = make_loader(scenes, config(workers=1), steps=1)
    assert loader.persistent_workers
    assert loader.pin_memory == torch.cuda.is_available()
    assert not make_loader(scenes, config(workers=0), steps=1).persistent_workers
    assert 0 <= default_workers() <= 4


def test_workers_use_one_thread_and_their_share_of_the_cache(scenes, monkeypatch):
    limits = {}
    monkeypatch.setattr(module, "limit_resources", lambda **kwargs: limits.update(kwargs))

    def work() -> None:
        torch.set_num_threads(2)
        module._prepare_worker(100, 0)
        assert torch.get_num_threads() == 1
        assert limits == {"cache_mb": 100}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(SIGNALS)

    assert run(work) == 0  # a process of its own, which does not listen to signals any more


@pytest.mark.parametrize(
    ("free", "cores", "workers", "world_size", "expected"),
    [
        (16 << 30, 2, 1, 1, 2048),  # a quarter, by cores
        (16 << 30, 2, 8, 1, 512),  # by workers, which are more
        (256 << 30, 64, 4, 8, 1024),
        (256 << 30, 16, 4, 8, 2048),  # by those of all devices
        (1 << 30, 16, 4, 1, 64),
        (None, 16, 4, 1, 64),
        (16 << 30, 2, 0, 1, 2048),
        (1 << 30, 2, 0, 1, 192),  # what the process has already
    ],
)
def test_the_cache_is_shared_out(monkeypatch, free, cores, workers, world_size, expected):
    monkeypatch.setattr(module, "free_memory", lambda: free)
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    with block_cache(192 << 20, enlarge=True):
        found = module.cache_per_process(config(), workers, world_size=world_size)
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "workers", "expected"),
    [(1000, 4, 250), (1000, 0, 1000), (70, 1, 70), (250, 4, 64), (0, 0, 64), (0, 2, 64)],
)
def test_the_wanted_cache_is_that_of_all_workers(wanted, workers, expected):
    settings = config(block_cache_mb=wanted)
    assert module.cache_per_process(settings, workers, world_size=3) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_processes_have_the_cache_and_the_trainer_gets_its_own_back(scenes, workers):
    settings = config(workers=workers, block_cache_mb=397)
    statistics = compute_statistics(scenes, MODALITIES)
    samples = TrainingDataset(scenes, MODALITIES, statistics, settings, seed=0)
    loader = module.create_loader(
        samples, range(2), settings, lambda _: cache_limit(), rank=0, world_size=1
    )
    before = cache_limit()
    batches = iter(loader)
    assert [next(batches), cache_limit()] == [397 << 20, before if workers else 397 << 20]
    assert list(batches) == [397 << 20]
    assert cache_limit() == before != 397 << 20


@pytest.mark.parametrize("seed", range(4))
def test_batches_do_not_depend_on_the_cache(make_raster, tmp_path, seed, monkeypatch):
    """Whatever the blocks, the size of the file and the number of workers; also when resumed."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(200, 700, 2))
    values = rng.integers(1, 2000, (3, height, width)).astype(np.uint16)
    values[:, : height // 3, : width // 4] = 0
    blocks = [{"tiled": False}, {"tiled": True, "blockxsize": 128, "blockysize": 128}][seed % 2]
    optical = make_raster(
        tmp_path / "a.tif", values, nodata=0, compress="deflate", zlevel=1, **blocks,
        interleave=("pixel", "band")[seed // 2], photometric="minisblack",
    )  # fmt: skip
    labels = make_raster(
        tmp_path / "l.tif", rng.integers(0, 3, (1, height, width), np.uint8), compress="deflate"
    )
    modality = Modality("m", ("a", "b", "c"))
    scene = scene_from_rasters(
        [modality], {"m": optical}, labels=labels, scheme=ClassScheme(("x", "y", "z"))
    )
    statistics = compute_statistics([scene], [modality])

    def batches(start: int = 0, **settings) -> list[Batch]:
        loader = training_loader(
            [scene], [modality], statistics, config(crop_size=64, **settings),
            seed=seed, steps=5, start_step=start,
        )  # fmt: skip
        return list(loader)

    expected = batches(workers=0, block_cache_mb=0)
    for found in (batches(workers=0), batches(workers=2, block_cache_mb=500)):
        for first, second in zip(expected, found, strict=True):
            assert_equal(first, second)
    monkeypatch.setattr(module, "cache_per_process", lambda *_, **__: 0)  # less than a block
    for first, second in zip(expected[2:], batches(2, workers=0), strict=True):
        assert_equal(first, second)


def test_zoomed_samples_have_the_size_of_the_crop(scenes):
    statistics = compute_statistics(scenes, MODALITIES)
    settings = config(augment=AugmentConfig(scale=(0.5, 2)))
    samples = TrainingDataset(scenes, MODALITIES, statistics, settings, seed=0)
    read = set()
    for index in range(60):
        sample = samples[index]
        assert sample.labels.shape == (16, 16)
        assert sample.images["s1"].shape == (1, 8, 8)
        read.add(sample.window.height)
    assert min(read) == 8
    assert max(read) == 32
    assert all(size % 2 == 0 for size in read)
    # Evenly in the logarithm: as often enlarged as shrunk.
    again = [samples[i].window.height for i in range(60)]
    assert 15 < sum(size < 16 for size in again) < 45


def test_a_zoom_below_one_may_pad_instead_of_reading_more(scenes):
    statistics = compute_statistics(scenes, MODALITIES)
    still = {"flip": False, "rotate": False, "gain": 0, "offset": 0}
    padded, filled = (
        TrainingDataset(
            scenes, MODALITIES, statistics,
            config(augment=AugmentConfig(scale=(0.5, 2), zoom_out=how, **still)), seed=0,
        )
        for how in ("pad", "ground")
    )  # fmt: skip
    shown = set()
    for index in range(40):
        found, other = padded[index], filled[index]
        assert found.labels.shape == (16, 16)
        if other.window.height <= 16:  # enlarged, or so little smaller that nothing changes
            assert_equal(collate([found]), collate([other]))
            continue
        assert found.window.height == 16
        size = int((found.labels != 255).any(dim=0).sum())
        shown.add(size)
        before = (16 - size) // 2 // 2 * 2
        inside = slice(before, before + size)
        read = scenes[0 if found.scene_id == "a" else 1].read(found.window)
        expected = resize_sample(read, MODALITIES, size)
        assert torch.equal(found.labels[inside, inside], expected.labels)
        assert torch.equal(found.images["s2"][:, inside, inside], expected.images["s2"])
        assert int(found.valid["s2"].sum()) == size * size
        assert int(found.valid["s1"].sum()) == size * size // 4
        assert int((found.labels != 255).sum()) == size * size
    assert shown == {8, 10, 12, 14}  # even, for a pixel of the radar is two of the scene


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_arrives_as_its_message(scenes, monkeypatch, workers):
    # How long torch waits for workers that still have batches to hand over.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    loader = make_loader(scenes, config(workers=workers), steps=200)
    for scene in scenes:
        path = scene.paths()["s2"][0]
        path.write_bytes(path.read_bytes()[:400])
        scene.close()
    with pytest.raises(RasterReadError) as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)
    assert "2.tif" in str(caught.value)
    del loader, caught
    gc.collect()


def test_crop_size_must_suit_the_scales(scenes):
    with pytest.raises(ConfigError, match="multiple of 2"):
        make_loader(scenes, config(crop_size=15), steps=1)


def test_workers_by_the_number_of_cores(monkeypatch):
    for cores, expected in ((1, 0), (2, 1), (64, 4)):
        monkeypatch.setattr(module, "usable_cores", lambda cores=cores: cores)
        assert default_workers() == expected
