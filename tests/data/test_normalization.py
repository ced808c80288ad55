"""A data set as a run's settings want it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from terrafuse.config import AugmentConfig, DataConfig
from terrafuse.config.base import parse_settings
from terrafuse.data import (
    apply_normalization,
    compute_statistics,
    load_manifest,
    open_dataset,
)
from terrafuse.errors import ConfigError, SceneNotFoundError
from terrafuse.samples import Window
from terrafuse.sampling.augment import Augment

MakeRaster = Callable[..., Path]


@pytest.fixture
def values(make_raster: MakeRaster, tmp_path: Path) -> dict[str, Any]:
    """Two scenes of two modalities; the surface of the second is flat."""
    rng = np.random.default_rng(0)
    for n in range(2):
        make_raster(tmp_path / f"rgb{n}.tif", rng.integers(0, 256, (3, 20, 30), np.uint8))
        heights = rng.normal(300, 9, (1, 20, 30)) if n == 0 else np.full((1, 20, 30), 7)
        make_raster(tmp_path / f"dsm{n}.tif", heights.astype(np.float32))
        make_raster(tmp_path / f"l{n}.tif", rng.integers(0, 2, (1, 20, 30), np.uint8))
    return {
        "classes": [{"name": "a"}, {"name": "b"}],
        "modalities": {
            "rgb": {"kind": "optical", "bands": ["r", "g", "b"]},
            "dsm": {"kind": "elevation", "bands": ["height"], "unit": "m"},
        },
        "scenes": [
            {"id": str(n), "split": s, "rgb": f"rgb{n}.tif", "dsm": f"dsm{n}.tif",
             "labels": f"l{n}.tif"}
            for n, s in enumerate(("train", "extra"))
        ],
    }  # fmt: skip


@pytest.fixture
def config(values: dict[str, Any], tmp_path: Path) -> Callable[..., DataConfig]:
    """Function that gives settings of data."""
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump(values))

    def create(**changes: Any) -> DataConfig:
        return parse_settings(DataConfig, {"manifest": path, **changes}, "run.yaml")

    return create


def test_without_settings_it_is_the_manifest(config: Callable[..., DataConfig]) -> None:
    assert open_dataset(config()) == load_manifest(config().manifest)
    measured = config(normalization={"dsm": "measured"})
    assert open_dataset(measured) == load_manifest(config().manifest)


def test_a_modality_is_rescaled_and_has_no_unit_any_more(
    config: Callable[..., DataConfig],
) -> None:
    settings = config(modalities=["dsm"], normalization={"dsm": "scene_range"})
    dataset = open_dataset(settings)
    assert list(dataset.modalities) == ["dsm"]
    assert dataset.modalities["dsm"].unit == "scene range"
    assert dataset.rules["rgb"].rescale is None
    first, flat = (s.read(s.full_window).images["dsm"] for s in dataset.scenes())
    assert (first.min(), first.max()) == (0, 1)
    assert not flat.any()
    back = dataset.with_rescale({"dsm": None, "lidar": "scene_range"})
    assert back == load_manifest(settings.manifest).select(["dsm"])
    assert back.scene("1").read(back.scene("1").full_window).images["dsm"].min() == 7


def test_the_manifest_may_ask_for_it_itself(
    values: dict[str, Any], config: Callable[..., DataConfig]
) -> None:
    values["modalities"]["dsm"]["rescale"] = "scene_range"
    config().manifest.write_text(yaml.safe_dump(values))
    dataset = open_dataset(config())
    assert dataset.modalities["dsm"].unit == "scene range"
    assert dataset.select(["dsm"]).modalities["dsm"].unit == "scene range"
    scene = dataset.scene("0")
    assert scene.read(scene.full_window).images["dsm"].max() == 1
    # What is written says what the files hold.
    assert dataset.to_dict()["modalities"] == values["modalities"]
    values["modalities"]["dsm"]["rescale"] = "range"
    config().manifest.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"dsm\.rescale' is 'range'.*'scene_range'"):
        open_dataset(config())


def test_rescaled_radar_is_changed_by_factors_and_not_by_decibels(
    values: dict[str, Any], config: Callable[..., DataConfig]
) -> None:
    values["modalities"]["dsm"] |= {"kind": "sar", "unit": "db"}
    config().manifest.write_text(yaml.safe_dump(values))
    dataset = open_dataset(config(modalities=["dsm"], normalization={"dsm": "scene_range"}))
    scene = dataset.scene("0")
    sample = scene.read(Window(0, 0, 20, 20))
    modalities = list(dataset.modalities.values())
    measured = compute_statistics([scene], modalities)
    change = Augment(AugmentConfig(speckle=0.1, shift_db=1.0), modalities, measured)
    before = sample.images["dsm"]
    for seed in range(20):
        after = change(sample, torch.Generator().manual_seed(seed)).images["dsm"]
        assert after.min() >= 0
        assert after.mean().item() == pytest.approx(before.mean().item(), rel=0.3)  # 1 dB: 26 %
    unasked = Augment(AugmentConfig(flip=False, rotate=False), modalities, measured)
    assert torch.equal(unasked(sample, torch.Generator().manual_seed(0)).images["dsm"], before)


def test_statistics_get_the_mean_and_deviation_asked_for(
    config: Callable[..., DataConfig],
) -> None:
    settings = config(normalization={"rgb": {"mean": [1, 2, 3], "std": 255}, "dsm": "scene_range"})
    dataset = open_dataset(settings)
    scenes = dataset.scenes()
    measured = compute_statistics(scenes, list(dataset.modalities.values()))
    found = apply_normalization(measured, dataset, settings)
    assert (found["rgb"].mean, found["rgb"].std) == ((1, 2, 3), (255, 255, 255))
    assert (found["dsm"].mean, found["dsm"].std) == ((0,), (1,))
    assert found["rgb"].low == measured["rgb"].low
    assert found["dsm"].high == measured["dsm"].high
    assert 0.5 < found["dsm"].high[0] < 1  # of the rescaled values
    assert apply_normalization(measured, dataset, config()) == measured


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"normalization": {"rbg": "measured"}},
            ConfigError,
            r"data\.normalization: unknown modality 'rbg'\. Did you mean 'rgb'",
        ),
        (
            {"normalization": {"rgb": {"mean": [1, 2]}}},
            ConfigError,
            r"data\.normalization\.rgb\.mean has 2 values, but modality 'rgb' has 3 bands \(r, g",
        ),
        ({"normalization": {"dsm": {"std": [1, 2]}}}, ConfigError, r"dsm\.std has 2 values"),
        ({"normalization": {"rgb": "scene_rang"}}, ConfigError, "scene_rang"),
        ({"normalization": {"rgb": {"std": 0}}}, ConfigError, "must be above 0"),
        (
            {"train_splits": ["train", "extras"]},
            SceneNotFoundError,
            r"data\.train_splits: unknown split 'extras'\. Did you mean 'extra'\?",
        ),
        ({"train_splits": ["train", "train"]}, ConfigError, "each split once"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    config: Callable[..., DataConfig], changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        open_dataset(config(**changes))


def test_a_modality_that_is_not_used_may_be_normalised(config: Callable[..., DataConfig]) -> None:
    settings = config(modalities=["rgb"], normalization={"dsm": "scene_range", "rgb": {"std": 255}})
    dataset = open_dataset(settings)
    measured = compute_statistics(dataset.scenes("train"), list(dataset.modalities.values()))
    assert apply_normalization(measured, dataset, settings)["rgb"].std == (255, 255, 255)
