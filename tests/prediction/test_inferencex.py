"""Our maps are read by olmoearth-inferencex, which says where a map is likely wrong.

    uv pip install olmoearth-inferencex

It reads probabilities as they stand in the file, from 0 to 1: those of `probabilities_float32`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.prediction import ScenePredictor, WindowSettings

cli = pytest.importorskip(
    "oe_inferencex.cli", reason="olmoearth-inferencex is not installed (see the docstring)"
)
SIZE, PATCH = 64, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sure everywhere but in one corner; no data in another one."""
    scores = np.zeros((3, SIZE, SIZE), np.float32)
    scores[0], scores[1, :, 40:], scores[2, :12, :12] = 3, 9, 2.9
    scores[:, 56:, 56:] = np.nan
    scene = ArrayScene({"a": scores}, scheme=ClassScheme(("bare", "wét", "roof")))
    predictor = ScenePredictor(Identity(scene.modalities, 3), WindowSettings(32, 8), device="cpu")
    names = ("class_map", "confidence", "probabilities", "probabilities_float32")
    return predictor.predict(scene, tmp_path_factory.mktemp("map"), products=names)


def test_probabilities_are_those_of_the_file(made: Any) -> None:
    scores, valid, geo = cli.read_raster(str(made["probabilities_float32"]))
    with rasterio.open(made["probabilities_float32"]) as dataset:
        np.testing.assert_array_equal(scores, dataset.read())
        assert (geo["transform"], geo["crs"]) == (dataset.transform, dataset.crs)
    assert not valid[56:, 56:].any()
    assert valid.sum() == SIZE**2 - 64
    np.testing.assert_allclose(scores[:, valid].sum(axis=0), 1, atol=1e-5)


def test_the_least_sure_windows_are_looked_at_first(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    arguments = ["assess", str(made["probabilities_float32"]), "--out", str(out)]
    cli.main([*arguments, "--patch", str(PATCH)])
    assert json.loads((out / "assessment.json").read_text())["inputs"]["logits"] is False
    with rasterio.open(out / "suspicion.tif") as dataset:
        suspicion = dataset.read(1)
    assert suspicion.shape == (SIZE // PATCH, SIZE // PATCH)
    corner = suspicion[:3, :3]
    others = suspicion.copy()
    others[:3, :3] = np.nan
    assert np.nanmin(corner) > np.nanmax(others)
    assert np.isnan(suspicion[14:, 14:]).all()


def test_classes_and_their_confidence(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    cli.main(
        ["assess", str(made["class_map"]), "--confidence", str(made["confidence"]),
         "--confidence-range", "0", "254", "--patch", str(PATCH), "--out", str(out)]
    )  # fmt: skip
    with rasterio.open(out / "suspicion.tif") as dataset:
        suspicion = dataset.read(1)
    assert np.nanmin(suspicion[:3, :3]) > np.nanmax(suspicion[4:, :8])


def test_bytes_are_refused_with_a_word(made: Any, tmp_path: Path) -> None:
    """Their scale of 1/254 is not applied there, and nothing is scored in silence."""
    with pytest.raises(SystemExit, match=r"values run 0 to 25\d, which is not a probability map"):
        cli.main(["assess", str(made["probabilities"]), "--out", str(tmp_path / "audit")])
