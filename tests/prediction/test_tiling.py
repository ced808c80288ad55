"""Products in tiles: the pixels of the one file, each tile a raster of its own, a VRT over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rio_cogeo import cog_validate

import small_units
from array_scene import ArrayScene, Identity
from small_units import UNIT, make_units_small
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.errors import ConfigError, OutputError
from terrafuse.maps import mosaic_maps, open_class_raster, picture_and_item, vectorize_map
from terrafuse.maps.preview import read_small
from terrafuse.prediction import MapSettings, Products, Shard, cog, units
from terrafuse.prediction.tiling import Tiling
from terrafuse.samples import Window

SCHEME = ClassScheme(("dry & low", "wet", "ice"), ("#aa0000", "#00bb00", "#0000cc"))
PRODUCTS = ("class_map", "probabilities_float32")
BOTH = ("class_map", "confidence")
FIELDS = ("crs", "nodata", "count", "dtypes", "scales", "descriptions")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 64 pixels with tiles of 16."""
    make_units_small(put=monkeypatch.setattr)


def predict(
    out: Path, tiles: int | None = None, scene: ArrayScene | None = None, **more: Any
) -> Products:
    scene = scene or small_units.scene_of()
    predictor = small_units.predictor_of(Identity(scene.modalities))
    more = {"products": PRODUCTS, "areas": True} | more
    return predictor.predict(scene, out, scheme=SCHEME, tiles=tiles, **more)


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def pixels(path: Path, **options: Any) -> np.ndarray:
    with rasterio.open(path) as dataset:
        found: np.ndarray = dataset.read(**options)
        return found


def described(path: Path) -> Any:
    """All that a raster says but for its place."""
    with rasterio.open(path) as dataset:
        fields = [getattr(dataset, name) for name in FIELDS]
        palette = dataset.colormap(1) if path.stem.startswith("class_map") else None
        return repr(fields), dataset.tags(), palette


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Products:
    """The map in one file per product."""
    with pytest.MonkeyPatch.context() as patch:
        make_units_small(put=patch.setattr)
        return predict(tmp_path_factory.mktemp("one"))


