"""Training, scoring and mapping: what the message says to do, done."""

from __future__ import annotations

import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

from array_scene import ArrayScene, Identity, NeedsAll, make_modality
from remedies import refused, said, warned
from terrafuse import api
from terrafuse.api import Run, data_check, data_fix, report
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig, RunConfig, load_run_config
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.data import ReadingRules, compute_statistics, load_manifest
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.data.value_scale import check_values
from terrafuse.demo import run_demo
from terrafuse.errors import OutputError
from terrafuse.evaluation import evaluate
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.prediction import ScenePredictor, WindowSettings, find_device, read_class_map
from terrafuse.prediction.class_values import choose_values
from terrafuse.sampling import share_labels
from terrafuse.stopping import Stopped, how_to_go_on
from terrafuse.training import pretrain, run_state, train  # noqa: F401
from terrafuse.training.building import build_segmenter
from terrafuse.training.losses import check_losses, create_loss
from terrafuse.training.run_state import Position, SplitStatistics
from terrafuse.training.trainer import _refuse_with_shards, check_trainer
from terrafuse.training.validation import check_selection, validation_scenes
from terrafuse.weights import RunInfo
from terrafuse.writing import claimed

REPORTING, DEMO = sys.modules["terrafuse.api.reporting"], sys.modules["terrafuse.demo"]
SCHEME = ClassScheme(("water", "land"))
WINDOWS = WindowSettings(crop_size=32, overlap=0)


# Settings


def test_shares_of_modality_dropout(place: Any) -> None:
    place.run["data"]["modality_dropout"] = 1.5
    with refused("config.run:DataConfig._weights | give a share between 0 and 1, or weights"):
        place.config()
    for given in (0.5, {"a": 1, "b": 0, "a+b": 2}):
        place.run["data"]["modality_dropout"] = given
        place.config()


def test_statistics_that_are_given(place: Any) -> None:
    place.run["data"]["normalization"] = {"a": {"mean": 1e30}}
    with refused("config.run:FixedStatistics._single | give finite numbers below") as error:
        place.config()
    place.run["data"]["normalization"] = {"a": {"mean": float(error.find(r"below (\S+)")) / 2}}
    place.config()
    place.run["data"]["normalization"] = {"a": {"mean": 3.5}}
    place.config()


@pytest.mark.parametrize("way", ["fewer", "frozen"])
def test_a_head_that_is_first_for_ever(place: Any, way: str) -> None:
    place.run["training"]["head_first_steps"] = 2
    with refused("config.run:TrainingConfig._backbone_learns | write 'tuning: frozen'") as error:
        place.config()
    if way == "fewer":
        place.run["training"]["head_first_steps"] = 1
        place.config()
        return
    del place.run["training"]["head_first_steps"]
    place.run["method"] |= yaml.safe_load(error.find("write '(tuning: frozen)'"))
    with pytest.warns(UserWarning, match="no pretrained weights"):
        segmenter = build_segmenter(place.config(), place.load())
    assert not any(p.requires_grad for b in segmenter.backbones() for p in b.parameters())


def test_former_names_of_options(place: Any) -> None:
    place.run["method"]["backbone_options"] = {"taps": [1, 2]}
    with warned("config.base:_renamed | rename it") as text:
        place.config()
    old, new = re.findall(r"'([\w.]+)' is called '(\w+)' now", text.text)[0]
    options = place.run["method"]["backbone_options"]
    options[new] = options[old.rpartition(".")[2]]
    with refused("config.base:_renamed | which are one; delete '") as error:
        place.config()
    del options[error.find(r"delete '(\w+)'$")]
    place.config()


def test_settings_that_need_labels(place: Any) -> None:
    from terrafuse.config.pretrain import load_pretrain_config

    place.load()
    path = place.folder / "pretrain.yaml"
    run = {"data": {"manifest": "dataset.yaml", "label_share": 0.5, "sampling": "balanced"},
           "objective": {"name": "mae"}, "backbone": "vit_tiny_patch16_224"}  # fmt: skip
    path.write_text(yaml.safe_dump(run))
    name = "config.pretrain:PretrainConfig._needs_no_labels | no meaning without labels; leave it"
    with refused(name) as error:
        load_pretrain_config(path)
    section, key = error.find(r"'(data\.\w+)' is 0\.5").split(".")
    del run[section][key]  # type: ignore[attr-defined]
    path.write_text(yaml.safe_dump(run))
    name = "config.pretrain:PretrainConfig._needs_no_labels | choose random, grid or scene"
    with refused(name) as error:
        load_pretrain_config(path)
    for sampling in error.find("choose (.*)$").replace(" or", ",").split(", "):
        run["data"]["sampling"] = sampling  # type: ignore[index]
        path.write_text(yaml.safe_dump(run))
        load_pretrain_config(path)


