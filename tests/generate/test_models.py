"""Vision foundation models: real pipelines on tiny models, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from generate_parts import make_job, run
from hub_server import serving_hub, use_hub
from terrafuse.errors import (
    ConfigError,
    ModelError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.generate import DepthGenerator, MaskGenerator, Model, find_model
from terrafuse.generate.models import load_pipeline

MakeRaster = Callable[..., Path]
# Random weights predict a low quality for every mask; noise takes long to turn into run lengths.
LENIENT: dict[str, Any] = {"points": 2, "iou": 0.0, "stability": 0.0, "nms": 1.0}


@pytest.fixture
def photo(make_raster: MakeRaster, tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(1, 255, (3, 80, 100), np.uint8)
    return make_raster(tmp_path / "town.tif", image)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (48, 70, 3), np.uint8)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_masks_of_everything(
    name: str, request: pytest.FixtureRequest, picture: np.ndarray
) -> None:
    model = find_model(str(request.getfixturevalue(name)), "mask-generation")
    assert model.architecture == name
    labels = MaskGenerator(model, **LENIENT).build()(picture)
    assert labels.shape == (48, 70)
    assert labels.dtype == np.uint16
    assert 1 <= labels.max() <= 2 * 2 * 3  # three masks per point
    np.testing.assert_array_equal(MaskGenerator(model, **LENIENT).build()(picture), labels)
    few = MaskGenerator(model, **LENIENT, min_area=48 * 70).build()(picture)
    assert len(np.unique(few)) <= len(np.unique(labels))


def test_no_mask_is_good_enough(sam: Path, picture: np.ndarray) -> None:
    model = find_model(str(sam), "mask-generation")
    assert not MaskGenerator(model, points=2).build()(picture).any()


def test_depth_is_the_models_own_number(depth_anything: Path, picture: np.ndarray) -> None:
    model = find_model(str(depth_anything), "depth-estimation")
    generator = DepthGenerator(model)
    assert generator.aligned
    depth = generator.build()(picture)
    assert depth.shape == (48, 70)
    assert depth.dtype == np.float32
    assert len(np.unique(depth)) > 256  # not the picture with its 256 levels
    far = DepthGenerator(model, meaning="distance").build()(picture)
    np.testing.assert_array_equal(far, -depth)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision(
    precision: Any, sam: Path, sam2: Path, depth_anything: Path, picture: np.ndarray
) -> None:
    """transformers' pipelines mix it with single precision, and fail, if left alone."""
    for folder in (sam, sam2):
        model = find_model(str(folder), "mask-generation")
        assert MaskGenerator(model, **LENIENT, precision=precision).build()(picture).any()
    model = find_model(str(depth_anything), "depth-estimation")
    half = DepthGenerator(model, precision=precision).build()(picture)
    single = DepthGenerator(model).build()(picture)
    assert np.corrcoef(half.ravel(), single.ravel())[0, 1] > 0.98


def test_what_the_numbers_mean_goes_by_the_model() -> None:
    def meaning(architecture: str, metric: bool = False) -> str:
        model = Model("m", "m", "1", architecture, "unknown", "depth-estimation", metric)
        generator = DepthGenerator(model)
        assert generator.unit == (
            "m" if generator.describe()["meaning"] == "height" else "relative"
        )
        return generator.describe()["meaning"]

    assert meaning("depth_anything") == meaning("dpt") == "nearness"
    assert meaning("depth_anything", metric=True) == meaning("depth_pro") == "distance"
    assert meaning("chmv2") == "height"


def test_every_depth_model_has_a_meaning() -> None:
    """A new architecture must be looked at before it is taken for nearness."""
    from transformers.models.auto import modeling_auto

    assert set(modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES) <= {
        "chmv2", "depth_anything", "depth_pro", "dpt", "glpn", "prompt_depth_anything",
        "tipsv2_dpt", "zoedepth",
    }  # fmt: skip


def test_a_metric_model_is_recognised(models: Path) -> None:
    from tiny_models import depth_config, save_depth

    save_depth(models / "metric", depth_config(depth_estimation_type="metric", max_depth=20))
    model = find_model(str(models / "metric"), "depth-estimation")
    assert DepthGenerator(model).describe()["meaning"] == "distance"


