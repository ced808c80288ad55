"""Runs that learn from painted polygons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
import yaml
from rasterio import features

from remedies import refused
from stopped_runs import stop_after
from terrafuse.api import load
from terrafuse.api.efficiency import _subject
from terrafuse.api.run_facts import _data
from terrafuse.api.sweep_plan import SweepRun
from terrafuse.api.sweeps import _check_same_painting
from terrafuse.config import RunConfig
from terrafuse.data import load_manifest
from terrafuse.data.painted import (
    PAINTED,
    PAINTED_JSON,
    PaintedPolygon,
    learnt_in,
    painted_path,
    read_painted,
    write_layer,
)
from terrafuse.errors import ConfigError, TrainingError
from terrafuse.landscape import make_landscape
from terrafuse.training import run_state, train
from terrafuse.weights import read_state

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("without_figures")
THIRD = [{"name": name, "code": code} for code, name in enumerate(("dry", "wet", "mine"))]


def paint(manifest: Path, scene: str, name: str, *edges: float) -> None:
    grid = load_manifest(manifest).scene(scene).grid
    shape = shapely.multipolygons([shapely.box(*edges)])
    write_layer(painted_path(manifest), scene, grid, [PaintedPolygon("p", name, shape)])


@pytest.fixture
def manifest(make_dataset: Make) -> Path:
    """Scenes 0 (labels) and 1 (none) to train on, 2 for validation; no label is of class mine."""
    path: Path = make_dataset(classes=THIRD)
    values = yaml.safe_load(path.read_text())
    del values["scenes"][1]["labels"]
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_scene_without_labels_teaches_a_class_that_no_label_has(
    manifest: Path, tmp_path: Path, make_config: Make, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    paint(manifest, "scene1", "mine", 0, 0, 40, 30)
    paint(manifest, "scene0", "wet", 20, 10, 30, 20)
    paint(manifest, "scene2", "mine", 0, 0, 48, 48)
    counts: list[tuple[int, ...]] = []
    original = run_state.begin

    def begin(out: Path, config: Any, facts: Any, *rest: Any) -> None:
        counts.append(facts.class_counts)
        original(out, config, facts, *rest)

    monkeypatch.setattr(run_state, "begin", begin)
    config: RunConfig = make_config(manifest)
    out = tmp_path / "run"
    train(config, out)
    said = capsys.readouterr().err
    assert "painted: 2 polygons in 2 scenes, 1,300 pixels, from '" in said
    assert "painted: 1 polygon in scenes of split 'val' are not learnt from" in said
    assert counts[0][2] == 1200
    assert sum(counts[0]) == 1200 + 48 * 48
    about = json.loads((out / PAINTED_JSON).read_text())
    assert about["classes"] == {"scene1": {"mine": 1}, "scene0": {"wet": 1}}
    assert read_painted(out / PAINTED)[1]["scene1"].classes == ("mine",)
    run = load(out)
    assert _data(run)["painted polygons"] == "2 in 2 scenes"
    with pytest.warns(UserWarning, match="scored by the labels of the manifest alone"):
        chosen = run.choose_scenes("train")
    assert [scene.id for scene in chosen.scenes] == ["scene0"]

    # What a finished run learnt from stays with it, whatever is painted since.
    swept = SweepRun("", "", 0, config, out, None, out)
    _check_same_painting(swept)
    paint(manifest, "scene1", "mine", 0, 0, 40, 31)
    claim = "api.sweeps:_check_same_painting | Restore them, remove the run, or sweep into another"
    with refused(claim, ConfigError):
        _check_same_painting(swept)
    paint(manifest, "scene1", "mine", 0, 0, 40, 30)
    _check_same_painting(swept)
    assert _subject(out).config.data.painted == (out / PAINTED).resolve()


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_polygons_it_was_begun_with(
    manifest: Path, tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    paint(manifest, "scene1", "mine", 0, 0, 40, 30)
    config = make_config(manifest)
    train(config, tmp_path / "whole")
    stop_after(monkeypatch, 5)
    with pytest.raises(TrainingError, match="after step 5 of 8"):
        train(config, tmp_path / "run")
    paint(manifest, "scene1", "wet", 0, 0, 48, 48)
    capsys.readouterr()
    train(config, tmp_path / "run", resume=True)
    assert "polygons were changed since this run was begun" in capsys.readouterr().err
    whole, resumed = (read_state(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert learnt_in(tmp_path / "run") == learnt_in(tmp_path / "whole") is not None


@pytest.mark.slow
def test_a_run_begun_without_polygons_goes_on_without(
    make_dataset: Make, tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset()
    config = make_config(manifest)
    stop_after(monkeypatch, 5)
    with pytest.raises(TrainingError):
        train(config, tmp_path / "run")
    paint(manifest, "scene0", "wet", 0, 0, 48, 48)
    train(config, tmp_path / "run", resume=True)
    assert learnt_in(tmp_path / "run") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_look_paint_train_again(tmp_path: Path, command_line: Any) -> None:
    """No label to train on is of forest: it is learnt from polygons painted over one scene."""
    path = make_landscape(tmp_path / "land", seed=2, size=192, train=2, val=1, test=1)
    values = yaml.safe_load(path.read_text())
    scene, other = (item for item in values["scenes"] if item["split"] == "train")
    for item in (other, scene):
        with rasterio.open(path.parent / item["labels"], "r+") as labels:
            is_forest = labels.read(1) == 4
            labels.write(np.where(is_forest, 255, labels.read(1)), 1)
    run = tmp_path / "run.yaml"
    run.write_text(
        f"data: {{manifest: {path}, modalities: [optical], crop_size: 64, batch_size: 8, "
        "workers: 0, sampling: balanced}\n"
        "method: {name: single, backbone: resnet10t, backbone_options: {strides: [2, 4, 8, 16]}, "
        "decoder_options: {channels: 32}}\n"
        "training: {steps: 100, lr: 0.003, validate_every: 50, accelerator: cpu}\n"
        "prediction: {crop_size: 192, overlap: 0}\n"
    )
    shapes = features.shapes(is_forest.astype(np.uint8), is_forest)
    polygons = [
        PaintedPolygon(f"{n}", "forest", shapely.multipolygons([shapely.geometry.shape(one)]))
        for n, (one, _) in enumerate(shapes)
    ]
    manifest = load_manifest(path)
    grid = manifest.scene(scene["id"]).grid
    write_layer(painted_path(path), scene["id"], grid, polygons)
    code, _, said = command_line("train", run, "--out", tmp_path / "run")
    assert code == 0, said
    assert "painted: " in said
    test = manifest.scenes("test")[0]
    products = load(tmp_path / "run").predict(scene=test, out=tmp_path / "map")
    with rasterio.open(products.class_map) as made:
        mapped = made.read(1) == 4
    with rasterio.open(path.parent / "labels" / f"{test.id}.tif") as truth:
        forest = truth.read(1) == 4
    # Without the polygons no pixel could be of it.
    inside, outside = mapped[forest].mean(), mapped[~forest].mean()
    assert inside > 0.2, (inside, outside)
    assert inside > 2 * outside, (inside, outside)
