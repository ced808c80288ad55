"""What is learned from, and how values reach the model, holds from training to the map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

import terrafuse
from terrafuse.api import validate
from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError, SceneNotFoundError, TerrafuseError
from terrafuse.methods import load_segmenter
from terrafuse.samples import Batch
from terrafuse.training import run_state, train
from terrafuse.training.task import SegmentationTask

pytestmark = pytest.mark.usefixtures("without_figures")

Make = Callable[..., Any]
BY_RANGE = {"a": {"mean": 0, "std": [255, 100]}, "b": "scene_range"}


@pytest.fixture
def manifest(make_dataset: Make, make_raster: Make) -> Path:
    """Splits train, more and val; the surface of the scene in `more` is constant."""
    path: Path = make_dataset(("train", "more", "val"))
    flat = path.parent / "b1.tif"
    with rasterio.open(flat) as dataset:
        transform = dataset.transform
    make_raster(flat, np.full((1, 48, 48), 7, np.float32), transform=transform)
    return path


@pytest.fixture
def run(tmp_path: Path, manifest: Path, make_config: Make) -> terrafuse.api.Run:
    """A run on two splits, with one modality rescaled and one by fixed numbers."""
    data = {"train_splits": ("train", "more"), "normalization": BY_RANGE, "sampling": "scene"}
    out = train(make_config(manifest, data=data), tmp_path / "run")
    return terrafuse.load(out)


def labels_of(manifest: Path, number: int) -> np.ndarray:
    with rasterio.open(manifest.parent / f"labels{number}.tif") as dataset:
        return np.asarray(dataset.read(1))


def test_all_splits_are_learned_from(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[run_state.SplitStatistics] = []
    shown: set[str] = set()
    begin, step = run_state.begin, SegmentationTask.training_step

    def note_facts(
        out: Path, config: RunConfig, facts: run_state.SplitStatistics, painted: Any
    ) -> None:
        found.append(facts)
        begin(out, config, facts, painted)

    def note_scenes(self: SegmentationTask, batch: Batch, batch_idx: int) -> dict[str, Any]:
        shown.update(batch.scene_ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(run_state, "begin", note_facts)
    monkeypatch.setattr(SegmentationTask, "training_step", note_scenes)
    train(make_config(manifest, data={"train_splits": ("train", "more")}), tmp_path / "run")
    assert shown == {"scene0", "scene1"}
    (facts,) = found
    both = np.concatenate([labels_of(manifest, n).ravel() for n in (0, 1)])
    assert facts.class_counts == tuple(np.bincount(both).tolist())
    values = []
    for n in (0, 1):
        with rasterio.open(manifest.parent / f"b{n}.tif") as dataset:
            values.append(dataset.read(1))
    assert facts.statistics["b"].mean[0] == pytest.approx(np.mean(values), rel=1e-5)


def test_normalisation_is_that_of_the_settings(run: terrafuse.api.Run) -> None:
    state = run.segmenter.state_dict()
    assert state["mean_a"].tolist() == [0, 0]
    assert state["std_a"].tolist() == [255, 100]
    assert (state["mean_b"].item(), state["std_b"].item()) == (0, 1)
    assert run.info.rules["b"]["rescale"] == "scene_range"
    assert run.info.rules["a"]["rescale"] is None
    assert run.info.modalities[1].unit == "scene range"


@pytest.mark.parametrize("number", [1, 2])
def test_the_map_is_the_same_from_the_manifest_and_from_rasters(
    run: terrafuse.api.Run, manifest: Path, tmp_path: Path, number: int
) -> None:
    received: list[dict[str, torch.Tensor]] = []
    handle = run.segmenter.register_forward_pre_hook(
        lambda _, inputs: received.append(dict(inputs[0]))
    )
    files = {name: manifest.parent / f"{name}{number}.tif" for name in "ab"}
    products = [
        run.predict(tmp_path / "from_scene", scene=f"{manifest}#scene{number}", device="cpu"),
        run.predict(tmp_path / "from_rasters", rasters=files, device="cpu"),
    ]
    handle.remove()
    first, second = received
    for name in "ab":
        assert torch.equal(first[name], second[name])
    # A whole scene in one window; the constant one is 0 everywhere.
    extremes = (first["b"].min().item(), first["b"].max().item())
    assert extremes == ((0, 0) if number == 1 else (0, 1))
    maps = []
    for product in products:
        with rasterio.open(product.class_map) as dataset:
            maps.append(dataset.read(1))
    np.testing.assert_array_equal(*maps)


def test_evaluation_rescales_as_training_did(
    run: terrafuse.api.Run, manifest: Path, tmp_path: Path
) -> None:
    received: list[torch.Tensor] = []
    handle = run.segmenter.register_forward_pre_hook(
        lambda _, inputs: received.append(inputs[0]["b"])
    )
    metrics = run.evaluate(split="val", device="cpu")
    # Another manifest of the same scenes, and one that asks for it itself.
    values = yaml.safe_load(manifest.read_text())
    values["modalities"]["b"]["rescale"] = "scene_range"
    asking = manifest.parent / "asking.yaml"
    asking.write_text(yaml.safe_dump(values))
    again = run.evaluate(split="val", manifest=asking, device="cpu")
    handle.remove()
    assert again["subsets"] == metrics["subsets"]
    assert [(x.min().item(), x.max().item()) for x in received] == [(0, 1), (0, 1)]
    # The pixels that predict reads come to the same scores.
    product = run.predict(tmp_path / "map", scene=f"{manifest}#scene2", device="cpu")
    with rasterio.open(product.class_map) as dataset:
        right = (dataset.read(1) == labels_of(manifest, 2)).mean()
    assert metrics["subsets"]["a+b"]["scores"]["oa"] == pytest.approx(right)


def test_a_run_from_before_there_was_rescaling_reads_physical_values(
    run: terrafuse.api.Run, manifest: Path, tmp_path: Path
) -> None:
    path = run.folder / "model.json"
    values = json.loads(path.read_text())
    for rules in values["reading_rules"].values():
        del rules["rescale"]
    path.write_text(json.dumps(values))
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    del settings["data"]["normalization"], settings["data"]["train_splits"]
    (run.folder / "config.yaml").write_text(yaml.safe_dump(settings))
    earlier = terrafuse.load(run.folder)
    received: list[float] = []
    handle = earlier.segmenter.register_forward_pre_hook(
        lambda _, inputs: received.append(inputs[0]["b"].max().item())
    )
    files = {name: manifest.parent / f"{name}1.tif" for name in "ab"}
    earlier.predict(tmp_path / "r", rasters=files, device="cpu")
    earlier.predict(tmp_path / "s", scene=f"{manifest}#scene1", device="cpu")
    handle.remove()
    assert received == [7, 7]


def test_a_constant_modality_can_be_learned_from_only_if_it_is_not_measured(
    tmp_path: Path, manifest: Path, make_config: Make
) -> None:
    only = {"train_splits": ("more",)}
    with pytest.raises(TerrafuseError, match="band 'vv' of modality 'b' is constant"):
        train(make_config(manifest, data=only), tmp_path / "measured")
    for name, how in (("range", "scene_range"), ("fixed", {"mean": 7, "std": 2})):
        config: RunConfig = make_config(
            manifest, data=only | {"normalization": {"b": how}}, training={"steps": 1}
        )
        state = load_segmenter(train(config, tmp_path / name))[0].state_dict()
        assert state["std_b"].item() == (1 if name == "range" else 2)


def test_a_resumed_run_has_the_same_normalisation(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(manifest, data={"normalization": BY_RANGE})

    def stop(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", stop)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "run")
    state = load_segmenter(train(config, tmp_path / "run", resume=True))[0].state_dict()
    assert state["std_a"].tolist() == [255, 100]
    other = make_config(manifest, data={"normalization": BY_RANGE | {"b": "measured"}})
    with pytest.raises(ConfigError, match=r"data\.normalization\.b was 'scene_range'"):
        train(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"train_splits": ("tran",)}, SceneNotFoundError, r"'tran'\. Did you mean 'train'"),
        ({"normalization": {"c": "measured"}}, ConfigError, "unknown modality 'c'"),
        ({"normalization": {"a": {"std": [1, 2, 3]}}}, ConfigError, r"a\.std has 3 values"),
    ],
)
def test_faults_are_found_before_anything_is_read(
    tmp_path: Path,
    manifest: Path,
    make_config: Make,
    data: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    config: RunConfig = make_config(manifest, data=data)
    with pytest.raises(kind, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for raster in manifest.parent.glob("*.tif"):
        raster.unlink()
    with pytest.raises(kind, match=message):
        validate(path)
