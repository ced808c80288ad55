"""A run from settings to folder, and what is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from terrafuse.config import RunConfig, load_run_config
from terrafuse.data import load_manifest
from terrafuse.errors import (
    ConfigError,
    DataError,
    LabelError,
    MissingDependencyError,
    ModelError,
    OutputError,
    TerrafuseError,
    TrainingError,
    UnknownNameError,
)
from terrafuse.evaluation import evaluate
from terrafuse.methods import create_segmenter, load_segmenter
from terrafuse.prediction import WindowSettings
from terrafuse.training import train
from terrafuse.training.log import read_log
from terrafuse.training.task import SegmentationTask
from terrafuse.training.validation import Validation

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def pictures_of_one(request: pytest.FixtureRequest) -> None:
    """They take longer than learning."""
    if request.function is not test_run_folder_is_complete:
        request.getfixturevalue("without_figures")


@pytest.fixture
def manifest(make_dataset: Make) -> Path:
    path: Path = make_dataset()
    return path


def initial_state(config: RunConfig) -> dict[str, Tensor]:
    """Weights before the first step."""
    torch.manual_seed(config.training.seed)
    modalities = list(load_manifest(config.data.manifest).modalities.values())
    return create_segmenter("tiny", modalities, 2, config.method.options).state_dict()


def test_run_folder_is_complete(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    config = make_config(manifest)
    out = train(config, tmp_path / "run")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "config.yaml",
        "figures/curves.png",
        "figures/validation_000004.png",
        "figures/validation_000008.png",
        "log.csv",
        "model.json",
        "model.safetensors",
    ]
    assert load_run_config(out / "config.yaml") == config
    segmenter, info = load_segmenter(out)
    assert (info.crop_size, info.overlap) == (48, 0)
    assert not torch.equal(segmenter.state_dict()["mean_a"], torch.zeros(2))


def test_log_has_steps_and_validations(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    losses = [{"name": "cross_entropy"}, {"name": "dice", "weight": 0.5}]
    config = make_config(manifest, training={"losses": losses, "warmup_steps": 1})
    rows = read_log(train(config, tmp_path / "run") / "log.csv")
    steps = [row for row in rows if row["loss"]]
    assert [int(row["step"]) for row in steps] == list(range(1, 9))
    assert [float(row["lr"]) for row in steps[:2]] == pytest.approx([0.005, 0.01])
    for row in steps:
        terms = float(row["loss_cross_entropy"]) + 0.5 * float(row["loss_dice"])
        assert float(row["loss"]) == pytest.approx(terms, rel=1e-4)
    validations = [row for row in rows if row["val_miou"]]
    assert [int(row["step"]) for row in validations] == [4, 8]


def test_it_learns_and_keeps_the_best_weights(
    tmp_path: Path, manifest: Path, make_config: Make
) -> None:
    config = make_config(
        manifest, training={"steps": 30, "validate_every": 10}, method={"dropout": 0.0}
    )
    out = train(config, tmp_path / "run")
    scores = [float(row["val_miou"]) for row in read_log(out / "log.csv") if row["val_miou"]]
    assert max(scores) > 0.6
    segmenter, info = load_segmenter(out)
    metrics = evaluate(
        segmenter,
        load_manifest(manifest).scenes("val"),
        info.scheme,
        config.evaluation,
        WindowSettings(info.crop_size, info.overlap),
        boundary=False,
    )
    # The very score of the stitched maps that training logged.
    assert metrics["subsets"]["a+b"]["scores"]["miou"] == pytest.approx(max(scores), rel=1e-5)


def test_the_best_and_not_the_last_weights_are_saved(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.8, None, 0.7])
    seen = []

    def score(self: Validation, segmenter: Any, *args: Any) -> dict[str, float | None]:
        seen.append({k: v.clone() for k, v in segmenter.state_dict().items()})
        return dict.fromkeys(("oa", "mpa", "miou", "mf1", "kappa", "fwiou"), next(scores))

    monkeypatch.setattr(Validation, "_score", score)
    out = train(make_config(manifest, training={"validate_every": 2}), tmp_path / "run")
    saved = load_segmenter(out)[0].state_dict()
    assert all(torch.equal(saved[k], seen[1][k]) for k in saved)
    assert not all(torch.equal(saved[k], seen[3][k]) for k in saved)


def test_early_stop_counts_validations_without_gain(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.1, 0.9])
    monkeypatch.setattr(
        Validation,
        "_score",
        lambda *_: dict.fromkeys(("oa", "mpa", "miou", "mf1", "kappa", "fwiou"), next(scores)),
    )
    config = make_config(manifest, training={"steps": 20, "validate_every": 2, "early_stop": 2})
    rows = read_log(train(config, tmp_path / "run") / "log.csv")
    assert int(rows[-1]["step"]) == 8


def test_without_validation_split_the_last_weights_are_kept(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset(("train", "test"))
    last: dict[str, Tensor] = {}
    original = SegmentationTask.on_train_end

    def remember(self: SegmentationTask) -> None:
        original(self)
        last.update({k: v.clone() for k, v in self.segmenter.state_dict().items()})

    monkeypatch.setattr(SegmentationTask, "on_train_end", remember)
    with pytest.warns(UserWarning, match="no labelled scenes in split 'val': the last weights"):
        out = train(make_config(manifest), tmp_path / "run")
    saved = load_segmenter(out)[0].state_dict()
    assert all(torch.equal(saved[k], last[k]) for k in saved)
    assert "val_miou" not in read_log(out / "log.csv")[0]


def test_average_by_hand(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(make_dataset(("train",)), training={"steps": 3, "ema_decay": 0.15})
    weights = [initial_state(config)]
    original = SegmentationTask.on_train_batch_end

    def remember(self: SegmentationTask, *args: Any) -> None:
        original(self, *args)
        weights.append({k: v.clone() for k, v in self.segmenter.state_dict().items()})

    monkeypatch.setattr(SegmentationTask, "on_train_batch_end", remember)
    with pytest.warns(UserWarning, match="no labelled scenes in split 'val'"):
        saved = load_segmenter(train(config, tmp_path / "run"))[0].state_dict()
    name = "backbone.body.0.weight"
    average = weights[0][name]
    for current, decay in zip(weights[1:], (1 / 10, 0.15, 0.15), strict=True):
        average = decay * average + (1 - decay) * current[name]
    torch.testing.assert_close(saved[name], average)
    for buffer in ("mean_a", "backbone.body.1.running_mean"):
        assert torch.equal(saved[buffer], weights[-1][buffer])


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
def test_frozen_backbone_stays(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    config = make_config(manifest, training={"backbone_lr_factor": 0})
    start = initial_state(config)
    saved = load_segmenter(train(config, tmp_path / "run"))[0].state_dict()
    changed = {k for k in saved if not torch.equal(saved[k], start[k])}
    assert {k.split(".")[0] for k in changed} == {"head", "mean_a", "mean_b", "std_a", "std_b"}


def test_gradient_clip_bounds_the_step(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    training = {"steps": 1, "optimizer": "sgd", "lr": 1.0, "weight_decay": 0.0}
    config = make_config(manifest, training=training | {"gradient_clip": 1e-3})
    start = initial_state(config)
    segmenter = load_segmenter(train(config, tmp_path / "run"))[0]
    squares = [((p - start[k]) ** 2).sum() for k, p in segmenter.named_parameters()]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights")
def test_accumulation_equals_one_large_batch(
    tmp_path: Path, manifest: Path, make_config: Make
) -> None:
    """Without batch norm two batches of 2 give the gradient of one batch of 4."""
    training = {"steps": 2, "optimizer": "sgd", "lr": 0.1, "backbone_lr_factor": 0}
    states = []
    for name, accumulate, batch_size in (("two", 2, 2), ("one", 1, 4)):
        config = make_config(
            manifest,
            training=training | {"accumulate": accumulate},
            data={"batch_size": batch_size},
            method={"dropout": 0.0},
        )
        states.append(load_segmenter(train(config, tmp_path / name))[0].state_dict())
    torch.testing.assert_close(states[0], states[1])


def test_half_precision(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    out = train(make_config(manifest, training={"precision": "bf16-mixed"}), tmp_path / "run")
    state = load_segmenter(out)[0].state_dict()
    assert all(v.dtype != torch.bfloat16 and v.isfinite().all() for v in state.values())


def test_initial_weights_depend_on_the_seed_only(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    monkeypatch.setattr(
        SegmentationTask,
        "on_train_start",
        lambda self: states.append({k: v.clone() for k, v in self.segmenter.state_dict().items()}),
    )
    for i, (seed, batch_size) in enumerate(((0, 2), (0, 3), (1, 2))):
        torch.rand(i)
        config = make_config(
            manifest, training={"seed": seed, "steps": 1}, data={"batch_size": batch_size}
        )
        train(config, tmp_path / f"run{i}")
    name = "backbone.body.0.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_non_finite_loss_stops_with_advice(
    tmp_path: Path, manifest: Path, make_config: Make
) -> None:
    config = make_config(manifest, training={"optimizer": "sgd", "gradient_clip": None})
    training = config.training.model_copy(update={"lr": 1e38})  # beyond what is allowed
    config = config.model_copy(update={"training": training})
    with pytest.raises(TrainingError, match=r"the loss is \w+ at step [23] .*lower training.lr"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()


def test_loggers_get_the_lines_of_the_log(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Recorder(Logger):  # type: ignore[misc]
        name, version = "recorder", 0

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            seen.append((step, metrics))

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            pass

    monkeypatch.setattr("terrafuse.training.trainer._create_logger", lambda *_: Recorder())
    monkeypatch.setattr("terrafuse.training.trainer.find_spec", lambda _: True)
    config = make_config(manifest, training={"loggers": ["mlflow"], "steps": 2})
    rows = read_log(train(config, tmp_path / "run") / "log.csv")
    assert [str(step) for step, _ in seen] == [row["step"] for row in rows] == ["1", "2", "2"]
    for (_, metrics), row in zip(seen, rows, strict=True):
        for name, value in metrics.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-5)
    assert {"lr", "loss"} <= set(seen[0][1])
    assert "val_miou" in seen[2][1]


def test_a_real_method_trains(tmp_path: Path, manifest: Path, make_config: Make) -> None:
    method = {"name": "late_fusion", "backbone": "resnet10t", "decoder": "segformer"}
    config = make_config(
        manifest,
        method=method,
        data={"crop_size": 32, "modality_dropout": 0.5, "sampling": "balanced"},
        training={"steps": 2, "layer_decay": 0.8, "losses": [{"name": "lovasz"}]},
    )
    segmenter, _ = load_segmenter(train(config, tmp_path / "run"))
    assert segmenter.method_name == "late_fusion"


@pytest.mark.parametrize(
    ("sections", "kind", "message"),
    [
        ({"training": {"losses": [{"name": "dise"}]}}, UnknownNameError, "mean 'dice'"),
        ({"training": {"monitor": "mIoU"}}, ConfigError, r"'training.monitor' 'mIoU'.*'miou'"),
        (
            {"training": {"losses": [{"name": "focal", "alpha": [1.0]}]}},
            ConfigError,
            "'alpha' is .* give 2 numbers",
        ),
        (
            {"training": {"strategy": "fsdp", "ema_decay": 0.9}},
            ConfigError,
            "ema_decay cannot be used with strategy 'fsdp'",
        ),
        (
            {"training": {"strategy": "fsdp", "head_first_steps": 2}},
            ConfigError,
            "head_first_steps cannot be used with strategy 'fsdp': shards are frozen",
        ),
        ({"training": {"accelerator": "gpuu"}}, ConfigError, "'training.accelerator' is 'gpuu'"),
        ({"training": {"accelerator": "mps"}}, ConfigError, "training.accelerator, devices"),
        ({"method": {"name": "tinny"}}, UnknownNameError, "mean 'tiny'"),
        ({"method": {"dropuot": 0.1}}, UnknownNameError, "mean 'dropout'"),
        ({"method": {"name": "single"}}, ModelError, "Single takes 1 modalities, got 2"),
        ({"data": {"modalities": ("a", "c")}}, TerrafuseError, "'c'"),
        ({"data": {"manifest": Path("nowhere.yaml")}}, ConfigError, "nowhere.yaml"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(
    tmp_path: Path,
    manifest: Path,
    make_config: Make,
    sections: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        train(make_config(manifest, **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crop_size_must_suit_the_scales(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    manifest = make_dataset(
        modalities={
            "a": {"kind": "optical", "bands": ["red", "nir"]},
            "b": {"kind": "sar", "bands": ["vv"], "scale": 3},
        }
    )
    with pytest.raises(ConfigError, match=r"crop_size is 16; .*multiple of 3, for instance 15"):
        train(make_config(manifest), tmp_path / "run")


def test_missing_logger_names_the_extra(
    tmp_path: Path, manifest: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrafuse.training.trainer.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"'wandb'.*terrafuse\[track\]"):
        train(make_config(manifest, training={"loggers": ["wandb"]}), tmp_path / "run")


def test_constant_band_is_refused(
    tmp_path: Path, make_dataset: Make, make_config: Make, make_raster: Make
) -> None:
    manifest = make_dataset(("train", "val"))
    make_raster(manifest.parent / "b0.tif", np.full((1, 48, 48), 7, np.float32))
    with pytest.raises(TerrafuseError, match="band 'vv' of modality 'b' is constant"):
        train(make_config(manifest), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_all_ignored_are_refused(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    manifest = make_dataset(classes=[{"name": "dry", "code": 7}], void=[0, 1])
    with pytest.raises(DataError, match="labels of split 'train' are all ignored"):
        train(make_config(manifest), tmp_path / "run")


@pytest.mark.filterwarnings("ignore:labels of scene 'scene2' are all ignored")
def test_validation_labels_all_ignored_are_refused(
    tmp_path: Path, make_dataset: Make, make_config: Make, make_raster: Make
) -> None:
    manifest = make_dataset(void=[9])
    with rasterio.open(manifest.parent / "labels2.tif") as dataset:
        transform = dataset.transform
    nines = np.full((1, 48, 48), 9, np.uint8)
    make_raster(manifest.parent / "labels2.tif", nines, transform=transform)
    with pytest.raises(LabelError, match="labels of split 'val' are all ignored"):
        train(make_config(manifest), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["model.json", "notes.txt"])
def test_used_folder_is_refused(
    tmp_path: Path, manifest: Path, make_config: Make, content: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / content).write_text("mine")
    with pytest.raises(OutputError, match=r"is not empty. Choose another folder .*--resume"):
        train(make_config(manifest), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [content]


def test_file_in_place_of_the_folder_is_refused(
    tmp_path: Path, manifest: Path, make_config: Make
) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="not a writable folder"):
        train(make_config(manifest), tmp_path / "run")


def test_plain_lines_are_printed_without_a_terminal(
    tmp_path: Path, manifest: Path, make_config: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    train(make_config(manifest, training={"steps": 1}), tmp_path / "run")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("augmentation, ")
    assert not {"\r", "\x1b"} & set(printed.err)


def test_modality_dropout_needs_a_method_that_can_miss_modalities(
    tmp_path: Path, make_dataset: Make, make_config: Make
) -> None:
    config = make_config(make_dataset(), data={"modality_dropout": 0.2})
    with pytest.raises(ConfigError, match="method 'tiny' needs every modality"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
