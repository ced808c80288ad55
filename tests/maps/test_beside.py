"""Picture and STAC item of a map, the latter judged by published schemas."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from array_scene import ArrayScene, Identity
from made_maps import UTM, write_map
from small_units import make_units_small
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.errors import OutputError
from terrafuse.maps import open_class_raster, picture_and_item
from terrafuse.maps.item import describe_item, footprint
from terrafuse.maps.preview import MOST_PIXELS, draw_preview, read_small, round_length
from terrafuse.modalities import BandStatistics
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.weights import RunInfo

SCHEMAS = Path(__file__).with_name("schemas")
SCHEME = ClassScheme(("dry", "wet land"), ("#aa0000", "#0000bb"))


@pytest.fixture
def made(tmp_path: Path) -> Any:
    return map_of(tmp_path / "map")


def map_of(folder: Path, tiles: int | None = None, size: tuple[int, int] = (40, 50)) -> Any:
    image = np.zeros((2, *size), np.float32)
    image[1, :, :10] = 1
    image[:, 30:] = np.nan
    scene = ArrayScene({"a": image}, scheme=SCHEME)
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    products = predictor.predict(scene, folder, areas=True, tiles=tiles)
    info = RunInfo(
        method="single",
        method_options={},
        modalities=scene.modalities,
        scheme=SCHEME,
        statistics={"a": BandStatistics((0.0, 0.5), (1.0, 2.0), (0.0, 0.0), (1.0, 1.0), (9, 9))},
        crop_size=32,
        overlap=8,
        total_parameters=12,
    )
    return products, info


def item(of: Any, **changes: Any) -> dict[str, Any]:
    products, info = of
    settings = {
        "name": "field 7",
        "made": datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
        "model": info.to_dict(),
        "model_file": products.record.parent.parent / "run" / "model.safetensors",
        **changes,
    }
    raster = open_class_raster(products.class_map)
    return json.loads(json.dumps(describe_item(products, raster, **settings)))


def check_published(content: dict[str, Any]) -> None:
    """By pystac's copy of the core schemas, and ours of the extensions': no network."""
    jsonschema = pytest.importorskip("jsonschema")
    pystac = pytest.importorskip("pystac")
    local = pytest.importorskip("pystac.validation.local_validator")
    referencing = pytest.importorskip("referencing")
    schemas = dict(local.get_local_schema_cache())
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        identifier = schema["$id"].removesuffix("#")
        if path.name == "processing-v1.1.0.json":  # its own identifier names the version before
            identifier = identifier.replace("v1.0.0", "v1.1.0")
        schemas[identifier] = schema
    draft7 = referencing.jsonschema.DRAFT7
    registry = referencing.Registry().with_resources(
        (url, draft7.create_resource(schema)) for url, schema in schemas.items()
    )
    own = [json.loads(p.read_text("utf-8"))["$id"].removesuffix("#") for p in SCHEMAS.iterdir()]
    urls = [url for url in content["stac_extensions"] if url in own]
    assert len([u for u in urls if "/mlm/" in u or "/projection/" in u or "/raster/" in u]) == 3
    root = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    for url in (root, *urls):
        schema = registry.contents(url)
        jsonschema.Draft7Validator(schema, registry=registry).validate(content)
    # And as an object of the library, which reads what it has written.
    parsed = pystac.Item.from_dict(content)
    assert parsed.to_dict(transform_hrefs=False)["properties"] == content["properties"]


def test_published_schemas_accept_it(made: Any) -> None:
    check_published(item(made))


def test_they_accept_that_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_units_small(put=monkeypatch.setattr)
    content = item(map_of(tmp_path / "map", tiles=64, size=(40, 150)))
    check_published(content)
    data = [asset for asset in content["assets"].values() if asset["roles"] == ["data"]]
    assert len(data) == 2 * (1 + 3)  # per product the whole, and its tiles


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["properties"].pop("mlm:input"),
        lambda content: content["assets"].pop("model"),
        lambda content: content["properties"].pop("bands"),
        lambda content: content["properties"].update({"proj:shape": ["a", 2]}),
        lambda content: content.pop("bbox"),
    ],
)
def test_they_see_faults(spoil: Any, made: Any) -> None:
    import jsonschema

    content = item(made)
    spoil(content)
    with pytest.raises(jsonschema.ValidationError):
        check_published(content)


def test_fields_by_hand(made: Any) -> None:
    content = item(made)
    fields, assets = content["properties"], content["assets"]
    assert content["id"] == "field_7"
    assert fields["datetime"] == fields["created"] == "2026-05-04T03:02:01Z"
    assert fields["proj:code"] == UTM
    assert fields["proj:shape"] == [40, 50]
    assert fields["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert fields["proj:bbox"] == [500_000, 4_999_600, 500_500, 5_000_000]
    assert fields["mlm:total_parameters"] == 12
    assert fields["mlm:output"][0]["classification:classes"][1]["title"] == "wet land"
    assert set(assets) == {"class_map", "confidence", "record", "areas", "model"}
    assert assets["class_map"]["href"] == "./class_map.tif"
    assert assets["class_map"]["nodata"] == 255
    assert assets["class_map"]["classification:classes"][1] == {
        "value": 1,
        "name": "wet_land",
        "title": "wet land",
        "description": "wet land",
        "color_hint": "0000BB",
    }
    assert assets["confidence"]["raster:scale"] == pytest.approx(1 / 254)
    assert assets["model"]["href"] == "../run/model.safetensors"
    west, south, east, north = content["bbox"]
    assert (west, east) == (pytest.approx(15, abs=1e-6), pytest.approx(15.00636, abs=1e-4))
    assert 45.14 < south < north < 45.16


def test_what_is_abstained_from_has_a_colour_and_an_entry(tmp_path: Path) -> None:
    image = np.zeros((2, 20, 30), np.float32)
    image[1, :, :10] = 5  # sure; the rest has 0.5 for each class
    scene = ArrayScene({"a": image}, scheme=SCHEME)
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    products = predictor.predict(scene, tmp_path, abstain=0.6)
    raster = open_class_raster(products.class_map)
    assert raster.scheme == ClassScheme(SCHEME.names, SCHEME.colors, ((0,), (1,)))
    content = describe_item(
        products, raster, name="s", made=datetime.now(UTC), model={}, model_file=tmp_path
    )
    entry = content["assets"]["class_map"]["classification:classes"][2]
    assert (entry["value"], entry["name"], entry["color_hint"]) == (254, "abstained", "A0A0A0")
    draw_preview(raster, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.getpixel((12 + 20, 12 + 5)) == (160, 160, 160)
        assert picture.getpixel((12 + 5, 12 + 5)) == (0, 0, 0xBB)
        # The legend has what is there: wet land, then what is abstained from.
        assert picture.getpixel((12 + 30 + 12 + 4, 12 + 4)) == (0, 0, 0xBB)
        assert picture.getpixel((12 + 30 + 12 + 4, 12 + 24)) == (160, 160, 160)


def test_the_same_bytes_but_for_the_time(made: Any) -> None:
    first, later = item(made), item(made, made=datetime(2027, 1, 1, tzinfo=UTC))
    for content in (first, later):
        del content["properties"]["datetime"], content["properties"]["created"]
    assert first == later


def test_footprints() -> None:
    """Curved sides are followed; without CRS there is none; across the antimeridian are two."""
    wide = Grid(CRS.from_epsg(32633), Affine(1000, 0, 100_000, 0, -1000, 8_000_000), 100, 800)
    shape = footprint(wide)
    # The upper side rises towards the middle of the zone.
    corner, middle = shape.exterior.coords[0], max(y for _, y in shape.exterior.coords)
    assert middle - corner[1] > 0.1
    assert shape.exterior.is_ccw
    assert footprint(Grid(None, Affine.identity(), 3, 4)) is None
    over = footprint(Grid(CRS.from_epsg(4326), Affine(1, 0, 178, 0, -1, 50), 2, 5))
    assert sorted(part.bounds for part in over.geoms) == [(-180, 48, -177, 50), (178, 48, 180, 50)]


def test_a_map_without_crs(made: Any) -> None:
    products, _ = made
    shape = (3, 4)
    names, place = ("dry", "wet land"), Affine.identity()
    write_map(
        products.class_map,
        np.zeros(shape),
        confidence=np.zeros(shape),
        names=names,
        crs=None,
        transform=place,
    )
    content = item(made)
    assert content["geometry"] is None
    assert "bbox" not in content
    assert content["properties"]["proj:code"] is None
    check_published(content)


def test_a_map_across_the_antimeridian(made: Any) -> None:
    products, _ = made
    shape = (2, 5)
    names, place = ("dry", "wet land"), Affine(1, 0, 178, 0, -1, 50)
    write_map(
        products.class_map,
        np.zeros(shape),
        confidence=np.zeros(shape),
        names=names,
        crs="EPSG:4326",
        transform=place,
    )
    content = item(made)
    assert content["bbox"] == [178, 48, -177, 50]
    assert shapely.geometry.shape(content["geometry"]).is_valid
    check_published(content)


def test_both_are_written(made: Any) -> None:
    products, info = made
    folder = products.record.parent
    beside = picture_and_item(
        folder, name="s", model=info.to_dict(), model_file=folder / "model.safetensors"
    )
    written = beside.write(products)
    assert [path.name for path in written] == ["preview.png", "item.json"]
    content = json.loads((folder / "item.json").read_text())
    assert content["assets"]["preview"]["href"] == "./preview.png"
    check_published(content)
    with Image.open(folder / "preview.png") as picture:
        # Left of column 10 is wet land, below row 30 nothing; 12 pixels of margin.
        assert picture.getpixel((12 + 5, 12 + 5)) == (0, 0, 0xBB)
        assert picture.getpixel((12 + 20, 12 + 5)) == (0xAA, 0, 0)
        assert picture.getpixel((12 + 20, 12 + 35)) == (228, 228, 224)
        # The legend names what is on the map.
        assert picture.getpixel((12 + 50 + 12 + 4, 12 + 4)) == (0xAA, 0, 0)
        assert picture.getpixel((12 + 50 + 12 + 4, 12 + 24)) == (0, 0, 0xBB)


@pytest.fixture
def again(made: Any, tmp_path: Path) -> Any:
    """Maps the scene of `made` once more, into the same folder, with what stands beside it."""
    products, info = made
    scene = ArrayScene({"a": np.ones((2, 40, 50), np.float32)}, scheme=SCHEME)
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    folder = products.record.parent
    beside = picture_and_item(
        folder, name="s", model=info.to_dict(), model_file=tmp_path / "run" / "model.safetensors"
    )

    def map_again(**options: Any) -> Any:
        return predictor.predict(scene, folder, beside=beside, **options)

    return map_again


def test_they_appear_with_the_products_and_are_of_the_same_map(again: Any) -> None:
    first = again()
    assert [path.name for path in first.beside] == ["preview.png", "item.json"]
    content = json.loads(first.beside[1].read_text())
    assert content["assets"]["model"]["href"] == "../run/model.safetensors"
    check_published(content)
    folder = first.record.parent
    other = again(products=("entropy",))
    assert [path.name for path in other.beside] == ["item.json"]
    assert not (folder / "preview.png").exists()  # it would be of the first map
    assert "entropy" in json.loads((folder / "item.json").read_text())["assets"]


@pytest.mark.parametrize("name", ["draw_preview", "describe_item"])
def test_what_cannot_be_drawn_is_no_failure_of_the_map(
    name: str, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = again()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("an odd palette")

    monkeypatch.setattr(f"terrafuse.maps.beside.{name}", fail)
    with pytest.warns(UserWarning, match=r"is whole, but has no .*item\.json: an odd palette"):
        made = again(products=("class_map",))
    folder = made.record.parent
    assert made.class_map.exists()
    assert [path.name for path in made.beside] == ["preview.png"] * (name == "describe_item")
    assert {path.name for path in folder.iterdir()} & {"preview.png", "item.json"} == {
        path.name for path in made.beside
    }
    assert not earlier.beside[1].exists()


def test_a_disk_that_is_full_then_leaves_the_earlier_map_and_the_units(
    again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = {path: path.read_bytes() for path in again().paths()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("terrafuse.maps.beside.draw_preview", fail)
    with pytest.raises(OutputError, match=r"No space left.*then add --resume"):
        again()
    assert {path: path.read_bytes() for path in earlier} == earlier
    monkeypatch.undo()
    made = again(resume=True)
    assert len(made.beside) == 2
    assert not (made.record.parent / "units").exists()


def test_a_link_of_that_name_is_not_replaced(again: Any) -> None:
    first = again()
    first.beside[0].unlink()
    first.beside[0].symlink_to(first.record)
    with pytest.raises(OutputError, match=r"preview\.png' cannot be written: it is a link"):
        again()


def test_only_an_overview_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overviews of another class than the pixels: the picture has theirs."""
    import rasterio
    from rasterio.enums import Resampling

    path = write_map(tmp_path / "a.tif", np.zeros((1500, 2100)), tiled=True, blockxsize=256,
                     blockysize=256)  # fmt: skip
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.ones((1500, 2100), np.uint8), 1)
        dataset.build_overviews([2, 4], Resampling.nearest)
        dataset.write(np.zeros((1500, 2100), np.uint8), 1)
    raster = open_class_raster(path)
    small, step = read_small(raster)
    assert (small.shape, step) == ((375, 525), 4)
    assert max(small.shape) <= MOST_PIXELS
    assert (small == 1).all()
    draw_preview(raster, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("most", "length"), [(1.0, 1), (4.9, 2), (50, 50), (999, 500), (0.03, 0.02)]
)
def test_lengths_of_the_scale_are_round(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)