# The model of a run


@pytest.mark.parametrize("way", ["leave out", "method"])
def test_dropout_of_a_method_that_needs_all(place: Any, way: str) -> None:
    place.run["data"]["modality_dropout"] = 0.5
    place.run["method"] = {"name": "cmx", "backbone": "resnet10t"}
    with refused("training.building:build_segmenter | Leave it out, or choose a method that"):
        build_segmenter(place.config(), place.load())
    if way == "leave out":
        del place.run["data"]["modality_dropout"]
    else:
        place.run["method"] = {"name": "late_fusion", "backbone": "resnet10t", "decoder": "linear"}
    build_segmenter(place.config(), place.load())


VIT = {
    "name": "late_fusion", "backbone": "vit_tiny_patch16_224", "decoder": "linear",
    "backbone_options": {"depth": 2, "embed_dim": 16, "num_heads": 2, "out_indices": [1]},
}  # fmt: skip


def test_tuning_that_nothing_would_learn(place: Any) -> None:
    place.run["method"] = VIT | {"tuning": "lora"}
    place.run["training"]["backbone_lr_factor"] = 0
    with refused("training.building:_check_tuning | Leave it out: the tuning freezes the rest by"):
        build_segmenter(place.config(), place.load())
    del place.run["training"]["backbone_lr_factor"]
    with warned("training.building:_check_tuning | Name weights in 'method.weights', or train all"):
        segmenter = build_segmenter(place.config(), place.load())
    learning = [n for n, p in segmenter.backbones()[0].named_parameters() if p.requires_grad]
    assert 0 < len(learning) < len(list(segmenter.backbones()[0].parameters()))
    # And what the warning says: train all of it.
    place.run["method"] = VIT | {"tuning": "full"}
    build_segmenter(place.config(), place.load())


def test_a_random_backbone_that_waits(place: Any) -> None:
    place.run["training"]["head_first_steps"] = 1
    with warned("training.building:_check_tuning | Name weights in 'method.weights', or set it to"):
        build_segmenter(place.config(), place.load())
    place.run["training"]["head_first_steps"] = 0
    build_segmenter(place.config(), place.load())


def test_modalities_that_a_method_takes(place: Any) -> None:
    place.run["method"] = {"name": "single", "backbone": "resnet10t", "decoder": "linear"}
    with refused("segmenter:Segmenter.__init__ | Choose with data.modalities"):
        build_segmenter(place.config(), place.load())
    place.run["data"]["modalities"] = ["a"]
    build_segmenter(place.config(), place.load().select(["a"]))


def test_a_band_that_is_constant_in_training(place: Any) -> None:
    image = place.pixels()
    image[1] = 7
    place.raster("train_a.tif", image)
    manifest = place.load()
    config = place.config()
    segmenter = build_segmenter(config, manifest)
    statistics = compute_statistics(manifest.scenes("train"), list(manifest.modalities.values()))
    with refused("segmenter:SensorModel.set_statistics | (terrafuse data check --fix)"):
        segmenter.set_statistics(statistics)
    assert data_fix(place.manifest, data_check(place.manifest), place.folder / "fixed.yaml")
    manifest = load_manifest(place.folder / "fixed.yaml")
    segmenter = build_segmenter(config, manifest)
    statistics = compute_statistics(manifest.scenes("train"), list(manifest.modalities.values()))
    segmenter.set_statistics(statistics)


@pytest.mark.parametrize("way", ["rasters", "method"])
def test_pixels_of_one_modality_only(way: str) -> None:
    import torch

    modalities = [make_modality("a", 2), make_modality("b", 2)]
    images = {"a": torch.ones(1, 2, 8, 8), "b": torch.full((1, 2, 8, 8), torch.nan)}
    with refused("segmenter:Segmenter._needs_all | Give rasters with data there, or use a method"):
        NeedsAll(modalities, 2)(images)
    if way == "rasters":
        NeedsAll(modalities, 2)({"a": images["a"], "b": torch.ones(1, 2, 8, 8)})
    else:
        Identity(modalities, 2)(images)


