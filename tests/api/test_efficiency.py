"""Label efficiency: what is trained, what is not trained again, and the files that are left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.api import efficiency, label_efficiency
from terrafuse.config import RunConfig, load_run_config
from terrafuse.data import load_manifest
from terrafuse.errors import ConfigError, TrainingError, WeightsNotFoundError
from terrafuse.evaluation import half_interval
from terrafuse.samples import IGNORE_INDEX
from terrafuse.sampling import labelled_scenes, share_labels

pytestmark = pytest.mark.usefixtures("without_figures")

Make = Callable[..., Any]
SIZE = 64


@pytest.fixture
def manifest(tmp_path: Path, make_raster: Make) -> Path:
    """Two training scenes and one of each other split, in two classes."""
    scenes = []
    for number, split in enumerate(("train", "train", "val", "test")):
        rng = np.random.default_rng(number)
        place = {"transform": from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)}
        labels = rng.integers(0, 2, (1, SIZE // 8, SIZE // 8), np.uint8).repeat(8, 1).repeat(8, 2)
        image = (labels + rng.normal(0, 1, (2, SIZE, SIZE))).astype(np.float32)
        files = {"s2": f"s2{number}.tif", "labels": f"labels{number}.tif"}
        make_raster(tmp_path / "data" / files["s2"], image, **place)
        make_raster(tmp_path / "data" / files["labels"], labels, **place)
        scenes.append({"id": str(number), "split": split, **files})
    values = {
        "classes": [{"name": "dry"}, {"name": "wet"}],
        "modalities": {"s2": {"kind": "optical", "bands": ["red", "nir"]}},
        "scenes": scenes,
    }
    path = tmp_path / "data" / "dataset.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def make_run(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Function that makes what looks like a finished run."""
    monkeypatch.setattr(efficiency, "read_run_info", _info)

    def create(name: str = "run", **sections: Any) -> Path:
        values: dict[str, Any] = {
            "data": {"manifest": str(manifest), "crop_size": 16, "batch_size": 2, "workers": 0},
            "method": {"name": "early_fusion", "backbone": "resnet10t"},
            "training": {"steps": 2, "seed": 5, "accelerator": "cpu", "devices": 4},
        }
        for section, changes in sections.items():
            values.setdefault(section, {}).update(changes)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        (folder / "model.json").write_text("{}")
        return folder

    return create


def _info(folder: Path) -> None:
    if not (Path(folder) / "model.json").exists():
        raise WeightsNotFoundError(f"'{folder}' is not a run folder")


