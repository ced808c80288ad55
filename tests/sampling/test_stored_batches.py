"""Batches of integers are those of the same values as floats, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.config import AugmentConfig, DataConfig
from terrafuse.data.scene import Scene, scene_from_rasters
from terrafuse.data.statistics import compute_statistics
from terrafuse.modalities import Modality
from terrafuse.samples import Batch, Sample, Window, collate
from terrafuse.sampling import training_loader
from terrafuse.sampling.changes import turn_sample

OPTICAL = Modality("s2", ("red", "nir"), kind="optical")
SAR = Modality("s1", ("vv",), kind="sar", scale=2.0)
MODALITIES = (SAR, OPTICAL)
STILL: dict[str, Any] = {"gain": 0, "offset": 0}
MakeScenes = Callable[..., list[Scene]]


@pytest.fixture
def make_scenes(make_raster: Callable[..., Path], tmp_path: Path) -> MakeScenes:
    """Function that writes two scenes with gaps off centre; the second may lack radar."""

    def write(kind: str, *, has_radar: bool = True, optical: Any = np.uint16) -> list[Scene]:
        rng, scenes = np.random.default_rng(0), []
        for name in "ab":
            files: dict[str, Any] = {
                "s2": rng.integers(1, 60_000, (2, 40, 56)).astype(optical),
                "s1": rng.integers(1, 250, (1, 20, 28)).astype(np.uint8),
            }
            files["s2"][:, 3:17, 5:30] = 0
            files["s1"][:, 12:, :9] = 0
            if name == "b" and not has_radar:
                del files["s1"]
            paths = {
                m: make_raster(
                    tmp_path / kind / f"{name}_{m}.tif",
                    values.astype(np.float32) if kind == "float" else values,
                    nodata=0,
                    transform=from_origin(500_000, 5_000_000, *[20 if m == "s1" else 10] * 2),
                )
                for m, values in files.items()
            }
            labels = rng.integers(0, 3, (1, 40, 56), np.uint8)
            path = make_raster(tmp_path / kind / f"{name}_l.tif", labels)
            scheme = ClassScheme(("x", "y", "z"))
            scenes.append(
                scene_from_rasters(
                    MODALITIES, paths, grid="s2", id=name, labels=path, scheme=scheme, split="train"
                )
            )
        return scenes

    return write


def batches(scenes: list[Scene], workers: int = 0, **data: Any) -> list[Batch]:
    values: dict[str, Any] = {"crop_size": 16, "batch_size": 3, "workers": workers} | data
    settings = DataConfig(manifest=Path("x"), **values)
    statistics = compute_statistics(scenes, MODALITIES)
    return list(training_loader(scenes, MODALITIES, statistics, settings, seed=5, steps=6))


def assert_same(kept: list[Batch], floats: list[Batch]) -> dict[str, set[torch.dtype]]:
    dtypes: dict[str, set[torch.dtype]] = {m.name: set() for m in MODALITIES}
    assert len(kept) == len(floats) == 6
    for a, b in zip(kept, floats, strict=True):
        assert (a.windows, a.scene_ids) == (b.windows, b.scene_ids)
        assert a.labels is not None
        assert b.labels is not None
        assert torch.equal(a.labels, b.labels)
        physical = a.physical()
        for name, image in b.images.items():
            assert image.dtype == physical.images[name].dtype == torch.float32
            assert torch.equal(physical.images[name].isnan(), image.isnan())
            assert torch.equal(physical.images[name].nan_to_num(-9), image.nan_to_num(-9))
            assert torch.equal(a.valid[name], b.valid[name])
            dtypes[name].add(a.images[name].dtype)
    return dtypes


@pytest.mark.parametrize(
    ("data", "optical", "radar"),
    [
        ({"augment": STILL}, torch.uint16, torch.uint8),
        ({}, torch.float32, torch.uint8),  # gain and offset of optical bands; radar of unit dn
        ({"augment": {"speckle": 0.1, **STILL}}, torch.uint16, torch.float32),
        ({"augment": {"scale": (0.5, 0.9), **STILL}}, torch.float32, torch.float32),
        (
            {"augment": {"scale": (0.5, 0.9), "zoom_out": "pad", **STILL}},
            torch.float32,
            torch.float32,
        ),
        ({"augment": STILL, "modality_dropout": 0.7}, torch.uint16, torch.uint8),
        ({"augment": STILL, "sampling": "balanced"}, torch.uint16, torch.uint8),
        ({"augment": STILL, "crop_size": 48}, torch.uint16, torch.uint8),  # beyond the scenes
    ],
)
def test_batches_are_those_of_floats(
    make_scenes: MakeScenes, data: dict[str, Any], optical: torch.dtype, radar: torch.dtype
) -> None:
    data = data | {"augment": AugmentConfig(**data.get("augment", {}))}
    dtypes = assert_same(
        batches(make_scenes("integer"), **data), batches(make_scenes("float"), **data)
    )
    assert dtypes == {"s2": {optical}, "s1": {radar}}


def test_a_scene_without_a_modality_leaves_those_of_others_integers(
    make_scenes: MakeScenes,
) -> None:
    settings = {"augment": AugmentConfig(**STILL)}
    kept = batches(make_scenes("integer", has_radar=False), **settings)
    floats = batches(make_scenes("float", has_radar=False), **settings)
    dtypes = assert_same(kept, floats)
    assert torch.uint8 in dtypes["s1"]
    assert any(len(set(batch.scene_ids)) == 2 for batch in kept)


def test_integers_pass_through_reading_processes(make_scenes: MakeScenes) -> None:
    scenes = make_scenes("integer", optical=np.int16)
    settings = {"augment": AugmentConfig(**STILL)}
    alone, shared = batches(scenes, **settings), batches(scenes, workers=1, **settings)
    for a, b in zip(alone, shared, strict=True):
        assert a.images["s2"].dtype == b.images["s2"].dtype == torch.int16
        assert torch.equal(a.images["s2"], b.images["s2"])


def sample(image: torch.Tensor, known: float = 1.0) -> Sample:
    valid = torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(0)) < known
    return Sample({"a": image}, {"a": valid}, None, Window(0, 0, *image.shape[1:]), "s")


def test_samples_of_other_types_meet_in_float32() -> None:
    large = torch.arange(65_000, 65_012).view(1, 3, 4).to(torch.uint16)
    small = torch.arange(12).view(1, 3, 4).byte()
    batch = collate([sample(large, 0.5), sample(small)])
    assert batch.images["a"].dtype == torch.float32
    assert batch.images["a"][0].isnan().sum() > 0
    assert batch.physical().images["a"].nan_to_num(0).max() == 65_011
    absent = sample(torch.full((1, 3, 4), torch.nan), 0.0)
    batch = collate([absent, sample(large)])
    assert batch.images["a"].dtype == torch.uint16
    assert batch.physical().images["a"][0].isnan().all()
    assert batch.physical().images["a"][1].tolist() == large.float().tolist()


def test_dropping_and_turning_keep_integers() -> None:
    image = torch.arange(65_000, 65_009).view(1, 3, 3).to(torch.uint16)
    turned = turn_sample(sample(image, 0.5), True, False, 1)
    assert turned.images["a"].dtype == torch.uint16
    expected = turn_sample(sample(image, 0.5).physical(), True, False, 1)
    found = turned.physical().images["a"]
    assert torch.equal(found.nan_to_num(-1), expected.images["a"].nan_to_num(-1))
    dropped = sample(image).without({"a"})
    assert dropped.images["a"].dtype == torch.uint16
    assert dropped.physical().images["a"].isnan().all()
