"""Rasters listed one by one: tables, GeoJSON rows, STAC items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.errors import DataError, LabelError, UnknownNameError
from terrafuse.layouts import describe

MakeRaster = Callable[..., Path]
HEAD = "scene,modality,path,split,kind,bands,unit\n"
ROWS = (
    "a,sar,../rasters/a_vv.tif,train,sar,VV,db\n"
    "a,sar,../rasters/a_vh.tif,train,sar,VH,db\n"
    "a,s2,../rasters/a_s2.tif,,,,\n"
    "a,labels,../rasters/a_labels.tif,,,,\n"
    "b,s2,../rasters/b_s2.tif,validation,,,\n"
    "b,labels,../rasters/b_labels.tif,,,,\n"
)


@pytest.fixture
def root(make_raster: MakeRaster, tmp_path: Path) -> Path:
    folder = tmp_path / "set/rasters"
    for scene in ("a", "b"):
        codes = np.tile(np.array([1, 4, -1], np.int16), (1, 12, 4))
        make_raster(folder / f"{scene}_labels.tif", codes)
        make_raster(folder / f"{scene}_s2.tif", np.ones((3, 12, 12), np.uint16))
    for number, band in enumerate(("vv", "vh")):
        make_raster(folder / f"a_{band}.tif", np.full((1, 12, 12), number, np.float32))
    (tmp_path / "set/lists").mkdir()
    (tmp_path / "set/lists/rasters.csv").write_text(HEAD + ROWS)
    return tmp_path / "set"


def opened(values: dict[str, Any], folder: Path) -> Manifest:
    return load_manifest(write_manifest(values, folder / "dataset.yaml"))


def test_a_table(root: Path, tmp_path: Path) -> None:
    values = describe(root, "items", manifest_folder=tmp_path, file="lists/rasters.csv")
    assert values["root"] == "set"
    assert values["modalities"] == {
        "sar": {"kind": "sar", "bands": ["VV", "VH"], "unit": "db", "required": False},
        "s2": {"kind": "optical", "bands": ["band_1", "band_2", "band_3"]},
    }
    assert [item["code"] for item in values["classes"]] == [1, 4]
    assert values["void"] == [-1]
    assert values["scenes"][0]["sar"] == ["rasters/a_vv.tif", "rasters/a_vh.tif"]
    manifest = opened(values, tmp_path)
    assert manifest.splits == {"train": 1, "val": 1}
    a, b = manifest.scenes()
    assert b.missing == {"sar"}
    sample = a.read(a.full_window)
    assert sample.images["sar"].mean(dim=(1, 2)).tolist() == [0, 1]
    assert sample.labels is not None
    assert sample.labels[0, :3].tolist() == [0, 1, 255]


def test_rows_as_geojson_are_the_same(root: Path) -> None:
    table = describe(root / "lists", "items")
    names = HEAD.strip().split(",")
    features = [
        {"type": "Feature", "geometry": None,
         "properties": dict(zip(names, line.split(","), strict=True))}
        for line in ROWS.splitlines()
    ]  # fmt: skip
    (root / "lists/rasters.csv").unlink()
    path = root / "lists/rasters.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert describe(root / "lists", "items") == table


def stac_item(scene: str, split: str) -> dict[str, Any]:
    classes = [{"value": 1, "name": "field", "color_hint": "AABBCC"}, {"value": 4, "name": "wood"}]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": scene,
        "properties": {"ml-aoi:split": split},
        "assets": {
            "s2-l2a": {
                "href": f"rasters/{scene}_s2.tif",
                "roles": ["data"],
                "bands": [
                    {"name": name, "eo:center_wavelength": um}
                    for name, um in (("B02", 0.49), ("B03", 0.56), ("B04", 0.665))
                ],
            },
            "reference": {
                "href": f"rasters/{scene}_labels.tif",
                "roles": ["labels"],
                "classification:classes": classes,
            },
            "thumbnail": {"href": "no.png", "roles": ["thumbnail"]},
            "remote": {"href": "https://somewhere.example/cube.tif", "roles": ["metadata"]},
        },
    }


def test_stac_items(root: Path) -> None:
    collection = {
        "type": "FeatureCollection",
        "features": [stac_item("a", "train"), stac_item("b", "validate")],
    }
    (root / "items.json").write_text(json.dumps(collection))
    values = describe(root, "items")
    assert values["modalities"] == {
        "s2_l2a": {
            "kind": "optical",
            "bands": ["B02", "B03", "B04"],
            "wavelengths_um": [0.49, 0.56, 0.665],
        }
    }
    assert values["classes"] == [
        {"name": "field", "code": 1, "color": "#aabbcc"},
        {"name": "wood", "code": 4},
    ]
    values["void"] = [-1]
    manifest = opened(values, root)
    assert manifest.splits == {"train": 1, "val": 1}
    assert manifest.scenes()[0].read_labels(manifest.scenes()[0].grid.window)[0, 1] == 1


def test_files_that_are_not_there(root: Path) -> None:
    (root / "rasters/b_s2.tif").unlink()
    with pytest.raises(DataError, match=r"1 of 6 files of .* '../rasters/b_s2\.tif'\. To continue"):
        describe(root / "lists", "items")
    with pytest.warns(UserWarning, match="They are left out"):
        values = describe(root / "lists", "items", incomplete="allow")
    assert [scene["id"] for scene in values["scenes"]] == ["a"]


def test_addresses_stay(root: Path) -> None:
    row = "c,s2,https://somewhere.example/c.tif,test,,,\n"
    (root / "lists/rasters.csv").write_text(HEAD + ROWS + row)
    scene = describe(root / "lists", "items")["scenes"][2]
    assert scene == {"id": "c", "split": "test", "s2": "https://somewhere.example/c.tif"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("scene,path\na,b\n", DataError, "has no column modality; it needs scene, modality, path"),
        ("scene,modality,pathh\n", DataError, "unknown column 'pathh'. Did you mean 'path'"),
        (HEAD + "a,,../rasters/a_s2.tif,,,,\n", DataError, "line 2: 'modality' is empty"),
        (HEAD + "a,s2,x.tif,,radar,,\n", DataError, "line 2: unknown kind 'radar'"),
        (HEAD + ROWS + "a,s2,../rasters/a_vv.tif,test,,,\n", DataError,
         "scene 'a' is in split 'train' and 'test'"),
        (HEAD + ROWS + "a,labels,../rasters/a_vv.tif,,,,\n", DataError, "two files of labels"),
        (HEAD + "a,s2,../rasters/a_s2.tif,,,,\n", LabelError, "lists no raster of labels"),
        (HEAD + "a,labels,../rasters/a_labels.tif,,,,\n", DataError, "no raster but labels"),
    ],
)  # fmt: skip
def test_tables_with_faults(root: Path, text: str, error: type[Exception], message: str) -> None:
    (root / "lists/rasters.csv").write_text(text)
    with pytest.raises(error, match=message):
        describe(root / "lists", "items")


def test_which_list(root: Path) -> None:
    with pytest.raises(DataError, match=r"should hold one list .* there are none"):
        describe(root, "items")
    (root / "lists/more.json").write_text("{")
    with pytest.raises(DataError, match=r"there are 'more\.json', 'rasters\.csv'"):
        describe(root / "lists", "items")
    with pytest.raises(DataError, match="is not JSON"):
        describe(root / "lists", "items", file="more.json")
    (root / "lists/more.json").write_text('{"features": []}')
    with pytest.raises(DataError, match="lists no raster; it is neither a STAC ItemCollection"):
        describe(root / "lists", "items", file="more.json")
    with pytest.raises(DataError, match="there is no list"):
        describe(root, "items", file="no.csv")
    with pytest.raises(UnknownNameError, match="Did you mean 'file'"):
        describe(root, "items", files="no.csv")