# Losses and the trainer


def test_losses_of_nothing(place: Any) -> None:
    import torch

    training = place.run["training"]
    counts = torch.tensor([5, 5])
    training["losses"] = [{"name": "cross_entropy", "ohem": 0}]
    with refused("training.losses:CrossEntropy.__init__ | leave it out for all"):
        create_loss(place.config().training.losses, SCHEME, counts)
    training["losses"] = [{"name": "cross_entropy", "class_weights": [1, 2, 3]}]
    with refused("training.losses:_resolve_weights | or 'balanced'") as error:
        create_loss(place.config().training.losses, SCHEME, counts)
    number = int(error.find(r"give (\d+) numbers"))
    for weights in ([1.0] * number, "balanced"):
        training["losses"] = [{"name": "cross_entropy", "class_weights": weights}]
        check_losses(place.config().training.losses)
        create_loss(place.config().training.losses, SCHEME, counts)
    with refused("training.losses:create_loss | Check 'code' and 'void' of the classes in the"):
        create_loss(place.config().training.losses, SCHEME, counts * 0)


@pytest.mark.parametrize("way", ["ddp", "leave out"])
@pytest.mark.parametrize(("key", "value"), [("ema_decay", 0.9), ("head_first_steps", 1)])
def test_settings_that_shards_cannot_have(place: Any, key: str, value: float, way: str) -> None:
    place.run["training"] |= {"strategy": "fsdp", key: value}
    with refused("training.trainer:_refuse_with_shards | Use strategy 'ddp', or leave") as error:
        check_trainer(place.config().training)
    if way == "ddp":
        place.run["training"]["strategy"] = error.find(r"Use strategy '(\w+)'")
        check_trainer(place.config().training)
    else:
        del place.run["training"][error.find(r"or leave (\w+) out")]
        _refuse_with_shards(place.config().training)  # whatever this machine has


# Splits that select the weights


def select(place: Any) -> None:
    config, manifest = place.config(), place.load()
    check_selection(config, manifest, validation_scenes(config, manifest))


def test_no_split_to_select_by(place: Any) -> None:
    place.entry("val")["split"] = "train"
    with warned(
        "training.validation:check_selection | the last weights are kept, whatever their"
    ) as text:
        select(place)
    key, value = text.find("Set '(.*?)' for some").split(": ")
    place.entry("val")[key] = value
    select(place)
    # By the command.
    place.entry("val")["split"] = "train"
    place.load()
    shares = {"train": 0.5, "val": 0.5}
    api.data_split(
        place.manifest, place.folder / "split.yaml", shares=shares, block_px=8, buffer_px=0
    )
    place.run["data"]["manifest"] = "split.yaml"
    config, manifest = place.config(), load_manifest(place.folder / "split.yaml")
    check_selection(config, manifest, validation_scenes(config, manifest))


@pytest.mark.parametrize("way", ["classes", "leave out"])
def test_labels_that_cannot_select(place: Any, way: str) -> None:
    place.values["void"] = [9]
    place.raster("val_l.tif", np.full((1, 32, 32), 9, np.uint8))
    with refused("training.validation:check_selection | Correct 'classes', 'void' or the labels'"):
        select(place)
    if way == "classes":
        place.values |= {"void": []}
        place.values["classes"][0]["code"] = [0, 9]
        select(place)
    else:
        place.values["scenes"].remove(place.entry("val"))
        with pytest.warns(UserWarning, match="the last weights are kept"):
            select(place)


@pytest.mark.parametrize("split", ["test", "train"])
def test_weights_selected_where_they_should_not_be(place: Any, split: str) -> None:
    place.run["training"]["validation_split"] = split
    if split == "test":
        name = "training.validation:check_selection | Select on another split (training.validation"
        with warned(name) as text:
            select(place)
        section, key = text.find(r"\((training\.\w+)\)").split(".")
        place.run[section][key] = "val"
    else:
        with warned("training.validation:check_selection | which is also trained on"):
            select(place)
        place.run["training"]["validation_split"] = "val"
    select(place)


# Labels and crops to train on


