"""Class maps hold the codes of the user's labels where they can, and say what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from array_scene import plan_for
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid
from terrafuse.errors import ConfigError, RasterReadError
from terrafuse.prediction import (
    Products,
    Strip,
    choose_values,
    find_products,
    open_map,
    read_class_map,
)

GRID = Grid(CRS.from_epsg(32633), Affine(10, 0, 500_000, 0, -10, 5_000_000), 2, 3)
INDICES = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
COLORS = ("#102030", "#405060", "#ff0000")


def scheme(*codes: object, void: tuple[object, ...] = ()) -> ClassScheme:
    own = tuple(code if isinstance(code, tuple) else (code,) for code in codes)
    return ClassScheme(("water", "grass", "soil")[: len(own)], COLORS[: len(own)], own, void)


def write(folder: Path, classes: ClassScheme, values: str | None = None) -> Products:
    with open_map(
        folder, GRID, classes, find_products(["class_map"]), values, plan=plan_for(GRID)
    ) as writer:
        writer.write(Strip(0, 0, {"class_map": INDICES[:1]}))
        writer.write(Strip(1, 0, {"class_map": INDICES[1:]}))
        return writer.finish({"classes": list(classes.names)})


def test_pixels_are_codes_with_palette_and_names_at_the_code(tmp_path: Path) -> None:
    made = write(tmp_path, scheme(40, 7, 10))
    with rasterio.open(made.class_map) as dataset:
        assert dataset.read(1).tolist() == [[40, 7, 10], [255, 10, 40]]
        assert dataset.nodata == 255
        colors = dataset.colormap(1)
        assert colors[40] == (16, 32, 48, 255)
        assert colors[7] == (64, 80, 96, 255)
        assert colors[10] == (255, 0, 0, 255)
        tags = dataset.tags()
    assert tags["values"] == "code"
    assert json.loads(tags["classes"]) == ["water", "grass", "soil"]
    assert json.loads(tags["class_values"]) == [40, 7, 10]
    text = (tmp_path / "class_map.tif.aux.xml").read_text()
    names = text.split("<Category")[2:]
    assert len(names) == 41
    assert [i for i, name in enumerate(names) if "water" in name] == [40]
    assert [i for i, name in enumerate(names) if "grass" in name] == [7]
    record = json.loads(made.record.read_text())["products"]["class_map"]
    assert record["content"] == "code of the class"
    assert (record["values"], record["class_values"], record["nodata"]) == (
        "code",
        [40, 7, 10],
        255,
    )
    np.testing.assert_array_equal(read_class_map(made.class_map), INDICES)


def test_indices_if_asked_for(tmp_path: Path) -> None:
    made = write(tmp_path, scheme(40, 7, 10), "index")
    with rasterio.open(made.class_map) as dataset:
        np.testing.assert_array_equal(dataset.read(1), INDICES)
        assert dataset.tags()["values"] == "index"
        assert dataset.colormap(1)[1] == (64, 80, 96, 255)
    np.testing.assert_array_equal(read_class_map(made.class_map), INDICES)
    assert json.loads(made.record.read_text())["products"]["class_map"]["content"] == "class index"


@pytest.mark.parametrize(
    ("void", "nodata"), [((), 254), ((254, 253), 252), ((*range(1, 253), 254), 254)]
)
def test_a_class_of_code_255_leaves_another_value_for_no_data(
    tmp_path: Path, void: tuple[int, ...], nodata: int
) -> None:
    third = 253 if 9 in void else 9
    made = write(tmp_path, scheme(0, 255, third, void=void))
    with rasterio.open(made.class_map) as dataset:
        assert dataset.nodata == nodata
        assert dataset.read(1).tolist() == [[0, 255, third], [nodata, third, 0]]
        assert (dataset.read_masks(1) == 0).tolist() == (INDICES == 255).tolist()
    np.testing.assert_array_equal(read_class_map(made.class_map), INDICES)


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ((1, 2, 300), "class 'soil' is 300, outside 0 to 255"),
        ((1, -1, 3), "class 'grass' is -1, outside 0 to 255"),
        ((1, (2, 4), 3), "class 'grass' has several \\(2, 4\\)"),
        (("#00ff00", "#ff0000", "#0000ff"), "class 'water' is '#00ff00', no number"),
        (("w", "g", "s"), "class 'water' is 'w', no number"),
    ],
)
def test_codes_that_a_byte_cannot_hold_become_indices_and_that_is_said(
    tmp_path: Path, codes: tuple[object, ...], reason: str
) -> None:
    made = write(tmp_path / "map", scheme(*codes))
    np.testing.assert_array_equal(read_class_map(made.class_map), INDICES)
    assert made.class_values.kind == "index"
    with pytest.raises(ConfigError, match=f"{reason}. Choose 'index'"):
        write(tmp_path / "other", scheme(*codes), "code")
    assert not (tmp_path / "other").exists()
    assert write(tmp_path / "other", scheme(*codes), "index").class_values.reason == ""


def test_unknown_kinds_and_foreign_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'codes'\. Did you mean 'code'"):
        choose_values(scheme(1, 2), "codes")
    made = write(tmp_path, scheme(1, 2, 3))
    with rasterio.open(made.class_map, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.write(np.full((1, 2, 3), 9, np.uint8))
    with pytest.raises(RasterReadError, match="holds 9, which is no class"):
        read_class_map(made.class_map)


def test_maps_of_before_hold_indices(tmp_path: Path) -> None:
    path = tmp_path / "old.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=2, width=3, dtype="uint8", nodata=255,
        crs=GRID.crs, transform=GRID.transform,
    ) as dataset:  # fmt: skip
        dataset.write(INDICES, 1)
        dataset.update_tags(classes=json.dumps(["a", "b", "c"]))
    np.testing.assert_array_equal(read_class_map(path), INDICES)
