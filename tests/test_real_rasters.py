"""Pairs of real rasters on different grids: trained for a few steps, mapped whole.

The labels are thresholds of one raster: they only have to lie where the pixels do. None of this
imagery is in the repository; the tests skip where it is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from shared import shared_data
from terrafuse import api
from terrafuse.config import DataConfig, MethodConfig, PredictionConfig, RunConfig, TrainingConfig
from terrafuse.data import write_manifest

pytestmark = pytest.mark.filterwarnings("ignore:.*no labelled scenes in split 'val'")

ELEVATION = {"kind": "elevation", "bands": ["height"], "unit": "m"}


def pairs() -> dict[str, dict[str, Any]]:
    """Per pair its modalities, the reference first, and the size of a crop."""
    return {
        "olinda": {
            "optical": ("olinda_landsat7_6band.tif", {"bands": list("123457"), "kind": "optical"}),
            "dem": ("olinda_dem_90m.tif", ELEVATION | {"scale": 3}),
            "crop": 96,
        },
        "zion": {
            "cover": ("zion_nlcd_utm12.tif", {"bands": ["code"], "resampling": "nearest"}),
            "dem": ("zion_srtm_wgs84.tif", ELEVATION),
            "crop": 64,
        },
        "rotterdam": {
            "pan": ("rotterdam_pan_0p5m.tif", {"bands": ["pan"], "kind": "optical"}),
            "ms": ("rotterdam_ms_1m_float64.tif", {"kind": "optical", "scale": 2}),
            "crop": 64,
        },
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Function that returns the manifest of a pair, with a run beside it, and the reference."""
    return cache(lambda name: prepare(tmp_path_factory.mktemp(name), name))


def prepare(folder: Path, name: str) -> tuple[Path, Path]:
    """Manifest and run settings of a pair; returns the manifest and the reference raster."""
    zoo = shared_data("geotiff_zoo")
    pair = pairs()[name]
    crop = pair.pop("crop")
    modalities, scene = {}, {}
    for key, (file, values) in pair.items():
        with rasterio.open(zoo / file) as dataset:
            bands = [str(i) for i in dataset.indexes]
        modalities[key] = {"bands": bands} | values
        scene[key] = str(zoo / file)
    reference = Path(scene[next(iter(pair))])
    with rasterio.open(reference) as dataset:
        band, profile = dataset.read(1, masked=True), dataset.profile
    labels = (band > np.ma.median(band)).astype(np.uint8).filled(9)
    profile.update(driver="GTiff", count=1, dtype="uint8", nodata=9)
    with rasterio.open(folder / "labels.tif", "w", **profile) as dataset:
        dataset.write(labels, 1)
    scene["labels"] = "labels.tif"
    values = {
        "classes": [{"name": "low", "code": 0}, {"name": "high", "code": 1}],
        "modalities": modalities,
        "scenes": [{"id": "train", "split": "train"} | scene, {"id": "whole"} | scene],
    }
    manifest = write_manifest(values, folder / "dataset.yaml")
    config = RunConfig(
        data=DataConfig(manifest=manifest, crop_size=crop, batch_size=2, workers=0),
        method=MethodConfig(
            name="late_fusion",
            backbone="resnet10t",
            decoder="segformer",
            decoder_options={"channels": 16},
        ),
        training=TrainingConfig(steps=3, accelerator="cpu"),
        prediction=PredictionConfig(crop_size=2 * crop),
    )
    api.train(config, folder / "run", progress=False)
    return manifest, reference


@pytest.mark.parametrize("name", pairs())
def test_the_map_lies_where_the_reference_lies(name, tmp_path, prepared):
    manifest, reference = prepared(name)
    run = api.load(manifest.parent / "run")
    products = run.predict(tmp_path / "map", scene=f"{manifest}#whole")
    with rasterio.open(reference) as expected, rasterio.open(products.class_map) as found:
        assert found.crs == expected.crs
        assert tuple(found.transform) == tuple(expected.transform)
        assert found.shape == expected.shape
        class_map = found.read(1)
    assert set(np.unique(class_map)) <= {0, 1, 255}
    assert (class_map != 255).mean() > 0.5


def test_a_map_from_files_equals_that_from_the_manifest(tmp_path, prepared):
    manifest, _ = prepared("rotterdam")
    run = api.load(manifest.parent / "run")
    zoo = shared_data("geotiff_zoo")
    one = run.predict(tmp_path / "one", scene=f"{manifest}#whole")
    two = run.predict(
        tmp_path / "two",
        rasters={
            "pan": zoo / "rotterdam_pan_0p5m.tif",
            "ms": zoo / "rotterdam_ms_1m_float64.tif",
        },
    )
    with rasterio.open(one.class_map) as a, rasterio.open(two.class_map) as b:
        np.testing.assert_array_equal(a.read(1), b.read(1))
        assert a.transform == b.transform


CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "folder", "rasters", "reference"),
    [
        (
            "terramesh",
            "terramesh_s1_s2_dem",
            {
                "s1": "S1RTC/433D_629L_3_1.tif",
                "s2": "S2L2A/433D_629L_3_1.tif",
                "dem": "DEM/433D_629L_3_1.tif",
            },
            "s2",
        ),
        ("slovenia", "slovenia_s2_dem", {"s2": "s2_l1c/2015-07-11.tif", "dem": "dem.tif"}, "s2"),
    ],
)
def test_shipped_configurations_map_whole_scenes(name, folder, rasters, reference, tmp_path):
    data = shared_data(folder)
    overrides = {"training.steps": "2", "training.warmup_steps": "0", "data.workers": "0"}
    config = CONFIGS / name / "late_fusion.yaml"
    api.train(config, tmp_path / "run", overrides=overrides, progress=False)
    run = api.load(tmp_path / "run")
    paths = {key: data / path for key, path in rasters.items()}
    products = run.predict(tmp_path / "map", rasters=paths)
    with (
        rasterio.open(paths[reference]) as expected,
        rasterio.open(products.class_map) as found,
        rasterio.open(products.confidence) as confidence,
    ):
        for product in (found, confidence):
            assert tuple(product.transform) == tuple(expected.transform)
            assert product.crs == expected.crs
            assert product.shape == expected.shape
        known = expected.read(masked=False).any(axis=0)  # 0 in all bands is no data
        values = products.class_values
        np.testing.assert_array_equal(found.read(1)[known] == values.nodata, False)
        assert found.colormap(1)[values.values[0]][:3] == tuple(run.info.scheme.palette()[0])
    metrics = run.evaluate()
    assert 0 <= metrics["subsets"][metrics["full"]]["scores"]["oa"] <= 1
