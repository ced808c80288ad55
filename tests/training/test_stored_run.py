"""Run folders of version 0.1.0 map and resume as they did then."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from stored_run import make_data, write_config
from terrafuse import api
from terrafuse.weights import read_state

STORED = Path(__file__).parents[1] / "golden" / "stored_run"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, make_data(tmp_path))


def bring(name: str, folder: Path) -> Path:
    """A stored run folder, whose data set lies in the folder now."""
    run = shutil.copytree(STORED / name, folder / name)
    written = (run / "config.yaml").read_text()
    assert "DATASET" in written
    (run / "config.yaml").write_text(written.replace("DATASET", str(folder / "dataset.yaml")))
    return run


def test_a_stored_run_maps_as_it_did(config: Path, tmp_path: Path) -> None:
    run = bring("whole", tmp_path)
    rasters = {"s2": tmp_path / "s2_2.tif", "s1": tmp_path / "s1_2.tif"}
    api.predict(run, tmp_path / "map", rasters=rasters)
    for product, tolerance in (("class_map", 0), ("confidence", 1)):  # 1: a rounding of uint8
        with (
            rasterio.open(STORED / "map" / f"{product}.tif") as then,
            rasterio.open(tmp_path / "map" / f"{product}.tif") as now,
        ):
            before, after = then.read().astype(float), now.read().astype(float)
        assert np.abs(before - after).max() <= tolerance, product
    assert len(np.unique(before)) > 20


def test_a_stored_checkpoint_resumes_to_the_weights_of_a_run_never_stopped(
    config: Path, tmp_path: Path
) -> None:
    run = bring("stopped", tmp_path)
    stored = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    begun = {name.removeprefix("segmenter."): value for name, value in stored.items()}
    with (
        pytest.warns(UserWarning, match=r"run.yaml: 'method\.backbone_options\.taps' is called"),
        pytest.warns(UserWarning, match="begun when nodata was judged band by band"),
    ):
        api.train(config, run, resume=True, progress=False)
    resumed, whole = read_state(run), read_state(STORED / "whole")
    assert resumed.keys() == whole.keys()
    # Processors differ by rounding, and steps make more of it: by 0.0008 of the way that is left
    # from the checkpoint on. Without the optimiser's means it is 0.05.
    assert distance(resumed, whole) < 0.005 * distance(begun, whole)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Between two models, over all of their parameters and statistics."""
    return math.dist(*(torch.cat([s[k].double().flatten() for k in other]) for s in (one, other)))
