"""Served models, as far as their descriptions go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from made_runs import make_run
from small_onnx import Pointwise, info_of, write_onnx
from terrafuse.config.base import STORED_CONFIG
from terrafuse.errors import ConfigError
from terrafuse.web.service.models import ModelShelf, ServedModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of windows of 32 pixels."""
    return make_run(tmp_path_factory.mktemp("models"))


def served(run: Path, folder: Path, **prediction: Any) -> ServedModel:
    """A copy of the run with other settings of its prediction."""
    copied = shutil.copytree(run, folder / "run")
    settings = yaml.safe_load((copied / STORED_CONFIG).read_text())
    settings["prediction"] = prediction
    (copied / STORED_CONFIG).write_text(yaml.safe_dump(settings))
    return ModelShelf([str(copied)]).find("run")


def test_windows_are_those_that_a_worker_will_have(run: Path, tmp_path: Path) -> None:
    model = served(run, tmp_path, overlap=12)
    own = model.windows(crop_size=None, overlap=None)
    assert (own.crop_size, own.overlap) == (32, 12)
    with pytest.raises(ConfigError, match="overlap is 12 with crop_size 16; allowed is 0 to"):
        model.windows(crop_size=16, overlap=None)
    smaller = model.windows(crop_size=16, overlap=8)
    assert (smaller.crop_size, smaller.overlap) == (16, 8)


def test_windows_overlap_as_far_as_the_blending_of_the_run_lets_them(
    run: Path, tmp_path: Path
) -> None:
    model = served(run, tmp_path, blending="uniform")
    assert model.windows(crop_size=None, overlap=31).overlap == 31
    assert model.windows(crop_size=16, overlap=None).overlap == 4


def test_windows_of_an_exported_model(tmp_path: Path) -> None:
    model = Pointwise()
    windows = {"crop_size": 64, "overlap": 20, "blending": "taper"}
    write_onnx(tmp_path / "small.onnx", model, info_of(model, windows=windows))
    found = ModelShelf([str(tmp_path / "small.onnx")]).find("small")
    own = found.windows(crop_size=None, overlap=None)
    assert (own.crop_size, own.overlap) == (64, 20)
    assert found.windows(crop_size=32, overlap=None).overlap == 8
    with pytest.raises(ConfigError, match="overlap is 33 with crop_size 64"):
        found.windows(crop_size=None, overlap=33)