def test_what_is_noted_of_a_model(sam: Path, photo: Path, tmp_path: Path) -> None:
    model = find_model(str(sam), "mask-generation")
    generator = MaskGenerator(model, **LENIENT, device="cpu")
    made = run(make_job(photo, tmp_path / "out"), generator, 64, 16)
    with rasterio.open(made.raster) as dataset:
        record = json.loads(dataset.tags()["TERRAFUSE_RECORD"])
    assert record == made.record == json.loads(made.raster.with_suffix(".json").read_text())
    assert record["settings"]["model"] == {
        "name": "sam", "revision": model.revision, "architecture": "sam",
    }  # fmt: skip
    assert len(model.revision) == 64
    assert record["note"]["licence"] == "apache-2.0"
    assert record["note"]["device"] == "cpu"
    assert set(record["note"]["versions"]) == {"torch", "transformers"}
    # Neither what is noted nor where the model lies decides what comes out.
    moved = shutil.copytree(sam, tmp_path / "elsewhere" / "sam")
    assert find_model(str(moved), "mask-generation").describe() == model.describe()
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert find_model(str(moved), "mask-generation").revision != model.revision


def test_a_model_is_found_by_what_it_is(sam: Path, depth_anything: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a 'depth_anything', which returns no masks.*sam2"):
        find_model(str(depth_anything), "mask-generation")
    with pytest.raises(ModelError, match=r"is a 'sam', which returns no depth.*mean --kind sam\?"):
        find_model(str(sam), "depth-estimation")
    with pytest.raises(WeightsNotFoundError, match=r"there is no folder 'nowhere'.*owner/name"):
        find_model("nowhere", "mask-generation")
    with pytest.raises(WeightsNotFoundError, match=r"there is no folder '\./a/b/c'"):
        find_model("./a/b/c", "mask-generation")
    with pytest.raises(WeightsNotFoundError, match=r"it holds no config\.json"):
        find_model(str(tmp_path), "mask-generation")


def test_an_interrupted_download(sam: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(sam, tmp_path / "sam")
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    model = find_model(str(broken), "mask-generation")
    with pytest.raises(WeightsError, match=r"cannot be loaded.*fetch it again"):
        load_pipeline(model, precision="float32", device="cpu")
    weights.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"has no weights.*interrupted"):
        find_model(str(broken), "mask-generation")
    weights.write_bytes(whole)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_pipeline(model, precision="float32", device="cpu")
    (broken / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        find_model(str(broken), "mask-generation")
    (broken / "config.json").write_text('{"model_type": "nothing_known"}')
    with pytest.raises(WeightsError, match="nothing_known"):
        find_model(str(broken), "mask-generation")


def test_a_backbone_without_its_head(depth_anything: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    headless = shutil.copytree(depth_anything, tmp_path / "headless")
    state = load_file(headless / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("head")}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    model = find_model(str(headless), "depth-estimation")
    with pytest.raises(WeightsMismatchError, match=r"lacks weights .*depth needs: head\.conv1"):
        load_pipeline(model, precision="float32", device="cpu")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import transformers

    def refuse(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://example.org' to load the files")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(WeightsNotFoundError) as caught:
        find_model("some/model@main", "mask-generation")
    assert "model 'some/model' is not on this machine" in str(caught.value)
    assert "hf download some/model --local-dir FOLDER" in str(caught.value)


def test_values_that_are_not_allowed(sam: Path) -> None:
    model = find_model(str(sam), "mask-generation")
    with pytest.raises(ConfigError, match=r"iou is 88; allowed are numbers from 0 to 1"):
        MaskGenerator(model, iou=88)
    with pytest.raises(ConfigError, match="points is 0"):
        MaskGenerator(model, points=0)
    with pytest.raises(ConfigError, match="unknown meaning of depth 'depth'"):
        DepthGenerator(model, meaning="depth")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used"):
        MaskGenerator(model, device="gpu").build()


def test_a_model_from_a_hub(
    sam: Path, tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_hub() as hub:
        use_hub(hub.address, tmp_path, monkeypatch)
        files = {path.name: path.read_bytes() for path in sam.iterdir()}
        commit = hub.repository("owner/sam").commit(files)
        model = find_model(f"owner/sam@{commit}", "mask-generation")
        assert (model.revision, model.licence) == (commit, "apache-2.0")
        labels = MaskGenerator(model, **LENIENT).build()(picture)
        own = MaskGenerator(find_model(str(sam), "mask-generation"), **LENIENT).build()(picture)
        np.testing.assert_array_equal(labels, own)
        with pytest.raises(
            WeightsNotFoundError, match=r"'other/sam' is not on this machine and ca"
        ):
            find_model("other/sam", "mask-generation")
        hub.repository("owner/half").commit({"config.json": files["config.json"]})
        with pytest.raises(WeightsNotFoundError, match="'owner/half' is not on this machine and c"):
            MaskGenerator(find_model("owner/half", "mask-generation"), **LENIENT).build()
