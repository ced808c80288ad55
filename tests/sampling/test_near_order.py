"""Crops in the order of their places: the same ones, near each other, far apart in a batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.config import AugmentConfig, DataConfig
from terrafuse.data.scene import Scene, scene_from_rasters
from terrafuse.data.statistics import compute_statistics
from terrafuse.modalities import Modality
from terrafuse.samples import Batch, Window
from terrafuse.sampling import training_loader
from terrafuse.sampling.near_order import NearOrder

COARSE = from_origin(500_000, 5_000_000, 20, 20)
MODALITIES = (Modality("a", ("x",), kind="optical"), Modality("b", ("y",), kind="sar", scale=2.0))


def random_places(total: int, scenes: int, side: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    places = rng.integers(0, [scenes, side, side], (total, 3))
    return lambda number: tuple(places[number].tolist())


@given(
    total=st.integers(1, 700), scenes=st.integers(1, 5), side=st.integers(1, 40),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_every_group_keeps_its_crops(total: int, scenes: int, side: int, seed: int) -> None:
    order = NearOrder(random_places(total, scenes, side, seed), total, seed)
    found = [order(position) for position in range(total)]
    for first in range(0, total, order.size):
        group = range(first, min(first + order.size, total))
        assert sorted(found[group.start : group.stop]) == list(group)
    # From anywhere, as a resumed run or another reading process asks.
    again = NearOrder(order.place_of, total, seed)
    for position in np.random.default_rng(seed).integers(0, total, 20).tolist():
        assert again(position) == found[position]


def decoded(places: Iterable[tuple[int, int, int]], kept: int) -> int:
    """Blocks decoded where the `kept` last ones are remembered."""
    cache: OrderedDict[tuple[int, int, int], None] = OrderedDict()
    misses = 0
    for place in places:
        misses += place not in cache
        cache[place] = None
        cache.move_to_end(place)
        if len(cache) > kept:
            cache.popitem(last=False)
    return misses


def test_blocks_are_decoded_less_often_and_batches_are_of_many_places() -> None:
    total, side = 4096 * 16, 16
    place_of = random_places(total, 1, side)
    order = NearOrder(place_of, total, 0)
    assert order.size == 4096
    numbers = [order(position) for position in range(2 * order.size)]
    places = [place_of(number) for number in numbers]
    by_chance = [place_of(number) for number in range(len(numbers))]
    # Of 256 blocks 32 are kept: by chance 7 of 8 crops miss, in order each block does once a group.
    assert decoded(by_chance, 32) > 0.8 * len(numbers)
    assert decoded(places, 32) < 1.3 * 2 * side**2
    # Eight crops in a row are as far from each other as those drawn at random.
    spread = [
        np.mean([np.std([p[1:] for p in run[i : i + 8]], axis=0).mean() for i in range(0, 4096, 8)])
        for run in (places, by_chance)
    ]
    assert spread[0] > 0.9 * spread[1]
    starts = {place_of(order(group * order.size))[1:] for group in range(16)}
    assert len(starts) > 10  # no place always comes first


def test_a_short_run_sees_all_places_as_often() -> None:
    total = 640
    order = NearOrder(random_places(total, 1, 8), total, 0)
    assert order.size == 40
    seen = np.array([order.place_of(order(position))[1] for position in range(total)])
    halves = seen[: total // 2].mean(), seen[total // 2 :].mean()
    assert halves[0] == pytest.approx(halves[1], abs=0.6)


@pytest.fixture
def scenes(make_raster: Callable[..., Path], tmp_path: Path) -> list[Scene]:
    """A large scene in blocks of 16 × 32 pixels, and one as large as a crop."""
    rng, made = np.random.default_rng(0), []
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"}
    for name, height, width in (("large", 96, 128), ("small", 16, 16)):
        optical = rng.integers(1, 255, (1, height, width)).astype(np.uint8)
        sar = rng.integers(1, 255, (1, height // 2, width // 2)).astype(np.uint8)
        labels = rng.integers(0, 3, (1, height, width), np.uint8)
        labels[:, :, : width // 4] = 0
        files = {
            "a": make_raster(tmp_path / f"{name}a.tif", optical, **blocks),
            "b": make_raster(tmp_path / f"{name}b.tif", sar, transform=COARSE),
        }
        path = make_raster(tmp_path / f"{name}l.tif", labels)
        scheme = ClassScheme(("x", "y", "z"))
        made.append(
            scene_from_rasters(
                MODALITIES, files, grid="a", id=name, labels=path, scheme=scheme, split="train"
            )
        )
    return made


def load(scenes: list[Scene], order: str, *, world: int = 1, **options: Any) -> list[Batch]:
    """Batches of all processes, in the order of steps."""
    loader: dict[str, Any] = {"steps": 32, "seed": 3} | {
        key: options.pop(key) for key in ("steps", "start_step", "accumulate") if key in options
    }
    values = {"crop_size": 16, "batch_size": 8 // world, "workers": 0} | options
    config = DataConfig(manifest=Path("x"), crop_order=order, **values)
    statistics = compute_statistics(scenes, MODALITIES)
    ranks = [
        list(training_loader(
            scenes, MODALITIES, statistics, config, rank=rank, world_size=world, **loader
        ))
        for rank in range(world)
    ]  # fmt: skip
    return [batch for step in zip(*ranks, strict=True) for batch in step]


def crops(batches: list[Batch]) -> list[tuple[str, Window, float]]:
    """Scene, window and a number that tells the augmentation of each sample."""
    return [
        (scene, window, round(float(image.nanmean()), 3))
        for batch in batches
        for scene, window, image in zip(
            batch.scene_ids, batch.windows, batch.physical().images["a"], strict=True
        )
    ]


@pytest.mark.parametrize("sampling", ["random", "balanced", "grid", "scene"])
def test_a_training_has_the_same_samples(scenes: list[Scene], sampling: str) -> None:
    options = {"sampling": sampling, "augment": AugmentConfig(scale=(0.7, 1.4))}
    drawn, near = (crops(load(scenes, order, **options)) for order in ("random", "near"))
    assert drawn != near
    assert Counter(drawn) == Counter(near)
    size = 32 * 8 // 16
    for first in range(0, len(drawn), size):
        assert Counter(drawn[first : first + size]) == Counter(near[first : first + size])


def test_the_order_holds_for_resumed_runs_processes_and_readers(scenes: list[Scene]) -> None:
    whole = crops(load(scenes, "near"))
    assert crops(load(scenes, "near", start_step=13)) == whole[13 * 8 :]
    assert crops(load(scenes, "near", world=2)) == whole
    assert crops(load(scenes, "near", steps=16, accumulate=2)) == whole
    assert crops(load(scenes, "near", workers=1)) == whole


def test_blocks_are_those_of_the_files(
    scenes: list[Scene], make_raster: Callable[..., Path], tmp_path: Path
) -> None:
    large, small = scenes
    assert large.block_shape == (16, 32)  # the coarse file is one block
    assert small.block_shape == (16, 16)  # the scene
    wide = make_raster(
        tmp_path / "wide.tif", np.ones((1, 48, 64), np.uint8), transform=COARSE, blockysize=10
    )
    files = {"a": large.files["a"][0].path, "b": wide}
    assert scene_from_rasters(MODALITIES, files, grid="a").block_shape == (20, 128)