def test_shares_of_labels_without_a_class(place: Any) -> None:
    from memory_scenes import MemoryScene

    codes = np.zeros((256, 256), np.uint8)
    codes[:, 128:] = 1
    scene = MemoryScene([Modality("s2", ("x",))], {"s2": np.ones((1, 256, 256))}, codes)

    def share(share: float, seed: int = 0) -> None:
        data = place.config().data.model_copy(update={"label_share": share, "label_seed": seed})
        share_labels([scene], data, SCHEME)  # type: ignore[list-item]

    name = "sampling.label_shares:share_labels | Use a larger share, or another data.label_seed"
    with warned(name) as text:
        share(1e-4)
    lost = text.find("keeps no label of (.*?), which")
    share(0.5)
    # Another seed keeps other labels.
    with warned(name) as text:
        for seed in range(1, 9):
            share(1e-4, seed)
    assert lost in SCHEME.names


def test_crops_of_nothing(place: Any) -> None:
    from memory_scenes import MemoryScene
    from terrafuse.sampling.crops import WindowSampler

    one = [Modality("s2", ("x",))]
    data = {"s2": np.ones((1, 20, 20))}
    void, known = np.full((20, 20), 255), np.zeros((20, 20))
    empty = {"s2": np.full((1, 20, 20), np.nan)}

    def sample(*scenes: Any, **how: Any) -> None:
        WindowSampler(list(scenes), crop_size=8, **how)

    with refused(
        "sampling.crops:WindowSampler.__init__ | set 'split: train' in the manifest"
    ) as error:
        sample()
    # What it says makes scenes of the split.
    key, value = error.find("set '(.*)' in").split(": ")
    place.entry("val")[key] = value
    sample(*place.load().scenes("train"))
    with refused("sampling.crops:_check_usable | have no labels; give each 'labels' in the"):
        sample(MemoryScene(one, data))
    sample(MemoryScene(one, data, known))
    with refused(
        "sampling.crops:_check_usable | Correct 'classes', 'void' or the labels' 'nodata'"
    ):
        sample(MemoryScene(one, data, void))
    sample(MemoryScene(one, data, known))
    with refused("sampling.crops:_check_usable | check that the rasters cover the labels"):
        sample(MemoryScene(one, empty, known))
    sample(MemoryScene(one, data, known))
    with refused("sampling.crops:_check_usable | Correct 'nodata' in the manifest", Exception):
        sample(MemoryScene(one, empty), use_labels=False)
    sample(MemoryScene(one, data), use_labels=False)


@pytest.mark.parametrize("way", ["unit", "settings"])
def test_radar_that_is_not_varied(place: Any, way: str) -> None:
    from remedies import said
    from terrafuse.sampling import describe_augmentation

    place.modality("b")["kind"] = "sar"
    config = place.config().data.augment
    modalities = list(place.load().modalities.values())
    lines = " ".join(describe_augmentation(config, modalities))
    said("sampling.augment:_reason | If the values are, give their unit in the manifest;", lines)
    if way == "unit":
        place.modality("b")["unit"] = "db"
    else:
        place.run["data"]["augment"] = {"shift_db": 1.0, "speckle": 0.1}
    lines = " ".join(
        describe_augmentation(place.config().data.augment, list(place.load().modalities.values()))
    )
    assert "neither db nor linear" not in lines


# The folder of a run


def facts(place: Any) -> SplitStatistics:
    from terrafuse.weights import digest

    place.load()
    return SplitStatistics({}, (1, 1), digest(place.manifest))


def start(place: Any, out: Path, *, resume: bool = False) -> None:
    run_state.check_startable(out, place.config(), resume=resume)


@pytest.mark.parametrize("way", ["another", "resume", "remove"])
def test_a_folder_that_is_not_empty(place: Any, way: str) -> None:
    out = place.folder / "run"
    run_state.begin(out, place.config(), facts(place))
    name = "training.run_state:check_startable | continue the run in it with --resume, or remove it"
    with refused(name):
        start(place, out)
    if way == "another":
        start(place, place.folder / "run2")
    elif way == "resume":
        start(place, out, resume=True)
    else:
        shutil.rmtree(out)
        start(place, out)


def test_a_folder_of_something_else(place: Any) -> None:
    out = place.folder / "run"
    out.mkdir()
    (out / "mine").write_text("")
    with refused("training.run_state:check_startable | holds no run to resume"):
        start(place, out, resume=True)
    start(place, place.folder / "run2", resume=True)


@pytest.mark.parametrize("way", ["another", "writable"])
def test_a_folder_that_is_none(tmp_path: Path, way: str) -> None:
    out = tmp_path / "taken" / "run"
    (tmp_path / "taken").write_text("")
    with (
        refused("locking:_make | Choose another folder, or make it writable", OutputError) as error,
        claimed(out, "train"),
    ):
        pytest.fail("locked")
    if way == "writable":
        Path(error.find("'([^']*)' is not a writable folder")).unlink()
    with claimed(out if way == "writable" else tmp_path / "another", "train"):
        pass