class FakeTraining:
    """Stands for training and scoring: a run's score is its share of the labels, plus its seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[RunConfig] = []
        self.evaluated: list[str] = []
        self.fail_at: int | None = None
        monkeypatch.setattr(efficiency, "train", self.train)
        monkeypatch.setattr(efficiency, "load", self.load)

    def train(self, config: RunConfig, folder: Path, *, resume: bool, progress: bool) -> None:
        assert resume
        if (folder / "model.json").exists():
            return
        if len(self.trained) == self.fail_at:
            raise TrainingError("the loss is not finite")
        self.trained.append(config)
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))

    def load(self, folder: Path) -> FakeRun:
        return FakeRun(folder, self)


class FakeRun:
    def __init__(self, folder: Path, training: FakeTraining) -> None:
        self.folder, self.training = folder, training

    def evaluate(self, *, split: str, device: str, progress: Any) -> dict[str, Any]:
        self.training.evaluated.append(self.folder.name)
        config = load_run_config(self.folder / "config.yaml")
        score = config.data.label_share / 2 + config.training.seed / 100
        subset = {
            "scores": {"miou": score, "mpa": score + 0.1, "oa": score + 0.2},
            "per_class": {"dry": {"iou": score}, "wet": {"iou": None}},
        }
        metrics = {"split": split, "full": "s2", "subsets": {"s2": subset}}
        (self.folder / "metrics.json").write_text(json.dumps(metrics))
        return metrics


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    return FakeTraining(monkeypatch)


def test_every_share_with_every_seed(
    make_run: Make, training: FakeTraining, manifest: Path
) -> None:
    run, said = make_run(), []
    results = label_efficiency(run, shares=(1, 0.1), seeds=2, progress=False, say=said.append)
    asked = [(c.data.label_share, c.data.label_seed, c.training.seed) for c in training.trained]
    # All shares of a seed before the next seed, the small ones first; labels and weights differ.
    assert asked == [(0.1, 0, 5), (1, 0, 5), (0.1, 1, 6), (1, 1, 6)]
    assert said[0] == "run, 1 of 4: 10 % of the labels, seed 5"
    for config in training.trained:
        assert config.training.devices == 1
        assert config.training.steps == 2
        assert config.data.crop_size == 16
    points = results["run"]["points"]
    assert json.loads((run / "label_efficiency" / "results.json").read_text()) == results["run"]
    assert [p["folder"] for p in points] == ["runs/10-5", "runs/100-5", "runs/10-6", "runs/100-6"]
    assert results["run"]["split"] == "test"
    assert points[0]["iou"] == {"dry": 0.1, "wet": None}
    # What is said of the labels is what training sees of them.
    dataset = load_manifest(manifest)
    for point, config in zip(points, training.trained, strict=True):
        scenes = share_labels(labelled_scenes(dataset, ("train",)), config.data, dataset.scheme)
        kept = [s.read_labels(s.full_window) != IGNORE_INDEX for s in scenes]
        assert point["pixels"] == sum(int(mask.sum()) for mask in kept)
        assert point["scenes"] == sum(bool(mask.any()) for mask in kept)
        assert point["kept_share"] == point["pixels"] / (2 * SIZE**2)
        assert point["missing_classes"] == []


def test_files_say_what_was_found(make_run: Make, training: FakeTraining) -> None:
    run = make_run()
    label_efficiency(run, shares=(0.1, 1), seeds=3, progress=False)
    table = (run / "label_efficiency" / "table.md").read_text()
    values = [55.0, 56.0, 57.0]
    cell = f"{statistics.mean(values):.1f} ± {half_interval(values):.1f}"
    assert f"| 100 % | 8,192 | 512 | {cell} |" in table
    assert "Label efficiency of run: split 'test', scores in %, 3 seeds" in table
    assert "by blocks of 4 px, of 512" in table
    assert (run / "label_efficiency" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.rglob("*.partial"))


def test_what_is_done_is_not_done_again(make_run: Make, training: FakeTraining) -> None:
    run = make_run()
    training.fail_at = 2
    with pytest.raises(TrainingError):
        label_efficiency(run, shares=(0.1, 0.3, 1), seeds=1, progress=False)
    first = (run / "label_efficiency" / "table.md").read_text()
    assert "| 30 % |" in first
    assert "| 100 % |" not in first
    training.fail_at = None
    label_efficiency(run, shares=(0.1, 0.3, 1), seeds=1, progress=False)
    assert len(training.trained) == 3
    assert training.evaluated == ["10-5", "30-5", "100-5"]
    # Another split is scored with the same models; another share is added.
    label_efficiency(run, shares=(0.1, 0.03), seeds=1, split="val", progress=False)
    assert len(training.trained) == 4
    assert training.evaluated[3:] == ["3-5", "10-5"]


def test_two_runs_side_by_side(make_run: Make, training: FakeTraining) -> None:
    run, other = make_run("ours"), make_run("theirs", training={"steps": 3})
    results = label_efficiency(run, shares=(0.1, 1), seeds=2, against=other, progress=False)
    assert list(results) == ["ours", "theirs"]
    assert len(training.trained) == 8
    lines = (run / "label_efficiency" / "table.md").read_text().splitlines()
    assert lines[2] == "| labels | pixels | blocks | mIoU ours | mIoU theirs | Δ to theirs |"
    assert lines[5].endswith("| +0.0, +0.0 |")
    assert "Steps: ours 2, theirs 3" in lines[0]
    assert "ours" not in (other / "label_efficiency" / "table.md").read_text()


def test_runs_that_cannot_be_compared(make_run: Make, training: FakeTraining) -> None:
    run = make_run("ours")
    other = make_run("theirs", training={"seed": 1}, evaluation={"class_mean": "reference"})
    with pytest.raises(ConfigError, match=r"compared: training\.seed, evaluation must be the same"):
        label_efficiency(run, against=other, progress=False)
    with pytest.raises(ConfigError, match="is the run itself"):
        label_efficiency(run, against=run, progress=False)
    assert not training.trained


def test_bad_values_are_refused(make_run: Make, training: FakeTraining, tmp_path: Path) -> None:
    run = make_run()
    for shares in ((), (0,), (0.5, 1.5)):
        with pytest.raises(ConfigError, match="shares of the labels"):
            label_efficiency(run, shares=shares, progress=False)
    with pytest.raises(ConfigError, match="at least one"):
        label_efficiency(run, seeds=0, progress=False)
    with pytest.raises(WeightsNotFoundError, match="not a run folder"):
        label_efficiency(tmp_path, progress=False)
    assert not training.trained


def test_lost_classes_stand_under_the_table(
    make_run: Make, training: FakeTraining, manifest: Path, make_raster: Make
) -> None:
    # Of all blocks, 4 × 4 pixels each, one holds the rare class.
    labels = np.zeros((1, SIZE, SIZE), np.uint8)
    labels[:, 0, 0] = 1
    for number in (0, 1):
        place = {"transform": from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)}
        make_raster(manifest.parent / f"labels{number}.tif", labels * (1 - number), **place)
    run = make_run()
    label_efficiency(run, shares=(0.0001, 1), seeds=1, progress=False)
    table = (run / "label_efficiency" / "table.md").read_text()
    assert "| 0.01 % | 16 | 1 |" in table
    assert "- 0.01 %, seed 5: no label of" not in table  # the block has both classes
    labels[:, :4, :4] = 1
    make_raster(manifest.parent / "labels0.tif", labels, transform=from_origin(5e5, 5e6, 10, 10))
    label_efficiency(run, shares=(0.0001, 1), seeds=1, progress=False)
    table = (run / "label_efficiency" / "table.md").read_text()
    assert "- 0.01 %, seed 5: no label of dry" in table


def test_command_line(command_line: Make, tmp_path: Path, manifest: Path) -> None:
    """From run.yaml to the curve, with real training."""
    values = {
        "data": {"manifest": str(manifest), "crop_size": 16, "batch_size": 2, "workers": 0},
        "method": {
            "name": "early_fusion", "backbone": "resnet10t", "decoder": "segformer",
            "decoder_options": {"channels": 8},
        },
        "training": {"steps": 2, "accelerator": "cpu"},
        "prediction": {"crop_size": SIZE, "overlap": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    assert command_line("train", tmp_path / "run.yaml", "--out", run)[0] == 0
    words = ("evaluate", run, "--label-efficiency", "--shares", "10,100", "--seeds", "1")
    code, out, message = command_line(*words)
    assert code == 0, message
    assert "| 10 % | 816 |" in out
    assert "run, 2 of 2: 100 % of the labels, seed 0" in message
    code, out, message = command_line(*words, "--json")
    points = json.loads(out)["run"]["points"]
    # All labels, with the run's own seed: that is the run.
    assert command_line("evaluate", run)[0] == 0
    whole = json.loads((run / "metrics.json").read_text())["subsets"]["s2"]["scores"]
    assert points[1]["scores"] == whole
    for wrong, text in (
        (("evaluate", run, "--seeds", "2"), "--seeds has an effect only with --label-efficiency"),
        ((*words, "--subsets"), "--subsets has an effect only without --label-efficiency"),
        (("evaluate", run, "--label-efficiency", "--shares", "a"), "give percentages such as"),
        (("evaluate", run, "--label-efficiency", "--shares", "0"), "above 0, at most 1"),
    ):
        code, _, message = command_line(*wrong)
        assert code == 2
        assert text in message
