"""Every run.yaml that ships is trained for one step through the command line.

Its data need not be here: rasters of the modalities and classes of its manifest are made up. The
manifest itself need not be either: one of a published layout is made up from `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from golden_files import load_facts
from terrafuse.config import AugmentConfig, RunConfig, load_run_config
from terrafuse.config.base import read_yaml
from terrafuse.config.pretrain import load_pretrain_config
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.describe import without_values
from terrafuse.layouts.facts import read_facts
from terrafuse.methods import METHODS
from terrafuse.modalities import Modality, window_alignment
from terrafuse.prediction import Lattice
from terrafuse.training.optim import learning_rate_factor
from terrafuse.training.validation import validation_overlap

pytestmark = pytest.mark.usefixtures("without_figures")

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if "method" in read_yaml(path))

ISPRS, HUNAN, WHU, GID5, GID15 = (
    tuple(item["name"] for item in read_facts(name).classes)
    for name in ("potsdam", "mmhunan", "whu-opt-sar", "gid-5", "gid-15")
)
LANDSCAPE = ("water", "wetland", "arable", "grassland", "forest", "buildings", "wheat", "rape")
HEIGHT = {"kind": "elevation", "bands": ["height"]}


def optical(*bands, um=None):
    """An optical modality as in a manifest."""
    return {"kind": "optical", "bands": list(bands), "wavelengths_um": um}


def structure(*bands):
    """Structure made of the image, encoded; here without what would be needed to encode it."""
    return {"kind": "structure", "bands": list(bands)}


RGB = optical("red", "green", "blue", um=[0.66, 0.555, 0.485])
NIR = optical("nir", um=[0.83])
#: Manifests that do not ship: modalities, classes.
LAYOUTS = {
    "dataset": (  # of the demo and the ladder
        {
            "optical": optical("blue", "green", "red", "nir", um=[0.49, 0.56, 0.665, 0.842]),
            "sar": {"kind": "sar", "bands": ["VV", "VH"], "scale": 2.0},
            "dsm": HEIGHT,
        },
        LANDSCAPE,
    ),
    "vaihingen": ({"irrg": optical("nir", "red", "green"), "dsm": HEIGHT}, ISPRS),
    "potsdam": ({"rgb": RGB, "ndsm": HEIGHT}, ISPRS),
    "mmhunan": ({"rgb": RGB, "dem": HEIGHT}, HUNAN),
    "whu_opt_sar": (
        {
            "optical": optical("blue", "green", "red", "nir", um=[0.485, 0.555, 0.66, 0.83]),
            "sar": {"kind": "sar", "bands": ["sar"]},
        },
        WHU,
    ),
    "potsdam_gray": ({"rgb": RGB, "structure": structure("gray")}, ISPRS[:5]),
    "potsdam_color": ({"rgb": RGB, "structure": structure("red", "green", "blue")}, ISPRS[:5]),
    "forests": ({"rgb": RGB, "structure": structure("gray")}, ("ground", "trees")),
    "gid5": ({"rgb": RGB, "nir": NIR}, GID5),
    "gid15": ({"rgb": RGB, "nir": NIR}, GID15),
}
#: Backbones, and methods, too large to try, or to fetch, with settings that make them small.
SMALL = {
    "samvit": {"backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2,
                                    "global_attn_indexes": [1]}},
    "dofa": {"weights": None, "neck_channels": 16, "decoder_options": {"channels": 16},
             "backbone_options": {"embed_dim": 32, "depth": 4, "num_heads": 2,
                                  "dynamic_embed_dim": 32}},
    "resnet50": {"weights": None, "decoder_options": {"channels": 8}},
    "tf": {"weights": None, "decoder_options": {"channels": 16}},  # EfficientNet-Lite0
    "galileo": {"weights": None, "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2}},
    "vsgnet": {"weights": None, "channels": [8, 8], "depths": [1, 1], "num_heads": [1, 2],
               "mlp_ratios": [2, 1], "decoder_options": {"channels": 8},
               "backbone_options": {"embed_dim": 192, "depth": 1, "num_heads": 2}},
}  # fmt: skip


def read_manifest(path: Path, folder: Path) -> Manifest:
    """The manifest, or one of the layout it will have."""
    if path.exists():
        return load_manifest(path)
    modalities, classes = LAYOUTS[path.stem]
    scene = {"id": "none", **{name: f"{name}.tif" for name in modalities}, "labels": "labels.tif"}
    values = {
        "classes": [{"name": name, "code": code} for code, name in enumerate(classes)],
        "modalities": modalities,
        "scenes": [scene],
    }
    return load_manifest(write_manifest(values, folder / "layout" / path.name))


#: Values that sensors give, by unit; what looks at scales refuses others.
VALUES = {"db": (-25, -2), "reflectance": (0.01, 0.5), "reflectance_10000": (50, 4000)}


def made_up(manifest: Manifest, folder: Path, size: int, make_raster) -> Path:
    """A dataset of the same modalities and classes, with noise for pixels."""
    rng = np.random.default_rng(0)
    values = manifest.to_dict() | {"grid": None, "labels": {}}
    values.pop("root", None)
    values["scenes"] = []
    for settings in values["modalities"].values():
        settings.pop("read_bands", None)  # only these are made up
    for number, split in enumerate(("train", "val", "test")):  # three places
        east = 500_000 + 100_000 * number
        scene = {"id": split, "split": split}
        for name, modality in manifest.modalities.items():
            pixels = modality.size_at(size)
            low, high = VALUES.get(modality.unit, (1, 200))
            noise = rng.uniform(low, high, (len(modality.bands), pixels, pixels))
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
        yield "weights are selected by their score on split 'test', the one to be reported"
    tuning = config.method.options.get("tuning")
    # A file of weights is left for the user to name, or not fetched here.
    stays = config.method.name == "vsgnet" and config.method.options["backbone"]
    stays = stays or str(config.method.options["backbone"]).startswith("galileo")
    if stays or tuning in ("adapter", "lora"):
        yield "the backbone has no pretrained weights"


#: Runs that take the same way as others: compare/whu_opt_sar, galileo/terramesh, floods_linear.
ALIKE = ("compare/forests", "compare/gid15", "compare/mmhunan", "compare/potsdam",
         "compare/vaihingen", "galileo/floods", "galileo/slovenia", "galileo/slovenia_linear",
         "galileo/terramesh_linear", "upseg/ablation/vem_content", "upseg/ablation/vem_project",
         "upseg/ablation/vem_differential", "upseg/ablation/vem_no_loss", "upseg/gid15",
         "ombria/s1", "mfnet/potsdam_sound", "mfnet/vaihingen_sound", "vsgnet/potsdam_sound",
         "mfnet/landscape/dsm")  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_runs_like_others_build_their_model(name, tmp_path):
    config = load_run_config(CONFIGS / f"{name}.yaml")
    manifest = read_manifest(config.data.manifest, tmp_path).select(config.data.modalities)
    modalities = list(manifest.modalities.values())
    options = config.method.options
    model = without_values(lambda: METHODS[config.method.name](modalities, 3, **options))
    assert [m.name for m in model.modalities] == list(config.data.modalities or manifest.modalities)


def run_cases():
    """Every run; those like others are slow."""
    for path in RUNS:
        name = path.relative_to(CONFIGS).with_suffix("").as_posix()
        yield pytest.param(path, id=name, marks=[pytest.mark.slow] if name in ALIKE else [])


@pytest.mark.parametrize("path", list(run_cases()))
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
        "training.head_first_steps": 0,
        "training.validate_every": 1,
        "training.validation_overlap": 0,
        "training.accelerator": "cpu",
        "prediction.crop_size": crop,
        "prediction.overlap": 0,
    }
    backbone = str(config.method.options["backbone"]).split("_")[0]
    small = SMALL.get(config.method.name, SMALL.get(backbone, {}))
    for key, value in small.items():
        inner = value if isinstance(value, dict) else {}
        settings |= {f"method.{key}.{name}": number for name, number in inner.items()}
        settings |= {} if inner else {f"method.{key}": "null" if value is None else value}
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    with ExitStack() as stack:
        for text in expected_warnings(config):
            stack.enter_context(pytest.warns(UserWarning, match=text))
        code, _, message = command_line("train", path, "--out", tmp_path / "run", *words)
    assert code == 0, message
    assert (tmp_path / "run" / "model.safetensors").exists()


PRETRAININGS = sorted((CONFIGS / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", PRETRAININGS, ids=lambda path: path.stem)
def test_one_step_of_pretraining(path, tmp_path, make_raster, command_line):
    config = load_pretrain_config(path)
    assert config.objective.name == path.stem
    manifest = load_manifest(config.data.manifest).select(config.data.modalities)
    dataset = made_up(manifest, tmp_path, 64, make_raster)
    settings = {
        "data.manifest": dataset,
        "data.crop_size": 64,
        "data.batch_size": 2,
        "data.workers": 0,
        "training.steps": 1,
        "training.warmup_steps": 0,
        "training.accelerator": "cpu",
    }
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    code, out, message = command_line("pretrain", path, "--out", tmp_path / "run", *words)
    assert code == 0, message
    assert "weights: " in out
    assert list((tmp_path / "run").glob("*.safetensors"))


def test_there_are_runs_and_their_datasets_are_read():
    assert RUNS
    for path in CONFIGS.rglob("dataset.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert len(load_manifest(path).entries) == len(values["scenes"])


@pytest.fixture(params=["vaihingen", "potsdam", "mmhunan"])
def published(request):
    """Name of a dataset, and how MFNet is published on it."""
    return request.param, load_run_config(CONFIGS / "mfnet" / f"{request.param}_published.yaml")


def test_published_training(published):
    """Numbers of the publication's code; the learning rates are recorded from it."""
    name, config = published
    training = config.training
    rates = load_facts("mfnet/protocol")["lr_per_epoch_1_to_50"]
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
    splits = {k.lower(): v for k, v in load_facts("mfnet/splits").items()}
    text = (CONFIGS / "mfnet" / f"{name}_published.yaml").read_text(encoding="utf-8")
    assert f"# all {len(splits[name]['train'])} training" in text
    assert config.data.train_splits == ("train", "val")
    assert config.training.validation_split == config.evaluation.split == "test"
    image, elevation = LAYOUTS[name][0]
    assert config.data.modalities == (image, elevation)
    normalization = config.data.normalization
    assert normalization[elevation] == "scene_range"
    if name != "mmhunan":  # there each patch was stretched to 8 bits before it was divided
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
        for case in load_facts("mfnet/protocol")["sliding_window"]
    }[*size, validation_stride]
    lattice = Lattice(*size, crop, validation_overlap(config), blending=blending)
    assert sum(map(lattice.times, lattice)) == recorded["count"]
    assert len(lattice) == recorded["unique"]