@pytest.mark.parametrize("way", ["its settings", "another"])
def test_a_run_of_other_settings(place: Any, way: str) -> None:
    out = place.folder / "run"
    run_state.begin(out, place.config(), facts(place))
    place.run["training"]["lr"] = 0.5
    with refused(
        "training.run_state:_check_same_settings | or start again in another folder"
    ) as error:
        start(place, out, resume=True)
    if way == "its settings":
        stored = error.find(r"Use its settings \('(.*?)'\)")
        run_state.check_startable(out, load_run_config(stored), resume=True)
    else:
        start(place, place.folder / "run2")


@pytest.mark.parametrize("way", ["restore", "another"])
def test_a_manifest_that_has_changed(place: Any, way: str) -> None:
    out = place.folder / "run"
    run_state.begin(out, place.config(), facts(place))
    before = place.manifest.read_text()
    place.manifest.write_text(before + "\n# Changed.\n")
    with refused("training.run_state:read_split_statistics | Restore the manifest, or start again"):
        run_state.read_split_statistics(out, place.manifest)
    if way == "restore":
        place.manifest.write_text(before)
        assert run_state.read_split_statistics(out, place.manifest) is not None
    else:
        assert run_state.read_split_statistics(place.folder / "run2", place.manifest) is None


def test_a_checkpoint_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK broken")
    with refused("training.run_state:read_position | to start the run from scratch") as error:
        run_state.read_position(tmp_path)
    (tmp_path / error.find("Remove '(.*?)' to")).unlink()
    assert run_state.read_position(tmp_path) == Position()


# Scores


def pair(labels: np.ndarray, **options: Any) -> ArrayScene:
    scores = np.stack([labels == c for c in range(2)]).astype(np.float32)
    options = {"labels": labels, "scheme": SCHEME} | options
    return ArrayScene({"s1": scores, "s2": scores}, **options)


def score(scene: ArrayScene, model: type[Identity] = Identity, classes: int = 2, **how: Any) -> Any:
    config = how.pop("config", EvaluationConfig())
    segmenter = model(scene.modalities, classes)
    return evaluate(segmenter, [scene], SCHEME, config, WINDOWS, device="cpu", **how)


CODES = (np.random.default_rng(0).random((20, 20)) < 0.5).astype(np.uint8)


@pytest.mark.parametrize("way", ["file", "setting"])
def test_labels_to_compare_with(way: str) -> None:
    config = EvaluationConfig(reference="labels_eroded")
    with refused(
        "evaluation.evaluate:check_references | in the manifest, or change evaluation.ref"
    ):
        score(pair(CODES), config=config)
    if way == "file":
        score(pair(CODES, labels_eroded=CODES), config=config)
    else:
        score(pair(CODES), config=EvaluationConfig(reference="labels"))


@pytest.mark.parametrize("way", ["off", "method"])
def test_subsets_of_a_method_that_needs_all(way: str) -> None:
    with refused("evaluation.evaluate:_check | Leave subsets off, or use a method that supports"):
        score(pair(CODES), NeedsAll, subsets=True)
    if way == "off":
        score(pair(CODES), NeedsAll)
    else:
        score(pair(CODES), Identity, subsets=True)


def test_nothing_to_score() -> None:
    with refused("evaluation.evaluate:_check | use the one used in training"):
        score(pair(CODES), classes=3)
    with refused("evaluation.evaluate:_check_anything_scored | Check 'classes' and 'void' in the"):
        score(pair(np.full_like(CODES, 255)))
    missing = frozenset({"s1", "s2"})
    with refused(
        "evaluation.evaluate:_check_anything_scored | Check their extent and their nodata"
    ):
        score(pair(CODES, missing=missing))
    score(pair(CODES))


# Maps


def predict(scene: ArrayScene, out: Path, model: type[Identity] = Identity, **how: Any) -> Any:
    predictor = ScenePredictor(model(scene.modalities, 2), WINDOWS, device="cpu")
    return predictor.predict(scene, out, **how)


