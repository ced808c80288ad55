"""Units without any data are done before anything is read, where their files leave no doubt."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from array_scene import Identity, NeedsAll
from small_units import TILE, UNIT
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.data.gridded import GriddedBands
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.scene import SceneFiles
from terrafuse.errors import DataError
from terrafuse.modalities import Modality
from terrafuse.prediction import ScenePredictor, WindowSettings, cog, units
from terrafuse.samples import Window

SCHEME = ClassScheme(("a", "b"))
BANDS = ("B0", "B1")


def write_sparse(
    path: Path, values: np.ndarray, *, left: int = 0, nodata: float | None = 0, **profile: Any
) -> Path:
    """Write the tiles that hold anything but 0; others are left out of the file."""
    count, height, width = values.shape
    profile = {"interleave": "pixel", "dtype": "uint16"} | profile
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, nodata=nodata,
        crs="EPSG:32633", transform=from_origin(500_000 + 10 * left, 5_000_000, 10, 10),
        tiled=True, blockxsize=16, blockysize=16, sparse_ok=True, compress="DEFLATE", **profile,
    ) as dataset:  # fmt: skip
        for row, col in itertools.product(range(0, height, 16), range(0, width, 16)):
            own = values[:, row : row + 16, col : col + 16]
            for band in range(count):
                if own[band].any() or (profile["interleave"] == "pixel" and own.any()):
                    window = rasterio.windows.Window(col, row, *own.shape[:0:-1])
                    dataset.write(own[band], band + 1, window=window)
    return path


def islands(seed: int, height: int, width: int, bands: int = 2) -> np.ndarray:
    """A few rectangles and one pixel of data."""
    rng = np.random.default_rng(seed)
    values = np.zeros((bands, height, width), np.uint16)
    for _ in range(2):
        row, col = rng.integers(0, height), rng.integers(0, width)
        high, wide = rng.integers(1, 40, 2)
        part = values[:, row : row + high, col : col + wide]
        part[...] = rng.integers(0, 5, part.shape)
    values[:, rng.integers(0, height), rng.integers(0, width)] = 3
    return values


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "TILE", TILE)
    monkeypatch.setattr(cog, "UNIT", UNIT)
    monkeypatch.setattr(units, "UNIT", UNIT)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


def scene_of(files: dict[str, Path]) -> Scene:
    modalities = [Modality(name, BANDS, kind="optical") for name in files]
    return scene_from_rasters(modalities, files)


def predict(
    scene: Scene, out: Path, kind: type[Identity]
) -> tuple[dict[str, bytes], Any, list[str]]:
    """Files of the map but for times, the profile, and what was warned of."""
    predictor = ScenePredictor(
        kind(scene.modalities, 2), WindowSettings(24, 8, batch_size=2), device="cpu"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = predictor.predict(scene, out, scheme=SCHEME)
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    record = json.loads(found["prediction.json"])
    del record["profile"]
    found["prediction.json"] = json.dumps(record).encode()
    return found, made.profile, [str(one.message) for one in told]


@pytest.mark.parametrize(("seed", "kind"), [(0, Identity), (1, NeedsAll), (2, NeedsAll)])
def test_the_map_and_its_warnings_are_those_of_reading_all(
    seed: int, kind: type[Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": write_sparse(tmp_path / "a.tif", islands(seed, 220, 200))}
    if kind is NeedsAll:  # one that ends earlier and has its data elsewhere
        values = islands(seed + 9, 220, 150) + islands(seed, 220, 200)[:, :, :150]
        files["b"] = write_sparse(tmp_path / "b.tif", values)
    scene = scene_of(files)
    read: list[Window] = []
    whole = Scene.read

    def spy(self: Scene, window: Window, **options: Any) -> Any:
        read.append(window)
        return whole(self, window, **options)

    monkeypatch.setattr(Scene, "read", spy)
    found, profile, told = predict(scene, tmp_path / "some", kind)
    some, read[:] = set(read), []
    with monkeypatch.context() as patch:
        patch.setattr(Scene, "is_surely_empty", lambda *_: False)
        expected, other, expected_told = predict(scene, tmp_path / "all", kind)
    assert found == expected
    assert told == expected_told
    assert other["empty_units"] == 0
    assert 0 < profile["empty_units"] < 16
    assert some < set(read)
    # Windows that touch none but empty units are not read.
    predictor = ScenePredictor(kind(scene.modalities, 2), WindowSettings(24, 8), device="cpu")
    plan = predictor.plan(scene)
    empty = predictor._empty_units(scene, plan, range(len(plan)), tuple(files))
    assert len(empty) == profile["empty_units"]
    others = [plan.window(n) for n in set(range(len(plan))) - set(empty)]
    assert all(any(window.intersection(unit) for unit in others) for window in some)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(
    ("nodata", "rules", "is_known"),
    [
        (0, ReadingRules(), True),
        (0, ReadingRules(nodata_rule="each"), True),
        (None, ReadingRules(nodata=0), True),
        (None, ReadingRules(), False),  # 0 is a value as any other
        (7, ReadingRules(), True),  # GDAL reads 7 where nothing is stored
        (7, ReadingRules(nodata=0), False),
        (-9999, ReadingRules(nodata_rule="each"), True),
    ],
)
def test_it_is_never_wrong(
    nodata: float | None, rules: ReadingRules, is_known: bool, interleave: str, tmp_path: Path
) -> None:
    """Whatever stands for no data: where it says so, reading finds nothing."""
    values = islands(0, 90, 110)
    path = write_sparse(
        tmp_path / "a.tif", values, nodata=nodata, interleave=interleave,
        dtype="float32" if nodata == -9999 else "uint16",
    )  # fmt: skip
    files = SceneFiles("a", (Modality("a", BANDS),), {"a": (str(path),)}, rules={"a": rules})
    scene = Scene(files)
    said = []
    for row, col in itertools.product(range(0, 96, 12), range(0, 120, 12)):
        window = Window(row, col, 12, 12)
        if scene.is_surely_empty(window, ["a"]):
            said.append(window)
            assert not scene.read(window).valid["a"].any()
    inside = [window for window in said if window.row < 84 and window.col < 108]
    assert bool(inside) == is_known
    everything = Window(0, 0, 90, 110)
    assert not scene.is_surely_empty(everything, ["a"])
    assert scene.is_surely_empty(everything, [])


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_data_of_the_second_band_alone_are_data(interleave: str, tmp_path: Path) -> None:
    values = np.zeros((2, 64, 64), np.uint16)
    values[1, 20, 40] = 3
    scene = scene_of({"a": write_sparse(tmp_path / "a.tif", values, interleave=interleave)})
    own = Window(16, 32, 16, 16)
    assert scene.read(own).valid["a"].sum() == 1
    assert not scene.is_surely_empty(own, ["a"])
    assert scene.is_surely_empty(Window(16, 16, 16, 16), ["a"])


def test_a_pixel_that_overviews_lose_is_not_lost(tmp_path: Path) -> None:
    values = np.zeros((2, 200, 200), np.uint16)
    values[:, 131, 77] = 4
    path = write_sparse(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.nearest)
        assert not dataset.read(1, out_shape=(25, 25)).any()
    found, profile, _ = predict(scene_of({"a": path}), tmp_path / "map", Identity)
    with rasterio.open(tmp_path / "map" / "class_map.tif") as dataset:
        known = np.argwhere(dataset.read(1) != 255)
    assert known.tolist() == [[131, 77]]
    assert profile["empty_units"] == 12  # of 16; windows that begin above and left of it count
    assert len(found) == 4


def test_other_files_and_grids_have_to_be_read(tmp_path: Path) -> None:
    values = np.zeros((2, 100, 100), np.uint16)
    values[:, :5, :5] = 1
    sparse = write_sparse(tmp_path / "a.tif", values)
    corner = Window(40, 40, 20, 20)
    assert scene_of({"a": sparse}).is_surely_empty(corner, ["a"])
    # Beyond its end a file has nothing, of whatever kind it is.
    outside = Window(0, 110, 100, 10)
    with rasterio.open(sparse) as dataset:
        full = write_sparse(tmp_path / "full.tif", values + 1)
        whole = dataset.read()
    rasterio.shutil.copy(sparse, tmp_path / "a.vrt", driver="VRT")
    with rasterio.open(tmp_path / "dense.tif", "w", **rasterio.open(sparse).profile) as dataset:
        dataset.write(whole)
    for path in (full, tmp_path / "a.vrt", tmp_path / "dense.tif"):
        scene = scene_of({"a": path})
        assert not scene.is_surely_empty(corner, ["a"])
        assert scene.is_surely_empty(outside, ["a"])
    shifted = write_sparse(tmp_path / "b.tif", values, left=1)
    coarse = scene_from_rasters(
        [Modality("a", BANDS), Modality("b", BANDS, scale=3.0)], {"a": sparse, "b": shifted},
        grid="a",
    )  # fmt: skip
    assert not coarse.is_surely_empty(Window(39, 39, 21, 21), ["a", "b"])


def test_a_scene_of_empty_units_is_told_as_before(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.tif", np.zeros((2, 130, 130), np.uint16))
    with pytest.raises(DataError, match="all-nodata scene"):
        predict(scene_of({"a": path}), tmp_path / "map", Identity)
    assert not (tmp_path / "map").exists()


def test_under_a_mask_that_hides_all_no_band_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(1, 9, (2, 64, 64)).astype(np.uint16)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 30:40] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write_sparse(tmp_path / "a.tif", values, nodata=None)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask)
    scene = scene_of({"a": path})
    read: list[Any] = []

    def spy(dataset: Any, indexes: Any, window: Any = None, shape: Any = None) -> Any:
        read.append(window)
        return dataset.read(indexes, window=window, out_shape=shape)

    monkeypatch.setattr("terrafuse.data.gridded.read_bands", spy)
    empty = scene.read(Window(32, 0, 32, 64))
    assert read == []
    assert not empty.valid["a"].any()
    assert bool(empty.images["a"].isnan().all())
    some = scene.read(Window(0, 32, 32, 32))
    assert len(read) == 1
    np.testing.assert_array_equal(some.valid["a"].numpy(), mask[:32, 32:64] > 0)
    inside = some.images["a"][:, 10:20, :8]
    np.testing.assert_array_equal(inside.numpy(), values[:, 10:20, 32:40])


def test_only_evidence_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that GDAL tells nothing of is taken as full."""
    monkeypatch.setattr(GriddedBands, "_is_hidden_where_left_out", lambda *_: False)
    path = write_sparse(tmp_path / "a.tif", islands(1, 130, 130))
    _, profile, _ = predict(scene_of({"a": path}), tmp_path / "map", Identity)
    assert profile["empty_units"] == 0
