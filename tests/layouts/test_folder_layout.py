from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from shared import shared_data
from terrafuse.data import load_manifest, write_manifest
from terrafuse.errors import DataError, LabelError, RasterReadError, UnknownNameError
from terrafuse.layouts import LAYOUTS, describe, list_layouts

MakeRaster = Callable[..., Path]


@pytest.fixture
def dataset(make_raster: MakeRaster, tmp_path: Path) -> Path:
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        make_raster(root / f"s2/{name}.tif", rng.integers(1, 99, (4, 12, 12)).astype(np.uint16))
        make_raster(
            root / f"DEM 30m/{name}.tif",
            rng.random((1, 4, 4)).astype(np.float32),
            transform=from_origin(500_000, 5_000_000, 29.9, 29.9),
        )
        codes = rng.choice([1, 4, -1], (1, 12, 12)).astype(np.int16)
        make_raster(root / f"labels/{name}.tif", codes)
    (root / "s2/c.tif").unlink()
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("a\nb.tif\n")
    (root / "splits/test.txt").write_text("c\n\n")
    (root / "splits/notes.txt").write_text("a train\nb train\n")
    return root


def test_a_folder_becomes_a_manifest_that_reads(dataset: Path, tmp_path: Path) -> None:
    values = describe(dataset, "folder", manifest_folder=tmp_path / "elsewhere")
    assert values["root"] == "../set"
    assert [c["code"] for c in values["classes"]] == [1, 4]
    assert values["void"] == [-1]
    assert values["modalities"] == {
        "dem_30m": {"kind": "elevation", "bands": ["band_1"], "scale": 3.0},
        "s2": {
            "kind": "optical",
            "bands": ["band_1", "band_2", "band_3", "band_4"],
            "required": False,
        },
    }
    assert values["scenes"][0] == {
        "id": "a",
        "split": "train",
        "dem_30m": "DEM 30m/a.tif",
        "s2": "s2/a.tif",
        "labels": "labels/a.tif",
    }
    path = write_manifest(values, tmp_path / "elsewhere/dataset.yaml")
    manifest = load_manifest(path)
    assert manifest.splits == {"train": 2, "test": 1}
    a, _, c = manifest.scenes()
    assert c.missing == {"s2"}
    sample = a.read(a.full_window)
    assert sample.images["s2"].shape == (4, 12, 12)
    assert sample.images["dem_30m"].shape == (1, 4, 4)
    assert sample.labels is not None
    assert set(sample.labels.unique().tolist()) == {0, 1, 255}


