"""`pretrain` from a manifest to a folder: no labels, exact resuming, nothing half-written."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from terrafuse.api import pretrain as pretrain_verb
from terrafuse.api import pretrained_weights
from terrafuse.backbones.pretrained_files import read_own
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig, load_pretrain_config, without_labels
from terrafuse.data.scene import Scene
from terrafuse.errors import (
    ConfigError,
    ModelError,
    NotEnoughMemoryError,
    OutputError,
    StoppedError,
    TerrafuseError,
    TrainingError,
    UnknownNameError,
    WeightsError,
    WeightsNotFoundError,
)
from terrafuse.training import pretrain
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.log import read_log
from terrafuse.training.pretrain import PretrainingTask
from terrafuse.weights import read_weights

Make = Callable[..., Any]

RESNET = {"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}
DOFA = {
    "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "dynamic_embed_dim": 8,
    "img_size": 64,
}  # fmt: skip
#: Objective → settings that make it small.
SMALL: dict[str, dict[str, Any]] = {
    "decur": {
        "objective": {"name": "decur", "hidden": 8, "dim": 8, "common": 6},
        "backbone": "resnet18",
        "backbone_options": RESNET,
    },
    "infonce": {
        "objective": {"name": "infonce"},
        "backbone": "resnet18",
        "backbone_options": RESNET,
    },
    "croma": {
        "objective": {"name": "croma", "decoder_dim": 8, "decoder_heads": 2},
        "backbone": "croma_base",
        "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    },
    "mae": {
        "objective": {"name": "mae", "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2},
        "backbone": "dofa_base_patch16",
        "backbone_options": DOFA,
    },
}
FILES = {
    "decur": {"a": "a.safetensors", "b": "b.safetensors"},
    "infonce": {"a": "a.safetensors", "b": "b.safetensors"},
    "croma": "backbone.safetensors",
    "mae": "backbone.safetensors",
}
LOSSES = {
    "decur": ["loss_a", "loss_b", "loss_a+b"],
    "infonce": ["loss_contrast"],
    "croma": ["loss_contrast", "loss_reconstruction"],
    "mae": ["loss_a", "loss_b"],
}


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than learning."""
    if request.function is not test_curve:
        module = sys.modules["terrafuse.training.pretrain"]
        monkeypatch.setattr(module, "save_curves", lambda *_: None)


def settings(manifest: Path, name: str, /, **changes: Any) -> PretrainConfig:
    """Settings for 6 steps; keyword arguments replace keys, or some keys of a section."""
    values: dict[str, Any] = {
        "data": {"manifest": manifest, "crop_size": 16, "batch_size": 4, "workers": 0},
        "training": {"steps": 6, "lr": 0.01, "accelerator": "cpu", "save_every": 2},
        **SMALL[name],
    }
    for key, change in changes.items():
        nested = key in ("data", "training", "objective")
        values[key] = {**values[key], **change} if nested else change
    return parse_settings(PretrainConfig, values, "pretrain.yaml")


@pytest.fixture
def labelled(make_dataset: Make) -> Callable[..., Path]:
    """Function that writes a dataset with labels, and wavelengths for DOFA."""
    modalities = {
        "a": {"kind": "optical", "bands": ["red", "nir"], "wavelengths_um": [0.665, 0.84]},
        "b": {"kind": "sar", "bands": ["vv"]},
    }
    return lambda *splits: make_dataset(splits, modalities=modalities)


