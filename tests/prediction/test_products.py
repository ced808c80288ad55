import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS

from array_scene import ArrayScene, Identity, plan_for
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.errors import OutputError, UnknownNameError
from terrafuse.prediction import (
    DEFAULT_PRODUCTS,
    Product,
    Products,
    ScenePredictor,
    Strip,
    WindowSettings,
    find_products,
    open_map,
    product_table,
)
from terrafuse.prediction.product_table import PRODUCTS as PRODUCT_TABLE

SCHEME = ClassScheme(("bare & dry", "wét", "roof"), colors=("#102030", "#405060", "#ff0000"))
NORTH_UP = Affine(10, 0, 500_000.123456789, 0, -10, 5_000_000.987654321)
ROTATED = NORTH_UP * Affine.rotation(17.3)
UTM = CRS.from_epsg(32633)
# A rotated pole cannot be said in GeoTIFF keys.
ROTATED_POLE = CRS.from_proj4("+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +lon_0=18 +R=6367470")


PRODUCTS = find_products(DEFAULT_PRODUCTS)


def random_map(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    class_map = generator.choice(np.array([0, 2, 255], np.uint8), (height, width))
    confidence = np.where(class_map == 255, 255, generator.integers(0, 255, (height, width)))
    return class_map, confidence.astype(np.uint8)


def strip(row: int, class_map: np.ndarray, confidence: np.ndarray) -> Strip:
    return Strip(row, 0, {"class_map": class_map, "confidence": confidence})


def write_map(folder: Path, grid: Grid, step: int = 100) -> Products:
    class_map, confidence = random_map(grid.height, grid.width)
    with open_map(folder, grid, SCHEME, PRODUCTS, plan=plan_for(grid)) as writer:
        for row in range(0, grid.height, step):
            part = slice(row, row + step)
            writer.write(strip(row, class_map[part], confidence[part]))
        return writer.finish()


def write_half_and_interrupt(folder: Path, grid: Grid) -> None:
    with open_map(folder, grid, SCHEME, PRODUCTS, plan=plan_for(grid)) as writer:
        writer.write(strip(0, *random_map(grid.height // 2, grid.width)))
        raise KeyboardInterrupt


@pytest.mark.parametrize("crs", [UTM, ROTATED_POLE, None])
@pytest.mark.parametrize(
    "transform",
    [NORTH_UP, ROTATED, Affine(0.1, 0, 3, 0, 0.1, 4), Affine.identity()],
    ids=["north_up", "rotated", "south_up", "identity"],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_grid_and_pixels_come_back_exactly(
    tmp_path: Path, crs: CRS | None, transform: Affine
) -> None:
    grid = Grid(crs, transform, 133, 71)
    made = write_map(tmp_path, grid)
    for path, pixels in zip((made.class_map, made.confidence), random_map(133, 71), strict=True):
        with rasterio.open(path) as dataset:
            assert Grid.from_dataset(dataset) == grid
            assert dataset.nodata == 255
            assert dataset.dtypes == ("uint8",)
            assert np.array_equal(dataset.read(1), pixels)


def test_products_are_cogs_with_colours_names_and_scale(tmp_path: Path) -> None:
    made = write_map(tmp_path / "new" / "map", Grid(UTM, NORTH_UP, 1100, 1300))
    names = {"class_map.tif", "class_map.tif.aux.xml", "confidence.tif", "prediction.json"}
    assert {path.name for path in (tmp_path / "new" / "map").iterdir()} == names
    for path in (made.class_map, made.confidence):
        with rasterio.open(path) as dataset:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert dataset.compression.name == "deflate"
            assert dataset.overviews(1) == [2, 4]
    with rasterio.open(made.class_map) as dataset:
        colors = dataset.colormap(1)
        assert [colors[i] for i in range(3)] == [
            (16, 32, 48, 255), (64, 80, 96, 255), (255, 0, 0, 255)
        ]  # fmt: skip
        assert colors[255][3] == 0
        assert json.loads(dataset.tags()["classes"]) == list(SCHEME.names)
    for level in (0, 1):
        with rasterio.open(made.class_map, overview_level=level) as dataset:
            assert set(np.unique(dataset.read(1))) <= {0, 2, 255}
    with rasterio.open(made.confidence) as dataset:
        assert dataset.scales == (1 / 254,)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_overviews_of_the_class_map_show_the_commonest_class(
    tmp_path: Path, place: tuple[int, int]
) -> None:
    """Whichever of four pixels differs: none of them is picked."""
    class_map = np.full((1024, 1024), 1, np.uint8)
    class_map[place[0] :: 2, place[1] :: 2] = 2  # one of every four
    with open_map(
        tmp_path,
        Grid(UTM, NORTH_UP, 1024, 1024),
        SCHEME,
        PRODUCTS,
        plan=plan_for(Grid(UTM, NORTH_UP, 1024, 1024)),
    ) as writer:
        writer.write(strip(0, class_map, class_map))
        made = writer.finish()
    with rasterio.open(made.class_map, overview_level=0) as dataset:
        assert (dataset.read(1) == 1).all()


@pytest.mark.parametrize("name", [n for n, p in PRODUCT_TABLE.items() if p.scale])
def test_overviews_of_shares_are_means_of_what_has_data(tmp_path: Path, name: str) -> None:
    shares = np.empty((1024, 1024), np.uint8)
    shares[::2, ::2], shares[::2, 1::2], shares[1::2, ::2], shares[1::2, 1::2] = 20, 60, 100, 200
    shares[:512, 1::2] = 255  # no data
    chosen = find_products([name])
    grid = Grid(UTM, NORTH_UP, 1024, 1024)
    layer = shares
    if chosen[0].per_class:
        layer = np.stack([shares, shares[:, ::-1], np.zeros_like(shares)])
    with open_map(
        tmp_path, grid, SCHEME, chosen, plan=plan_for(grid), modalities=["s1", "s2"]
    ) as writer:
        writer.write(Strip(0, 0, {name: layer}))
        made = writer.finish()
    with rasterio.open(made[name], overview_level=0) as dataset:
        small = dataset.read(1)
    assert small.shape == (512, 512)
    assert (small[:256] == 60).all()  # (20 + 100) / 2
    assert (small[256:] == 95).all()  # (20 + 60 + 100 + 200) / 4


@pytest.mark.parametrize("crs", [UTM, ROTATED_POLE])
def test_gdal_knows_the_class_names(tmp_path: Path, crs: CRS) -> None:
    made = write_map(tmp_path, Grid(crs, NORTH_UP, 20, 20))
    rasterio.shutil.copy(made.class_map, tmp_path / "seen.vrt", driver="VRT")
    seen = (tmp_path / "seen.vrt").read_text(encoding="utf-8")
    for name in ("bare &amp; dry", "wét", "roof"):
        assert f"<Category>{name}</Category>" in seen


def test_an_earlier_map_is_replaced_with_its_side_cars(tmp_path: Path) -> None:
    write_map(tmp_path, Grid(ROTATED_POLE, NORTH_UP, 20, 20))
    assert (tmp_path / "confidence.tif.aux.xml").exists()
    grid = Grid(UTM, ROTATED, 30, 20)
    made = write_map(tmp_path, grid)
    for path in (made.class_map, made.confidence):
        with rasterio.open(path) as dataset:
            assert Grid.from_dataset(dataset) == grid
    assert not (tmp_path / "confidence.tif.aux.xml").exists()


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("mine")
    for folder in (tmp_path / "map", tmp_path / "map" / "deeper"):
        with pytest.raises(OutputError, match=f"cannot be written to '{folder}'.*another folder"):
            write_map(folder, Grid(UTM, NORTH_UP, 20, 20))
    assert (tmp_path / "map").read_text() == "mine"


def test_any_other_failure_leaves_nothing_and_keeps_the_earlier_map(tmp_path: Path) -> None:
    grid = Grid(UTM, NORTH_UP, 20, 20)
    made = write_map(tmp_path / "old", grid)
    before = made.class_map.read_bytes()
    for folder in (tmp_path / "old", tmp_path / "new" / "map"):
        with pytest.raises(KeyboardInterrupt):
            write_half_and_interrupt(folder, grid)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert len(list((tmp_path / "old").iterdir())) == 4
    assert made.class_map.read_bytes() == before


@pytest.mark.parametrize("share", [0.01, 0.5, 0.97, 0.999])
def test_a_full_disk_is_noticed_and_leaves_finished_units_only(
    tmp_path: Path, share: float
) -> None:
    """Also one that is full for the last kilobytes only, of which GDAL says nothing."""
    size = 1024
    noise = np.random.default_rng(0).integers(0, 254, (size, size), np.uint8)

    def write(folder: Path) -> Products:
        with open_map(
            folder,
            Grid(UTM, NORTH_UP, size, size),
            SCHEME,
            PRODUCTS,
            plan=plan_for(Grid(UTM, NORTH_UP, size, size)),
        ) as writer:
            writer.write(strip(0, noise % 3, noise))
            return writer.finish()

    whole = write(tmp_path / "whole").confidence.stat().st_size
    assert whole * 0.97 > size**2 + 10_000  # what is written first is smaller
    with (
        file_size_limit(int(whole * share)),
        pytest.raises(OutputError, match=r"broken.*cannot be written|cannot be written.*broken"),
    ):
        write(tmp_path / "broken")
    left = {path.relative_to(tmp_path / "broken").parts[0] for path in tmp_path.glob("broken/*")}
    assert left <= {"units"}
    assert bool(left) == ("broken" in {path.name for path in tmp_path.iterdir()})


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_added_product_is_written_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry in the table, of another type and another value without data."""
    first = Product(
        "first", "averaged logit of class 0", lambda rows: rows.sums[0] / rows.totals,
        dtype="float32", nodata=float("nan"),
    )  # fmt: skip
    monkeypatch.setitem(product_table.PRODUCTS, "first", first)
    image = np.random.default_rng(0).normal(size=(2, 40, 50)).astype(np.float32)
    image[:, 5:9, 11:20] = np.nan
    scene = ArrayScene({"a": image}, scheme=ClassScheme(("x", "y")))
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(16, 4), device="cpu")
    made = predictor.predict(scene, tmp_path / "map", products=["first", "margin"])
    assert list(made.files) == ["first", "margin"]
    with rasterio.open(made["first"]) as dataset:
        assert dataset.dtypes == ("float32",)
        assert np.isnan(dataset.nodata)
        np.testing.assert_allclose(dataset.read(1), image[0], rtol=1e-5)
    record = json.loads(made.record.read_text())
    assert list(record["products"]) == ["first", "margin"]
    assert record["products"]["first"]["nodata"] == "nan"
    assert record["windows"] == {
        "crop_size": 16, "overlap": 4, "blending": "taper", "batch_size": 8,
        "precision": "32-true", "size": 16, "step": 12,
    }  # fmt: skip
    assert (record["modalities"], record["classes"]) == (["a"], ["x", "y"])
    with pytest.raises(UnknownNameError, match="product of this map 'class_map'"):
        _ = made.class_map
    with pytest.raises(UnknownNameError, match=r"'marjin'\. Did you mean 'margin'"):
        predictor.predict(scene, tmp_path / "none", products=["marjin"])
    assert not (tmp_path / "none").exists()