def test_published_scores(published):
    name, config = published
    rules = "metrics_mmhunan" if name == "mmhunan" else "metrics_isprs"
    golden = load_facts("mfnet/protocol")[rules]
    classes = LAYOUTS[name][1]
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


UPSEG = CONFIGS / "upseg"
LADDER = {path.stem: path for path in (UPSEG / "ablation").glob("*.yaml")}


@pytest.mark.parametrize(
    ("name", "crop", "modalities"),
    [("whu_opt_sar", 256, ("optical", "sar")), ("gid5", 512, ("rgb", "nir")),
     ("gid15", 512, ("rgb", "nir"))],
)  # fmt: skip
def test_upseg_protocol(name, crop, modalities):
    """The recipe of the reconstruction, and the marks that say that it is one."""
    config = load_run_config(UPSEG / f"{name}.yaml")
    training = config.training
    assert (training.optimizer, training.lr, training.weight_decay) == ("adamw", 6e-5, 0.01)
    assert (training.steps, training.warmup_steps) == (80_000, 1500)
    assert learning_rate_factor(1500, training) == 1
    # Linear from there: half-way half of it.
    assert learning_rate_factor((1500 + 80_000) // 2, training) == pytest.approx(0.5)
    assert (training.gradient_clip, training.backbone_lr_factor) == (1, 0.1)
    assert (config.data.crop_size, config.data.batch_size) == (crop, 16)
    assert config.data.modalities == modalities
    assert config.data.augment.scale == (0.5, 2)
    assert (config.data.augment.speckle, config.data.augment.shift_db) == (0, 0)
    assert training.validation_split not in (config.evaluation.split, *config.data.train_splits)
    assert config.evaluation.class_mean == "reference"
    assert config.method.options["backbone"] == "dofa_base_patch16"
    text = (UPSEG / f"{name}.yaml").read_text(encoding="utf-8")
    assert "The authors' protocol is not public [?]" in text
    assert ("our\n# working assumption [R]" in text) == ("gid" in name)


def test_rungs_of_the_ladder_differ_where_they_say():
    full = load_run_config(LADDER["full"])
    assert full.data.modality_dropout == 0.2
    for name, path in LADDER.items():
        config = load_run_config(path)
        if name != "full":
            assert config.data.modality_dropout == 0
        for section in ("training", "evaluation", "prediction"):
            assert getattr(config, section) == getattr(full, section)
        without = {"modality_dropout": 0}
        assert config.data.model_copy(update=without) == full.data.model_copy(update=without)
        for option in ("backbone", "decoder"):
            assert config.method.options[option] == full.method.options[option]
    full_options = dict(full.method.options)
    for name in LADDER.keys() - {"early_concat", "full"}:
        options = dict(load_run_config(LADDER[name]).method.options)
        changed = {key for key in options if options[key] != full_options.get(key)}
        assert changed <= {"vem", "prompt", "interact_stages", "fusion"}, name
        assert ("fusion" in options) == (name != "gated_streams"), name  # else gates would interact
    kinds = {name: load_run_config(p).method.options.get("vem") for name, p in LADDER.items()}
    for kind in ("innovation", "content", "project", "differential"):
        assert kinds[f"vem_{kind}"]["kind"] == kind
    assert kinds["full"] == kinds["vem_innovation"]
    assert kinds["vem_no_loss"] == kinds["full"] | {"aux_weight": 0}
    assert kinds["prompts"]["kind"] == "none"


def test_control_has_the_parameters_of_what_it_controls():
    modalities = [Modality("optical", tuple("bgrn"), kind="optical"), Modality("sar", ("VV", "VH"))]

    def count(name):
        options = load_run_config(LADDER[name]).method.options
        model = without_values(lambda: METHODS["upseg"](modalities, 8, **options))
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    interaction = count("vem_innovation") - count("two_streams")
    assert interaction > 0.05 * count("two_streams")
    assert count("control") - count("two_streams") == pytest.approx(interaction, rel=0.01)
    gates = count("gated_streams") - count("two_streams")
    assert count("full") - gates == count("vem_innovation")


VSGNET = CONFIGS / "vsgnet"


def test_vsgnet_protocol():
    """Numbers of the publication's code for Potsdam; Forests has them as far as they carry over."""
    published = load_run_config(VSGNET / "potsdam_published.yaml")
    training, epoch_steps = published.training, 412
    assert (training.steps, training.warmup_steps) == (300 * epoch_steps, 10 * epoch_steps)
    assert training.validate_every == 25 * epoch_steps
    assert (training.optimizer, training.lr, training.weight_decay) == ("adamw", 8e-5, 0.01)
    assert (training.schedule, training.poly_power) == ("poly_whole", 0.9)
    # Half of all iterations, of which the warm-up is a part, not half of those after it.
    assert learning_rate_factor(61_800, training) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(2060, training) == pytest.approx(0.5)
    assert (training.gradient_clip, training.precision, training.decay_all) == (
        None,
        "32-true",
        False,
    )
    assert [(loss.name, loss.weight, loss.options) for loss in training.losses] == [
        ("dice", 0.5, {}), ("cross_entropy", 0.5, {"label_smoothing": 0.1}),
    ]  # fmt: skip
    assert (published.data.crop_size, published.data.batch_size) == (512, 16)
    assert published.data.augment == AugmentConfig(
        flip="horizontal", rotate=False, scale=(0.5, 1.75), zoom_out="pad", gain=0, offset=0
    )
    structure = published.data.normalization["structure"]
    assert (structure.mean, structure.std) == pytest.approx((0.48 * 255, 0.28 * 255))
    image = published.data.normalization["rgb"]
    assert [m / 255 for m in image.mean] == pytest.approx([0.485, 0.456, 0.406])
    assert [s / 255 for s in image.std] == pytest.approx([0.229, 0.224, 0.225])
    # Patches of 512 pixels, 17 of which cover 6000.
    assert published.predict_crop_size - published.predict_overlap == 343 == -(-(6000 - 512) // 16)
    forests = load_run_config(VSGNET / "forests.yaml")
    for key in ("optimizer", "lr", "weight_decay", "schedule", "poly_power", "losses"):
        assert getattr(forests.training, key) == getattr(training, key), key
    assert forests.data.normalization == published.data.normalization
    # But for quarter turns.
    turned = {"rotate": True}
    assert forests.data.augment == published.data.augment.model_copy(update=turned)
    assert forests.training.warmup_steps / forests.training.steps == pytest.approx(1 / 30, rel=0.1)
    text = (VSGNET / "forests.yaml").read_text(encoding="utf-8")
    assert "not public are classes, numbers, pixel sizes, splits, crops and schedule" in text


def test_vsgnet_sound_differs_where_it_must():
    published, sound = (
        load_run_config(VSGNET / f"potsdam_{name}.yaml") for name in ("published", "sound")
    )
    assert sound.training.validation_split not in (sound.evaluation.split, *sound.data.train_splits)
    changed = {
        f"{section}.{key}"
        for section, values in sound.model_dump().items()
        for key, value in values.items()
        if value != published.model_dump()[section][key]
    }
    assert changed == {
        "data.manifest", "data.train_splits", "training.validation_split", "method.tokens",
        "method.layer_scale_init",
    }  # fmt: skip
    text = (VSGNET / "potsdam_sound.yaml").read_text(encoding="utf-8")
    assert text.count("# sound: ") == len(changed)
