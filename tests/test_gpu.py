"""On a CUDA device: the same maps as on the processor, training that goes on, half precision.

    python -m pytest -m gpu

Everything is small: a minute on one device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from array_scene import ArrayScene, make_modality
from made_rasters import TWO_SENSORS, make_rasters
from small_methods import SMALL
from stopped_runs import stop_after
from terrafuse.config import load_run_config
from terrafuse.contract import Case
from terrafuse.contract.inputs import random_images
from terrafuse.errors import TrainingError
from terrafuse.methods import METHODS, load_segmenter
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.samples import Batch
from terrafuse.sampling import change_batch
from terrafuse.training import train
from terrafuse.training.log import read_log

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"
    ),
]
#: Modalities as those of a scene of arrays.
MADE = (make_modality("rgb", 3), make_modality("dsm", 1))
#: Convolutions and products of matrices in TF32 would be off by 1e-3.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def to_device(images: dict[str, Any]) -> dict[str, Any]:
    return {name: image.to(DEVICE) for name, image in images.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_methods_give_what_they_give_on_the_processor(name: str) -> None:
    case = Case(name, SMALL.get(name, [{}])[0])
    model = case.make()
    images = random_images(case.inputs, (64, 64))
    expected = model(images).logits
    found = copy.deepcopy(model).to(DEVICE)(to_device(images)).logits
    assert found.device.type == torch.device(DEVICE).type
    atol = CLOSE["atol"] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.cpu(), expected, rtol=CLOSE["rtol"], atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_methods_train_in_half_precision(name: str, dtype: torch.dtype) -> None:
    case = Case(name, SMALL.get(name, [{}])[0])
    model = case.make().to(DEVICE).train()
    with torch.autocast(DEVICE, dtype=dtype):
        logits = model(to_device(random_images(case.inputs, (64, 64)))).logits
    assert logits.isfinite().all()
    logits.float().square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients) or dtype is torch.float16


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_scene_is_mapped_as_on_the_processor(precision: Any) -> None:
    """Whatever the number of windows that run at once."""
    case = Case("late_fusion", SMALL["late_fusion"][0], MADE)
    model = case.make()
    rng = np.random.default_rng(0)
    images = {
        m.name: (3 + 2 * rng.normal(size=(len(m.bands), m.size_at(100), m.size_at(140)))).astype(
            np.float32
        )
        for m in case.inputs
    }
    images[case.inputs[0].name][:, :20, :30] = np.nan
    scene = ArrayScene(images, scales={m.name: m.scale for m in case.inputs})
    maps = {}
    for device, batch_size in (("cpu", 2), (DEVICE, 1), (DEVICE, 5)):
        windows = WindowSettings(
            crop_size=48, overlap=16, batch_size=batch_size,
            precision=precision if device == DEVICE else "32-true",
        )  # fmt: skip
        predictor = ScenePredictor(copy.deepcopy(model), windows, device=device)
        strips = list(predictor.stream(scene))
        maps[device, batch_size] = {
            name: np.concatenate([strip.layers[name] for strip in strips])
            for name in ("class_map", "confidence")
        }
    expected, alone, together = maps.values()
    differing = (alone["class_map"] != together["class_map"]).mean()
    assert differing < (1e-3 if precision == "32-true" else 0.02)
    assert (together["class_map"] != expected["class_map"]).mean() < (
        1e-3 if precision == "32-true" else 0.05
    )
    levels = np.abs(together["confidence"].astype(int) - expected["confidence"])
    assert np.median(levels) <= (0 if precision == "32-true" else 3)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    make_rasters(tmp_path, TWO_SENSORS)
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(TWO_SENSORS))
    values = {
        "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
        "method": {"name": "late_fusion", **SMALL["late_fusion"][0]},
        "training": {
            "steps": 6, "validate_every": 3, "devices": 1,
            "accelerator": "gpu" if DEVICE == "cuda" else DEVICE,
        },
        "prediction": {"crop_size": 96, "overlap": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "run.yaml"


def test_a_batch_of_integers_is_changed_as_on_the_processor() -> None:
    """All types of integers, values up to their limits, every turn, gaps off centre."""
    rng = torch.Generator().manual_seed(0)
    images, draws = {}, {}
    for dtype in (torch.uint8, torch.int8, torch.uint16, torch.int16):
        limits, name = torch.iinfo(dtype), str(dtype)[6:]
        values = torch.rand(8, 2, 24, 24, generator=rng) * (limits.max - limits.min) + limits.min
        images[name] = values.round().to(dtype)
        draws[f"{name}.band_factor"] = torch.rand(8, 2, 1, 1, generator=rng) + 0.5
        draws[f"{name}.shift"] = torch.rand(8, 1, 1, 1, generator=rng)
        draws[f"{name}.blur_sigma_px"] = 2 * torch.rand(8, generator=rng).double().round(decimals=1)
        draws[f"{name}.log_noise"] = torch.randn(8, 2, 24, 24, generator=rng) / 10
    draws["turn"] = torch.tensor([(n % 2, n // 4, n % 4) for n in range(8)])
    known = torch.rand(8, 24, 24, generator=rng) < 0.9
    known[:, :7, 12:] = False
    labels = torch.randint(5, (8, 24, 24), generator=rng)
    batch = Batch(images, dict.fromkeys(images, known), labels, (), (), draws=draws)
    moved = batch.pin_memory() if DEVICE == "cuda" else batch
    expected, found = change_batch(batch), change_batch(moved.to(DEVICE))
    assert torch.equal(found.labels.cpu(), expected.labels)
    for name, image in expected.images.items():
        assert found.images[name].device.type == DEVICE
        torch.testing.assert_close(
            found.images[name].cpu(), image, rtol=1e-4, atol=0.1, equal_nan=True
        )
        assert torch.equal(found.valid[name].cpu(), expected.valid[name])
    plain, on_device = batch.physical(), batch.to(DEVICE).physical()
    for name, image in plain.images.items():
        assert torch.equal(on_device.images[name].cpu().nan_to_num(-1), image.nan_to_num(-1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_training_is_resumed_and_used_on_another_device(
    tmp_path: Path, run_file: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    config = load_run_config(run_file, {"training.precision": precision})
    train(config, tmp_path / "straight", progress=False)
    stop_after(monkeypatch, 4)
    with pytest.raises(TrainingError, match="after step 4 of 6"):
        train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    logs = [read_log(tmp_path / name / "log.csv") for name in ("straight", "run")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    # Sums on a device are not taken in one order.
    losses = [[float(row["loss"]) for row in log if row["loss"]] for log in logs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    here, there = (load_segmenter(tmp_path / "run")[0] for _ in range(2))
    images = random_images(here.modalities, (64, 64))
    with torch.no_grad():
        expected = here(images).logits
        found = there.to(DEVICE)(to_device(images)).logits.cpu()
    torch.testing.assert_close(found, expected, **CLOSE)
