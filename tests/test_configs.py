"""Every run.yaml that ships is trained for one step through the command line.

Its data need not be here: rasters of the modalities and classes of its manifest are made up. The
manifest itself need not be either: one of a published layout is made up from `LAYOUTS`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.config import AugmentConfig, RunConfig, load_run_config
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.modalities import window_alignment
from terrafuse.prediction import Lattice
from terrafuse.settings import read_yaml
from terrafuse.training.optim import learning_rate_factor
from terrafuse.training.validation import validation_overlap

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if "method" in read_yaml(path))

ISPRS = ("impervious", "building", "low vegetation", "tree", "car", "clutter")
HUNAN = ("cropland", "forest", "grassland", "wetland", "water", "unused land", "built-up area")
RGB, HEIGHT = ["red", "green", "blue"], ["height"]
LANDSCAPE = ("water", "wetland", "arable", "grassland", "forest", "buildings")
#: Manifests that do not ship: bands of the optical image, elevation modality, classes.
LAYOUTS = {
    "dataset": ({"optical": ["blue", "green", "red", "nir"]}, "dsm", LANDSCAPE),  # of the demo
    "vaihingen": ({"irrg": ["nir", "red", "green"]}, "dsm", ISPRS),
    "potsdam": ({"rgb": RGB}, "dsm", ISPRS),
    "mmhunan": ({"rgb": RGB}, "dem", HUNAN),
}
#: Methods whose published backbone is too large to try, with the settings that make it small.
SMALL = {
    "mfnet": {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]},
}


def read_manifest(path: Path, folder: Path) -> Manifest:
    """The manifest, or one of the layout it will have."""
    if path.exists():
        return load_manifest(path)
    optical, elevation, classes = LAYOUTS[path.stem]
    modalities = {name: {"kind": "optical", "bands": bands} for name, bands in optical.items()}
    modalities[elevation] = {"kind": "elevation", "bands": HEIGHT}
    scene = {"id": "none", **{name: f"{name}.tif" for name in modalities}, "labels": "labels.tif"}
    values = {
        "classes": [{"name": name, "code": code} for code, name in enumerate(classes)],
        "modalities": modalities,
        "scenes": [scene],
    }
    return load_manifest(write_manifest(values, folder / "layout" / path.name))


def made_up(manifest: Manifest, folder: Path, size: int, make_raster) -> Path:
    """A dataset of the same modalities and classes, with noise for pixels."""
    rng = np.random.default_rng(0)
    values = manifest.to_dict() | {"grid": None, "labels": {}}
    values.pop("root", None)
    values["scenes"] = []
    for number, split in enumerate(("train", "val", "test")):  # three places
        east = 500_000 + 100_000 * number
        scene = {"id": split, "split": split}
        for name, modality in manifest.modalities.items():
            pixels = modality.size_at(size)
            noise = rng.uniform(1, 200, (len(modality.bands), pixels, pixels))
            scene[name] = f"{split}_{name}.tif"
            transform = from_origin(east, 5_000_000, 10 * modality.scale, 10 * modality.scale)
            make_raster(folder / scene[name], noise.astype(np.float32), transform=transform)
        codes = [codes[0] for codes in manifest.scheme.codes]
        labels = rng.choice(np.array(codes, np.int16), (1, size, size))
        transform = from_origin(east, 5_000_000, 10, 10)
        for name in ("labels", "labels_eroded"):
            scene[name] = f"{split}_{name}.tif"
            make_raster(folder / scene[name], labels, transform=transform)
        values["scenes"].append(scene)
    return write_manifest({k: v for k, v in values.items() if v}, folder / "dataset.yaml")


def expected_warnings(config: RunConfig) -> Iterator[str]:
    """What a run is right to warn of."""
    if config.training.validation_split == config.evaluation.split:
        yield "weights are chosen by their score on split 'test', the one to be reported"
    tuning = config.method.options.get("tuning")
    if tuning in ("adapter", "lora"):  # a file of weights is left for the user to name
        yield "the backbone has no pretrained weights"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_one_step(path, tmp_path, make_raster, command_line):
    config = load_run_config(path)
    manifest = read_manifest(config.data.manifest, tmp_path).select(config.data.modalities)
    step = window_alignment(list(manifest.modalities.values()))
    crop = -(-64 // step) * step
    dataset = made_up(manifest, tmp_path, crop, make_raster)
    settings = {
        "data.manifest": dataset,
        "data.crop_size": crop,
        "data.batch_size": 2,
        "data.workers": 0,
        "training.steps": 1,
        "training.warmup_steps": 0,
        "training.validate_every": 1,
        "training.validation_overlap": 0,
        "training.accelerator": "cpu",
        "prediction.crop_size": crop,
        "prediction.overlap": 0,
    }
    small = SMALL.get(config.method.name, {})
    settings |= {f"method.backbone_options.{key}": value for key, value in small.items()}
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    with ExitStack() as stack:
        for text in expected_warnings(config):
            stack.enter_context(pytest.warns(UserWarning, match=text))
        code, _, message = command_line("train", path, "--out", tmp_path / "run", *words)
    assert code == 0, message
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_there_are_runs_and_their_datasets_are_read():
    assert RUNS
    for path in CONFIGS.rglob("dataset.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert len(load_manifest(path).entries) == len(values["scenes"])


GOLDEN = Path(__file__).parent / "golden" / "mfnet"


@pytest.fixture(params=["vaihingen", "potsdam", "mmhunan"])
def published(request):
    """Name of a dataset, and how MFNet is published on it."""
    return request.param, load_run_config(CONFIGS / "mfnet" / f"{request.param}_published.yaml")


def test_published_training(published):
    """Numbers of the publication's code; the learning rates are recorded from it."""
    name, config = published
    training = config.training
    rates = json.loads((GOLDEN / "protocol.json").read_text())["lr_per_epoch_1_to_50"]
    epoch_steps = 500 if name == "mmhunan" else 1000
    assert training.steps == len(rates) * epoch_steps == 50 * epoch_steps
    assert training.validate_every == epoch_steps
    for epoch, rate in enumerate(rates):
        for step in (epoch * epoch_steps, (epoch + 1) * epoch_steps - 1):
            assert training.lr * learning_rate_factor(step, training) == pytest.approx(rate)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 5e-4)
    assert training.decay_all
    assert training.gradient_clip is None
    assert training.precision == "32-true"
    assert (config.data.crop_size, config.data.batch_size) == (256, 10)
    assert config.data.sampling == "scene"
    assert config.method.options["backbone_options"] == {"rel_pos": "zero"}
    # Of optical and elevation, nothing but flips changes.
    nothing = AugmentConfig(rotate=False, gain=0, offset=0)
    assert config.data.augment == nothing
    assert nothing.flip
    assert (nothing.scale, nothing.blur_sigma_px, nothing.elevation_shift_m) == ((1, 1), 0, 0)


