"""Instructions that no other topic has: of training, of prediction, of packages to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from array_scene import ArrayScene, Identity
from remedies import ROOT, refused, said, warned
from small_methods import SMALL
from terrafuse.backbones import create_backbone
from terrafuse.classes import ClassScheme
from terrafuse.data import scene_from_rasters
from terrafuse.data.kept import Keeper
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.data.value_scale import check_values
from terrafuse.errors import MissingDependencyError, TerrafuseError
from terrafuse.extras import from_extra
from terrafuse.generate import depth
from terrafuse.generate.depth import DepthGenerator
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.training import trainer
from terrafuse.training.checkpoint import _check_finite
from terrafuse.training.log import RunLog
from terrafuse.training.optim import _own_factors
from terrafuse.training.pretrain import _complete
from terrafuse.training.survey import KeptFacts
from terrafuse.training.train import _check_data
from terrafuse.training.validation import Validation

SCHEME = ClassScheme(("water", "land"))
RESNET = {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}


# Packages


def test_extras_that_are_named_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing needs a network; what is to be installed is what the project offers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {
        match
        for path in (ROOT / "src").rglob("*.py")
        for match in re.findall(r"from_extra\(\"(\w+)\"", path.read_text("utf-8"))
    }
    assert named
    assert named <= set(extras)
    place = "extras:from_extra | which is not installed. Run: pip install 'terrafuse["
    with refused(place, MissingDependencyError) as error, from_extra("track", "x"):
        import a_package_that_is_not_there  # type: ignore[import-not-found]  # noqa: F401
    assert error.find(r"terrafuse\[(\w+)\]'$") in extras
    monkeypatch.setattr(trainer, "find_spec", lambda _: None)
    config: Any = SimpleNamespace(loggers=("tensorboard",))
    with refused("training.trainer:check_trainer | Run: pip install 'terrafuse[track]'") as error:
        trainer.check_trainer(config)
    held = " ".join(extras[error.find(r"terrafuse\[(\w+)\]'$")])
    assert all(name in held for name in ("tensorboard", "wandb", "mlflow"))


# Training


@pytest.fixture
def doubtful(place: Any) -> Any:
    """Six scenes of which the doctor doubts each."""
    first = place.entry()
    place.values["scenes"] += [first | {"id": f"more_{n}", "split": "train"} for n in range(6)]
    for entry in place.values["scenes"]:
        if entry["split"] == "train":
            del entry["labels"]
    place.values["scenes"].append(
        first | {"id": "labelled", "split": "train", "labels": "train_l.tif"}
    )
    place.write()
    return place


def test_more_warnings_than_are_shown(doubtful: Any, command_line: Any) -> None:
    display: Any = SimpleNamespace(stage=lambda _: None)
    with warned("training.train:_check_data | list them with 'terrafuse data check") as text:
        _check_data(
            KeptFacts(Keeper(), doubtful.config(), doubtful.load()),
            Identity([Modality("m", ("a",))], 2),
            display,
        )
    command = text.find(r"'terrafuse (data check .*?)'$").split()
    _, out, _ = command_line(*command, "--json")
    listed = re.findall(r"has no labels; no crop is", out)
    assert len(listed) == 7


def test_weights_that_are_not_finite() -> None:
    module: Any = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight[0, 0] = torch.inf
    with refused(
        "training.checkpoint:_check_finite | Try a lower training.lr, training.gradient_clip"
    ):
        _check_finite(module, 3)
    # A step as large as the one that overflowed, clipped and at a lower rate.
    module = nn.Linear(2, 2)
    module(torch.full((1, 2), 1e30)).sum().backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    _check_finite(module, 3)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = RunLog(path)
    log.add({"step": 1})
    path.rename(tmp_path / "kept.csv")
    path.mkdir()
    with refused("training.log:RunLog._write | Free space or make it writable, then continue with"):
        log.add({"step": 2})
    path.rmdir()
    (tmp_path / "kept.csv").rename(path)
    RunLog(path, last_step=1).add({"step": 2})  # what resuming does
    assert path.read_text().splitlines() == ["step", "1", "2"]


class Factors(Identity):
    """A model that names what it has not."""

    named = "none"

    def lr_factors(self) -> dict[str, float]:
        return {self.named: 0.1}


def test_factors_of_parameters() -> None:
    model = Factors([Modality("a", ("x",))])
    model.named = "nothing"
    with refused("training.optim:_own_factors | Name a parameter or a part of the module"):
        _own_factors(model)
    for name in ("norm", "norm.weight"):
        model.named = name
        assert _own_factors(model)["norm.weight"] == 0.1


@pytest.mark.parametrize("way", ["modalities", "objective"])
def test_modalities_that_no_scene_has_together(place: Any, way: str) -> None:
    from terrafuse.pretraining.objectives import OBJECTIVES

    place.modality()["required"] = place.modality("b")["required"] = False
    for n, entry in enumerate(place.values["scenes"]):
        del entry["ab"[n % 2]]
    config: Any = SimpleNamespace(
        objective=SimpleNamespace(name="decur"), data=SimpleNamespace(train_splits=("train", "val"))
    )
    manifest = place.load()
    scenes = manifest.scenes("train") + manifest.scenes("val")
    with refused(
        "training.pretrain:_complete | Name fewer in data.modalities, or choose objective"
    ) as e:
        _complete(scenes, config)
    if way == "modalities":
        assert _complete(place.load().select(["b"]).scenes("train"), config)
    else:
        assert not OBJECTIVES[e.find(r"objective '(\w+)', which")].needs_all  # type: ignore[attr-defined]


def test_a_split_that_cannot_be_validated(place: Any) -> None:
    config = place.config()
    labels = np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8)
    scores = np.stack([labels == 0, labels == 1]).astype(np.float32)

    def score(labels: np.ndarray) -> None:
        scene: Any = ArrayScene({"a": scores}, labels=labels, scheme=SCHEME)
        validation = Validation(
            [scene],
            SCHEME,
            config,
            Path("k"),
            step_log=None,
            progress=None,  # type: ignore[arg-type]
        )
        running: Any = SimpleNamespace(
            global_rank=0, world_size=1,
            strategy=SimpleNamespace(reduce=lambda counts, **_: counts),
        )  # fmt: skip
        validation._score(Identity(scene.modalities, 2), running, torch.device("cpu"))

    place_ = "training.validation:Validation._score | Correct 'classes', 'void' or 'nodata' in the"
    with refused(place_):
        score(np.full_like(labels, 255))
    score(labels)


# Prediction


class OverflowsInHalf(Segmenter):
    """Finite in 32 bits only."""

    supports_missing: ClassVar[bool] = True

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        image = inputs.images["a"]
        half = torch.is_autocast_enabled("cpu")
        return SegmenterOutput(image * torch.nan if half else image)


def test_scores_that_are_no_numbers() -> None:
    scene: Any = ArrayScene({"a": np.ones((2, 20, 20), np.float32)}, scheme=SCHEME)
    model = OverflowsInHalf(scene.modalities, 2)
    model.stride = 1

    def predict(precision: Any) -> None:
        windows = WindowSettings(32, 0, precision=precision)
        ScenePredictor(model, windows, device="cpu").class_map(scene)

    with refused("prediction.blending:Accumulator._finish | overflows: use '32-true'") as error:
        predict("bf16-mixed")
    predict(error.find(r"use '(.*?)'$"))


M = Modality("m", ("blue", "red"), "optical")


def of_scale(factor: float) -> Any:
    rng = np.random.default_rng(0)
    levels = rng.choice([300.0, 2500.0, 4000.0], (1, 64, 64)) * np.array([[[1.0]], [[0.7]]])
    scene: Any = ArrayScene({"m": (levels + rng.normal(0, 20, (2, 64, 64))) * factor})
    scene.modalities, scene.files, scene.conversions = (M,), {"m": ()}, {}
    return scene


def test_values_that_no_option_converts() -> None:
    """What would have to follow a logarithm cannot be given."""
    from terrafuse.data import compute_statistics

    trained = compute_statistics([of_scale(1)], [M])
    given = {"m": ValueConversion(formula="db")}
    with refused("data.value_scale:_refusal | Give rasters of the training's scale"):
        check_values([of_scale(1e-4)], trained, given)
    (text,) = check_values([of_scale(1e-4)], trained, given, trust=True)
    said(
        "data.value_scale:_advice | Look at the file; it may have been stretched or converted", text
    )
    assert check_values([of_scale(1)], trained) == []


# Sizes without CRS


@pytest.mark.filterwarnings("ignore:.*the transform of")
@pytest.mark.parametrize("way", ["sizes", "georeference"])
def test_sizes_that_no_scale_fits(make_raster: Any, tmp_path: Path, way: str) -> None:
    def read(pixels: tuple[int, int], crs: str | None) -> None:
        rasters = {
            "a": make_raster(tmp_path / "a.tif", np.zeros((1, 12, 12), np.uint8), crs=crs),
            "b": make_raster(tmp_path / "b.tif", np.ones((1, *pixels), np.uint8), crs=crs),
        }
        modalities = [Modality("a", ("x",)), Modality("b", ("x",))]
        scene = scene_from_rasters(modalities, rasters, grid="a")
        scene.read(scene.full_window)
        for path in rasters.values():
            path.unlink()

    with refused("data.placement:_right_scale | ; give sizes that fit,"):
        read((6, 9), None)
    for path in tmp_path.iterdir():
        path.unlink()
    read(*(((12, 12), None) if way == "sizes" else ((6, 9), "EPSG:32633")))


def test_labels_of_another_size(place: Any) -> None:
    for name in "abl":
        path = place.folder / f"train_{name}.tif"
        path.unlink()
        place.raster(
            path.name, place.pixels("train", name)[:, : 20 if name == "l" else 32], crs=None
        )
    place.values["grid"] = "a"
    with refused("data.placement:_right_scale | give equal sizes,"):
        place.open()
    place.raster("train_l.tif", place.pixels("train", "l"), crs=None)
    place.open()


# Weights and generated rasters


def test_checkpoints_of_another_model(tmp_path: Path) -> None:
    import timm

    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet18", **RESNET).state_dict(), path)
    name = "convnext_tiny"
    place = "backbones.timm.models:_in_timms_names | Choose the model that they were made for, or"
    save_file({"head.weight": torch.ones(1), "gamma": torch.ones(1)}, tmp_path / "odd.safetensors")
    for model, own in (
        ("swin_tiny_patch4_window7_224", {}),
        (name, {}),
        ("vit_tiny_patch16_224", VIT),
    ):
        with pytest.raises(TerrafuseError) as error:
            create_backbone(model, 3, weights=str(path), **own)
        if "conversion fails" in str(error.value):
            said(place, str(error.value))
            break
    else:
        pytest.fail("no conversion failed")
    create_backbone("resnet18", 3, weights=str(path), **RESNET)


def test_weights_of_no_pagnet(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, path)
    modalities = [Modality("rgb", ("r", "g", "b"), "optical"), Modality("x", ("z",))]
    options = SMALL["pagnet"][0]
    with refused(
        "methods.pagnet.model:PAGNet.__init__ | or leave 'weights' out to start from scratch"
    ):
        create_segmenter("pagnet", modalities, 2, options | {"weights": str(path)})
    create_segmenter("pagnet", modalities, 2, options)


def test_depth_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(pipeline: str, picture: np.ndarray) -> dict[str, torch.Tensor]:
        value = torch.nan if pipeline == "float16" else 1.0
        return {"predicted_depth": torch.full(picture.shape[:2], value)}

    monkeypatch.setattr(depth, "load_pipeline", lambda _, precision, device: precision)
    monkeypatch.setattr(depth, "run_model", run)
    model: Any = SimpleNamespace(name="m", architecture="depth_anything", metric=False)
    picture = np.zeros((4, 4, 3), np.uint8)
    place = "generate.depth:DepthGenerator.build.make | try --precision float32"
    with refused(place) as error:
        DepthGenerator(model, precision="float16", meaning="distance").build()(picture)
    again: Any = error.find(r"--precision (\w+)$")
    DepthGenerator(model, precision=again, meaning="distance").build()(picture)


def test_blocks_of_a_split(place: Any) -> None:
    from terrafuse.api import data_split

    place.values["scenes"] = [place.entry()]
    place.load()
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    name = (
        "splits.splitting:_too_few | Use smaller blocks (block_px, --block; and buffer_px, --buffer"
    )
    with refused(name):
        data_split(place.manifest, place.folder / "a.yaml", shares=shares, block_px=32, buffer_px=0)
    data_split(place.manifest, place.folder / "b.yaml", shares=shares, block_px=8, buffer_px=0)
