from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio._env import get_gdal_config
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterWindow

from terrafuse.data import Scene, scene_from_rasters
from terrafuse.data.handles import (
    HandlePool,
    block_cache,
    cache_limit,
    limit_resources,
    pool,
)
from terrafuse.data.names import gdal_path, is_remote
from terrafuse.errors import RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
MODALITIES = [Modality("a", ("a",)), Modality("b", ("b",))]


@pytest.fixture(autouse=True)
def _empty_pool() -> Iterator[None]:
    pool.close()
    limit = pool.limit
    yield
    pool.close()
    pool.limit = limit


def open_files() -> int:
    """Files in the test's folder that this process has open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum("pytest-of" in str(link.readlink()) for link in links)


@pytest.fixture
def scenes(make_raster: MakeRaster, tmp_path: Path) -> Callable[[int], list[Scene]]:
    """Function that makes scenes of an aligned and a resampled raster; scene n holds n."""

    def make(count: int) -> list[Scene]:
        made = []
        for n in range(count):
            value = np.full((1, 4, 4), n, np.uint16)
            shifted = from_origin(500_001, 5_000_000, 10, 10)
            files = {
                "a": make_raster(tmp_path / f"a{n}.tif", value),
                "b": make_raster(tmp_path / f"b{n}.tif", value, transform=shifted),
            }
            made.append(scene_from_rasters(MODALITIES, files, grid="a", id=str(n)))
        return made

    return make


def read_value(scene: Scene) -> list[float]:
    sample = scene.read(Window(0, 0, 4, 4))
    return [float(sample.images[name].nanmean()) for name in ("a", "b")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_600_scenes_with_32_handles(make_raster: MakeRaster, tmp_path: Path) -> None:
    pool.limit = 32
    scenes = []
    for n in range(600):
        path = make_raster(tmp_path / f"{n}.tif", np.full((1, 4, 4), n, np.uint16))
        scenes.append(scene_from_rasters(MODALITIES[:1], {"a": path}))
    for n, scene in enumerate(scenes):
        assert scene.read(Window(0, 0, 4, 4)).images["a"].mean() == n
        assert len(pool) <= 32
    assert 0 < open_files() <= 32
    pool.close()
    assert open_files() == 0


def test_the_least_recently_used_is_closed(make_raster: MakeRaster, tmp_path: Path) -> None:
    own = HandlePool(limit=2)
    paths = [str(make_raster(tmp_path / f"{n}.tif", np.ones((1, 2, 2)))) for n in range(3)]
    handles = {}
    for path in (paths[0], paths[1], paths[0], paths[2]):
        with own.borrow(path) as dataset:
            handles[path] = dataset
    assert [handles[path].closed for path in paths] == [False, True, False]
    with own.borrow(paths[0]) as dataset:
        assert dataset is handles[paths[0]]
    own.close([paths[0]])
    assert handles[paths[0]].closed
    assert len(own) == 1


def test_a_handle_belongs_to_one_borrower(make_raster: MakeRaster, tmp_path: Path) -> None:
    own = HandlePool()
    path = str(make_raster(tmp_path / "a.tif", np.ones((1, 2, 2))))
    with own.borrow(path) as first, own.borrow(path) as second:
        assert first is not second
    assert len(own) == 1
    assert first.closed != second.closed


def test_threads_read_what_one_would(scenes: Callable[[int], list[Scene]]) -> None:
    opened = scenes(6)
    pool.limit = 4
    found: list[tuple[int, list[float]]] = []

    def work(start: int) -> None:
        for step in range(40):
            n = (start + step) % 6
            found.append((n, read_value(opened[n])))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert all(values == [n, n] for n, values in found)


def _read_in_child(scene: Scene, queue: object) -> None:
    inherited = len(pool)
    queue.put((inherited, read_value(scene)))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_its_own(scenes: Callable[[int], list[Scene]]) -> None:
    (scene,) = scenes(1)
    read_value(scene)
    assert len(pool) == 2
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(scene, queue))
    child.start()
    assert queue.get(timeout=60) == (0, [0, 0])
    child.join()
    assert read_value(scene) == [0, 0]


def test_scenes_are_pickled_without_handles(scenes: Callable[[int], list[Scene]]) -> None:
    (scene,) = scenes(1)
    before = read_value(scene)
    copy = pickle.loads(pickle.dumps(scene))
    assert read_value(copy) == before
    scene.close()
    assert len(pool) == 0
    assert read_value(scene) == before  # reopens


def test_a_rewritten_file_is_read_anew(make_raster: MakeRaster, tmp_path: Path) -> None:
    shifted = from_origin(500_001, 5_000_000, 10, 10)
    grid = make_raster(tmp_path / "b.tif", np.ones((1, 4, 4), np.uint8))
    for value in (5, 6):
        path = make_raster(
            tmp_path / "a.tif", np.full((1, 4, 4), value, np.uint8), transform=shifted
        )
        scene = scene_from_rasters(MODALITIES, {"a": path, "b": grid}, grid="b")
        assert read_value(scene) == [value, 1]


def test_paths_of_gdal() -> None:
    assert gdal_path("https://a.org/b.tif") == "/vsicurl/https://a.org/b.tif"
    assert gdal_path("s3://bucket/b.tif") == "/vsis3/bucket/b.tif"
    assert gdal_path("data/b.tif") == "data/b.tif"
    assert is_remote("s3://bucket/b.tif")
    assert is_remote("/vsicurl/https://a.org/b.tif")
    assert not is_remote("/data/b.tif")


def test_settings_of_gdal() -> None:
    assert os.environ["GDAL_CACHEMAX"]
    assert os.environ["GDAL_VRT_WARP_USE_DATASET_RASTERIO"] == "NO"
    limit_resources(cache_mb=32, open_files=7)
    assert get_gdal_config("GDAL_CACHEMAX") == 32 * 2**20
    assert pool.limit == 7
    limit_resources(cache_mb=256)
    assert pool.limit == 7


def test_a_cache_is_limited_for_a_while_and_never_enlarged() -> None:
    limit_resources(cache_mb=64)
    with block_cache(2**24):
        assert get_gdal_config("GDAL_CACHEMAX") == 2**24
        with block_cache(2**28):
            assert get_gdal_config("GDAL_CACHEMAX") == 2**24
    assert get_gdal_config("GDAL_CACHEMAX") == 64 * 2**20
    limit_resources(cache_mb=256)


def test_a_cache_may_be_enlarged_for_a_while() -> None:
    before = cache_limit()
    with block_cache(2**30, enlarge=True):
        assert cache_limit() == 2**30
        with block_cache(2**20, enlarge=True):
            assert cache_limit() == 2**20
    assert cache_limit() == before < 2**30


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_decoded_blocks_are_kept_within_the_budget(
    make_raster: MakeRaster, tmp_path: Path, interleave: str
) -> None:
    """Read at random, with room for all blocks, for some, and for less than one."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 99, (2, 512, 768)).astype(np.uint16)
    path = make_raster(
        tmp_path / "a.tif", values, compress="deflate", zlevel=1, tiled=True,
        blockxsize=128, blockysize=128, interleave=interleave,
    )  # fmt: skip
    places = [RasterWindow(int(c), int(r), 100, 100) for r, c in rng.integers(0, 412, (80, 2))]
    whole, block = values.nbytes, 128 * 128 * 2
    for budget in (2 * whole, whole // 3, block // 2):
        pool.close()
        drop_blocks()
        with block_cache(budget, enlarge=True), pool.borrow(str(path)) as dataset:
            start, most = cache_used(), 0
            for place in places:
                found = dataset.read(window=place)
                rows, cols = place.toslices()
                assert np.array_equal(found, values[:, rows, cols])
                most = max(most, cache_used() - start)
            # GDAL holds the block that it is reading, whatever the limit.
            assert most <= max(budget, 2 * block) + block
            assert (most >= 0.6 * whole) == (budget > whole)


@cache
def gdal() -> Any:
    """GDAL's library of rasterio, which has others beside it in this process (pyogrio's)."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = {line.split(maxsplit=5)[-1] for line in lines if "/libgdal" in line}
    found = {path for path in loaded if Path(path).parent.name.startswith("rasterio")} or loaded
    if len(found) != 1:
        pytest.skip(f"which of the libraries is rasterio's is not known: {sorted(found)}")
    library = ctypes.CDLL(found.pop())
    library.GDALGetCacheUsed64.restype = ctypes.c_int64
    return library


def cache_used() -> int:
    """Bytes of decoded blocks that GDAL holds in this process."""
    return int(gdal().GDALGetCacheUsed64())


def drop_blocks() -> None:
    """Drop what datasets that other tests left open have in GDAL's cache."""
    while gdal().GDALFlushCacheBlock():
        pass


def test_a_handle_that_cannot_be_opened() -> None:
    with pytest.raises(RasterReadError, match="nowhere"), HandlePool().borrow("/nowhere.tif"):
        pass
