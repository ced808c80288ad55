"""A run reads new rasters as those it learned from, and says where that is not obvious."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from array_scene import Identity
from terrafuse.api import Run
from terrafuse.classes import ClassScheme
from terrafuse.config import RunConfig
from terrafuse.data import ReadingRules, write_manifest
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.prediction import WindowSettings, read_class_map
from terrafuse.weights import RunInfo

M = Modality("m", ("blue", "red"))
SCHEME = ClassScheme(("water", "land"), codes=((7,), (3,)))
WINDOWS = WindowSettings(crop_size=32, overlap=0)
# The larger band is the class; 0 in the first band of the last column is good water.
IMAGE = np.full((2, 32, 32), [[[1]], [[2]]], np.uint16)
IMAGE[0, :, :16], IMAGE[0, :, -1] = 9, 0


def make_run(tmp_path: Path, rules: dict[str, Any]) -> Run:
    """A model whose classes are its bands, normalised to a mean of 0."""
    numbers = BandStatistics((0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (9.0, 9.0), (1, 1))
    segmenter = Identity([M])
    segmenter.set_statistics({"m": numbers})
    info = RunInfo("single", {}, (M,), SCHEME, {"m": numbers}, 32, 0, rules={"m": rules})
    config = RunConfig.model_validate(
        {"data": {"manifest": "d.yaml"}, "method": {"name": "single"}}
    )
    return Run(tmp_path / "run", segmenter.eval(), info, config)


@pytest.fixture
def raster(make_raster: Callable[..., Path], tmp_path: Path) -> Path:
    return make_raster(tmp_path / "a.tif", IMAGE, nodata=0)


def mapped(run: Run, out: Path, **what: Any) -> np.ndarray:
    return read_class_map(run.predict(out, windows=WINDOWS, **what).class_map)


def test_a_new_run_says_its_rule_and_needs_no_word(tmp_path: Path, raster: Path) -> None:
    rules = ReadingRules().to_dict()
    assert rules["nodata_rule"] == "all"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = mapped(make_run(tmp_path, rules), tmp_path / "map", rasters={"m": raster})
    assert found[5, 0] == 0
    assert found[5, 20] == found[5, -1] == 1


def test_a_run_of_before_goes_on_band_by_band_and_says_so(tmp_path: Path, raster: Path) -> None:
    old = {k: v for k, v in ReadingRules().to_dict().items() if k in ("nodata", "resampling")}
    run = make_run(tmp_path, old)
    with pytest.warns(UserWarning, match=r"reads m so \(nodata_rule: each\)"):
        run.predict(tmp_path / "map", windows=WINDOWS, rasters={"m": raster})
    manifest = write_manifest(
        {
            "classes": [{"name": "water", "code": 7}, {"name": "land", "code": 3}],
            "modalities": {"m": {"bands": list(M.bands)}},
            "scenes": [{"id": "one", "m": "a.tif"}],
        },
        tmp_path / "dataset.yaml",
    )
    scene = run._open(f"{manifest}#one", None)
    assert scene.read(scene.full_window).images["m"][0, 0, -1].isnan()
    # Where no file has a nodata value, nothing is said.
    with rasterio.open(raster, "r+") as dataset:
        dataset.nodata = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run.predict(tmp_path / "map", windows=WINDOWS, rasters={"m": raster})


def test_a_manifest_of_another_rule_is_read_as_the_model_was_trained(
    tmp_path: Path, raster: Path
) -> None:
    manifest = write_manifest(
        {
            "classes": [{"name": "water", "code": 7}, {"name": "land", "code": 3}],
            "modalities": {"m": {"bands": list(M.bands), "nodata_rule": "each"}},
            "scenes": [{"id": "one", "m": str(raster)}],
        },
        tmp_path / "dataset.yaml",
    )
    run = make_run(tmp_path, ReadingRules().to_dict())
    with pytest.warns(UserWarning, match="has 'nodata_rule: each'; it is read by 'all'"):
        scene = run._open(f"{manifest}#one", None)
    assert scene.read(scene.full_window).images["m"][0, 0, -1] == 0


def test_files_given_in_another_order_are_taken_by_name(
    tmp_path: Path, make_raster: Callable[..., Path]
) -> None:
    run = make_run(tmp_path, ReadingRules().to_dict())
    named = [make_raster(tmp_path / f"{n}.tif", IMAGE[[i]]) for i, n in ((1, "red"), (0, "blue"))]
    expected = np.where(np.arange(32) < 16, 0, 1)
    with pytest.warns(BandNamesWarning, match=r"file names \(red.tif, blue.tif\)"):
        found = mapped(run, tmp_path / "map", rasters={"m": named})
    np.testing.assert_array_equal(found, [expected] * 32)
    plain = [make_raster(tmp_path / f"{n}.tif", IMAGE[[i]]) for i, n in ((0, "p"), (1, "q"))]
    with pytest.warns(
        UserWarning, match=r"read in the order given: '.*p.tif' as blue, '.*q.tif' as"
    ):
        found = mapped(run, tmp_path / "map", rasters={"m": plain})
    np.testing.assert_array_equal(found, [expected] * 32)


def test_scales_of_the_training_files_are_those_of_new_ones(tmp_path: Path, raster: Path) -> None:
    rules = ReadingRules(value_scale=(1.0, 10.0)).to_dict()
    run = make_run(tmp_path, rules)
    scene = run._open(None, {"m": raster})
    assert scene.read(scene.full_window).images["m"][:, 0, 0].tolist() == [9, 20]
    assert replace(ReadingRules.from_dict(rules), value_scale=None) == ReadingRules()


def test_the_map_holds_codes_unless_told_otherwise(tmp_path: Path, raster: Path) -> None:
    run = make_run(tmp_path, ReadingRules().to_dict())
    made = run.predict(tmp_path / "map", windows=WINDOWS, rasters={"m": raster})
    with rasterio.open(made.class_map) as dataset:
        assert dataset.read(1)[5, [0, 20]].tolist() == [7, 3]
    made = run.predict(tmp_path / "i", windows=WINDOWS, rasters={"m": raster}, values="index")
    with rasterio.open(made.class_map) as dataset:
        assert dataset.read(1)[5, [0, 20]].tolist() == [0, 1]