# Edges of tiles lie within units, between them, and there is one tile for all.
@pytest.mark.parametrize(("tiles", "width"), [(1, 3), (2, 1), (16, 1)])
def test_the_pixels_and_overviews_of_the_one_file(
    tiles: int, width: int, one: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_SUMS_BYTES", width * UNIT * 32 * 30)
    many = predict(tmp_path, tiles * UNIT)
    assert set(many.files) == set(PRODUCTS)
    assert many.areas == one.areas
    for name in PRODUCTS:
        assert many[name].name == f"{name}.vrt"
        np.testing.assert_array_equal(pixels(one[name]), pixels(many[name]))
        assert described(one[name]) == described(many[name])
        with rasterio.open(one[name]) as a, rasterio.open(many[name]) as b:
            assert (a.shape, a.transform) == (b.shape, b.transform)
            assert b.overviews(1) == a.overviews(1)[2:] != []
            for level, step in enumerate(a.overviews(1)):
                with rasterio.open(one[name], overview_level=level) as own:
                    expected = own.read()
                if level < 2:  # from overviews of tiles: whole pixels of this level
                    rows, cols = 210 // step, 150 // step
                    part = rasterio.windows.Window(0, 0, cols * step, rows * step)
                    found = b.read(window=part, out_shape=(b.count, rows, cols))
                    np.testing.assert_array_equal(found, expected[:, :rows, :cols])
                else:
                    np.testing.assert_array_equal(b.read(out_shape=expected.shape), expected)
    assert "<Category>dry &amp; low</Category>" in many["class_map"].read_text()


def test_every_tile_is_a_whole_raster(one: Products, tmp_path: Path) -> None:
    predict(tmp_path / "many", 2 * UNIT)
    assert len(Tiling(210, 150, 2 * UNIT).names("x")) == 4
    for name in PRODUCTS:
        whole = pixels(one[name])
        folder = tmp_path / "many" / name
        found = sorted(path.name for path in folder.glob("*.tif"))
        assert found == [f"{name}_r00{r}_c00{c}.tif" for r in (0, 1) for c in (0, 1)]
        for path in folder.glob("*.tif"):
            row, col = (128 * int(part[1:]) for part in path.stem.split("_")[-2:])
            part = whole[:, row : row + 128, col : col + 128]
            np.testing.assert_array_equal(pixels(path), part)
            with rasterio.open(path) as tile, rasterio.open(one[name]) as raster:
                place = raster.transform * Affine.translation(col, row)
                assert tile.transform.almost_equals(place)
                assert tile.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert len(tile.overviews(1)) == len(cog.level_sizes(*part.shape[1:], 3)) - 1
                level = part
                for n in range(len(tile.overviews(1))):
                    level = np.stack([encoding_of(name).reduce(band) for band in level])
                    with rasterio.open(path, overview_level=n) as coarse:
                        np.testing.assert_array_equal(coarse.read(), level)
            assert described(path) == described(one[name])
            beside = path.with_name(path.name + ".aux.xml")
            assert beside.exists() == (name == "class_map")
    record = json.loads((tmp_path / "many" / "prediction.json").read_text())
    assert record["tiles"] == 128
    own = record["products"]["class_map"]
    assert own["file"] == "class_map.vrt"
    assert own["tiles"]["size"] == 128
    assert own["tiles"]["files"][1:3] == [
        "class_map/class_map_r000_c001.tif",
        "class_map/class_map_r001_c000.tif",
    ]


def encoding_of(name: str) -> cog.Encoding:
    from terrafuse.prediction import PRODUCTS

    product = PRODUCTS[name]
    return product.encoding(product.nodata)


def test_tiles_are_cloud_optimised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tiles and units as large as they are
    image = np.random.default_rng(0).normal(size=(3, 2100, 600)).astype(np.float32)
    made = predict(tmp_path, 2048, ArrayScene({"a": image}), products=("class_map",))
    tiles = [path for path in made.parts if path.suffix == ".tif"]
    assert [pixels(path).shape for path in tiles] == [(1, 2048, 600), (1, 52, 600)]
    for path in tiles:
        assert cog_validate(path, strict=True) == (True, [], [])


@pytest.mark.parametrize(
    "transform", [Affine(8, 3, 9e5, 3, -8, 4e6), Affine(0.1, 0, 170, 0, -0.1, 50)]
)
def test_the_place_of_turned_grids_degrees_and_none(transform: Affine, tmp_path: Path) -> None:
    scene = small_units.scene_of()
    crs = CRS.from_epsg(4326) if transform.a < 1 else None
    scene.grid = Grid(crs, transform, 210, 150)
    made = predict(tmp_path, UNIT, scene, products=("confidence",), areas=False)
    with rasterio.open(made["confidence"]) as whole:
        assert (whole.crs, whole.transform) == (crs, transform)
    with rasterio.open(tmp_path / "confidence" / "confidence_r002_c001.tif") as tile:
        assert tile.crs == crs
        assert tile.transform.almost_equals(transform * Affine.translation(64, 128))


def test_an_interrupted_map_and_shards(tmp_path: Path) -> None:
    predict(tmp_path / "whole", UNIT, products=BOTH)
    for number in (1, 2, 2):
        made = predict(tmp_path / "map", UNIT, shard=Shard(number, 2), products=BOTH)
        assert bool(made.waits_for) == (number == 1)
    assert made.was_there
    assert set(made.parts) == {
        p for p in (tmp_path / "map").rglob("*") if p.suffix in (".ovr", ".tif")
    }
    assert names_in(tmp_path / "map") == names_in(tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.*"):
        if path.name != "prediction.json":
            assert (
                tmp_path / "map" / path.relative_to(tmp_path / "whole")
            ).read_bytes() == path.read_bytes()
    made.parts[-1].unlink()  # a tile that is gone is noticed
    assert predict(tmp_path / "map", UNIT, shard=Shard(2, 2), products=BOTH).waits_for
    with pytest.raises(OutputError, match="differs in: tiles"):
        predict(tmp_path / "map", 2 * UNIT, shard=Shard(1, 2), products=BOTH)


def test_one_form_replaces_the_other_and_smaller_tiles_larger_ones(tmp_path: Path) -> None:
    alone: dict[int | None, set[str]] = {}
    for tiles in (UNIT, None, 2 * UNIT, UNIT, 2 * UNIT, None):
        made = predict(tmp_path / "map", tiles, products=("class_map",), areas=False)
        found = names_in(tmp_path / "map")
        side_cars = {f"{name}.aux.xml" for name in found if name.endswith(".tif")}
        written = {path.relative_to(tmp_path / "map").as_posix() for path in made.paths()}
        assert found == written | side_cars
        assert alone.setdefault(tiles, found) == found
        assert (tmp_path / "map" / "class_map").is_dir() == bool(tiles)
    assert [len(alone[tiles]) for tiles in (UNIT, 2 * UNIT, None)] == [27, 11, 3]


def test_what_follows_reads_tiles_as_it_reads_one_file(tmp_path: Path) -> None:
    def beside(name: str) -> Any:
        return picture_and_item(
            tmp_path / name, name="n", model={"mlm:name": "x"}, model_file=tmp_path / "m"
        )

    made = [
        predict(tmp_path / name, tiles, products=BOTH, beside=beside(name), sieve=9, abstain=0.4)
        for name, tiles in (("one", None), ("many", UNIT))
    ]
    assert made[0].abstained_pixels == made[1].abstained_pixels
    np.testing.assert_array_equal(*(pixels(one["class_map"]) for one in made))
    rasters = [open_class_raster(tmp_path / name) for name in ("one", "many")]
    assert rasters[1].confidence == tmp_path / "many" / "confidence.vrt"
    assert rasters[0].names == rasters[1].names
    assert rasters[0].colors == rasters[1].colors
    np.testing.assert_array_equal(*(read_small(raster)[0] for raster in rasters))
    pictures = [(tmp_path / name / "preview.png").read_bytes() for name in ("one", "many")]
    assert pictures[0] == pictures[1]
    for name in ("one", "many"):
        vectorize_map(tmp_path / name, tmp_path / f"{name}.geojson")
        mosaic_maps([tmp_path / name, tmp_path / name], tmp_path / f"{name}-twice")
    assert (tmp_path / "one.geojson").read_bytes() == (tmp_path / "many.geojson").read_bytes()
    for name in ("class_map", "confidence"):
        one, many = (tmp_path / f"{folder}-twice" / f"{name}.tif" for folder in ("one", "many"))
        np.testing.assert_array_equal(pixels(one), pixels(many))
    with pytest.raises(OutputError, match=r"class_map\.vrt' is read and would be overwritten"):
        mosaic_maps([tmp_path / "many"], tmp_path / "many")
    assets = json.loads((tmp_path / "many" / "item.json").read_text())["assets"]
    assert assets["class_map"]["href"] == "./class_map.vrt"
    assert assets["class_map"]["type"] == "application/x-gdal-vrt"
    assert len(assets["class_map"]["classification:classes"]) == 4
    hrefs = {one["href"].removeprefix("./") for one in assets.values() if one["roles"] == ["data"]}
    assert hrefs == {n for n in names_in(tmp_path / "many") if n.endswith((".tif", ".vrt"))}


@pytest.mark.parametrize("tiles", [0, -64, 32, 100])
def test_sizes_that_are_none(tiles: int) -> None:
    message = rf"tiles is {tiles}; give .* a multiple of 64: 64, 128, 256 …"
    with pytest.raises(ConfigError, match=message):
        MapSettings(tiles=tiles)
    assert MapSettings(tiles=256).tiles == 256  # as the message says


def test_a_folder_of_that_name_is_not_written_into(tmp_path: Path) -> None:
    own = tmp_path / "map" / "confidence"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"no folder of such tiles\. Choose another --out, or"):
        predict(tmp_path / "map", UNIT, products=BOTH)
    assert names_in(tmp_path / "map") == {"confidence/notes.txt"}
    predict(tmp_path / "other", UNIT, products=BOTH)  # as the message says
    own.rename(tmp_path / "moved")
    predict(tmp_path / "map", UNIT, products=BOTH)
    assert names_in(tmp_path / "map") == names_in(tmp_path / "other")


def test_blocks_are_cut_where_tiles_end(tmp_path: Path) -> None:
    """By hand: a block of 3 × 2 units, of which the last row and column are not whole."""
    from safetensors.numpy import save_file

    from terrafuse.prediction.cog import Block, BlockWriter, Encoding, cut_blocks

    rows = np.arange(150 * 100, dtype=np.int64).reshape(150, 100).astype(np.uint8)
    writer = BlockWriter(100, 5, Encoding("uint8", 255, "average", {"compress": "DEFLATE"}))
    writer.write(rows)
    save_file(writer.finish(), tmp_path / "block")
    block = Block(tmp_path / "block", Window(64, 128, 150, 100))
    whole = block.sizes(0)
    assert whole.shape == (10, 7)
    ((own,),) = cut_blocks([[block]], Window(128, 192, 64, 64))
    assert own.window == Window(128, 192, 64, 36)
    np.testing.assert_array_equal(own.sizes(0), whole[4:8, 4:7])
    assert own.sizes(1).shape == (2, 2)
    assert own.sizes(2).shape == (1, 1)
    every = [bytes(piece) for piece in block.tiles(0)]
    start = int((whole[4, :4] + 8).sum())
    assert next(bytes(piece) for piece in own.tiles(0)) == every[4][start:]
    np.testing.assert_array_equal(own.rest(), block.rest()[8:16, 8:13])
    assert cut_blocks([[block]], Window(0, 0, 64, 500)) == []