def test_published_data(published):
    """The split's size stands in a comment, for the manifest does not ship."""
    name, config = published
    splits = {k.lower(): v for k, v in json.loads((GOLDEN / "splits.json").read_text()).items()}
    text = (CONFIGS / "mfnet" / f"{name}_published.yaml").read_text(encoding="utf-8")
    assert f"# all {len(splits[name]['train'])} training" in text
    assert config.data.train_splits == ("train", "val")
    assert config.training.validation_split == config.evaluation.split == "test"
    optical, elevation, _ = LAYOUTS[name]
    assert config.data.modalities == (*optical, elevation)
    normalization = config.data.normalization
    assert normalization[elevation] == "scene_range"
    if name != "mmhunan":  # there each patch was stretched to 8 bits before it was divided
        (image,) = optical
        assert (normalization[image].mean, normalization[image].std) == (0, 255)


@pytest.mark.parametrize(
    ("name", "size", "final_stride", "validation_stride"),
    [("vaihingen", (2494, 2064), 32, 32), ("potsdam", (6000, 6000), 32, 128),
     ("mmhunan", (256, 256), 256, 256)],
)  # fmt: skip
def test_published_windows(name, size, final_stride, validation_stride):
    config = load_run_config(CONFIGS / "mfnet" / f"{name}_published.yaml")
    crop, blending = config.predict_crop_size, config.prediction.blending
    assert crop - config.predict_overlap == final_stride
    assert crop - validation_overlap(config) == validation_stride
    recorded = {
        (case["H"], case["W"], case["stride"]): case
        for case in json.loads((GOLDEN / "protocol.json").read_text())["sliding_window"]
    }[*size, validation_stride]
    lattice = Lattice(*size, crop, validation_overlap(config), blending=blending)
    assert sum(map(lattice.times, lattice)) == recorded["count"]
    assert len(lattice) == recorded["unique"]


def test_published_scores(published):
    name, config = published
    rules = "metrics_mmhunan" if name == "mmhunan" else "metrics_isprs"
    golden = json.loads((GOLDEN / "protocol.json").read_text())[rules]
    classes = LAYOUTS[name][2]
    assert len(classes) == len(golden["confusion_rows_gt_cols_pred"])
    means = config.evaluation.mean_over or classes
    assert means == classes[: golden["classes_in_mean"]]
    assert config.evaluation.reference == ("labels" if name == "mmhunan" else "labels_eroded")


def test_sound_variants_differ_where_they_must(published):
    name, config = published
    path = CONFIGS / "mfnet" / f"{name}_sound.yaml"
    sound = load_run_config(path)
    assert sound.training.validation_split not in (sound.evaluation.split, *sound.data.train_splits)
    assert sound.method.options["backbone_options"] == {"rel_pos": "sam"}
    changed = {
        f"{section}.{key}"
        for section, values in sound.model_dump().items()
        for key, value in values.items()
        if value != config.model_dump()[section][key]
    }
    expected = {"data.train_splits", "method.backbone_options", "training.validation_split"}
    if name != "mmhunan":  # one window is not repeated
        expected.add("prediction.blending")
    assert changed == expected
    assert path.read_text(encoding="utf-8").count("# sound: ") == len(expected)