def test_options_name_modalities_and_labels(dataset: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 labels without an image are ignored: labels/c\.tif"):
        values = describe(dataset, "folder", optical="s2/[ab].tif", labels="labels")
    assert list(values["modalities"]) == ["optical"]
    assert [scene["id"] for scene in values["scenes"]] == ["a", "b"]


def test_folders_of_splits_and_names_with_the_folder_in_them(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    for split, names in {"train": ("x", "y"), "valid": ("x",)}.items():
        for name in names:
            image = make_raster(tmp_path / f"{split}/SAR/{name}_SAR.tif", np.ones((1, 4, 4)))
            with rasterio.open(image, "r+") as dataset:
                dataset.descriptions = ("VV",)
            make_raster(tmp_path / f"{split}/gt/{name}_gt.tif", np.ones((1, 4, 4), np.uint8))
    values = describe(tmp_path, "folder")
    assert values["modalities"] == {"sar": {"kind": "sar", "bands": ["VV"]}}
    scenes = {scene["id"]: scene["split"] for scene in values["scenes"]}
    assert scenes == {"train_x": "train", "y": "train", "val_x": "val"}


def test_bands_described_by_wavelength(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = make_raster(tmp_path / "hsi/a.tif", np.ones((2, 4, 4), np.float32))
    with rasterio.open(image, "r+") as dataset:
        dataset.descriptions = ("418.416 nm", "0.424 µm")
    make_raster(tmp_path / "labels/a.tif", np.ones((1, 4, 4), np.uint8))
    modality = describe(tmp_path, "folder")["modalities"]["hsi"]
    assert modality["wavelengths_um"] == [0.418416, 0.424]
    assert modality["kind"] == "optical"


def test_names_of_bands_are_looked_at_in_every_file(
    dataset: Path, make_raster: MakeRaster, tmp_path: Path
) -> None:
    names = {"a": ("blue", "nir"), "b": ("nir", "blue"), "c": ("VV", "VH")}
    for name, bands in names.items():
        values = np.full((2, 12, 12), [[[1]], [[2]]], np.uint16)
        with rasterio.open(make_raster(dataset / f"s2/{name}.tif", values), "r+") as opened:
            opened.descriptions = bands
    with pytest.warns(UserWarning, match="files do not suit|names of bands to look at") as caught:
        made = describe(dataset, "folder")
    assert made["modalities"]["s2"]["bands"] == ["blue", "nir"]
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    (others,) = [text for text in said if "in 1 scenes ('c') files do not suit the bands" in text]
    assert "is 'VV' by its descriptions" in others
    (order,) = [text for text in said if "in 1 scenes ('b')" in text]
    assert "taken by name as blue, nir: 2, 1" in order


def test_colour_coded_labels(make_raster: MakeRaster, tmp_path: Path) -> None:
    make_raster(tmp_path / "img/a.tif", np.ones((1, 2, 2), np.uint8))
    colors = np.array([[[255, 0]], [[0, 0]], [[16, 255]]], np.uint8)
    make_raster(tmp_path / "labels/a.tif", np.repeat(colors, 2, axis=1), photometric="rgb")
    classes = describe(tmp_path, "folder")["classes"]
    assert classes == [
        {"name": "class_0000ff", "code": "#0000ff", "color": "#0000ff"},
        {"name": "class_ff0010", "code": "#ff0010", "color": "#ff0010"},
    ]


def edit(dataset: Path, make_raster: MakeRaster, fault: str) -> dict[str, Any]:
    labels = dataset / "labels/a.tif"
    if fault == "many":
        make_raster(labels, np.arange(400, dtype=np.uint16).reshape(1, 20, 20))
    elif fault == "broken":
        make_raster(labels, np.full((1, 4, 4), 0.5, np.float32))
    elif fault == "twice":
        (dataset / "splits/val.txt").write_text("a\n")
    elif fault == "empty":
        for path in (dataset / "labels").iterdir():
            make_raster(path, np.zeros((1, 4, 4), np.uint8), nodata=0)
    elif fault == "names":
        for path in (dataset / "labels").iterdir():
            path.rename(path.with_name(f"{ord(path.stem)}.tif"))
    elif fault == "option":
        return {"sar": "s1"}
    elif fault == "no labels":
        (dataset / "labels").rename(dataset / "truths")
    return {}


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("many", LabelError, "more than 255 different values up to '.*a.tif'"),
        ("broken", LabelError, r"fractions, for instance 0\.5"),
        ("twice", DataError, "scene 'a' is listed in 'train' and 'val'"),
        ("empty", LabelError, "labels hold no data in any of 3 files"),
        ("names", DataError, "scenes are matched by file name, for instance '97.tif'"),
        ("option", DataError, "no raster in '.*s1'"),
        ("no labels", LabelError, r"folders: DEM 30m, s2, truths\).*-O labels=FOLDER"),
    ],
)
def test_faults_are_named(
    dataset: Path, make_raster: MakeRaster, fault: str, error: type[Exception], message: str
) -> None:
    options = edit(dataset, make_raster, fault)
    with pytest.raises(error, match=message):
        describe(dataset, "folder", **options)


def test_unknown_layout_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layout 'folders'\. Did you mean 'folder'"):
        describe(tmp_path, "folders")
    with pytest.raises(RasterReadError, match="there is no folder"):
        describe(tmp_path / "no", "folder")
    assert [row.name for row in list_layouts()] == list(LAYOUTS)
    assert all(row.description for row in list_layouts())


def test_ombria_flood() -> None:
    values = describe(shared_data("ombria_flood"), "folder", s1="s1_after", s2="s2_after")
    splits = [scene["split"] for scene in values["scenes"]]
    assert {name: splits.count(name) for name in set(splits)} == {
        "train": 220,
        "val": 30,
        "test": 60,
    }
    assert [c["code"] for c in values["classes"]] == [0, 255]
    assert {n: m["kind"] for n, m in values["modalities"].items()} == {"s1": "sar", "s2": "optical"}


def test_enmap_potsdam() -> None:
    values = describe(shared_data("enmap_potsdam"), "folder")
    bands = {name: len(m["bands"]) for name, m in values["modalities"].items()}
    assert bands == {"vnir": 91, "swir": 133}
    assert values["modalities"]["vnir"]["wavelengths_um"][0] == pytest.approx(0.418, abs=1e-3)