@pytest.mark.parametrize("way", ["rasters", "method"])
def test_a_scene_without_a_modality(tmp_path: Path, way: str) -> None:
    scene = pair(CODES, missing=frozenset({"s2"}))
    with refused(
        "prediction.predictor:ScenePredictor._used_modalities | Give the rasters of all, or"
    ):
        predict(scene, tmp_path / "map", NeedsAll)
    if way == "rasters":
        predict(pair(CODES), tmp_path / "map", NeedsAll)
    else:
        predict(scene, tmp_path / "map")


def test_what_a_map_is_made_of(tmp_path: Path) -> None:
    scene = pair(CODES, scheme=ClassScheme(("a", "b", "c")))
    with refused(
        "prediction.predictor:ScenePredictor._checked_scheme | use the one used in training"
    ):
        predict(scene, tmp_path / "map")
    scene.scheme = None
    with refused(
        "prediction.predictor:ScenePredictor._checked_scheme | give the one the model was"
    ):
        predict(scene, tmp_path / "map")
    with refused("prediction.predictor:ScenePredictor.check | add 'class_map' to the products"):
        predict(scene, tmp_path / "map", scheme=SCHEME, products=["entropy"], areas=True)
    with refused("prediction.product_table:find_products | each once") as error:
        predict(scene, tmp_path / "map", scheme=SCHEME, products=[])
    assert "class_map" in error.find("one or more of (.*?), each once").split(", ")
    predict(scene, tmp_path / "map", scheme=SCHEME, products=["class_map", "entropy"], areas=True)


def test_a_scene_of_nodata(tmp_path: Path) -> None:
    empty = ArrayScene({"a": np.full((2, 9, 9), np.nan)}, scheme=SCHEME)
    with refused(
        "prediction.predictor:ScenePredictor._nothing_to_map | Check the rasters' extent and"
    ):
        predict(empty, tmp_path / "map")
    predict(ArrayScene({"a": np.ones((2, 9, 9))}, scheme=SCHEME), tmp_path / "map")


def test_a_modality_of_another_scale(place: Any) -> None:
    place.modality("b")["scale"] = 2
    trained = place.load().modalities["b"]
    predictor = ScenePredictor(Identity([trained], 1), WINDOWS, device="cpu")
    place.modality("b")["scale"] = 1
    with refused(
        "prediction.predictor:_check_suits | Set this scale in the manifest, and the"
    ) as error:
        predictor.class_map(place.load().select(["b"]).scene("train"))
    place.modality("b")["scale"] = int(error.find(r"was trained with (\d+)\."))
    predictor.class_map(place.load().select(["b"]).scene("train"))


def test_devices() -> None:
    with refused("prediction.devices:find_device | cannot be used:") as error:
        find_device("gpu")
    for name in error.find("Choose (.*)$").replace(" or", ",").split(", "):
        find_device(name)


def test_codes_that_a_map_cannot_hold() -> None:
    scheme = ClassScheme(("a", "b"), codes=((1, 2), (3,)))
    with refused("prediction.class_values:choose_values | Choose 'index'") as error:
        choose_values(scheme, "code")
    choose_values(scheme, error.find(r"Choose '(\w+)'$"))


