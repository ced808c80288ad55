"""`terrafuse generate`: what the message says to do, done."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

from generate_parts import RGB, FakeGenerator, make_job, run
from remedies import refused, said, warned
from terrafuse.api import generate
from terrafuse.api.generating import make_generator
from terrafuse.cli.generate import generate as command
from terrafuse.errors import TerrafuseError, WeightsError
from terrafuse.generate import SuperpixelGenerator
from terrafuse.generate.models import find_model, load_pipeline, run_model
from terrafuse.generate.photos import find_photo_modality, require_channels
from terrafuse.modalities import Modality
from tiny_models import depth_config, save_depth, save_sam

MakeRaster = Callable[..., Path]
SMALL = {"window": 64, "overlap": 24}
NIR = Modality("irrg", ("nir", "red", "green"), "optical")


@pytest.fixture
def town(place: Any) -> Any:
    """A place whose first modality is a photo."""
    place.values["modalities"] = {"rgb": {"kind": "optical", "bands": ["red", "green", "blue"]}}
    for entry in place.values["scenes"]:
        for name in "ab":
            del entry[name]
        entry["rgb"] = f"{entry['id']}_p.tif"
        image = np.random.default_rng(0).integers(40, 200, (3, 32, 32)).astype(np.uint8)
        place.raster(entry["rgb"], image)
    place.write()
    return place


def superpixels(town: Any, **how: Any) -> Any:
    return generate(town.manifest, kind="superpixels", **SMALL | how)


# What makes the raster


def test_models_by_kind() -> None:
    with refused("api.generating:make_generator | remove --model, or choose --kind sam"):
        make_generator("superpixels", "x/y", {})
    make_generator("superpixels", None, {})
    with refused(
        "api.generating:make_generator | Without weights, use --kind superpixels"
    ) as error:
        make_generator("sam", None, {})
    make_generator(error.find(r"use --kind (\w+)$"), None, {})  # type: ignore[arg-type]


def test_which_bands_are_red_green_and_blue() -> None:
    with refused("generate.photos:require_channels | or say which they are: --rgb 3 2 1") as error:
        require_channels(NIR, None)
    red, green, blue = map(int, error.find(r"--rgb ([\d ]+)$").split())
    require_channels(NIR, (red, green, blue))
    require_channels(RGB, None)
    waves = Modality("m", ("x", "y", "z"), "optical", wavelengths_um=(0.665, 0.56, 0.49))
    require_channels(waves, None)
    with refused(
        "generate.photos:require_channels | choose an optical modality with red, green and"
    ):
        require_channels(Modality("sar", ("vv",), "sar"), None)
    with refused(
        "generate.photos:find_photo_modality | Say which with --modality, and which of its"
    ):
        find_photo_modality([NIR])
    require_channels(NIR, (red, green, blue))  # what both options lead to


def test_options_that_name_the_photo(town: Any, command_line: Any) -> None:
    town.values["modalities"]["rgb"]["bands"] = ["x", "y", "z"]
    town.write()
    words = ("generate", town.manifest, "--kind", "superpixels", "--window", 64, "--overlap", 24)
    code, _, text = command_line(*words)
    assert code == 2
    options = said("generate.photos:find_photo_modality | Say which with --modality", text)
    option = options.find(r"(--rgb [\d ]+)").split()
    code, _, text = command_line(*words, "--modality", "rgb", *option)
    assert code == 0, text


@pytest.mark.parametrize("way", ["nodata", "bands"])
def test_a_photo_without_data(make_raster: MakeRaster, tmp_path: Path, way: str) -> None:
    image = np.full((4, 40, 40), 7, np.uint8)
    image[3] = np.random.default_rng(0).integers(20, 90, (40, 40))
    path = make_raster(tmp_path / "a.tif", image[:3], nodata=7)
    generator = FakeGenerator(lambda picture: np.ones(picture.shape[:2], np.uint16))
    with refused("generate.photos:summarize_photo | Check its nodata value and its bands"):
        run(make_job(path, tmp_path / "out"), generator)
    path.unlink()
    make_raster(path, image[:3] if way == "nodata" else image[[3, 3, 3]], nodata=0)
    run(make_job(path, tmp_path / "out"), generator)


# Files that are there already


@pytest.mark.parametrize("way", ["another", "overwrite"])
def test_the_manifest_itself(town: Any, way: str) -> None:
    name = (
        "api.generating:_check_manifest | choose another -o to keep it, or replace it with --over"
    )
    with refused(name):
        superpixels(town, manifest=town.manifest)
    if way == "another":
        made = superpixels(town, manifest=town.folder / "new.yaml")
    else:
        made = superpixels(town, manifest=town.manifest, overwrite=True)
    assert "structure" in yaml.safe_load(made.manifest.read_text())["modalities"]


@pytest.mark.parametrize("way", ["another", "overwrite"])
def test_a_manifest_of_other_content(town: Any, way: str) -> None:
    target = town.folder / "new.yaml"
    target.write_text("classes: []\n")
    with refused("api.generating:_check_manifest | choose another -o, or --overwrite"):
        superpixels(town, manifest=target)
    if way == "another":
        superpixels(town, manifest=town.folder / "newer.yaml")
    else:
        superpixels(town, manifest=target, overwrite=True)


def test_a_name_that_is_taken(town: Any) -> None:
    with refused("generate.targets:extend_manifest | choose another --name for the new modality"):
        superpixels(town, name="rgb")
    superpixels(town, name="parts")


def test_somebody_elses_raster(town: Any) -> None:
    out = town.folder / "out"
    town.make_raster(out / "train.tif", np.zeros((1, 9, 9), np.uint8))
    with refused("generate.rasters:refuse_other_settings | not made by terrafuse generate; choose"):
        superpixels(town, out=out)
    superpixels(town, out=town.folder / "out2")


@pytest.mark.parametrize("way", ["repeat", "another", "overwrite"])
def test_rasters_of_other_settings(make_raster: MakeRaster, tmp_path: Path, way: str) -> None:
    image = np.random.default_rng(0).integers(40, 200, (3, 40, 40)).astype(np.uint8)
    photo = make_raster(tmp_path / "a.tif", image)
    run(make_job(photo, tmp_path / "out"), SuperpixelGenerator(size=9))
    other = SuperpixelGenerator(size=12)
    name = (
        "generate.rasters:refuse_other_settings | repeat these, choose another --out, or make all"
    )
    with refused(name) as error:
        run(make_job(photo, tmp_path / "out"), other)
    if way == "repeat":
        size = int(error.find(r"size was (\d+), is"))
        run(make_job(photo, tmp_path / "out"), SuperpixelGenerator(size=size))
    elif way == "another":
        run(make_job(photo, tmp_path / "out2"), other)
    else:
        run(make_job(photo, tmp_path / "out"), other, overwrite=True)


def test_a_photo_that_has_changed(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(40, 200, (3, 40, 40)).astype(np.uint8)
    photo = make_raster(tmp_path / "a.tif", image)
    generator = SuperpixelGenerator(size=9)
    run(make_job(photo, tmp_path / "out"), generator)
    with rasterio.open(photo, "r+") as dataset:
        dataset.write(image[::-1])
    with refused("generate.rasters:generate_raster | Make it again with --overwrite"):
        run(make_job(photo, tmp_path / "out"), generator)
    run(make_job(photo, tmp_path / "out"), generator, overwrite=True)


# Models


def test_folders_of_models(tmp_path: Path) -> None:
    save_sam(tmp_path / "sam")
    save_depth(tmp_path / "depth", depth_config())
    for place in (
        "generate.models:find_model | Give either; the folder must hold config.json, *.safetensors",
        "generate.models:find_model | a processor's .json",
    ):
        with refused(place):
            find_model("nowhere", "mask-generation")
    assert list((tmp_path / "sam").glob("*processor*.json"))
    (tmp_path / "empty").mkdir()
    with refused("generate.models:_check_folder | Give the folder that save_pretrained or hf"):
        find_model(str(tmp_path / "empty"), "mask-generation")
    model = find_model(str(tmp_path / "sam"), "mask-generation")
    weights = tmp_path / "sam" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with refused(
        "generate.models:_explained | Files may be missing or truncated: fetch it again",
        WeightsError,
    ):
        load_pipeline(model, precision="float32", device="cpu")
    weights.unlink()
    with refused("generate.models:_check_folder | fetched pointers only; fetch it again"):
        find_model(str(tmp_path / "sam"), "mask-generation")
    weights.write_bytes(whole)
    load_pipeline(
        find_model(str(tmp_path / "sam"), "mask-generation"), precision="float32", device="cpu"
    )
    headless(tmp_path)


def headless(folder: Path) -> None:
    """A backbone without its head, and then the model with it."""
    from safetensors.torch import load_file, save_file

    path = shutil.copytree(folder / "depth", folder / "headless") / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("head")}
    save_file(kept, path, metadata={"format": "pt"})
    model = find_model(str(folder / "headless"), "depth-estimation")
    with refused("generate.models:_check_complete | without its head: choose a model with it"):
        load_pipeline(model, precision="float32", device="cpu")
    model = find_model(str(folder / "depth"), "depth-estimation")
    load_pipeline(model, precision="float32", device="cpu")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import transformers

    def refuse(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect")

    save_sam(tmp_path / "sam")
    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
        with refused("generate.models: | --local-dir FOLDER), and give FOLDER") as error:
            find_model("some/model", "mask-generation")
    assert (
        error.find(r"\((hf download \S+ --local-dir FOLDER)\)")
        == "hf download some/model --local-dir FOLDER"
    )
    find_model(str(tmp_path / "sam"), "mask-generation")  # the folder


class OutOfMemory:
    """A pipeline for which only small windows are small enough."""

    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self, picture: Any, points_per_batch: int = 64) -> str:
        if min(picture.size) > 8 and points_per_batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"


@pytest.mark.parametrize("task", ["mask-generation", "depth-estimation"])
def test_too_little_memory(task: str) -> None:
    pipeline, picture = OutOfMemory(task), np.zeros((16, 16, 3), np.uint8)
    with refused("generate.models:run_model | Use a smaller --window", TerrafuseError) as error:
        run_model(pipeline, picture)
    assert run_model(pipeline, picture[:8]) == "done"
    # Of depth there are no points.
    assert ("--points-per-batch" in error) == (task == "mask-generation")
    if "--points-per-batch" in error:
        said("generate.models:run_model | , or fewer --points-per-batch", error.text)
        assert run_model(pipeline, picture, points_per_batch=4) == "done"
    assert {"window", "points_per_batch"} <= set(inspect.signature(command).parameters)


def test_no_segments(make_raster: MakeRaster, tmp_path: Path) -> None:
    photo = make_raster(tmp_path / "a.tif", np.full((3, 70, 80), 9, np.uint8))
    nothing = FakeGenerator(lambda picture: np.zeros(picture.shape[:2], np.uint16))
    with warned("generate.rasterizers:SegmentRasterizer.fault | Lower --iou and --stability, or"):
        run(make_job(photo, tmp_path / "out"), nothing)
    some = FakeGenerator(lambda picture: np.ones(picture.shape[:2], np.uint16))
    run(make_job(photo, tmp_path / "out2"), some)