@pytest.fixture
def unlabelled(labelled: Make) -> Path:
    """A dataset whose scenes have no labels."""
    path: Path = labelled("train", "train")
    values = yaml.safe_load(path.read_text())
    for scene in values["scenes"]:
        del scene["labels"]
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.parametrize("objective", SMALL)
def test_folder(objective: str, unlabelled: Path, tmp_path: Path) -> None:
    config = settings(unlabelled, objective)
    out = pretrain(config, tmp_path / "run")
    facts = json.loads((out / "pretrain.json").read_text())
    assert facts["weights"] == FILES[objective]
    assert facts["objective"]["name"] == objective
    assert facts["backbone"] == SMALL[objective]["backbone"]
    assert facts["steps"] == 6
    assert set(facts["statistics"]) == {"a", "b"}
    files = FILES[objective] if isinstance(FILES[objective], dict) else {"": FILES[objective]}
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "log.csv", "pretrain.json", *files.values()
    }  # fmt: skip
    for modality, file in files.items():
        own = read_own(str(out / file))
        assert own is not None
        assert own.objective == objective
        if modality:
            assert own.bands == {"image": tuple((modality, b) for b in _bands(modality))}
        assert all(bool(v.isfinite().all()) for v in read_weights(out / file).values())
    rows = read_log(out / "log.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        parts = [float(row[name]) for name in LOSSES[objective]]
        assert sum(parts) == pytest.approx(float(row["loss"]), rel=1e-4)
    assert load_pretrain_config(out / "config.yaml") == config


def _bands(modality: str) -> list[str]:
    return {"a": ["red", "nir"], "b": ["vv"]}[modality]


@pytest.mark.parametrize("objective", SMALL)
def test_labels_are_never_read(
    objective: str, labelled: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = labelled("train", "train")

    def fail(self: Scene, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"labels of {self} were read")

    monkeypatch.setattr(Scene, "read_labels", fail)
    out = pretrain(settings(manifest, objective), tmp_path / "run")
    if objective != "decur":  # all read by the same way
        return
    values = yaml.safe_load(manifest.read_text())
    for scene in values["scenes"]:
        del scene["labels"]
    manifest.write_text(yaml.safe_dump(values, sort_keys=False))
    without = pretrain(settings(manifest, objective), tmp_path / "without")
    for file in out.glob("*.safetensors"):
        expected, found = read_weights(without / file.name), read_weights(file)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def press_ctrl_c_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    original = PretrainingTask.on_train_batch_start
    waiting = [batch]

    def start(self: PretrainingTask, views: Any, batch_idx: int) -> None:
        original(self, views, batch_idx)
        if batch_idx in waiting:
            waiting.clear()
            last = self.trainer.callbacks[-1]
            assert isinstance(last, LastCheckpoint)
            last._request_stop(signal.SIGINT, None)

    monkeypatch.setattr(PretrainingTask, "on_train_batch_start", start)


@pytest.mark.parametrize(
    ("objective", "training", "stop_at_batch"),
    [
        ("decur", {"accumulate": 2}, 4),
        ("infonce", {"schedule": "constant"}, 0),
        ("croma", {"warmup_steps": 2}, 3),
        ("mae", {"optimizer": "sgd", "save_every": 5}, 2),
    ],
)
def test_resumed_equals_uninterrupted(
    objective: str,
    training: dict[str, Any],
    stop_at_batch: int,
    unlabelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings(unlabelled, objective, training=training)
    straight = pretrain(config, tmp_path / "straight")
    press_ctrl_c_at(monkeypatch, stop_at_batch)
    with pytest.raises(StoppedError, match=r"SIGINT after step .* of 6; continue with --resume"):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain.json").exists()
    assert not list((tmp_path / "run").glob("*.safetensors"))
    out = pretrain(config, tmp_path / "run", resume=True)
    for file in straight.glob("*.safetensors"):
        expected, found = read_weights(file), read_weights(out / file.name)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    logs = [[{**row, "seconds": ""} for row in read_log(f / "log.csv")] for f in (straight, out)]
    assert logs[0] == logs[1]
    before = (out / "pretrain.json").stat().st_mtime_ns
    assert pretrain(config, out, resume=True) == out
    assert (out / "pretrain.json").stat().st_mtime_ns == before


def test_run_killed_while_files_are_written_is_finished(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(unlabelled, "decur")
    straight = pretrain(config, tmp_path / "straight")
    module = sys.modules["terrafuse.training.pretrain"]
    save = module.save_backbone
    calls: list[Path] = []

    def fail_at_second(path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(path, *rest)

    monkeypatch.setattr(module, "save_backbone", fail_at_second)
    with pytest.raises(OutputError, match="No space left on device"):
        pretrain(config, tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.yaml", "log.csv", "start.json", "best.pt", "last.ckpt"}
    monkeypatch.setattr(module, "save_backbone", save)
    out = pretrain(config, tmp_path / "run", resume=True)
    for file in straight.glob("*.safetensors"):
        expected, found = read_weights(file), read_weights(out / file.name)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_curve(unlabelled: Path, tmp_path: Path) -> None:
    out = pretrain(settings(unlabelled, "mae"), tmp_path / "run")
    assert (out / "figures" / "curves.png").stat().st_size > 1000


def test_a_run_goes_on_with_its_own_settings_only(unlabelled: Path, tmp_path: Path) -> None:
    pretrain(settings(unlabelled, "mae"), tmp_path / "run")
    with pytest.raises(OutputError, match="is not empty"):
        pretrain(settings(unlabelled, "mae"), tmp_path / "run")
    other = settings(unlabelled, "mae", objective={"mask_ratio": 0.5})
    with pytest.raises(ConfigError, match=r"objective.mask_ratio was None, is 0.5"):
        pretrain(other, tmp_path / "run", resume=True)


def test_learning_makes_the_losses_small(unlabelled: Path, tmp_path: Path) -> None:
    for objective in ("mae", "croma"):
        config = settings(unlabelled, objective, training={"steps": 60, "lr": 0.003})
        out = pretrain(config, tmp_path / objective)
        losses = [float(row["loss"]) for row in read_log(out / "log.csv")]
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_scenes_that_lack_a_modality(labelled: Make, tmp_path: Path) -> None:
    manifest = labelled("train", "train")
    values = yaml.safe_load(manifest.read_text())
    for modality in values["modalities"].values():
        modality["required"] = False
    del values["scenes"][0]["b"]
    manifest.write_text(yaml.safe_dump(values, sort_keys=False))
    seen: set[str] = set()
    terms = PretrainingTask.terms

    def remember(self: PretrainingTask, batch: Any) -> Any:
        seen.update(batch[0].scene_ids)
        return terms(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainingTask, "terms", remember)
        pretrain(settings(manifest, "decur"), tmp_path / "decur")
        assert seen == {"scene1"}
        pretrain(settings(manifest, "mae"), tmp_path / "mae")
        assert seen == {"scene0", "scene1"}
    del values["scenes"][1]["b"]
    values["scenes"].append({"id": "more", "split": "train", "b": "b1.tif"})
    manifest.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(ConfigError, match="no scene of train has all of them"):
        pretrain(settings(manifest, "decur"), tmp_path / "run")


def test_not_finite_is_said(unlabelled: Path, tmp_path: Path) -> None:
    config = settings(unlabelled, "mae", training={"gradient_clip": None})
    training = config.training.model_copy(update={"lr": 1e30})  # beyond what is allowed
    config = config.model_copy(update={"training": training})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step|not finite after step"):
        pretrain(config, tmp_path / "run")


FAULTS: list[tuple[dict[str, Any], type[TerrafuseError], str]] = [
    ({"data": {"sampling": "balanced"}}, ConfigError, "balances classes, and labels are not read"),
    ({"data": {"modality_dropout": 0.5}}, ConfigError, "'data.modality_dropout' is 0.5, which"),
    (
        {"data": {"label_share": 0.5}},
        ConfigError,
        "'data.label_share' is 0.5, which has no meaning",
    ),
    ({"training": {"losses": []}}, ConfigError, "unknown key in 'training' 'losses'"),
    ({"training": {"layer_decay": 0.9}}, ConfigError, "unknown key in 'training' 'layer_decay'"),
    ({"training": {"ema_decay": 0.9}}, ConfigError, "unknown key in 'training' 'ema_decay'"),
    ({"data": {"batch_size": 1}}, ConfigError, "compares the samples of a batch; give 2 or more"),
    ({"objective": {"hiden": 8}}, UnknownNameError, "'hiden'.* Did you mean 'hidden'"),
    ({"objective": {"name": "decurr"}}, UnknownNameError, "'decurr'.* Did you mean 'decur'"),
    ({"backbone": "resnet19"}, UnknownNameError, "unknown backbone 'resnet19'"),
    ({"backbone": {"a": "resnet18"}}, ModelError, "option 'backbone' has no value for modality b"),
    ({"objective": {"common": 9}}, ModelError, "option 'common' is 9; allowed are 1 to 8"),
    ({"data": {"crop_size": 16, "train_splits": ["trian"]}}, TerrafuseError, "'trian'"),
]


@pytest.mark.parametrize(("changes", "kind", "text"), FAULTS, ids=[str(c[0]) for c in FAULTS])
def test_faults_are_named_before_anything_is_written(
    changes: dict[str, Any], kind: type[TerrafuseError], text: str, unlabelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=text):
        pretrain(settings(unlabelled, "decur", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_without_effect_are_refused(unlabelled: Path, tmp_path: Path) -> None:
    config = settings(unlabelled, "croma", training={"gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="gradient_checkpointing has no effect"):
        pretrain(config, tmp_path / "run")
    for option in ("neck", "out_indices", "neck_channels"):
        for objective in ("croma", "mae"):
            options = {**SMALL[objective]["backbone_options"], option: 1}
            with pytest.raises(
                ConfigError, match=f"'{option}', which defines the levels that a method takes"
            ):
                pretrain(
                    settings(unlabelled, objective, backbone_options=options), tmp_path / "run"
                )


def test_data_of_a_run_as_a_pretraining_may_have_them(unlabelled: Path) -> None:
    plain = settings(unlabelled, "mae").data
    run = plain.model_copy(
        update={"sampling": "balanced", "modality_dropout": 0.3, "label_share": 0.1}
    )
    assert without_labels(run) == plain
    assert without_labels(plain.model_copy(update={"sampling": "grid"})).sampling == "grid"


def test_verbs(unlabelled: Path, tmp_path: Path, command_line: Make) -> None:
    values = settings(unlabelled, "decur").model_dump(mode="json")
    values["data"]["manifest"] = "data/dataset.yaml"
    file = tmp_path / "pretrain.yaml"
    file.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    code, out, err = command_line("pretrain", file, "--out", run, "-s", "training.steps=2")
    assert code == 0, err
    line = out.splitlines()[-1]
    weights = yaml.safe_load(line)["weights"]
    assert weights == pretrained_weights(run)
    assert weights == {name: str(run.resolve() / f"{name}.safetensors") for name in "ab"}
    code, _, err = command_line("pretrain", file, "--out", run)
    assert code == 2
    assert "is not empty" in err
    code, out, _ = command_line("schema", "--pretrain")
    assert "objective" in json.loads(out)["properties"]


def test_weights_of_a_folder(unlabelled: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="holds no finished pre-training"):
        pretrained_weights(tmp_path / "nothing")
    out = pretrain_verb(settings(unlabelled, "mae"), tmp_path / "run", progress=False)
    assert pretrained_weights(out) == str(out.resolve() / "backbone.safetensors")
    (out / "pretrain.json").write_text("[]")
    with pytest.raises(WeightsError, match="cannot be read"):
        pretrained_weights(out)


def test_a_run_starts_from_the_files(labelled: Make, make_config: Make, tmp_path: Path) -> None:
    from terrafuse.training import train

    manifest = labelled("train", "train", "val")
    folder = pretrain(settings(manifest, "decur"), tmp_path / "pretrained")
    weights = pretrained_weights(folder)
    method = {
        "name": "late_fusion", "backbone": "resnet18", "backbone_options": RESNET,
        "weights": weights, "decoder_options": {"channels": 8, "bins": [1, 2]},
    }  # fmt: skip
    data = {"crop_size": 32}
    out = train(make_config(manifest, method=method, data=data), tmp_path / "run")
    info = json.loads((out / "model.json").read_text())
    assert [base["source"] for base in info["base_weights"]] == list(weights.values())


@pytest.mark.parametrize(
    "name", ["decur", "infonce", "croma", pytest.param("mae", marks=pytest.mark.slow)]
)
def test_too_large_a_batch_is_refused_with_one_that_fits(
    name: str, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with 150 MB free."""
    monkeypatch.setattr("terrafuse.describe.memory.free_memory", lambda: 150_000_000)
    data = {"batch_size": 20_000}
    with pytest.raises(NotEnoughMemoryError, match=r"Try data\.batch_size (\d+) ") as caught:
        pretrain(settings(unlabelled, name, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "150 MB are free" in str(caught.value)