def test_a_map_that_was_changed(tmp_path: Path) -> None:
    scene = pair(CODES)
    made = predict(scene, tmp_path / "map")
    with rasterio.open(made.class_map, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.write(np.full((1, 20, 20), 77, np.uint8))
    with refused("prediction.class_values:indices_of | map the scene again"):
        read_class_map(made.class_map)
    np.testing.assert_array_equal(
        read_class_map(predict(scene, tmp_path / "again").class_map), CODES
    )


@pytest.mark.parametrize("way", ["removed", "another"])
def test_a_map_that_cannot_be_written(tmp_path: Path, way: str) -> None:
    (tmp_path / "map").write_text("")
    with refused("errors:write_failure | Choose another folder", OutputError):
        predict(pair(CODES), tmp_path / "map")
    if way == "removed":
        (tmp_path / "map").unlink()
    predict(pair(CODES), tmp_path / ("map" if way == "removed" else "another"))


# A run and rasters that are not those of training

M = Modality("m", ("blue", "red"), "optical")


def make_run(
    folder: Path, rules: dict[str, Any] | None = None, scheme: ClassScheme = SCHEME
) -> Run:
    numbers = BandStatistics((3000.0, 3000.0), (1.0, 1.0), (0.0, 0.0), (9000.0, 9000.0), (1, 1))
    segmenter = Identity([M])
    segmenter.set_statistics({"m": numbers})
    rules = ReadingRules().to_dict() if rules is None else rules
    info = RunInfo("single", {}, (M,), scheme, {"m": numbers}, 32, 0, rules={"m": rules})
    config = RunConfig.model_validate(
        {"data": {"manifest": "d.yaml"}, "method": {"name": "single"}}
    )
    return Run(folder / "run", segmenter.eval(), info, config)


@pytest.mark.filterwarnings("ignore:modality 'm' of scene")
@pytest.mark.parametrize("way", ["scene", "rasters"])
def test_what_to_map(place: Any, way: str) -> None:
    run = make_run(place.folder)
    place.values["modalities"] = {"m": {"kind": "optical", "bands": ["blue", "red"]}}
    place.values["scenes"] = [{"id": "one", "m": "train_a.tif"}]
    place.load()
    with refused(
        "api.mapping:TrainedModel._open | give either a scene to map (dataset.yaml#id) or rasters"
    ):
        run.predict(place.folder / "map", windows=WINDOWS)
    what: dict[str, Any] = {"scene": f"{place.manifest}#one"}
    if way == "rasters":
        what = {"rasters": {"m": place.folder / "train_a.tif"}}
    run.predict(place.folder / "map", windows=WINDOWS, trust_values=True, **what)


def test_generators_of_a_manifest(place: Any) -> None:
    run = make_run(place.folder, ReadingRules(generator="abc").to_dict())
    place.values["modalities"] = {"m": {"bands": ["blue", "red"], "generator": "xyz"}}
    place.values["scenes"] = [{"id": "one", "m": "train_a.tif"}]
    place.load()
    with refused(
        "api.mapping:_check_same_generator | Generate its rasters with the same model and"
    ) as e:
        run.dataset(place.manifest)
    # As the same model and settings would.
    place.modality("m")["generator"] = e.find(r"was trained on that of (\w+)\.")
    place.load()
    run.dataset(place.manifest)


def test_classes_of_another_manifest(place: Any) -> None:
    from terrafuse.weights import check_same_scheme

    run = make_run(place.folder)
    with refused("weights.saved_model:check_same_scheme | Use a manifest with the model's classes"):
        check_same_scheme(run.info, ClassScheme(("land", "water")), "other.yaml")
    check_same_scheme(run.info, SCHEME, "other.yaml")


# Signals


def stop_once(monkeypatch: pytest.MonkeyPatch, target: str, first: Any = None) -> None:
    """Let a signal arrive in the first call of a function, after what it did before that."""
    module, _, name = target.rpartition(".")
    ours = getattr(sys.modules[module], name)
    calls = iter([True])

    def call(*given: Any, **options: Any) -> Any:
        if next(calls, False):
            if first is not None:
                first(*given, **options)
            raise Stopped(signal.SIGTERM)
        return ours(*given, **options)

    monkeypatch.setattr(sys.modules[module], name, call)


def stopped(place: str) -> Any:
    """Expect the end by a signal, with the remedy at a place."""

    @contextmanager
    def expect() -> Iterator[None]:
        with pytest.raises(Stopped) as error:
            yield
        said(place, how_to_go_on(error.value))

    return expect()


def test_a_report_that_is_stopped(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(place.folder)
    run.folder.mkdir()
    monkeypatch.setattr(REPORTING, "_pictures", lambda *_: [])
    monkeypatch.setattr(REPORTING, "run_report", lambda path, **_: Path(path).touch() or path)
    monkeypatch.setattr(REPORTING, "run_facts", lambda *_: {})
    monkeypatch.setattr(REPORTING, "judged_sections", lambda *_: [])
    stop_once(monkeypatch, "terrafuse.api.reporting._titles")
    with stopped("api.reporting:report | nothing was written; run the same command again"):
        report(run, metrics={"settings": {}})
    assert list(run.folder.iterdir()) == []
    assert report(run, metrics={"settings": {}}).exists()


@pytest.mark.parametrize(
    ("verb", "remedy"),
    [
        ("train", "training.train:train | continue with --resume"),
        ("pretrain", "training.pretrain:pretrain | continue with --resume"),
    ],
)
def test_a_training_that_is_stopped_while_it_is_prepared(
    place: Any, verb: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"terrafuse.training.{verb}"
    call = getattr(sys.modules[module], verb)
    config: Any = place.config()
    if verb == "pretrain":
        values = {key: config.data.model_dump()[key] for key in ("manifest", "workers")} | {
            "crop_size": 16, "batch_size": 2,
        }  # fmt: skip
        config = parse_settings(
            PretrainConfig,
            {"data": values, "objective": {"name": "infonce"}, "backbone": "resnet10t",
             "training": {"steps": 1, "accelerator": "cpu"}},
            "pretrain.yaml",
        )  # fmt: skip
    begun = []
    monkeypatch.setattr(sys.modules[module], "_fit", lambda run: begun.append(run))
    monkeypatch.setattr(sys.modules[module], "_finish", lambda _: None)
    stop_once(monkeypatch, f"{module}._prepare")
    with stopped(remedy):
        call(config, place.folder / "run", progress=False)
    assert begun == []
    with warnings.catch_warnings(action="ignore"):
        call(config, place.folder / "run", resume=True, progress=False)
    assert len(begun) == 1


def test_a_demo_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(out: Path, *_: Any) -> Path:
        (out / "data").mkdir()  # half of it is there
        (out / "data" / "dataset.yaml").touch()
        return out / "report.html"

    monkeypatch.setattr(DEMO, "_make_demo", make)
    stop_once(monkeypatch, "terrafuse.demo._make_demo", first=make)
    with stopped("demo:_stoppable | the same command begins the demo anew"):
        run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "data").exists()
    assert run_demo(tmp_path / "demo") == tmp_path / "demo" / "report.html"


# Values of another scale


def of_scale(factor: float) -> ArrayScene:
    rng = np.random.default_rng(0)
    levels = rng.choice([300.0, 2500.0, 4000.0], (1, 64, 64)) * np.array([[[1.0]], [[0.7]]])
    scene = ArrayScene({"m": (levels + rng.normal(0, 20, (2, 64, 64))) * factor})
    scene.modalities = (M,)
    scene.files = {"m": ()}
    scene.conversions = {}  # type: ignore[attr-defined]
    return scene


def trained_on(scene: ArrayScene) -> dict[str, BandStatistics]:
    return compute_statistics([scene], [M])  # type: ignore[list-item]


def converted(factor: float, conversion: ValueConversion) -> ArrayScene:
    scene = of_scale(factor)
    scene.images = {"m": conversion.apply(scene.images["m"])}
    return scene


@pytest.mark.parametrize("way", ["convert", "trust"])
def test_values_of_another_scale(way: str) -> None:
    trained = trained_on(of_scale(1))
    with refused("data.value_scale:_refusal | or map it as it is with '--trust-values'") as error:
        check_values([of_scale(1e-4)], trained)
    assert "Convert it with '--convert m=" in error
    if way == "trust":
        assert check_values([of_scale(1e-4)], trained, trust=True)
        return
    conversion = ValueConversion.parse(error.find(r"--convert m=([^' ]+)'"))
    assert check_values([converted(1e-4, conversion)], trained, {"m": conversion}) == []


def test_a_conversion_that_is_not_enough() -> None:
    """The one advised is given in place of the one that was, not after it."""
    trained, given = trained_on(of_scale(1)), ValueConversion(0.1)
    with refused("data.value_scale:_refusal | Convert it with '--convert ") as error:
        check_values([converted(1e-3, given)], trained, {"m": given})
    assert "(after --convert m=0.1)" in error
    advised = ValueConversion.parse(error.find(r"Convert it with '--convert m=([^' ]+)'"))
    assert check_values([converted(1e-3, advised)], trained, {"m": advised}) == []


def test_conversions_one_after_the_other() -> None:
    values = np.array([1.0, 10.0, 200.0], np.float32)
    one, other = ValueConversion(10, 3), ValueConversion(0.5, -1)
    both = one.then(other)
    assert both is not None
    np.testing.assert_allclose(both.apply(values), other.apply(one.apply(values)))
    db, power = ValueConversion(formula="db"), ValueConversion(formula="linear")
    assert ValueConversion().then(db) == db
    assert db.then(power) == power.then(db) == ValueConversion()
    assert one.then(db) is None
    assert db.then(one) is None


def test_values_in_doubt() -> None:
    trained = trained_on(of_scale(1))
    doubts = check_values([of_scale(0.05)], trained, trust=True)
    assert doubts
    found = [text for text in doubts if "--convert" in text]
    for text in found:
        advice = said("data.value_scale:_advice | If so, map with '--convert ", text)
        conversion = ValueConversion.parse(advice.find(r"--convert m=([^' ]+)'"))
        assert check_values([converted(0.05, conversion)], trained, {"m": conversion}) == []
    assert found
